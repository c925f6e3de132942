//! What names, memory and modes mean.

use super::program::{BOOL, F32, I64, Program, tensor, zip};
use gradc_frontend::import::torch_export::import;
use gradc_frontend::model::{ImportOptions, Model};
use gradc_ir::graph::{Graph, OutputKind, Role};
use gradc_ir::interpret;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// Results of a graph of a model, given its data inputs; updates are applied to `state`.
fn run(model: &Model, graph: &Graph, inputs: &[(&str, Tensor)]) -> (HashMap<String, Tensor>, HashMap<String, Tensor>) {
    let mut state: HashMap<String, Tensor> = model.tensors.iter().map(|(n, t)| (n.clone(), t.to_tensor())).collect();
    state.extend(inputs.iter().map(|(n, t)| (n.to_string(), t.clone())));
    let results = interpret::step(graph, &mut state).unwrap_or_else(|e| panic!("{e}"));
    (results, state)
}

fn floats(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::float(TensorType::f32(shape), values.to_vec())
}

#[test]
fn overwriting_is_seen_under_every_name() {
    let one = json!({"as_int": 1});
    let program = Program::new()
        .buffer("count", &[1], &[5.0])
        .input("x", F32, &[1])
        .node("add_.Tensor", &[("self", tensor("b_count")), ("other", one)], "add_", F32, &[1])
        .node("mul.Tensor", &[("self", tensor("b_count")), ("other", tensor("add_"))], "mul", F32, &[1])
        .node("add.Tensor", &[("self", tensor("mul")), ("other", tensor("x"))], "sum", F32, &[1])
        .output("sum");
    let model = program.import().unwrap_or_else(|e| panic!("{e}"));
    let (results, state) = run(&model, &model.train, &[("x", floats(&[1], &[0.25]))]);
    assert_eq!(results["sum"].floats(), [36.25]);
    assert_eq!(state["count"].floats(), [6.0]);
    assert!(model.infer.outputs().iter().all(|o| o.kind == OutputKind::Result));
}

#[test]
fn overwriting_through_a_view_that_is_read_elsewhere_is_refused() {
    let size = json!({"as_ints": [4]});
    let program = Program::new()
        .input("x", F32, &[2, 2])
        .node("exp.default", &[("self", tensor("x"))], "exp", F32, &[2, 2])
        .node("view.default", &[("self", tensor("exp")), ("size", size)], "view", F32, &[4])
        .node("relu_.default", &[("self", tensor("view"))], "relu_", F32, &[4]);
    let fine = program.clone().output("relu_");
    assert!(fine.import().is_ok());
    insta::assert_snapshot!(program.output("exp").output("relu_").problems());
}

#[test]
fn tied_parameters_are_one() {
    let matmul = |p: Program, a: &str, b: &str, out: &str| {
        p.node("mm.default", &[("self", tensor(a)), ("mat2", tensor(b))], out, F32, &[2, 2])
    };
    let mut program = Program::new()
        .parameter("encoder", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
        .parameter("decoder", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
        .input("x", F32, &[2, 2]);
    program.weights["decoder"]["path_name"] = json!("encoder");
    program = matmul(program, "x", "p_encoder", "h");
    program = matmul(program, "h", "p_decoder", "y").output("y");
    let model = program.import().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.aliases.iter().collect::<Vec<_>>(), [(&"decoder".to_string(), &"encoder".to_string())]);
    assert_eq!(model.tensors.len(), 1);
    assert_eq!(model.train.inputs().iter().filter(|i| i.role == Role::Parameter).count(), 1);
    let (results, _) = run(&model, &model.train, &[("x", floats(&[2, 2], &[1.0, 0.0, 0.0, 1.0]))]);
    assert_eq!(results["y"].floats(), [7.0, 10.0, 15.0, 22.0]);
}

#[test]
fn stored_tensors_may_be_strided_views() {
    let mut program = Program::new().parameter("w", &[2, 3], &[0.0; 6]).input("x", F32, &[2, 3]);
    program.files[0].1 = (0..8).flat_map(|v| (v as f32).to_le_bytes()).collect();
    program.weights["w"]["tensor_meta"]["strides"] = json!([{"as_int": 1}, {"as_int": 2}]);
    program.weights["w"]["tensor_meta"]["storage_offset"] = json!({"as_int": 2});
    let program =
        program.node("add.Tensor", &[("self", tensor("x")), ("other", tensor("p_w"))], "y", F32, &[2, 3]).output("y");
    let model = program.import().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.tensors["w"].to_f32().expect("f32"), [2.0, 4.0, 6.0, 3.0, 5.0, 7.0]);
}

