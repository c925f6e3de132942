//! `reduce_sum`: sum over axes.

use crate::lower::{Access, Affine, Combine, Lowering, Nest};
use crate::op::{arity, require};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};
use crate::types::row_major_strides;

op_struct! {
    /// `y = Σ x` over `axes` (ascending), which the result does not have.
    pub struct ReduceSum = "reduce_sum" {
        /// Axes summed over.
        axes: Vec<usize>,
    }
}

/// Axes of a shape that a reduction keeps.
pub(super) fn kept_axes(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !axes.contains(d)).collect()
}

/// Result type of a reduction over `axes`.
pub(super) fn infer_reduction(inputs: &[&TensorType], axes: &[usize]) -> Result<Vec<TensorType>, TypeError> {
    let [x] = arity(inputs)?;
    let valid = axes.windows(2).all(|w| w[0] < w[1]) && axes.iter().all(|&d| d < x.rank());
    require(valid, "`axes` must be ascending axes of the operand", format!("axes of {x}"), format!("{axes:?}"))?;
    Ok(vec![x.with_shape(kept_axes(x.rank(), axes).iter().map(|&d| x.shape[d]).collect::<Vec<_>>())])
}

/// Reference reduction of a float or integer tensor, elements in row-major order.
pub(super) fn eval_reduction(x: &Tensor, axes: &[usize], start: f64, float: impl Fn(f64, f64) -> f64, int: impl Fn(i64, i64) -> i64, int_start: i64) -> Result<Vec<Tensor>, EvalError> {
    let ty = infer_reduction(&[&x.ty], axes)?.remove(0);
    let kept = kept_axes(x.ty.rank(), axes);
    let (from, to) = (row_major_strides(&x.ty.shape), row_major_strides(&ty.shape));
    let target = |k: usize| -> usize { kept.iter().zip(&to).map(|(&d, s)| k / from[d] % x.ty.shape[d] * s).sum() };
    let count = ty.elements();
    Ok(vec![if ty.dtype.is_float() {
        let mut out = vec![start; count];
        x.floats().iter().enumerate().for_each(|(k, &v)| out[target(k)] = float(out[target(k)], v));
        Tensor::float(ty, out)
    } else {
        let mut out = vec![int_start; count];
        x.ints().iter().enumerate().for_each(|(k, &v)| out[target(k)] = int(out[target(k)], v));
        Tensor::int(ty, out)
    }])
}

/// The nest of a reduction over `axes`.
pub(super) fn reduction_nest(input: &TensorType, axes: &[usize], combine: Combine) -> Lowering {
    let kept = kept_axes(input.rank(), axes);
    let extents = |dims: &[usize]| dims.iter().map(|&d| input.shape[d]).collect::<Vec<_>>();
    let loop_of = |d: usize| kept.iter().chain(axes).position(|&k| k == d).unwrap_or_default();
    let indices = (0..input.rank()).map(|d| Affine::dim(input.rank(), loop_of(d))).collect();
    let access = Access::new(0, &input.shape, indices);
    Lowering::Nests(vec![Nest::reduction(&extents(&kept), &extents(axes), combine, |body| body.load(input.dtype, access))])
}

impl OpDef for ReduceSum {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_reduction(inputs, &self.axes)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, shape) = (cx.grad(), cx.builder.shape(cx.inputs[0]).to_vec());
        let kept = kept_axes(shape.len(), &self.axes);
        Ok(vec![cx.flow(0, |b| b.broadcast(g, &shape, &kept))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        eval_reduction(inputs[0], &self.axes, 0.0, |a, b| a + b, i64::wrapping_add, 0)
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        reduction_nest(inputs[0], &self.axes, Combine::Sum)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Rounding
    }

    fn samples() -> Vec<Sample> {
        let over = |axes: &[usize]| Sample::new(ReduceSum { axes: axes.to_vec() });
        vec![
            over(&[1]).float(&[3, 37], -1.0..1.0),
            over(&[0]).float(&[5, 9], -1.0..1.0),
            over(&[0, 2]).float(&[2, 3, 4], -1.0..1.0),
            over(&[0, 1]).float(&[4, 4], -1.0..1.0),
        ]
    }
}
