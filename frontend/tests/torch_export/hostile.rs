//! Files that are damaged, contradictory or absurd end in a diagnostic.

use super::program::{F32, I64, Program, tensor, zip};
use gradc_frontend::import::torch_export::import;
use gradc_frontend::model::ImportOptions;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// y = relu(x · wᵀ + b)
fn valid() -> Program {
    let args = [("input", tensor("x")), ("weight", tensor("p_w")), ("bias", tensor("p_b"))];
    Program::new()
        .parameter("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .parameter("b", &[2], &[0.5, -0.5])
        .input("x", F32, &[4, 3])
        .node("linear.default", &args, "linear", F32, &[4, 2])
        .node("relu.default", &[("self", tensor("linear"))], "relu", F32, &[4, 2])
        .output("relu")
}

fn of_bytes(bytes: Vec<u8>) -> String {
    import(Path::new("net.pt2"), bytes, &ImportOptions::default()).expect_err("the file is wrong").to_string()
}

fn edited(pointer: &str, value: serde_json::Value) -> String {
    let mut program = valid();
    *program.json.pointer_mut(pointer).expect("the pointer is right") = value;
    program.problems()
}

fn edited_weight(pointer: &str, value: serde_json::Value) -> String {
    let mut program = valid();
    *program.weights["w"]["tensor_meta"].pointer_mut(pointer).expect("the pointer is right") = value;
    program.problems()
}

/// One snapshot of many cases, each under its name.
fn told(cases: &[(&str, String)]) -> String {
    cases.iter().map(|(name, text)| format!("# {name}\n{text}\n\n")).collect()
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = valid().archive();
    assert!(valid().import().is_ok());
    for length in 2..bytes.len() {
        let _ = of_bytes(bytes[..length].to_vec());
    }
}

#[test]
fn every_flipped_byte_is_an_error_or_harmless() {
    let bytes = valid().archive();
    let expected = valid().import().expect("the program is right");
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x11;
        if let Ok(model) = import(Path::new("net.pt2"), bytes, &ImportOptions::default()) {
            assert_eq!(model.tensors, expected.tensors, "byte {at}");
            assert_eq!(model.train, expected.train, "byte {at}");
        }
    }
}

#[test]
fn damaged_archives() {
    let name = |n: &str| n.to_string();
    let json = valid().json.to_string();
    let mut no_weights = valid();
    no_weights.files.clear();
    let mut short = valid();
    short.files[0].1.pop();
    let cases = [
        ("no program", of_bytes(zip(&[(name("net/version"), b"3")]))),
        ("two programs", of_bytes(zip(&[(name("a/models/model.json"), b"{}"), (name("b/models/model.json"), b"{}")]))),
        ("two entries of one name", of_bytes(zip(&[(name("a"), b"{}"), (name("a"), b"{}")]))),
        ("big-endian", of_bytes(zip(&[(name("n/models/model.json"), json.as_bytes()), (name("n/byteorder"), b"big")]))),
        ("JSON cut off", of_bytes(json[..json.len() / 2].into())),
        ("JSON of something else", of_bytes(b"{\"graph_module\": 3}".to_vec())),
        ("missing weight file", no_weights.problems()),
        ("short weight file", short.problems()),
    ];
    insta::assert_snapshot!(told(&cases));
}

#[test]
fn impossible_tensors() {
    let huge = json!([{"as_int": 1u64 << 60}, {"as_int": 1u64 << 60}]);
    let int = |v: i64| json!({"as_int": v});
    let mut pickled = valid();
    pickled.weights["w"]["use_pickle"] = json!(true);
    let cases = [
        ("huge parameter", edited("/graph_module/graph/tensor_values/p_w/sizes", huge.clone())),
        ("huge stored tensor", edited_weight("/sizes", huge.clone())),
        ("negative size", edited("/graph_module/graph/tensor_values/p_w/sizes/0", int(-1))),
        ("negative stride", edited_weight("/strides/0", int(-3))),
        ("huge stride", edited_weight("/strides/0", int(i64::MAX))),
        ("huge offset", edited_weight("/storage_offset", int(i64::MAX))),
        ("offset beyond the end", edited_weight("/storage_offset", int(1))),
        ("other dtype", edited_weight("/dtype", json!(I64))),
        ("unknown dtype", edited("/graph_module/graph/tensor_values/p_w/dtype", json!(9))),
        ("other shape", edited_weight("/sizes", json!([{"as_int": 3}, {"as_int": 2}]))),
        ("pickled", pickled.problems()),
        ("huge intermediate", edited("/graph_module/graph/tensor_values/linear/sizes", huge)),
    ];
    insta::assert_snapshot!(told(&cases));
}

