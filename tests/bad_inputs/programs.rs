//! Models of other formats: ONNX files made by hand, and exported programs cut short.

use crate::common::shared;
use crate::files::{cut, field, number};
use crate::{Case, all_told};

const FLOAT: i64 = 1;

fn onnx(title: &'static str, content: Vec<u8>) -> Case {
    Case::new(title, "compile m.onnx").file("m.onnx", content)
}

/// A file with one graph.
fn file(opset: i64, graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, 8), field(8, number(2, opset)), field(7, graph.concat())].concat()
}

/// The parts of a graph: y = op(x, w).
fn graph(op: &str, dims: &[i64], weight: Vec<u8>) -> [Vec<u8>; 4] {
    [node(op, &["x", "w"], "y"), field(5, weight), field(11, value("x", dims)), field(12, value("y", &[2, 4]))]
}

fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|i| field(1, i)).collect();
    field(1, [inputs, field(2, output), field(4, op)].concat())
}

fn value(name: &str, dims: &[i64]) -> Vec<u8> {
    let shape: Vec<u8> = dims.iter().flat_map(|&d| field(1, number(1, d))).collect();
    let tensor = [number(1, FLOAT), field(2, shape)].concat();
    [field(1, name), field(2, field(1, tensor))].concat()
}

fn weight(dims: &[i64], bytes: usize) -> Vec<u8> {
    typed_weight(FLOAT, dims, field(9, vec![0; bytes]))
}

fn typed_weight(dtype: i64, dims: &[i64], data: Vec<u8>) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&d| number(1, d)).collect();
    [dims, number(2, dtype), field(8, "w"), data].concat()
}

fn external(file: &str) -> Vec<u8> {
    let location = field(13, [field(1, "location"), field(2, file)].concat());
    typed_weight(FLOAT, &[3, 4], [location, number(14, 1)].concat())
}

/// y = op(x, w) with valid sizes.
fn valid(op: &str) -> Vec<u8> {
    file(17, &graph(op, &[2, 3], weight(&[3, 4], 48)))
}

#[test]
fn the_file_cases_are_made_from_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("m.onnx"), valid("MatMul")).expect("a file");
    assert_eq!(crate::gradc(folder.path(), "compile m.onnx"), (Some(0), String::new()));
}

#[test]
fn onnx_files() {
    let with_weight = |weight| file(17, &graph("MatMul", &[2, 3], weight));
    let mut twice = graph("MatMul", &[2, 3], weight(&[3, 4], 48)).to_vec();
    twice.push(field(5, weight(&[3, 4], 48)));
    let cycle = [
        node("Relu", &["b"], "a"),
        node("Relu", &["a"], "b"),
        field(11, value("x", &[2])),
        field(12, value("b", &[2])),
    ];
    let cases = [
        onnx("random bytes", b"\x93\x01\xfe\xffthis is no model".to_vec()),
        onnx("truncated", cut(&valid("MatMul"), 60)),
        onnx("a length of 2^63", vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        onnx("no graph", number(1, 8)),
        onnx("an empty graph", file(17, &[])),
        onnx(
            "no operator set",
            [number(1, 8), field(7, graph("MatMul", &[2, 3], weight(&[3, 4], 48)).concat())].concat(),
        ),
        onnx("an operator set of long ago", file(1, &graph("MatMul", &[2, 3], weight(&[3, 4], 48)))),
        onnx("unknown operator", valid("MatMull")),
        onnx("an operator with regions", valid("Loop")),
        onnx("sizes that do not fit", file(17, &graph("MatMul", &[2, 5], weight(&[3, 4], 48)))),
        onnx("negative size of an input", file(17, &graph("MatMul", &[2, -3], weight(&[3, 4], 48)))),
        onnx("input of 2^60", file(17, &graph("MatMul", &[1 << 60, 3], weight(&[3, 4], 48)))),
        onnx("negative size of a tensor", with_weight(weight(&[-3, 4], 48))),
        onnx("tensor of 2^60", with_weight(weight(&[1 << 60, 4], 48))),
        onnx("sizes whose product overflows", with_weight(weight(&[1 << 40, 1 << 40], 48))),
        onnx("too few bytes of a tensor", with_weight(weight(&[3, 4], 47))),
        onnx("unknown element type", with_weight(typed_weight(99, &[3, 4], field(9, vec![0; 48])))),
        onnx("external data that is not there", with_weight(external("w.data"))),
        onnx("external data outside the folder", with_weight(external("../../etc/passwd"))),
        onnx("external data that is too short", with_weight(external("w.data"))).file("w.data", vec![0; 7]),
        onnx("two tensors of one name", file(17, &twice)),
        onnx(
            "weights that are missing",
            file(
                17,
                &[node("MatMul", &["x", "w"], "y"), field(11, value("x", &[2, 3])), field(12, value("y", &[2, 4]))],
            ),
        ),
        onnx("a cycle", file(17, &cycle)),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

#[test]
fn exported_programs() {
    let program = |title: &'static str, content: Vec<u8>| Case::new(title, "compile m.pt2").file("m.pt2", content);
    let cases = [
        program("an archive that ends at once", b"PK\x03\x04".to_vec()),
        program("an archive of zeros", [&b"PK\x03\x04"[..], &[0; 200]].concat()),
        program("an empty archive", [&b"PK\x05\x06"[..], &[0; 18]].concat()),
        program("no graph", br#"{"graph_module": null}"#.to_vec()),
        program(
            "a graph of the wrong kind",
            br#"{"graph_module": {"graph": 7}, "schema_version": {"major": 8}}"#.to_vec(),
        ),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

/// Every prefix and every damaged byte of a real file ends in a diagnostic.
#[test]
fn damaged_reference_files() {
    let Some(folder) = shared("reference/models/mlp_digits") else { return };
    for name in ["model.pt2", "model.onnx"] {
        let bytes = std::fs::read(folder.join(name)).expect("a reference model");
        let cuts = [4, bytes.len() / 3, bytes.len() / 2, bytes.len() - 30].map(|at| cut(&bytes, at));
        let damaged = [10, 40, bytes.len() - 20].map(|at| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            damaged
        });
        let work = tempfile::tempdir().expect("a folder");
        for (k, content) in cuts.into_iter().enumerate() {
            std::fs::write(work.path().join("m"), content).expect("a file");
            let (code, told) = crate::gradc(work.path(), "compile m");
            assert!(code == Some(2) && told.contains("error["), "{name} cut {k}: exit {code:?}: {told}");
        }
        for (k, content) in damaged.into_iter().enumerate() {
            std::fs::write(work.path().join("m"), content).expect("a file");
            let (code, told) = crate::gradc(work.path(), "compile m");
            let fine = code == Some(0) || code == Some(2) && told.contains("error[");
            assert!(fine && !told.contains("panicked"), "{name} damaged {k}: exit {code:?}: {told}");
        }
    }
}
