//! gradc's own files: models, recipes, weights.

use crate::files::{cut, data, features, model, recipe, safetensors};
use crate::{COMPILE, Case, all_told};
use gradc::HostTensor;
use serde_json::{Value, json};

fn with_model(title: &'static str, content: impl Into<Vec<u8>>) -> Case {
    Case::new(title, COMPILE).file("m.json", content)
}

/// The valid model with one value replaced, or added.
fn edited(title: &'static str, at: &'static str, value: Value) -> Case {
    with_model(title, model(|m| set(m, at, value)))
}

fn with_recipe(title: &'static str, at: &'static str, value: Value) -> Case {
    Case::new(title, COMPILE).file("r.json", recipe(|r| set(r, at, value)))
}

/// Replaces or adds the value at a JSON pointer; the last part of the pointer may be new.
fn set(file: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
    match file.pointer_mut(parent).expect("the pointer's parent is there") {
        Value::Array(list) => match last.parse::<usize>().expect("an index") {
            k if k < list.len() => list[k] = value,
            _ => list.push(value),
        },
        parent => parent[last] = value,
    }
}

fn in_half_precision(file: &mut Value) {
    for at in ["/inputs/0", "/parameters/0", "/parameters/1"] {
        set(file, &format!("{at}/dtype"), json!("f16"));
    }
}

