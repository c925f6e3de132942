//! Data files.

use crate::common::bundled_files;
use crate::files::{ROWS, cut, data, features, labels, recipe, safetensors};
use crate::{Case, TRAIN, all_told};
use gradc::HostTensor;
use serde_json::json;

const LABELS: [i64; ROWS] = [0, 1, 2, 3, 0, 1, 2, 3];

fn with_data(title: &'static str, content: impl Into<Vec<u8>>) -> Case {
    Case::new(title, TRAIN).file("d.safetensors", content)
}

/// Training on files of other formats.
fn on(title: &'static str, files: &str) -> Case {
    Case::new(title, TRAIN.replace("d.safetensors", files))
}

fn floats(shape: &[usize], value: f32) -> HostTensor {
    HostTensor::from_f32(shape, &vec![value; shape.iter().product()]).expect("as many values as the shape says")
}

fn with_column(title: &'static str, column: serde_json::Value) -> Case {
    Case::new(title, TRAIN).file("r.json", recipe(|r| r["data"] = json!({ "x": column })))
}

#[test]
fn values_and_columns() {
    let mut with_nan = features();
    with_nan.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let labelled = |values| safetensors(&[("x", features()), ("target", labels(values))]);
    let columns = |x: HostTensor| safetensors(&[("x", x), ("target", labels(LABELS))]);
    let cases = [
        with_data("label too large", labelled([0, 1, 2, 3, 4, 1, 2, 3])),
        with_data("negative label", labelled([0, 1, 2, 3, -1, 1, 2, 3])),
        with_data(
            "columns of other names",
            safetensors(&[("a", features()), ("b", labels(LABELS)), ("c", features())]),
        ),
        with_data("no labels", safetensors(&[("x", features())])),
        with_data("rows of the wrong size", columns(floats(&[ROWS, 5], 0.5))),
        with_data("columns of different lengths", columns(floats(&[ROWS + 1, 3], 0.5))),
        with_data("a scalar column", columns(floats(&[], 0.5))),
        with_data("no rows", safetensors(&[("x", floats(&[0, 3], 0.0)), ("target", floats(&[0], 0.0))])),
        with_data("a value that is not finite", columns(with_nan)).fails(),
        Case::new("fewer rows than a batch", format!("{TRAIN} --batch 9")),
        Case::new("no rows left to train on", format!("{TRAIN} --validation 0.99")),
        Case::new("all rows held out", format!("{TRAIN} --validation-tail 8")),
        with_column("another dtype than the input's", json!({"column": "x", "cast": "i64"})),
        with_column("another shape than the input's", json!({"column": "x", "reshape": [1, 3]})),
        with_column("wrong number of channels", json!({"column": "x", "mean": [1, 2]})),
        with_column("unknown column", json!({"column": "pixels"})),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

#[test]
fn file_formats() {
    let idx = |extents: &[u32], bytes: usize| {
        let head = [0, 0, 8, extents.len() as u8];
        let extents = extents.iter().flat_map(|e| e.to_be_bytes());
        head.into_iter().chain(extents).chain(vec![1; bytes]).collect::<Vec<u8>>()
    };
    let cases = [
        on("no such file", "nothing.safetensors"),
        on("no such validation data", "d.safetensors --validation-data nothing.npz"),
        with_data("empty file", ""),
        with_data("truncated", cut(&data(), 100)),
        on("unknown format", "d.parquet").file("d.parquet", "PAR1"),
        on("CSV with text in it", "d.csv").file("d.csv", "x,target\n1,0\ncat,1\n"),
        on("CSV with rows of different lengths", "d.csv").file("d.csv", "x,target\n1,0\n2\n"),
        on("CSV with a column twice", "d.csv").file("d.csv", "x,x\n1,0\n"),
        on("empty CSV", "d.csv").file("d.csv", ""),
        on("truncated IDX", "x=d.idx").file("d.idx", idx(&[8, 3], 20)),
        on("IDX with a shorter header than it says", "x=d.idx").file("d.idx", vec![0, 0, 8, 9, 0, 0]),
        on("IDX of 2^96 bytes", "x=d.idx").file("d.idx", idx(&[u32::MAX; 3], 20)),
        on("not gzipped", "x=d.idx.gz").file("d.idx.gz", idx(&[8, 3], 24)),
        on("truncated gzip", "x=d.idx.gz").file("d.idx.gz", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x63]),
        on("truncated npy", "x=d.npy").file("d.npy", b"\x93NUMPY\x01\x00\xff\xff{'descr'".to_vec()),
        on("npz that is no archive", "d.npz").file("d.npz", "PK"),
        on("one column in two files", "d.safetensors e.safetensors").file("e.safetensors", data()),
        on("text for a model of numbers", "d.txt").file("d.txt", "to be or not to be"),
        on("text that is not UTF-8", "d.txt").file("d.txt", vec![0xff; 40]),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

#[test]
fn tokens() {
    let model = |case: Case| {
        let [model, recipe] = bundled_files("language_model").map(|path| std::fs::read(path).expect("a bundled file"));
        case.file("m.json", model).file("r.json", recipe)
    };
    let tokens = |value: i64| {
        let values = HostTensor::from_i64([4, 7], &[value; 28]).expect("28 values");
        safetensors(&[("text", values)])
    };
    let cases = [
        model(with_data("token too large", tokens(11))),
        model(with_data("negative token", tokens(-1))),
        model(on("more characters than tokens", "d.txt")).file("d.txt", "abcdefghijklmnopqrstuvwxyz".repeat(9)),
        model(on("text shorter than a batch", "d.txt")).file("d.txt", "abc"),
        model(on("empty text", "d.txt")).file("d.txt", ""),
    ];
    insta::assert_snapshot!(all_told(&cases));
}
