use super::*;
use gradc_ir::graph::{OutputKind, Role};
use gradc_ir::interpret::step;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::TensorType;
use std::collections::HashMap;

fn read(json: &str, options: &ImportOptions) -> Result<Model, Diagnostics> {
    import(Path::new("m.json"), json.as_bytes().to_vec(), options)
}

/// A model with one input `x` and these nodes, the last of which is the output `y`.
fn with_nodes(shape: &str, more: &str, nodes: &str, last: &str) -> String {
    format!(
        r#"{{"gradc": 1, "inputs": [{{"name": "x", "shape": {shape}}}], {more} "nodes": [{nodes}],
            "outputs": [{{"name": "y", "value": "{last}"}}]}}"#
    )
}

/// All results and updates of one graph on `x` and the model's own tensors.
fn run(graph: &gradc_ir::graph::Graph, model: &Model, x: Tensor) -> (HashMap<String, Tensor>, HashMap<String, Tensor>) {
    let mut tensors: HashMap<String, Tensor> = model.tensors.iter().map(|(n, t)| (n.clone(), t.to_tensor())).collect();
    tensors.insert("x".into(), x);
    let results = step(graph, &mut tensors).unwrap();
    (results, tensors)
}

fn ramp(shape: &[usize]) -> Tensor {
    let ty = TensorType::f32(shape);
    let values = (0..ty.elements()).map(|k| k as f64 / 4.0 - 1.0).collect();
    Tensor::float(ty, values)
}

