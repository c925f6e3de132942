//! Reductions.

use super::super::call::{Call, invalid};
use super::super::fault::Fault;
use crate::layers::shape::unsqueeze;
use crate::layers::{offset, reduce as layers};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

type Reduction = fn(&mut Builder, Value, &[usize], bool) -> Result<Value, TypeError>;

/// A reduction over `dim`, computed in the recorded dtype.
fn reduction(call: &mut Call, reduce: Reduction) -> Result<Value, Fault> {
    let (x, dtype) = (call.tensor("self")?, call.dtype()?);
    let (axes, keepdim) = extent(call, x)?;
    let x = call.b.cast(x, dtype)?;
    Ok(reduce(call.b, x, &axes, keepdim)?)
}

/// Axes that a reduction is over, and whether they stay.
pub fn extent(call: &Call, x: Value) -> Result<(Vec<usize>, bool), Fault> {
    let keepdim = !call.is_none("keepdim") && call.bool("keepdim")?;
    Ok((call.axes("dim", call.b.shape(x).len())?, keepdim))
}

pub fn sum(call: &mut Call) -> Result<Value, Fault> {
    reduction(call, layers::sum)
}

pub fn mean(call: &mut Call) -> Result<Value, Fault> {
    reduction(call, layers::mean)
}

pub fn prod(call: &mut Call) -> Result<Value, Fault> {
    reduction(call, layers::prod)
}

pub fn amax(call: &mut Call) -> Result<Value, Fault> {
    reduction(call, layers::max)
}

pub fn amin(call: &mut Call) -> Result<Value, Fault> {
    reduction(call, layers::min)
}

/// A line per element of a result: its axis stays with extent 1 or goes.
pub fn keep(call: &mut Call, x: Value, axis: usize, keepdim: bool) -> Result<Value, Fault> {
    let mut shape = call.b.shape(x).to_vec();
    if !keepdim {
        shape.remove(axis);
    }
    Ok(call.b.reshape(x, &shape)?)
}

/// Index of an element of every line; of the flattened operand without `dim`.
fn position(call: &mut Call, find: fn(&mut Builder, Value, usize) -> Result<Value, TypeError>) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let ty = call.b.ty(x).clone();
    let (flat, keepdim) = (call.is_none("dim"), call.bool("keepdim")?);
    if flat || ty.rank() == 0 {
        let line = call.b.reshape(x, &[ty.elements()])?;
        let index = find(call.b, line, 0)?;
        let shape = if keepdim { vec![1; ty.rank()] } else { vec![] };
        return Ok(call.b.reshape(index, &shape)?);
    }
    let axis = call.axis("dim", ty.rank())?;
    let index = find(call.b, x, axis)?;
    let mut shape = ty.shape;
    shape[axis] = 1;
    let index = call.b.reshape(index, &shape)?;
    keep(call, index, axis, keepdim)
}

/// Index of the largest element.
pub fn argmax(call: &mut Call) -> Result<Value, Fault> {
    position(call, Builder::arg_max)
}

/// Index of the smallest element.
pub fn argmin(call: &mut Call) -> Result<Value, Fault> {
    position(call, layers::arg_min)
}

/// The operand's elements that are not 0, as booleans.
fn non_zero(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    Ok(call.b.cast(x, DType::Bool)?)
}

pub fn any(call: &mut Call) -> Result<Value, Fault> {
    let x = non_zero(call)?;
    let (axes, keepdim) = extent(call, x)?;
    Ok(layers::any(call.b, x, &axes, keepdim)?)
}

pub fn all(call: &mut Call) -> Result<Value, Fault> {
    let x = non_zero(call)?;
    let (axes, keepdim) = extent(call, x)?;
    Ok(layers::all(call.b, x, &axes, keepdim)?)
}

pub fn count_nonzero(call: &mut Call) -> Result<Value, Fault> {
    let x = non_zero(call)?;
    let (axes, _) = extent(call, x)?;
    let ones = call.b.cast(x, DType::I64)?;
    Ok(layers::sum(call.b, ones, &axes, false)?)
}

