//! Damaged and malicious files: always a diagnostic, never a panic or a huge allocation.

use super::files::*;
use gradc_frontend::import::onnx;
use gradc_frontend::import::onnx::proto::*;
use gradc_frontend::model::ImportOptions;
use proptest::prelude::*;
use prost::Message;
use std::path::Path;

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into() }
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let external_data = entries.iter().map(|(k, v)| entry(k, v)).collect();
    TensorProto { external_data, data_location: 1, ..floats("w", &[3, 4], &[]) }
}

/// A model that multiplies its input by `w`.
fn with_weight(w: TensorProto) -> ModelProto {
    model(vec![node("MatMul", &["x", "w"], &["y"])], vec![w])
}

fn with_input(dims: &[DimensionProto]) -> ModelProto {
    let mut file = small_model();
    file.graph.as_mut().expect("the model has a graph").input = vec![value("x", dims)];
    file
}

fn with_opset(version: i64) -> ModelProto {
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version }];
    ModelProto { opset_import, ..small_model() }
}

fn with_attribute(attribute: AttributeProto) -> ModelProto {
    let gemm = NodeProto { attribute: vec![attribute], ..node("Gemm", &["x", "w"], &["y"]) };
    model(vec![gemm], vec![floats("w", &[3, 4], &[0.0; 12])])
}

fn relu(from: &str, to: &str) -> NodeProto {
    node("Relu", &[from], &[to])
}

fn cases() -> Vec<(&'static str, ModelProto)> {
    let weight = floats("w", &[3, 4], &[0.0; 12]);
    let huge = ints("onnx::shape", &[1 << 60, 1 << 60]);
    let dropout = NodeProto { ..node("Dropout", &["x", "onnx::ratio", "onnx::mode"], &["y"]) };
    let mode = TensorProto { dims: vec![], data_type: 9, int32_data: vec![1], ..floats("onnx::mode", &[], &[]) };
    let twice = TensorProto { name: "w".into(), ..weight.clone() };
    vec![
        ("no graph", ModelProto { graph: None, ..small_model() }),
        ("no opset", ModelProto { opset_import: vec![], ..small_model() }),
        ("old opset", with_opset(3)),
        ("future opset", with_opset(i64::MAX)),
        ("cycle", model(vec![relu("b", "a"), relu("a", "b"), relu("b", "y")], vec![])),
        ("value defined twice", model(vec![relu("x", "y"), relu("y", "y")], vec![])),
        ("initializer defined twice", model(vec![relu("x", "y")], vec![weight.clone(), twice])),
        ("initializer and result", model(vec![relu("x", "w"), relu("w", "y")], vec![weight.clone()])),
        ("output not defined", model(vec![], vec![])),
        (
            "unknown operators",
            model(vec![node("Foo", &["x"], &["a"]), node("Bar", &["a"], &["b"]), node("Foo", &["b"], &["y"])], vec![]),
        ),
        (
            "operator of another domain",
            model(vec![NodeProto { domain: "com.microsoft".into(), ..relu("x", "y") }], vec![]),
        ),
        (
            "all problems at once",
            model(vec![node("Conv", &["x", "x"], &["a"]), node("MatMul", &["x", "x"], &["b"]), relu("a", "y")], vec![]),
        ),
        ("unknown attribute", with_attribute(int_attribute("colour", 3))),
        (
            "attribute of the wrong kind",
            with_attribute(AttributeProto { kind: 1, f: Some(1.0), ..int_attribute("transB", 0) }),
        ),
        ("flag that is neither 0 nor 1", with_attribute(int_attribute("transB", 7))),
        ("training dropout", model(vec![dropout], vec![floats("onnx::ratio", &[], &[0.1]), mode])),
        ("input without a size", with_input(&[symbol("batch"), dim(3)])),
        ("negative extent of an input", with_input(&[dim(-2), dim(3)])),
        ("absurd extent of an input", with_input(&[dim(1 << 60), dim(3)])),
        ("absurd product of extents", with_input(&[dim(1 << 30), dim(1 << 30)])),
        ("absurd rank", with_input(&vec![dim(1); 13])),
        ("too little data", with_weight(floats("w", &[3, 4], &[0.0; 11]))),
        ("wrong length of raw data", with_weight(TensorProto { raw_data: Some(vec![0; 47]), ..weight.clone() })),
        ("data of another type", with_weight(TensorProto { data_type: 11, ..weight.clone() })),
        ("unknown element type", with_weight(TensorProto { data_type: 99, ..weight.clone() })),
        ("segmented tensor", with_weight(TensorProto { segment: Some(Skipped {}), ..weight.clone() })),
        ("negative extent of a tensor", with_weight(floats("w", &[-3, 4], &[]))),
        ("absurd extent of a tensor", with_weight(floats("w", &[1 << 60, 4], &[]))),
        ("extents whose product overflows", with_weight(floats("w", &[1 << 33, 1 << 33], &[]))),
        ("no external file", with_weight(external(&[("location", "gone.data")]))),
        ("no external location", with_weight(external(&[]))),
        ("external path upwards", with_weight(external(&[("location", "../../etc/passwd")]))),
        ("absolute external path", with_weight(external(&[("location", "/etc/passwd")]))),
        ("external length", with_weight(external(&[("location", "w.data"), ("length", "9999999999999")]))),
        ("external offset", with_weight(external(&[("location", "w.data"), ("offset", "-1")]))),
        (
            "constant of absurd shape",
            model(vec![node("ConstantOfShape", &["onnx::shape"], &["y"])], vec![huge.clone()]),
        ),
        ("reshape to absurd shape", model(vec![node("Reshape", &["x", "onnx::shape"], &["y"])], vec![huge.clone()])),
        ("expand to absurd shape", model(vec![node("Expand", &["x", "onnx::shape"], &["y"])], vec![huge.clone()])),
        ("tile to absurd shape", model(vec![node("Tile", &["x", "onnx::shape"], &["y"])], vec![huge])),
        ("shape not known", model(vec![node("Reshape", &["x", "x"], &["y"])], vec![])),
        ("missing operand", model(vec![node("Gemm", &["x"], &["y"])], vec![])),
    ]
}

