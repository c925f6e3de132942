//! The text format: what is printed parses back equal, what is wrong is told, and nothing panics.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, OutputKind, Role};
use gradc_ir::op::Sample;
use gradc_ir::ops::Op;
use gradc_ir::text::{parse, print};
use gradc_ir::types::{DType, TensorType};
use gradc_ir::verify::verify;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// The graph of one op with its operands as inputs.
fn sample_graph(sample: &Sample) -> Graph {
    let mut b = Builder::new(sample.op.name());
    let operands: Vec<_> = (0..)
        .zip(&sample.operands)
        .map(|(k, o)| b.input(&format!("x{k}"), o.ty.clone()).expect("names are unique"))
        .collect();
    let results = b.apply(sample.op.clone(), &operands).expect("samples are accepted");
    for (k, result) in results.into_iter().enumerate() {
        b.output(&format!("y{k}"), result, OutputKind::Result);
    }
    b.finish()
}

/// Files of a folder of cases with their contents, sorted by name.
fn cases(folder: &str) -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(folder);
    let entries = fs::read_dir(folder).expect("the folder of cases exists");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("readable").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "gir"));
    paths.sort();
    let name = |p: &PathBuf| p.file_stem().expect("a file").to_string_lossy().into_owned();
    paths.iter().map(|p| (name(p), fs::read_to_string(p).expect("cases are text"))).collect()
}

fn assert_round_trip(graph: &Graph) {
    let text = print(graph);
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(parsed == *graph, "another graph came back from\n{text}\n{}", print(&parsed));
    assert_eq!(verify(&parsed), Ok(()));
}

#[test]
fn every_op_sample_round_trips() {
    Op::all_samples().iter().for_each(|s| assert_round_trip(&sample_graph(s)));
}

#[test]
fn valid_cases_print_as_they_are_written() {
    for (name, text) in cases("ok") {
        let graph = parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let uncommented: Vec<&str> = text.lines().filter(|l| !l.starts_with("//")).collect();
        assert_eq!(print(&graph).trim_end(), uncommented.join("\n"), "{name}");
        assert_round_trip(&graph);
    }
}

#[test]
fn wrong_cases_are_told() {
    for (name, text) in cases("error") {
        let error = parse(&text).err().unwrap_or_else(|| panic!("{name} was accepted"));
        insta::with_settings!(
            { snapshot_path => "cases/error", prepend_module_to_snapshot => false, omit_expression => true },
            { insta::assert_snapshot!(name, error) }
        );
    }
}

#[test]
fn defaults_places_names_and_roles_round_trip() {
    let mut b = Builder::new("quote \" backslash \\ newline \n snowman ☃ null \0 bell \u{7}");
    for (k, role) in Role::ALL.into_iter().enumerate() {
        let default = matches!(role, Role::State | Role::Hyper).then_some(0.1 + k as f64);
        b.declare(role.word(), role, TensorType::f32([]), default).unwrap();
    }
    for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, -0.0, 5e-324, f64::MAX, 1e16, 1e-7] {
        b.declare(&format!("{:x}", value.to_bits()), Role::State, TensorType::new(DType::F64, [2, 0]), Some(value))
            .unwrap();
    }
    let loc =
        Loc { file: "a\tb.py".into(), line: 7, layer: "blocks.0".into(), source_op: "Gemm".into(), backward: true };
    b.set_loc(loc.clone());
    let x = b.graph().inputs()[1].value;
    let y = b.neg(x).unwrap();
    b.set_loc(Loc { backward: false, line: 0, ..loc });
    let z = b.exp(y).unwrap();
    b.output("z", z, OutputKind::Checked);
    b.output("z", y, OutputKind::Result);
    let (parameter, _) = b.graph().input_named("parameter").unwrap();
    b.update(parameter, z).unwrap();
    assert_round_trip(&b.finish());
}

#[test]
fn long_texts_take_linear_time() {
    let mut b = Builder::new("chain");
    let mut x = b.input("x", TensorType::f32([4])).unwrap();
    for _ in 0..50_000 {
        x = b.neg(x).unwrap();
    }
    b.output("y", x, OutputKind::Result);
    assert_round_trip(&b.finish());
    assert_eq!(parse(&"[".repeat(1 << 20)).unwrap_err().code, "syntax");
    assert_eq!(parse(&format!("graph \"{}", "\\".repeat(1 << 20))).unwrap_err().code, "syntax");
}

/// Texts to mutate.
static VALID: LazyLock<Vec<String>> = LazyLock::new(|| {
    let samples = Op::all_samples().iter().map(|s| print(&sample_graph(s))).collect::<Vec<_>>();
    samples.into_iter().chain(cases("ok").into_iter().map(|(_, text)| text)).collect()
});

/// What a mutation puts in: numbers at the edges of their types, marks, words.
const SNIPPETS: &[&str] = &[
    "0",
    "1",
    "2",
    "7",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967295",
    "1099511627776",
    "9223372036854775808",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\",
    "%0",
    "%1.1",
    "@0",
    "#1",
    ",",
    ":",
    "=",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "f32",
    "bool",
    "i64",
    "true",
    "[]",
    "[0]",
    "[0,0]",
    "result",
    "update",
    "input",
    "☃",
    "\n",
];

/// The text with whole tokens replaced: number `k` modulo their count by a snippet.
fn mutate(text: &str, edits: &[(usize, usize)]) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut tokens: Vec<String> = Vec::new();
    for c in text.chars() {
        match tokens.last_mut() {
            Some(last) if is_word(c) && last.ends_with(is_word) => last.push(c),
            _ => tokens.push(c.into()),
        }
    }
    for &(at, snippet) in edits {
        let at = at % tokens.len();
        tokens[at] = SNIPPETS.get(snippet).map_or(String::new(), |s| s.to_string());
    }
    tokens.concat()
}

/// Whatever is accepted is valid and prints as itself.
fn assert_sound(text: &str) {
    if let Ok(graph) = parse(text) {
        assert_round_trip(&graph);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        assert_sound(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn mutated_texts_do_not_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<usize>(), 0..SNIPPETS.len() + 3), 1..4),
    ) {
        assert_sound(&mutate(which.get::<String>(&VALID), &edits));
    }

    #[test]
    fn truncated_texts_are_refused(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let text = which.get::<String>(&VALID).trim_end();
        let cut = text.floor_char_boundary(at.index(text.len()));
        assert_sound(&text[..cut]);
        if !text[..cut].contains('}') {
            prop_assert!(parse(&text[..cut]).is_err());
        }
    }
}