#[test]
fn a_program_without_weights_is_drawn_afresh() {
    let mut program =
        Program::new().parameter("w", &[16, 64], &[]).parameter("frozen", &[16], &[]).input("x", F32, &[2, 64]);
    program.json["graph_module"]["graph"]["tensor_values"]["p_frozen"]["requires_grad"] = json!(false);
    let args = [("input", tensor("x")), ("weight", tensor("p_w")), ("bias", tensor("p_frozen"))];
    let json = program.node("linear.default", &args, "y", F32, &[2, 16]).output("y").json.to_string();
    let draw = |seed| {
        let options = ImportOptions { seed, ..Default::default() };
        import(Path::new("model.json"), json.clone().into_bytes(), &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let (model, again, other) = (draw(1), draw(1), draw(2));
    assert_eq!(model.tensors, again.tensors);
    assert_ne!(model.tensors, other.tensors);
    let weights = model.tensors["w"].to_f32().expect("f32");
    let largest = weights.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(largest <= 0.125 && largest > 0.12, "{largest}");
    assert_eq!(model.frozen.iter().collect::<Vec<_>>(), ["frozen"]);
    assert_eq!(model.notes, ["the file has no weights: parameters are drawn afresh with seed 1"]);
}

#[test]
fn dropout_drops_in_training_only_and_anew_every_step() {
    let args = [("input", tensor("x")), ("p", json!({"as_float": 0.25})), ("train", json!({"as_bool": true}))];
    let program =
        Program::new().input("x", F32, &[64, 64]).node("dropout.default", &args, "y", F32, &[64, 64]).output("y");
    let model = program.import().unwrap_or_else(|e| panic!("{e}"));
    let x = floats(&[64, 64], &[1.0; 4096]);
    let (inferred, _) = run(&model, &model.infer, &[("x", x.clone())]);
    assert_eq!(inferred["y"], x);
    let (first, state) = run(&model, &model.train, &[("x", x.clone())]);
    let kept = first["y"].floats().iter().filter(|&&v| v != 0.0).count() as f64 / 4096.0;
    assert!(first["y"].floats().iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-12));
    assert!((kept - 0.75).abs() < 0.04, "{kept}");
    assert_eq!(state["random.counter"].ints(), [1]);
    let (second, _) = run(&model, &model.train, &[("x", x), ("random.counter", state["random.counter"].clone())]);
    assert_ne!(first["y"], second["y"]);
}

#[test]
fn the_functional_form_updates_buffers_by_its_signature() {
    let mut program =
        Program::new().buffer("mean", &[2], &[0.0, 0.0]).buffer("var", &[2], &[1.0, 1.0]).input("x", F32, &[3, 2]);
    let none = json!({"as_none": true});
    let args = [
        ("input", tensor("x")),
        ("weight", none.clone()),
        ("bias", none),
        ("running_mean", tensor("b_mean")),
        ("running_var", tensor("b_var")),
        ("training", json!({"as_bool": true})),
        ("momentum", json!({"as_float": 0.5})),
        ("eps", json!({"as_float": 0.0})),
    ];
    let names = ["y", "save_mean", "save_rstd", "new_mean", "new_var"];
    let outputs = names.iter().map(|n| tensor(n)).collect();
    program =
        program.nodes("_native_batch_norm_legit_functional.default", &args, outputs, "bn").value("y", F32, &[3, 2]);
    for name in &names[1..] {
        program = program.value(name, F32, &[2]);
    }
    let specs = program.json["graph_module"]["signature"]["output_specs"].as_array_mut().expect("a list");
    for (name, buffer) in [("new_mean", "mean"), ("new_var", "var")] {
        specs.push(json!({"buffer_mutation": {"arg": {"name": name}, "buffer_name": buffer}}));
    }
    let model = program.output("y").import().unwrap_or_else(|e| panic!("{e}"));
    let x = floats(&[3, 2], &[1.0, 2.0, 2.0, 4.0, 3.0, 6.0]);
    let (_, state) = run(&model, &model.train, &[("x", x.clone())]);
    assert_eq!(state["mean"].floats(), [1.0, 2.0]);
    assert_eq!(state["var"].floats(), [1.0, 2.5]);
    let (results, _) = run(&model, &model.infer, &[("x", x.clone())]);
    assert_eq!(results["y"], x);
}

#[test]
fn integers_computed_from_sizes_follow_a_symbolic_batch() {
    let symbol = json!({"as_expr": {"expr_str": "Symbol('s0', positive=True, integer=True)", "hint": {"as_int": 4}}});
    let sym = |name: &str| json!({"as_sym_int": {"as_name": name}});
    let dims = json!({"as_sym_ints": [{"as_name": "n"}, {"as_int": 6}]});
    let mut program = Program::new()
        .input("x", F32, &[4, 2, 3])
        .nodes("sym_size.int", &[("self", tensor("x")), ("dim", json!({"as_int": 0}))], json!([sym("n")]), "n")
        .node("view.default", &[("self", tensor("x")), ("size", dims)], "y", F32, &[4, 6])
        .output("y");
    for name in ["x", "y"] {
        program.json["graph_module"]["graph"]["tensor_values"][name]["sizes"][0] = symbol.clone();
    }
    let model = program.import_with(&ImportOptions { batch: Some(5), ..Default::default() });
    let model = model.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.train.ty(model.train.outputs()[0].value).shape, [5, 6]);
}

