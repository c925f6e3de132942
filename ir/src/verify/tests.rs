//! One broken graph per code, and the unbroken ones they are made from.

use super::*;
use crate::attr::Float;
use crate::builder::Builder;
use crate::graph::LocId;
use crate::ops::Constant;
use crate::types::DType;

/// `y = x + w`, `w` updated by its negation.
fn valid() -> Graph {
    let mut b = Builder::new("valid");
    let x = b.input("x", TensorType::f32([2])).unwrap();
    let w = b.parameter("w", TensorType::f32([2])).unwrap();
    let y = b.add(x, w).unwrap();
    let next = b.neg(w).unwrap();
    b.output("y", y, OutputKind::Checked);
    b.update(InputId(1), next).unwrap();
    b.finish()
}

fn value(node: u32) -> Value {
    Value { node: NodeId(node), result: 0 }
}

/// The code that a changed valid graph is refused with.
fn code(change: impl FnOnce(&mut Graph)) -> &'static str {
    let mut graph = valid();
    change(&mut graph);
    verify(&graph).expect_err("the graph is broken").code
}

#[test]
fn the_unchanged_graph_is_valid() {
    assert_eq!(verify(&valid()), Ok(()));
}

#[test]
fn places_must_be_listed() {
    assert_eq!(code(|g| g.nodes[2].loc = LocId(1)), "loc-range");
    assert_eq!(code(|g| g.locs.clear()), "loc-range");
    assert_eq!(code(|g| g.locs[0].line = 3), "loc-range");
}

#[test]
fn operands_must_be_earlier_results() {
    assert_eq!(code(|g| g.nodes[2].operands[0] = value(3)), "operand-order");
    assert_eq!(code(|g| g.nodes[2].operands[0] = value(2)), "operand-order");
    assert_eq!(code(|g| g.nodes[2].operands[0] = value(99)), "operand-order");
    assert_eq!(code(|g| g.nodes[2].operands[0].result = 1), "operand-result");
}

#[test]
fn types_must_be_inferred() {
    assert_eq!(code(|g| g.nodes[2].operands.clear()), "invalid-op");
    assert_eq!(code(|g| g.nodes[2].types[0] = TensorType::f32([3])), "type-mismatch");
    assert_eq!(code(|g| g.nodes[2].types.clear()), "type-mismatch");
    assert_eq!(code(|g| g.nodes[0].types[0] = TensorType::f32([1 << 41])), "type-size");
}

#[test]
fn inputs_must_be_declared_once_and_in_order() {
    assert_eq!(code(|g| drop(g.inputs.pop())), "input-declaration");
    assert_eq!(code(|g| g.inputs.push(Input { name: "z".into(), ..g.inputs[0].clone() })), "input-declaration");
    assert_eq!(code(|g| g.inputs.swap(0, 1)), "input-declaration");
    assert_eq!(code(|g| g.inputs[1].value = value(0)), "input-declaration");
    assert_eq!(code(|g| g.nodes[1].operands.push(value(0))), "input-declaration");
    assert_eq!(code(|g| g.nodes[0].types.push(TensorType::f32([2]))), "input-declaration");
    assert_eq!(code(|g| g.nodes[1].def = Def::Input(InputId(7))), "input-declaration");
    assert_eq!(code(|g| g.inputs[1].name = "x".into()), "duplicate-input");
}

#[test]
fn defaults_belong_to_state_and_hyperparameters() {
    let default = Some(Float::new(0.0));
    assert_eq!(code(|g| g.inputs[0].default = default), "input-default");
    assert_eq!(code(|g| g.inputs[0].role = Role::Hyper), "input-default");
    assert_eq!(
        code(|g| {
            g.inputs[0].role = Role::Hyper;
            g.inputs[0].default = default;
        }),
        "input-default",
        "a hyperparameter is a scalar"
    );
    let mut state = valid();
    state.inputs[1].role = Role::State;
    state.inputs[1].default = default;
    assert_eq!(verify(&state), Ok(()));
}

#[test]
fn outputs_must_be_values() {
    assert_eq!(code(|g| g.outputs[0].value = value(9)), "output-value");
    assert_eq!(code(|g| g.outputs[0].value.result = 1), "output-value");
}

#[test]
fn updates_must_match_a_persistent_input() {
    assert_eq!(code(|g| g.outputs[1].kind = OutputKind::Update(InputId(0))), "update-target");
    assert_eq!(code(|g| g.outputs[1].kind = OutputKind::Update(InputId(5))), "update-target");
    assert_eq!(code(|g| g.outputs[1].name = "v".into()), "update-name");
    assert_eq!(code(|g| g.outputs.push(g.outputs[1].clone())), "duplicate-update");
    let constant = |g: &mut Graph| {
        let op = Constant { value: Float::new(0.0), dtype: DType::F32, shape: vec![3] };
        let types = op_types(&op);
        g.nodes.push(Node { def: Def::Op(op.into()), operands: vec![], types, loc: LocId(0) });
        g.outputs[1].value = value(4);
    };
    assert_eq!(code(constant), "update-type");
}

fn op_types(op: &Constant) -> Vec<TensorType> {
    vec![TensorType::new(op.dtype, op.shape.clone())]
}

#[test]
fn only_floats_are_checked() {
    let integer = |g: &mut Graph| {
        let op = Constant { value: Float::new(0.0), dtype: DType::I64, shape: vec![] };
        let types = op_types(&op);
        g.nodes.push(Node { def: Def::Op(op.into()), operands: vec![], types, loc: LocId(0) });
        g.outputs[0].value = value(4);
    };
    assert_eq!(code(integer), "checked-dtype");
}

#[test]
fn a_place_is_reported() {
    let mut graph = valid();
    graph.locs.push(Loc { layer: "fc".into(), ..Loc::default() });
    graph.nodes[2].loc = LocId(1);
    graph.nodes[2].types[0] = TensorType::f32([3]);
    assert_eq!(verify(&graph).expect_err("the type is wrong").loc.layer, "fc");
}
