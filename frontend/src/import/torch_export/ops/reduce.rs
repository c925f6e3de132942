//! Reductions.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use crate::layers::reduce as layers;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

type Reduction = fn(&mut Builder, Value, &[usize], bool) -> Result<Value, TypeError>;

/// A reduction over `dim`, computed in the recorded dtype.
fn reduction(call: &mut Call, reduce: Reduction) -> Result<Value, Fault> {
    let (x, dtype) = (call.tensor("self")?, call.dtype()?);
    let (axes, keepdim) = extent(call, x)?;
    let x = call.b.cast(x, dtype)?;
    Ok(reduce(call.b, x, &axes, keepdim)?)
}

fn extent(call: &Call, x: Value) -> Result<(Vec<usize>, bool), Fault> {
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

/// Index of the largest element; of the flattened operand without `dim`.
pub fn argmax(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let ty = call.b.ty(x).clone();
    if call.is_none("dim") {
        let flat = call.b.reshape(x, &[ty.elements()])?;
        return Ok(call.b.arg_max(flat, 0)?);
    }
    let axis = call.axis("dim", ty.rank())?;
    let index = call.b.arg_max(x, axis)?;
    if !call.bool("keepdim")? {
        return Ok(index);
    }
    let mut shape = ty.shape;
    shape[axis] = 1;
    Ok(call.b.reshape(index, &shape)?)
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

/// Euclidean norm.
pub fn vector_norm(call: &mut Call) -> Result<Value, Fault> {
    if call.float("ord")? != 2.0 {
        return Err(unsupported("ord", 2));
    }
    let square: Reduction = |b, x, axes, keepdim| {
        let square = b.mul(x, x)?;
        layers::sum(b, square, axes, keepdim)
    };
    let total = reduction(call, square)?;
    Ok(call.b.sqrt(total)?)
}
