//! The valid files that cases are made from, and the bytes of the formats.

use gradc::HostTensor;
use gradc_frontend::weights;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Rows of [`data`].
pub const ROWS: usize = 8;

fn changed(mut file: Value, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    change(&mut file);
    file.to_string().into_bytes()
}

/// A linear layer from 3 features to 4 classes, changed.
pub fn model(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let file = json!({
        "gradc": 1,
        "dims": {"batch": 2},
        "inputs": [{"name": "x", "shape": ["batch", 3]}],
        "parameters": [
            {"name": "w", "shape": [4, 3], "init": {"kind": "kaiming_uniform"}},
            {"name": "b", "shape": [4], "init": {"kind": "zeros"}},
        ],
        "nodes": [{"name": "fc", "op": "linear", "inputs": ["x", "w", "b"]}],
        "outputs": [{"name": "y", "value": "fc"}],
    });
    changed(file, change)
}

/// A recipe for it, changed.
pub fn recipe(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let file = json!({
        "loss": {"kind": "softmax_cross_entropy", "prediction": "y"},
        "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
    });
    changed(file, change)
}

/// Values of column `x` of the valid data.
pub fn features() -> HostTensor {
    let values: Vec<f32> = (0..3 * ROWS).map(|k| k as f32 / 10.0).collect();
    HostTensor::from_f32([ROWS, 3], &values).expect("as many values as the shape says")
}

/// Labels.
pub fn labels(values: [i64; ROWS]) -> HostTensor {
    HostTensor::from_i64([ROWS], &values).expect("as many values as the shape says")
}

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &[(&str, HostTensor)]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let tensors: BTreeMap<String, HostTensor> = tensors.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    weights::write(file.path(), &tensors, &BTreeMap::new()).expect("it is written");
    std::fs::read(file.path()).expect("it is read")
}

/// Data for the valid model.
pub fn data() -> Vec<u8> {
    safetensors(&[("x", features()), ("target", labels([0, 1, 2, 3, 0, 1, 2, 3]))])
}

/// The first `count` bytes.
pub fn cut(bytes: &[u8], count: usize) -> Vec<u8> {
    bytes[..count].to_vec()
}

/// A protobuf field that holds bytes: text, packed numbers or a message.
pub fn field(tag: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(tag << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// A protobuf field that holds an integer.
pub fn number(tag: u64, value: i64) -> Vec<u8> {
    [varint(tag << 3), varint(value as u64)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