#[test]
fn hostile_files_end_in_diagnostics() {
    let mut told = String::new();
    for (case, file) in cases() {
        let found = load(&file).err().unwrap_or_else(|| panic!("`{case}` was imported"));
        assert!(!found.0.is_empty(), "{case}");
        told += &format!("## {case}\n{found}\n\n");
    }
    insta::assert_snapshot!(told);
}

#[test]
fn truncated_files_end_in_diagnostics() {
    let bytes = small_model().encode_to_vec();
    for length in 0..bytes.len() {
        let found = onnx::import(Path::new("cut.onnx"), bytes[..length].to_vec(), &ImportOptions::default());
        assert!(found.is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn external_data_is_read_in_its_folder_only_and_within_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bytes: Vec<u8> = (0..16).flat_map(|v| (v as f32).to_le_bytes()).collect();
    std::fs::write(folder.path().join("w.data"), bytes).expect("the folder is writable");
    let import = |entries: &[(&str, &str)]| {
        let file = with_weight(external(entries)).encode_to_vec();
        onnx::import(&folder.path().join("m.onnx"), file, &ImportOptions::default())
    };
    let found = import(&[("location", "w.data"), ("offset", "16"), ("length", "48")]).expect("the data is there");
    let expected: Vec<f32> = (4..16).map(|v| v as f32).collect();
    assert_eq!(found.tensors["w"].to_f32(), Some(expected));
    for offset in ["17", "18446744073709551615"] {
        let found = import(&[("location", "w.data"), ("offset", offset)]).expect_err("the data ends before that");
        assert_eq!(found.0[0].code, "external-data", "{found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = onnx::import(Path::new("random.onnx"), bytes, &ImportOptions::default());
    }

    #[test]
    fn mutated_files_never_panic(
        case in 0..cases().len() + 3,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let all = cases();
        let mut bytes = all.get(case).map_or_else(small_model, |(_, file)| file.clone()).encode_to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = onnx::import(Path::new("nowhere/mutated.onnx"), bytes, &ImportOptions::default());
    }

    /// Operators met with operands and attributes they may not expect.
    #[test]
    fn any_operator_on_any_operands_never_panics(
        op in prop::sample::select(onnx::operators()),
        inputs in proptest::collection::vec(prop::sample::select(OPERANDS), 0..6),
        attributes in proptest::collection::vec((prop::sample::select(ATTRIBUTES), -3i64..5), 0..4),
        opset in 7i64..=24,
    ) {
        let attribute = attributes.iter().map(|&(name, v)| AttributeProto {
            name: name.into(),
            i: Some(v),
            f: Some(v as f32),
            ints: vec![v, v.abs(), 1, 1],
            ..AttributeProto::default()
        });
        let any = NodeProto { attribute: attribute.collect(), ..node(op, &inputs, &["y"]) };
        let initializers = vec![
            floats("w", &[3, 4], &[0.5; 12]),
            floats("image", &[1, 2, 4, 4], &[0.5; 32]),
            floats("kernel", &[2, 2, 1, 3], &[0.5; 12]),
            floats("onnx::number", &[], &[1.5]),
            floats("onnx::empty", &[0, 3], &[]),
            ints("one", &[1]),
            ints("zeros", &[0, 0]),
            ints("mixed", &[-1, 2]),
            ints("extremes", &[i64::MIN, i64::MAX]),
        ];
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
        let file = ModelProto { opset_import, ..model(vec![any], initializers) };
        let _ = load(&file);
    }
}

const OPERANDS: &[&str] =
    &["", "x", "w", "image", "kernel", "onnx::number", "onnx::empty", "one", "zeros", "mixed", "extremes"];

const ATTRIBUTES: &[&str] = &[
    "alpha",
    "axes",
    "axis",
    "blocksize",
    "dilations",
    "end",
    "epsilon",
    "group",
    "keepdims",
    "kernel_shape",
    "num_groups",
    "num_outputs",
    "output_padding",
    "pads",
    "perm",
    "start",
    "strides",
    "to",
    "training_mode",
];