#[test]
fn model_files() {
    let text = String::from_utf8(model(|_| {})).expect("JSON is text");
    let cases = [
        Case::new("no such file", "compile nothing.json"),
        with_model("empty file", ""),
        with_model("truncated", cut(text.as_bytes(), text.len() / 2)),
        with_model("no model", r#"{"weights": []}"#),
        with_model("not UTF-8", b"{\"nodes\": \"\xff\xfe\"}".to_vec()),
        with_model("nested too deeply", format!(r#"{{"nodes": {}"#, "[".repeat(100_000))),
        with_model("NaN as a size", text.replace("[4,3]", "[NaN,3]")),
        edited("another version", "/gradc", json!(2)),
        edited("unknown field", "/layers", json!([])),
        edited("unknown op", "/nodes/0/op", json!("linaer")),
        edited("unknown attribute", "/nodes/0/attrs", json!({"bias": true})),
        edited("too few operands", "/nodes/0/inputs", json!(["x"])),
        edited("unknown operand", "/nodes/0/inputs/1", json!("weight")),
        with_model("half precision", model(in_half_precision)),
        edited("unknown dtype", "/inputs/0/dtype", json!("f31")),
        edited("operand of the wrong dtype", "/inputs/0/dtype", json!("i64")),
        edited("no outputs", "/outputs", json!([])),
        edited("unknown output", "/outputs/0/value", json!("fc2")),
        edited("negative size", "/parameters/0/shape/0", json!(-4)),
        edited("fraction as a size", "/parameters/0/shape/0", json!(1.5)),
        edited("size of 2^60", "/parameters/1/shape/0", json!(1u64 << 60)),
        edited("sizes whose product overflows", "/parameters/0/shape", json!([1u64 << 40, 1u64 << 40])),
        edited("more than is initialised in a file", "/parameters/0/shape", json!([1 << 20, 1 << 20])),
        edited("batch of 0", "/dims/batch", json!(0)),
        edited("batch of 2^60", "/dims/batch", json!(1u64 << 60)),
        edited("unknown dimension", "/inputs/0/shape/0", json!("bach")),
        edited("two parameters of one name", "/parameters/1/name", json!("w")),
        edited("two nodes of one name", "/nodes/1", json!({"name": "fc", "op": "relu", "inputs": ["fc"]})),
        edited("a node that reads itself", "/nodes/0/inputs/0", json!("fc")),
        edited(
            "a cycle of nodes",
            "/nodes",
            json!([
                {"name": "fc", "op": "relu", "inputs": ["back"]},
                {"name": "back", "op": "relu", "inputs": ["fc"]},
            ]),
        ),
        edited("sizes that do not fit", "/parameters/0/shape", json!([4, 5])),
        edited("no first value", "/parameters/0", json!({"name": "w", "shape": [4, 3]})),
        edited("wrong number of values", "/parameters/1/init", json!({"kind": "values", "values": [1, 2]})),
        edited("unknown initialiser", "/parameters/1/init", json!({"kind": "ones_like"})),
        edited("weights file that is not there", "/weights", json!("w.safetensors")),
        edited("weights outside the folder", "/weights", json!("../w.safetensors")),
        edited(
            "a window larger than its input",
            "/nodes/1",
            json!({"name": "pool", "op": "max_pool", "inputs": ["fc"], "attrs": {"window": 9}}),
        ),
        edited(
            "a reshape that does not fit",
            "/nodes/1",
            json!({"name": "r", "op": "reshape", "inputs": ["fc"], "attrs": {"shape": [3, -1]}}),
        ),
        edited(
            "an axis that does not exist",
            "/nodes/1",
            json!({"name": "s", "op": "softmax", "inputs": ["fc"], "attrs": {"axis": 7}}),
        ),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

#[test]
fn recipes() {
    let cases = [
        Case::new("no such file", "compile m.json --recipe nothing.json"),
        Case::new("empty file", COMPILE).file("r.json", ""),
        Case::new("truncated", COMPILE).file("r.json", r#"{"loss": {"kind": "mse", "#),
        Case::new("a number too large for a float", COMPILE).file("r.json", r#"{"clip_norm": 1e400}"#),
        Case::new("nothing in it", COMPILE).file("r.json", "{}"),
        with_recipe("unknown field", "/acumulate", json!(2)),
        with_recipe("unknown optimizer", "/optimizer/kind", json!("adan")),
        with_recipe("unknown loss", "/loss/kind", json!("softmax_crossentropy")),
        with_recipe("unknown field of a loss", "/loss/delta", json!(1)),
        with_recipe("wrong betas", "/optimizer", json!({"kind": "adam", "betas": [0.9, 1.5]})),
        with_recipe("one beta", "/optimizer", json!({"kind": "adam", "betas": [0.9]})),
        with_recipe("negative learning rate", "/optimizer/lr", json!(-0.1)),
        with_recipe("learning rate as text", "/optimizer/lr", json!("fast")),
        with_recipe("momentum that the optimizer lacks", "/optimizer/kind", json!("adamw")),
        with_recipe("Nesterov without momentum", "/optimizer", json!({"kind": "sgd", "nesterov": true})),
        with_recipe("unknown prediction", "/loss/prediction", json!(7)),
        with_recipe("a pattern that matches nothing", "/trainable", json!(["encoder.*"])),
        with_recipe("a pattern that is malformed", "/trainable", json!(["w["])),
        with_recipe("nothing to train", "/trainable", json!([])),
        with_recipe("a part that is no range", "/trainable", json!([{"param": "w", "axis": 0, "keep": "first"}])),
        with_recipe("an empty part", "/trainable", json!([{"param": "w", "axis": 0, "keep": "2..2"}])),
        with_recipe("an index twice", "/trainable", json!([{"param": "w", "axis": 0, "keep": [1, 2, 1]}])),
        with_recipe("a part of nothing", "/trainable", json!([{"param": "v*", "axis": 0, "keep": "0..2"}])),
        with_recipe("an axis it does not have", "/trainable", json!([{"param": "b", "axis": 1, "keep": "0..2"}])),
        with_recipe("a part outside", "/trainable", json!([{"param": "w", "axis": 1, "keep": "1..4"}])),
        with_recipe("uneven groups", "/trainable", json!([{"param": "w", "axis": 0, "groups": 3, "keep": [0]}])),
        with_recipe("no axis", "/trainable", json!([{"param": "w", "keep": "0..2"}])),
        with_recipe("all and a part", "/trainable", json!(["w", {"param": "w", "axis": 0, "keep": "0..2"}])),
        with_recipe(
            "parts of two axes",
            "/trainable",
            json!([{"param": "w", "axis": 0, "keep": "0..2"}, {"param": "w", "axis": 1, "keep": [0]}]),
        ),
        with_recipe("accumulate 0", "/accumulate", json!(0)),
        with_recipe("negative clip_norm", "/clip_norm", json!(-1)),
        with_recipe("a schedule that rises", "/schedule", json!({"kind": "linear", "total_steps": 9, "min_lr": 1})),
        with_recipe("a schedule without its length", "/schedule", json!({"kind": "cosine"})),
        with_recipe("a deviation of 0", "/data", json!({"x": {"column": "x", "std": 0}})),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

#[test]
fn predictions_and_gradients() {
    let two_outputs = model(|m| set(m, "/outputs/1", json!({"name": "z", "value": "x"})));
    let flat = model(|m| set(m, "/nodes/1", json!({"name": "s", "op": "sum", "inputs": ["fc"]})));
    let flat = String::from_utf8(flat).expect("JSON is text").replace(r#""value":"fc""#, r#""value":"s""#);
    let cases = [
        with_recipe("unknown prediction among several", "/loss/prediction", json!("logits"))
            .file("m.json", two_outputs.clone()),
        with_recipe("a prediction no parameter reaches", "/loss/prediction", json!("z")).file("m.json", two_outputs),
        with_recipe("cross entropy of a scalar", "/loss/prediction", json!("y")).file("m.json", flat),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

#[test]
fn weights() {
    let needs_weights = || model(|m| set(m, "/parameters/0", json!({"name": "w", "shape": [4, 3]})));
    let file = |title: &'static str, content: Vec<u8>| {
        Case::new(title, format!("{COMPILE} --weights w.safetensors"))
            .file("m.json", needs_weights())
            .file("w.safetensors", content)
    };
    let tensor = |shape: &[usize]| {
        let count = shape.iter().product();
        HostTensor::from_f32(shape, &vec![0.5; count]).expect("as many values as the shape says")
    };
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let valid = safetensors(&[("w", tensor(&[4, 3]))]);
    let cases = [
        Case::new("no such file", format!("{COMPILE} --weights w.safetensors")),
        file("empty file", vec![]),
        file("truncated header", cut(&valid, 20)),
        file("truncated data", cut(&valid, valid.len() - 5)),
        file("a header of 2^63 bytes", (1u64 << 63).to_le_bytes().to_vec()),
        file("a header that is not JSON", header("{]")),
        file("offsets outside the file", header(r#"{"w":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}}"#)),
        file(
            "sizes whose product overflows",
            header(r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#),
        ),
        file("another tensor", safetensors(&[("weight", tensor(&[4, 3]))])),
        file("another shape", safetensors(&[("w", tensor(&[3, 4]))])),
        file("another dtype", safetensors(&[("w", HostTensor::from_i64([4, 3], &[0; 12]).expect("12 values"))])),
        file("data instead of weights", data()),
    ];
    insta::assert_snapshot!(all_told(&cases));
    assert_eq!(features().ty().shape, [8, 3]);
}
