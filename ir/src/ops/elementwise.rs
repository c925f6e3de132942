//! What elementwise ops share: shape rules, reference loops and nests.

use crate::lower::{Access, BinaryFn, Body, Lowering, Nest, ScalarId, UnaryFn};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

/// One float operand in, the same type out.
pub(super) fn infer_float_unary(inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
    let [x] = arity(inputs)?;
    require(x.dtype.is_float(), "operand must be floating point", "a float dtype", x)?;
    Ok(vec![x.clone()])
}

/// Two operands of one type in, the same type out.
pub(super) fn infer_binary(inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
    let [a, b] = arity(inputs)?;
    require(a == b, "operands must have one type", a, b)?;
    Ok(vec![a.clone()])
}

/// Applies `f` to every element of a float tensor.
pub(super) fn map_floats(x: &Tensor, f: impl Fn(f64) -> f64) -> Vec<Tensor> {
    vec![Tensor::float(x.ty.clone(), x.floats().iter().map(|&v| f(v)).collect())]
}

/// Applies `f` to corresponding elements: `float` on float tensors, `int` on the others.
pub(super) fn zip(
    a: &Tensor,
    b: &Tensor,
    float: impl Fn(f64, f64) -> f64,
    int: impl Fn(i64, i64) -> i64,
) -> Vec<Tensor> {
    let ty = a.ty.clone();
    vec![if ty.dtype.is_float() {
        Tensor::float(ty, a.floats().iter().zip(b.floats()).map(|(&x, &y)| float(x, y)).collect())
    } else {
        Tensor::int(ty, a.ints().iter().zip(b.ints()).map(|(&x, &y)| int(x, y)).collect())
    }]
}

/// The nest `out[i] = build(operand 0[i], operand 1[i], …)`.
pub(super) fn map_nest(inputs: &[&TensorType], build: impl FnOnce(&mut Body, &[ScalarId]) -> ScalarId) -> Lowering {
    let space = &inputs[0].shape;
    Lowering::Nests(vec![Nest::map(space, |body| {
        let loads: Vec<ScalarId> = inputs
            .iter()
            .enumerate()
            .map(|(k, ty)| body.load(ty.dtype, Access::identity(k, space, space.len())))
            .collect();
        build(body, &loads)
    })])
}

/// The nest of one scalar function of one operand.
pub(super) fn unary_nest(inputs: &[&TensorType], f: UnaryFn) -> Lowering {
    map_nest(inputs, |body, x| body.unary(f, x[0]))
}

/// The nest of one scalar function of two operands.
pub(super) fn binary_nest(inputs: &[&TensorType], f: BinaryFn) -> Lowering {
    map_nest(inputs, |body, x| body.binary(f, x[0], x[1]))
}
