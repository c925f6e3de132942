//! What region ops share: rules of closed bodies, cotangents of their results, the limit of unrolling.

use crate::graph::{Graph, OutputKind, Role, Value};
use crate::op::{Cotangent, VjpContext, require};
use crate::types::{TensorType, TypeError};

/// The largest number of nodes that unrolling one loop may make.
const MAX_UNROLLED_NODES: usize = 1 << 20;

/// Result types of a body, which must be closed and take arguments of the given types.
pub(super) fn body_results(body: &Graph, arguments: &[TensorType]) -> Result<Vec<TensorType>, TypeError> {
    let closed = body.inputs().iter().all(|i| i.role == Role::Input)
        && body.outputs().iter().all(|o| o.kind == OutputKind::Result);
    require(closed, "a body must be a closed function", "only inputs and results", &body.name)?;
    let found: Vec<TensorType> = body.inputs().iter().map(|i| body.ty(i.value).clone()).collect();
    require(found == arguments, "the body takes other arguments", list(arguments), list(&found))?;
    Ok(body.outputs().iter().map(|o| body.ty(o.value).clone()).collect())
}

/// Types as people read them.
pub(super) fn list(types: &[TensorType]) -> String {
    let types: Vec<String> = types.iter().map(TensorType::to_string).collect();
    format!("({})", types.join(", "))
}

/// Owned copies of operand types.
pub(super) fn owned(types: &[&TensorType]) -> Vec<TensorType> {
    types.iter().map(|&t| t.clone()).collect()
}

/// Float operands that lead to something that trains; no others carry gradients.
pub(super) fn wanted_floats(cx: &VjpContext) -> Vec<usize> {
    (0..cx.inputs.len()).filter(|&k| cx.wants(k) && cx.builder.ty(cx.inputs[k]).dtype.is_float()).collect()
}

/// One cotangent per float result, zeros written out.
pub(super) fn dense_cotangents(cx: &mut VjpContext) -> Result<Vec<Value>, TypeError> {
    let mut dense = Vec::new();
    for (&output, &cotangent) in cx.outputs.iter().zip(cx.cotangents) {
        let ty = cx.builder.ty(output).clone();
        if ty.dtype.is_float() {
            dense.push(cotangent.map_or_else(|| cx.builder.splat(&ty, 0.0), Ok)?);
        }
    }
    Ok(dense)
}

/// Answers for all operands: `gradients` flow to the operands in `to`, nothing to the others.
pub(super) fn answers(operands: usize, to: &[usize], gradients: &[Value]) -> Vec<Cotangent> {
    let mut answers = vec![Cotangent::Zero; operands];
    to.iter().zip(gradients).for_each(|(&k, &gradient)| answers[k] = Cotangent::Flows(gradient));
    answers
}

/// Fails when `steps` copies of `body` are too many nodes.
pub(super) fn check_unrolled(steps: usize, body: &Graph) -> Result<(), TypeError> {
    let nodes = steps.saturating_mul(body.nodes().len());
    require(
        nodes <= MAX_UNROLLED_NODES,
        "the loop is too long to unroll",
        format!("at most {MAX_UNROLLED_NODES} nodes"),
        nodes,
    )
}