#[test]
fn ranges_as_long_as_the_batch_do_not_become_another() {
    let imported = |end: serde_json::Value, batch| {
        let range = [("end", end)];
        let program = Program::new().input("x", F32, &[4]).node("arange.default", &range, "range", F32, &[4]);
        let program = program.node("abs.default", &[("self", tensor("x"))], "y", F32, &[4]).output("y").output("range");
        program.import_with(&ImportOptions { batch, ..Default::default() })
    };
    for end in [json!({"as_int": 4}), json!({"as_float": 3.5})] {
        assert!(imported(end.clone(), None).is_ok());
        assert!(imported(end, Some(2)).is_err());
    }
}

#[test]
fn constants_are_read_from_their_own_folder_and_labels_may_be_integers() {
    let mut program = Program::new().input("ids", I64, &[3]);
    let spec = json!({"tensor_constant": {"arg": {"name": "c_limit"}, "tensor_constant_name": "limit"}});
    program.json["graph_module"]["signature"]["input_specs"].as_array_mut().expect("a list").push(spec);
    program = program
        .value("c_limit", I64, &[3])
        .node("lt.Tensor", &[("self", tensor("ids")), ("other", tensor("c_limit"))], "lt", BOOL, &[3])
        .output("lt");
    let meta = program.json["graph_module"]["graph"]["tensor_values"]["c_limit"].clone();
    let config = json!({"config": {"limit": {"path_name": "tensor_0", "is_param": false, "tensor_meta": meta}}});
    let bytes: Vec<u8> = [7i64, 8, 9].iter().flat_map(|v| v.to_le_bytes()).collect();
    let archive = zip(&[
        ("net/models/model.json".into(), program.json.to_string().as_bytes()),
        ("net/data/constants/model_constants_config.json".into(), config.to_string().as_bytes()),
        ("net/data/constants/tensor_0".into(), &bytes),
    ]);
    let model = import(Path::new("net.pt2"), archive, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.train.input_named("limit").expect("the constant").1.role, Role::Constant);
    let ids = Tensor::int(TensorType::new(DType::I64, [3]), vec![7, 7, 10]);
    assert_eq!(run(&model, &model.train, &[("ids", ids)]).0["lt"].ints(), [0, 1, 0]);
}