#[test]
fn layers_and_ops_compute_what_they_name() {
    // Operands are x = [[-1, -0.75, -0.5], [-0.25, 0, 0.25]].
    let cases: [(&str, &[usize], &[f64]); 12] = [
        (r#""op": "relu""#, &[2, 3], &[0.0, 0.0, 0.0, 0.0, 0.0, 0.25]),
        (r#""op": "abs""#, &[2, 3], &[1.0, 0.75, 0.5, 0.25, 0.0, 0.25]),
        (r#""op": "mean", "attrs": {"axes": [-1], "keepdim": true}"#, &[2, 1], &[-0.75, 0.0]),
        (r#""op": "sum""#, &[], &[-2.25]),
        (r#""op": "max", "attrs": {"axes": [0]}"#, &[3], &[-0.25, 0.0, 0.25]),
        (r#""op": "scale", "attrs": {"factor": 4}"#, &[2, 3], &[-4.0, -3.0, -2.0, -1.0, 0.0, 1.0]),
        (r#""op": "clamp", "attrs": {"min": -0.5}"#, &[2, 3], &[-0.5, -0.5, -0.5, -0.25, 0.0, 0.25]),
        (r#""op": "transpose", "attrs": {"perm": [1, 0]}"#, &[3, 2], &[-1.0, -0.25, -0.75, 0.0, -0.5, 0.25]),
        (r#""op": "reduce_sum", "attrs": {"axes": [1]}"#, &[2], &[-2.25, 0.0]),
        (r#""op": "reshape", "attrs": {"shape": [3, -1]}"#, &[3, 2], &[-1.0, -0.75, -0.5, -0.25, 0.0, 0.25]),
        (r#""op": "reshape", "attrs": {"shape": ["batch", 1, 3]}"#, &[2, 1, 3], &[-1.0, -0.75, -0.5, -0.25, 0.0, 0.25]),
        (r#""op": "leaky_relu", "attrs": {"slope": 0.5}"#, &[2, 3], &[-0.5, -0.375, -0.25, -0.125, 0.0, 0.25]),
    ];
    for (node, shape, expected) in cases {
        let nodes = format!(r#"{{"name": "n", "inputs": ["x"], {node}}}"#);
        let json = with_nodes(r#"["batch", 3]"#, r#""dims": {"batch": 2},"#, &nodes, "n");
        let model = read(&json, &ImportOptions::default()).unwrap();
        let (results, _) = run(&model.infer, &model, ramp(&[2, 3]));
        assert_eq!((&results["y"].ty.shape[..], results["y"].floats()), (shape, expected), "{node}");
    }
}

#[test]
fn results_are_numbered() {
    let nodes = r#"{"name": "s", "op": "split", "inputs": ["x"], "attrs": {"size": 2}}"#;
    let json = with_nodes("[1, 5]", "", nodes, "s:2");
    let model = read(&json, &ImportOptions::default()).unwrap();
    assert_eq!(run(&model.infer, &model, ramp(&[1, 5])).0["y"].floats(), [0.0]);
}

/// Halving steps, and a running sum.
const FUNCTIONS: &str = r#""dims": {"steps": 3}, "functions": [
    {"name": "half", "inputs": ["a"], "nodes": [{"name": "h", "op": "scale", "inputs": ["a"], "attrs": {"factor": 0.5}}], "outputs": ["h"]},
    {"name": "same", "inputs": ["a"], "nodes": [], "outputs": ["a"]},
    {"name": "twice", "inputs": ["a", "k"], "nodes": [
        {"name": "h", "op": "call", "inputs": ["a"], "attrs": {"body": "half"}},
        {"name": "more", "op": "add", "inputs": ["h", "k"]}], "outputs": ["more"]},
    {"name": "until", "inputs": ["a"], "nodes": [
        {"name": "h", "op": "call", "inputs": ["a"], "attrs": {"body": "half"}},
        {"name": "size", "op": "abs", "inputs": ["h"]},
        {"name": "largest", "op": "max", "inputs": ["size"]},
        {"name": "limit", "op": "constant", "attrs": {"value": 0.3, "dtype": "f32", "shape": []}},
        {"name": "done", "op": "compare", "inputs": ["largest", "limit"], "attrs": {"kind": "lt"}}], "outputs": ["h", "done"]},
    {"name": "sum", "inputs": ["total", "row"], "nodes": [{"name": "t", "op": "add", "inputs": ["total", "row"]}], "outputs": ["t", "t"]}],"#;

#[test]
fn loops_and_branches_apply_functions() {
    // x = [[-1, -0.75, -0.5], [-0.25, 0, 0.25]]
    let x = [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25];
    let scaled = |by: f64| x.map(|v| v * by).to_vec();
    let start = r#"{"name": "zero", "op": "constant", "attrs": {"value": 0.0, "dtype": "f32", "shape": [3]}},"#;
    let yes = r#"{"name": "yes", "op": "constant", "attrs": {"value": 1.0, "dtype": "bool", "shape": []}},"#;
    let cases: [(String, &str, Vec<f64>); 7] = [
        (
            r#"{"name": "n", "op": "iterate", "inputs": ["x"], "attrs": {"body": "half", "count": 2}}"#.into(),
            "n",
            scaled(0.25),
        ),
        (
            r#"{"name": "n", "op": "iterate", "inputs": ["x"], "attrs": {"body": "half", "count": "steps"}}"#.into(),
            "n",
            scaled(0.125),
        ),
        (
            r#"{"name": "n", "op": "iterate", "inputs": ["x", "x"], "attrs": {"body": "twice", "count": 2}}"#.into(),
            "n",
            scaled(1.75),
        ),
        (
            r#"{"name": "n", "op": "iterate_until", "inputs": ["x"], "attrs": {"body": "until", "max": 9}}"#.into(),
            "n",
            scaled(0.25),
        ),
        (
            format!(
                r#"{start}{{"name": "n", "op": "scan", "inputs": ["zero", "x"], "attrs": {{"body": "sum", "carries": 1, "scanned": 1}}}}"#
            ),
            "n:1",
            vec![-1.0, -0.75, -0.5, -1.25, -0.75, -0.25],
        ),
        (
            format!(
                r#"{start}{{"name": "n", "op": "scan", "inputs": ["zero", "x"], "attrs": {{"body": "sum", "carries": 1, "scanned": 1, "reverse": true}}}}"#
            ),
            "n:1",
            vec![-1.25, -0.75, -0.25, -0.25, 0.0, 0.25],
        ),
        (
            format!(
                r#"{yes}{{"name": "n", "op": "cond", "inputs": ["yes", "x"], "attrs": {{"then": "half", "else": "same"}}}}"#
            ),
            "n",
            scaled(0.5),
        ),
    ];
    for (nodes, last, expected) in cases {
        let model = read(&with_nodes("[2, 3]", FUNCTIONS, &nodes, last), &ImportOptions::default()).unwrap();
        assert_eq!(run(&model.infer, &model, ramp(&[2, 3])).0["y"].floats(), expected, "{nodes}");
    }
}

#[test]
fn layers_in_bodies_are_parts_of_the_node_that_applies_them() {
    let nodes = r#"{"name": "solve", "op": "iterate", "inputs": ["x", "x"], "attrs": {"body": "twice", "count": 2}}"#;
    let model = read(&with_nodes("[2, 3]", FUNCTIONS, nodes, "solve"), &ImportOptions::default()).unwrap();
    let body =
        model.train.node_ids().filter_map(|id| model.train.op(id)).find_map(|op| op.functions().first().cloned());
    let body = body.expect("a loop");
    let layers: Vec<&str> =
        body.node_ids().filter(|&id| body.op(id).is_some()).map(|id| body.loc(id).layer.as_str()).collect();
    assert_eq!(layers, ["solve.h", "solve.more"]);
}

#[test]
fn what_is_wrong_in_functions_is_told_where_they_are_used() {
    let told = |node: &str| {
        let found = read(&with_nodes("[2, 3]", FUNCTIONS, node, "n"), &ImportOptions::default()).unwrap_err();
        let d = &found.0[0];
        (d.code, d.loc.layer.clone(), format!("{d}"))
    };
    let (code, layer, text) =
        told(r#"{"name": "n", "op": "iterate", "inputs": ["x"], "attrs": {"body": "halve", "count": 2}}"#);
    assert_eq!(
        (code, layer.as_str(), text.contains("[half, same, twice, until, sum]")),
        ("invalid-node", "n", true),
        "{text}"
    );
    let (code, layer, _) =
        told(r#"{"name": "n", "op": "iterate", "inputs": ["x", "x"], "attrs": {"body": "half", "count": 2}}"#);
    assert_eq!((code, layer.as_str()), ("invalid-node", "n"), "another number of arguments");
    let (code, layer, text) =
        told(r#"{"name": "n", "op": "iterate", "inputs": ["x"], "attrs": {"body": "half", "count": "step"}}"#);
    assert_eq!((code, layer.as_str(), text.contains("[steps]")), ("invalid-node", "n", true), "{text}");
    let (code, layer, _) = told(
        r#"{"name": "n", "op": "scan", "inputs": ["x", "x"], "attrs": {"body": "sum", "carries": 1, "scanned": 2}}"#,
    );
    assert_eq!((code, layer.as_str()), ("invalid-node", "n"), "fewer operands than that");
    // The sum takes rows of the same length; here the mistake is in the body, for these arguments.
    let wide = r#"{"name": "w", "op": "constant", "attrs": {"value": 0.0, "dtype": "f32", "shape": [2, 4]}},
        {"name": "n", "op": "call", "inputs": ["x", "w"], "attrs": {"body": "sum"}}"#;
    let (code, layer, _) = told(wide);
    assert_eq!((code, layer.as_str()), ("invalid-node", "n.t"));
    let (code, layer, _) =
        told(r#"{"name": "n", "op": "iterate", "inputs": ["x"], "attrs": {"body": "half", "count": 0}}"#);
    assert_eq!((code, layer.as_str()), ("invalid-node", "n"), "no steps");
}

#[test]
fn functions_apply_only_those_before_them() {
    let endless = r#""functions": [{"name": "f", "inputs": ["a"], "nodes": [
        {"name": "again", "op": "call", "inputs": ["a"], "attrs": {"body": "f"}}], "outputs": ["again"]}],"#;
    let node = r#"{"name": "n", "op": "call", "inputs": ["x"], "attrs": {"body": "f"}}"#;
    let found = read(&with_nodes("[2]", endless, node, "n"), &ImportOptions::default()).unwrap_err();
    assert_eq!((found.0[0].code, found.0[0].loc.layer.as_str()), ("invalid-node", "n.again"));
    let twice = endless.replace("]}],", r#"]}, {"name": "f", "inputs": [], "nodes": [], "outputs": []}],"#);
    let found = read(&with_nodes("[2]", &twice, "", "x"), &ImportOptions::default()).unwrap_err();
    assert_eq!((found.0[0].code, found.0[0].loc.layer.as_str()), ("duplicate-name", "f"));
}

const NORM: &str = r#""buffers": [{"name": "m", "shape": [2], "init": {"kind": "zeros"}}, {"name": "v", "shape": [2], "init": {"kind": "ones"}}],
    "parameters": [{"name": "g", "shape": [2], "init": {"kind": "ones"}}, {"name": "b", "shape": [2], "init": {"kind": "zeros"}, "trainable": false}],"#;

#[test]
fn batch_norm_updates_its_statistics_when_training() {
    let nodes = r#"{"name": "bn", "op": "batch_norm", "inputs": ["x", "g", "b", "m", "v"], "attrs": {"momentum": 0.5, "eps": 0}}"#;
    let model = read(&with_nodes("[2, 2]", NORM, nodes, "bn"), &ImportOptions::default()).unwrap();
    let x = Tensor::float(TensorType::f32([2, 2]), vec![1.0, 10.0, 3.0, 30.0]);
    let (results, after) = run(&model.train, &model, x.clone());
    assert_eq!(results["y"].floats(), [-1.0, -1.0, 1.0, 1.0]);
    assert_eq!(after["m"].floats(), [1.0, 10.0]);
    assert_eq!(after["v"].floats(), [0.5 + 0.5 * 2.0, 0.5 + 0.5 * 200.0]);
    let (results, after) = run(&model.infer, &model, x);
    assert_eq!(results["y"].floats(), [1.0, 10.0, 3.0, 30.0]);
    assert_eq!(after["m"].floats(), [0.0, 0.0]);
    assert!(model.infer.outputs().iter().all(|o| o.kind == OutputKind::Result), "inference updates nothing");
    assert_eq!(model.frozen, BTreeSet::from(["b".to_string()]));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let json = r#"{"gradc": 1, "inputs": [{"name": "x", "shape": [2, 3]}, {"name": "z", "shape": ["time"]}],
        "parameters": [{"name": "w", "shape": [4, 3]}, {"name": "x", "shape": [1], "init": {"kind": "ones"}}],
        "nodes": [
            {"name": "a", "op": "lineer", "inputs": ["x", "w"]},
            {"name": "b", "op": "linear", "inputs": ["x", "ww"]},
            {"name": "c", "op": "relu", "inputs": ["a"]},
            {"name": "d", "op": "softmax", "inputs": ["x"], "attrs": {"axis": 2}},
            {"name": "e", "op": "relu", "inputs": ["x"], "attrs": {"inplace": true}},
            {"name": "f", "op": "linear", "inputs": ["x"]},
            {"name": "g", "op": "matmul", "inputs": ["x", "x"]},
            {"name": "h", "op": "reduce_sum", "inputs": ["x"], "attrs": {"axes": [1], "keep": true}}
        ],
        "outputs": [{"name": "y", "value": "x:1"}]}"#;
    let found = read(json, &ImportOptions::default()).unwrap_err();
    let told: Vec<(&str, &str)> = found.0.iter().map(|d| (d.loc.layer.as_str(), d.code)).collect();
    let expected = [
        ("z", "unknown-dim"),
        ("x", "duplicate-name"),
        ("a", "unknown-op"),
        ("b", "unknown-value"),
        ("d", "invalid-node"),
        ("e", "invalid-node"),
        ("f", "invalid-node"),
        ("g", "invalid-node"),
        ("h", "invalid-node"),
        ("y", "unknown-value"),
        ("w", "missing-weight"),
    ];
    assert_eq!(told, expected);
    assert_eq!(found.0[2].help.as_deref(), Some("did you mean `linear`?"));
    assert!(found.0[5].message.contains("`inplace`"), "{}", found.0[5]);
    assert!(found.0.iter().all(|d| d.loc.file == "m.json"));
}

#[test]
fn fields_are_checked_by_the_schema() {
    let json = r#"{"gradc": 2, "inputs": [{"name": "x", "dtype": "float", "shape": [-1]}], "nodes": [{"op": "relu"}], "output": []}"#;
    let found = read(json, &ImportOptions::default()).unwrap_err();
    let told: Vec<(&str, &str)> = found.0.iter().map(|d| (d.loc.layer.as_str(), d.code)).collect();
    let expected = [
        ("gradc", "wrong-value"),
        ("inputs[0].dtype", "wrong-value"),
        ("inputs[0].shape[0]", "wrong-value"),
        ("nodes[0]", "missing-field"),
        ("output", "unknown-field"),
        ("", "missing-field"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    let parameter = |shape: &str| {
        let more = format!(r#""parameters": [{{"name": "w", "shape": {shape}, "init": {{"kind": "ones"}}}}],"#);
        let found = read(&with_nodes("[1]", &more, "", "x"), &ImportOptions::default()).unwrap_err();
        found.0[0].code
    };
    assert_eq!(parameter("[1099511627776, 1099511627776]"), "shape-too-large");
    assert_eq!(parameter("[1099511627776]"), "shape-too-large");
    let input = read(&with_nodes("[1099511627776, 2]", "", "", "x"), &ImportOptions::default()).unwrap_err();
    assert_eq!(input.0[0].code, "shape-too-large");
}

#[test]
fn the_batch_size_is_a_named_dimension() {
    let nodes = r#"{"name": "n", "op": "relu", "inputs": ["x"]}"#;
    let json = with_nodes(r#"["batch", 3]"#, r#""dims": {"batch": 2},"#, nodes, "n");
    let model = read(&json, &ImportOptions { batch: Some(5), ..Default::default() }).unwrap();
    let (_, x) = model.train.input_named("x").unwrap();
    assert_eq!(model.train.ty(x.value).shape, [5, 3]);
    let fixed = with_nodes("[2, 3]", "", nodes, "n");
    let found = read(&fixed, &ImportOptions { batch: Some(5), ..Default::default() }).unwrap_err();
    assert_eq!(found.0[0].code, "unknown-dim");
}

#[test]
fn weights_come_from_the_file_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let stored = gradc_ir::tensor::HostTensor::from_f32([2], &[3.0, 4.0]).unwrap();
    let tensors = BTreeMap::from([("w".into(), stored.clone())]);
    crate::weights::write(&folder.path().join("w.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let load = |weights: &str, shape: &str| {
        let more = format!(
            r#""weights": "{weights}", "parameters": [{{"name": "w", "shape": {shape}, "init": {{"kind": "ones"}}}}],"#
        );
        import(&path, with_nodes("[2]", &more, "", "x").into_bytes(), &ImportOptions::default())
    };
    assert_eq!(load("w.safetensors", "[2]").unwrap().tensors["w"], stored);
    assert_eq!(load("w.safetensors", "[3]").unwrap_err().0[0].code, "weight-mismatch");
    assert_eq!(load("absent.safetensors", "[2]").unwrap_err().0[0].code, "unreadable-file");
    for outside in ["../w.safetensors", "/w.safetensors", ""] {
        assert_eq!(load(outside, "[2]").unwrap_err().0[0].code, "unsafe-path", "{outside}");
    }
}

#[test]
fn the_example_model_imports() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/");
    let model = crate::import::import(Path::new(&format!("{folder}digits.json")), &ImportOptions::default()).unwrap();
    let names: Vec<&str> =
        model.train.inputs().iter().filter(|i| i.role == Role::Parameter).map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
    let (results, _) = run(&model.train, &model, ramp(&[32, 64]));
    assert_eq!(results["y"].ty.shape, [32, 10]);
    let recipe = crate::recipe::Recipe::from_file(Path::new(&format!("{folder}digits.recipe.json"))).unwrap();
    assert_eq!(crate::recipe::trainable_set(&recipe, &model).unwrap().len(), 4);
    let resolved = crate::recipe::resolve(&recipe, &model).unwrap();
    assert_eq!((resolved.prediction.as_str(), resolved.notes.len()), ("y", 0));
}
