//! What reductions over axes share: shape rule, reference loop and nest.

use super::structural::ascending_axes_of;
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{Access, Affine, Combine, CompareFn, Lowering, Nest};
use crate::op::{EvalError, arity, require};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError, row_major_strides};

/// Axes of a shape that a reduction keeps.
pub(super) fn kept_axes(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !axes.contains(d)).collect()
}

/// Result type of a reduction over `axes`; booleans are refused.
pub(super) fn infer_reduction(inputs: &[&TensorType], axes: &[usize]) -> Result<Vec<TensorType>, TypeError> {
    let [x] = arity(inputs)?;
    ascending_axes_of(x, axes)?;
    require(x.dtype != DType::Bool, "booleans cannot be reduced", "a number", x)?;
    Ok(vec![x.with_shape(kept_axes(x.rank(), axes).iter().map(|&d| x.shape[d]).collect::<Vec<_>>())])
}

/// Start value and combination of a reference reduction.
pub(super) struct Fold<T> {
    /// Value of an empty reduction.
    pub start: T,
    /// Combines two values.
    pub combine: fn(T, T) -> T,
}

/// Reference reduction of a float or integer tensor, elements in row-major order; integers wrap.
pub(super) fn eval_reduction(
    x: &Tensor,
    axes: &[usize],
    float: Fold<f64>,
    int: Fold<i64>,
) -> Result<Vec<Tensor>, EvalError> {
    let ty = infer_reduction(&[&x.ty], axes)?.remove(0);
    let kept = kept_axes(x.ty.rank(), axes);
    let (from, to) = (row_major_strides(&x.ty.shape), row_major_strides(&ty.shape));
    let target = |k: usize| -> usize { kept.iter().zip(&to).map(|(&d, s)| k / from[d] % x.ty.shape[d] * s).sum() };
    let dtype = ty.dtype;
    Ok(vec![match &x.data {
        Data::Float(values) => Tensor::float(ty.clone(), fold(values, ty.elements(), target, float)),
        Data::Int(values) => {
            let folded = fold(values, ty.elements(), target, int);
            Tensor::int(ty, folded.into_iter().map(|v| dtype.wrap(v)).collect())
        }
    }])
}

fn fold<T: Copy>(values: &[T], count: usize, target: impl Fn(usize) -> usize, fold: Fold<T>) -> Vec<T> {
    let mut out = vec![fold.start; count];
    values.iter().enumerate().for_each(|(k, &v)| out[target(k)] = (fold.combine)(out[target(k)], v));
    out
}

/// The nest of a reduction over `axes`.
pub(super) fn reduction_nest(input: &TensorType, axes: &[usize], combine: Combine) -> Lowering {
    let kept = kept_axes(input.rank(), axes);
    let extents = |dims: &[usize]| dims.iter().map(|&d| input.shape[d]).collect::<Vec<_>>();
    let mut indices = vec![Affine::constant(input.rank(), 0); input.rank()];
    kept.iter().chain(axes).enumerate().for_each(|(at, &d)| indices[d] = Affine::dim(input.rank(), at));
    let access = Access::new(0, &input.shape, indices);
    let nest = Nest::reduction(&extents(&kept), &extents(axes), combine, |body| body.load(input.dtype, access));
    Lowering::Nests(vec![nest])
}

/// The VJP of maximum and minimum: `g` shared evenly by the elements of `x` equal to `y`; NaN where `y` is.
pub(super) fn extremum_gradient(
    b: &mut Builder,
    axes: &[usize],
    g: Value,
    x: Value,
    y: Value,
) -> Result<Value, TypeError> {
    let ty = b.ty(x).clone();
    let kept = kept_axes(ty.rank(), axes);
    let extremum = b.broadcast(y, &ty.shape, &kept)?;
    let hit = b.compare(CompareFn::Eq, x, extremum)?;
    let hit = b.cast(hit, ty.dtype)?;
    let hits = b.reduce_sum(hit, axes)?;
    let share = b.div(g, hits)?;
    let share = b.broadcast(share, &ty.shape, &kept)?;
    b.mul(hit, share)
}
