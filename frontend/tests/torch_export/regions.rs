//! What a program computes where gradients are switched off, and what decomposing it forgets.

use super::program::{F32, Program, tensor};
use gradc_frontend::model::Model;
use gradc_ir::graph::{Def, Graph, Output, OutputKind};
use serde_json::{Value, json};

fn is_stop(graph: &Graph, value: gradc_ir::graph::Value) -> bool {
    matches!(&graph.node(value.node).def, Def::Op(op) if op.name() == "stop_gradient")
}

/// Whether some op of the graph stops gradients.
fn stops(model: &Model) -> bool {
    let graph = &model.train;
    graph.node_ids().flat_map(|id| graph.results(id)).any(|value| is_stop(graph, value))
}

/// `y` plus a buffer, of a program that calls a region which makes `y` of an operand: `x`, `z` that is made of it, or the
/// buffer.
fn region(enabled: bool, target: &str, operand: &str) -> Program {
    let mut program = Program::new().buffer("mean", &[2], &[1.0, 2.0]).input("x", F32, &[2]);
    program = program.node("mul.Tensor", &[("self", tensor("x")), ("other", json!({"as_float": 3.0}))], "z", F32, &[2]);
    let inner = Program::new().value("inside", F32, &[2]).node(
        target,
        &[("self", tensor("inside")), ("other", json!({"as_float": 2.0}))],
        "inner",
        F32,
        &[2],
    );
    let mut body = inner.json["graph_module"]["graph"].clone();
    (body["inputs"], body["outputs"]) = (json!([tensor("inside")]), json!([tensor("inner")]));
    let operands = [
        ("", json!({"as_bool": enabled})),
        ("", json!({"as_graph": {"name": "submod_1", "graph": body}})),
        ("", tensor(operand)),
    ];
    program = program.node("called", &operands, "y", F32, &[2]);
    let node = &mut program.json["graph_module"]["graph"]["nodes"][1];
    node["target"] = json!("torch.ops.higher_order.wrap_with_set_grad_enabled");
    program.node("add.Tensor", &[("self", tensor("y")), ("other", tensor("b_mean"))], "sum", F32, &[2]).output("sum")
}

#[test]
fn gradients_stop_at_what_leaves_a_region() {
    let load = |program: Program| program.import().unwrap_or_else(|e| panic!("{e}"));
    assert!(stops(&load(region(false, "mul.Tensor", "x"))));
    assert!(!stops(&load(region(true, "mul.Tensor", "x"))));
    let updated = load(region(false, "mul_.Tensor", "b_mean"));
    assert_eq!(updated.train.outputs().len(), 2, "the result, and the buffer's next value");
    let (graph, is_update) = (&updated.train, |o: &&Output| matches!(o.kind, OutputKind::Update(_)));
    let next = graph.outputs().iter().find(is_update).expect("the buffer is updated").value;
    assert!(is_stop(graph, next), "what is written to a buffer is no gradient's business either");
}

#[test]
fn writing_past_a_gradient_is_refused() {
    let error = region(false, "mul_.Tensor", "z").problems();
    assert!(error.contains("unsupported-mutation") && error.contains("`z`"), "{error}");
}

#[test]
fn a_call_that_does_not_fit_its_region_is_refused() {
    let mut program = region(false, "mul.Tensor", "x");
    let inputs = &mut program.json["graph_module"]["graph"]["nodes"][1]["inputs"];
    inputs.as_array_mut().expect("a list").pop();
    assert!(program.problems().contains("does not fit its region"));
}

/// An alias of a product, in a program of a dialect, made by a function of PyTorch.
fn aliased(dialect: &str, function: Option<&str>) -> Program {
    let two = json!({"as_float": 2.0});
    let mut program = Program::new()
        .input("x", F32, &[2])
        .node("mul.Tensor", &[("self", tensor("x")), ("other", two)], "mul", F32, &[2])
        .node("alias.default", &[("self", tensor("mul"))], "alias", F32, &[2])
        .output("alias");
    program.json["verifiers"] = json!([dialect]);
    if let Some(function) = function {
        program.json["graph_module"]["graph"]["nodes"][1]["metadata"]["torch_fn"] = Value::from(function);
    }
    program
}

#[test]
fn a_decomposed_program_stops_gradients_where_its_notes_say_so() {
    let load = |program: Program| program.import().unwrap_or_else(|e| panic!("{e}"));
    assert!(stops(&load(aliased("ATEN", Some("detach_1;method_descriptor.detach")))));
    assert!(!stops(&load(aliased("ATEN", Some("__getitem___1;wrapper_descriptor.__getitem__")))));
    assert!(!stops(&load(aliased("TRAINING", None))), "an alias is one where `detach` is another op");
    let without_notes = aliased("ATEN", None).problems();
    assert!(without_notes.contains("lost-gradient-stop"), "{without_notes}");
    let switched = "wrap_with_set_grad_enabled;WrapWithSetGradEnabled.wrap_with_set_grad_enabled";
    assert!(aliased("ATEN", Some(switched)).problems().contains("lost-gradient-stop"));
}
