//! Dropout (Srivastava et al., 2014).

use super::super::call::{Call, invalid};
use super::super::fault::Fault;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType};

/// Zeroes elements of `x` with probability `p` and scales the others by 1/(1 − p); `mask_shape` broadcasts to `x`.
///
/// Returns the result and the mask of what is kept.
fn drop(call: &mut Call, x: Value, mask_shape: &[usize], p: f64) -> Result<(Value, Value), Fault> {
    if !(0.0..=1.0).contains(&p) {
        return Err(invalid("p", "a probability", p));
    }
    let (state, stream) = (call.random_state()?, call.next_stream());
    let uniform = call.b.random_uniform(state, mask_shape, stream)?;
    let threshold = call.b.full_like(uniform, p)?;
    let kept = call.b.compare(CompareFn::Ge, uniform, threshold)?;
    let scaled = call.b.scale(x, if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 })?;
    let zero = call.b.scalar(call.b.ty(x).dtype, 0.0)?;
    Ok((call.b.select(kept, scaled, zero)?, kept))
}

/// Dropout of single elements where training asks for it, else `x`.
pub fn drop_elements(call: &mut Call, x: Value, p: f64) -> Result<Value, Fault> {
    if p == 0.0 || !call.mode.training {
        return Ok(x);
    }
    let shape = call.b.shape(x).to_vec();
    Ok(drop(call, x, &shape, p)?.0)
}

fn probability(call: &Call) -> Result<f64, Fault> {
    // `native_dropout` takes None for "yes".
    let train = call.is_none("train") || call.bool("train")?;
    if train { call.float("p") } else { Ok(0.0) }
}

pub fn dropout(call: &mut Call) -> Result<Value, Fault> {
    let (x, p) = (call.tensor("input")?, probability(call)?);
    drop_elements(call, x, p)
}

/// Dropout of whole channels of `[N, C, …]` (Tompson et al., 2015).
pub fn feature_dropout(call: &mut Call) -> Result<Value, Fault> {
    let (x, p) = (call.tensor("input")?, probability(call)?);
    if p == 0.0 || !call.mode.training {
        return Ok(x);
    }
    let mut shape = call.b.shape(x).to_vec();
    shape.iter_mut().skip(2).for_each(|extent| *extent = 1);
    Ok(drop(call, x, &shape, p)?.0)
}

/// (y, mask)
pub fn native_dropout(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, p) = (call.tensor("input")?, probability(call)?);
    let shape = call.b.shape(x).to_vec();
    if p == 0.0 || !call.mode.training {
        let mask = call.b.splat(&TensorType::new(DType::Bool, shape), 1.0)?;
        return Ok(vec![x, mask]);
    }
    let (y, mask) = drop(call, x, &shape, p)?;
    Ok(vec![y, mask])
}