#[test]
fn contradictory_programs() {
    let node = "/graph_module/graph/nodes/0";
    let mut swapped = valid();
    let nodes = swapped.json["graph_module"]["graph"]["nodes"].as_array_mut().expect("nodes");
    nodes.reverse();
    let cases = [
        ("major version", edited("/schema_version/major", json!(9))),
        ("defined twice", edited("/graph_module/graph/nodes/1/outputs/0", tensor("linear"))),
        ("undefined operand", edited(&format!("{node}/inputs/0/arg"), tensor("nobody"))),
        ("reads itself", edited(&format!("{node}/inputs/0/arg"), tensor("linear"))),
        ("out of order", swapped.problems()),
        ("undefined output", edited("/graph_module/signature/output_specs/0/user_output/arg", tensor("nobody"))),
        (
            "two parameters of one name",
            edited("/graph_module/signature/input_specs/1/parameter/parameter_name", json!("w")),
        ),
        ("undeclared input", edited("/graph_module/signature/input_specs/2/user_input/arg", tensor("nobody"))),
        ("wrong recorded shape", edited("/graph_module/graph/tensor_values/linear/sizes/1/as_int", json!(5))),
        ("wrong kind of argument", edited(&format!("{node}/inputs/2/arg"), json!({"as_int": 3}))),
        ("unknown kind of argument", edited(&format!("{node}/inputs/2/arg"), json!({"as_graph": {"name": "g"}}))),
        ("unknown argument", edited(&format!("{node}/inputs/2/name"), json!("colour"))),
        ("argument given twice", edited(&format!("{node}/inputs/2/name"), json!("weight"))),
        ("more outputs than results", edited(&format!("{node}/outputs"), json!([tensor("linear"), tensor("x2")]))),
    ];
    insta::assert_snapshot!(told(&cases));
}

#[test]
fn everything_unsupported_is_told_at_once() {
    let program = valid()
        .node("fft_rfft.default", &[("self", tensor("relu"))], "fft", F32, &[4, 2])
        .node("exp.default", &[("self", tensor("fft"))], "exp", F32, &[4, 2])
        .node("linalg_qr.default", &[("A", tensor("exp"))], "qr", F32, &[4, 4])
        .node(
            "gelu.default",
            &[("self", tensor("relu")), ("approximate", json!({"as_string": "cubic"}))],
            "gelu",
            F32,
            &[4, 2],
        );
    insta::assert_snapshot!(program.problems());
}

#[test]
fn sizes_that_contradict() {
    let mut symbolic = valid();
    let symbol = json!({"as_expr": {"expr_str": "Symbol('s0', positive=True, integer=True)", "hint": {"as_int": 4}}});
    for name in ["x", "linear", "relu"] {
        symbolic.json["graph_module"]["graph"]["tensor_values"][name]["sizes"][0] = symbol.clone();
    }
    symbolic.json["range_constraints"] = json!({"s0": {"min_val": 2, "max_val": 64}});
    let at = |dims: &[(&str, usize)], batch| {
        let dims: BTreeMap<String, usize> = dims.iter().map(|(n, v)| (n.to_string(), *v)).collect();
        symbolic.import_with(&ImportOptions { dims, batch, ..Default::default() })
    };
    for (dims, batch) in [(&[("s0", 7)][..], None), (&[], Some(7)), (&[("s0", 7)], Some(7))] {
        let model = at(dims, batch).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(model.train.ty(model.train.input_named("x").expect("x").1.value).shape, [7, 3]);
    }
    let told_of = |dims: &[(&str, usize)], batch| at(dims, batch).expect_err("the sizes are wrong").to_string();
    let cases = [
        ("unknown dimension", told_of(&[("batch", 7)], None)),
        ("out of range", told_of(&[("s0", 65)], None)),
        ("two values", told_of(&[("s0", 7)], Some(8))),
        ("empty batch", told_of(&[], Some(0))),
    ];
    insta::assert_snapshot!(told(&cases));
}