/// Sum of the elements that are numbers.
pub fn nansum(call: &mut Call) -> Result<Value, Fault> {
    reduction(call, |b, x, axes, keepdim| {
        let (zero, is_number) = (b.full_like(x, 0.0)?, b.compare(CompareFn::Eq, x, x)?);
        let numbers = b.select(is_number, x, zero)?;
        layers::sum(b, numbers, axes, keepdim)
    })
}

/// Variance with Bessel's correction, given as a boolean or a number (absent: 1).
pub fn var(call: &mut Call) -> Result<Value, Fault> {
    let correction = match () {
        _ if call.args.contains_key("unbiased") => f64::from(u8::from(call.bool("unbiased")?)),
        _ => call.optional_float("correction")?.unwrap_or(1.0),
    };
    if correction < 0.0 || correction.fract() != 0.0 || correction > u32::MAX.into() {
        return Err(invalid("correction", "a small integer", correction));
    }
    let x = call.tensor("self")?;
    let (axes, keepdim) = extent(call, x)?;
    Ok(layers::variance(call.b, x, &axes, correction as usize, keepdim)?)
}

pub fn std(call: &mut Call) -> Result<Value, Fault> {
    let var = var(call)?;
    Ok(call.b.sqrt(var)?)
}

/// (variance, mean)
pub fn var_mean(call: &mut Call) -> Result<Vec<Value>, Fault> {
    Ok(vec![var(call)?, mean(call)?])
}

/// (deviation, mean)
pub fn std_mean(call: &mut Call) -> Result<Vec<Value>, Fault> {
    Ok(vec![std(call)?, mean(call)?])
}

/// m + log Σ exp(x − m), with m the maximum, which needs no gradient.
pub fn logsumexp(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let (axes, keepdim) = extent(call, x)?;
    let largest = layers::max(call.b, x, &axes, true)?;
    let largest = call.b.stop_gradient(largest)?;
    let shifted = call.b.sub(x, largest)?;
    let exponentials = call.b.exp(shifted)?;
    let total = layers::sum(call.b, exponentials, &axes, keepdim)?;
    let logarithm = call.b.log(total)?;
    let shape = call.b.shape(logarithm).to_vec();
    let largest = call.b.reshape(largest, &shape)?;
    Ok(call.b.add(logarithm, largest)?)
}

/// (Σ |x|ᵖ)^(1/p) and its limits, with p called `ord` or `p`.
pub fn vector_norm(call: &mut Call) -> Result<Value, Fault> {
    let name = if call.args.contains_key("ord") { "ord" } else { "p" };
    let order = call.optional_float(name)?.unwrap_or(2.0);
    let (x, dtype) = (call.tensor("self")?, call.dtype()?);
    let (axes, keepdim) = extent(call, x)?;
    let x = call.b.cast(x, dtype)?;
    Ok(layers::norm(call.b, x, order, &axes, keepdim)?)
}

/// Norm of x − y + eps along the last axis.
pub fn distance(b: &mut Builder, x: Value, y: Value, order: f64, eps: f64, keepdim: bool) -> Result<Value, TypeError> {
    let difference = b.sub(x, y)?;
    let difference = if eps == 0.0 { difference } else { offset(b, difference, eps)? };
    let last = b.shape(difference).len().saturating_sub(1);
    layers::norm(b, difference, order, &[last], keepdim)
}

pub fn pairwise_distance(call: &mut Call) -> Result<Value, Fault> {
    let (x, y) = (call.tensor("x1")?, call.tensor("x2")?);
    let (order, eps, keepdim) = (call.float("p")?, call.float("eps")?, call.bool("keepdim")?);
    Ok(distance(call.b, x, y, order, eps, keepdim)?)
}

/// Distances of all pairs of rows: `[…, P, M]` and `[…, R, M]` to `[…, P, R]`.
pub fn cdist(call: &mut Call) -> Result<Value, Fault> {
    let (x, y, order) = (call.tensor("x1")?, call.tensor("x2")?, call.float("p")?);
    let (p, r) = (call.b.shape(x).len(), call.b.shape(y).len());
    if p < 2 || r < 2 {
        return Err(Fault::new("invalid-operands", "distances are those of rows").expected("[…, P, M] and […, R, M]"));
    }
    let (x, y) = (unsqueeze(call.b, x, &[p - 1])?, unsqueeze(call.b, y, &[r - 2])?);
    Ok(distance(call.b, x, y, order, 0.0, false)?)
}
