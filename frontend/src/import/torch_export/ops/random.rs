//! Random numbers, and dropout (Srivastava et al., 2014).

use super::super::call::{Call, invalid};
use super::super::fault::Fault;
use crate::layers::offset;
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

/// Numbers uniform in [0, 1): other ones in every step of training, the same in every evaluation.
fn uniform(call: &mut Call, shape: &[usize]) -> Result<Value, Fault> {
    TensorType::checked(DType::F32, shape)?;
    let (state, stream) = (call.random_state()?, call.next_stream());
    Ok(call.b.random_uniform(state, shape, stream)?)
}

/// Numbers of the standard normal distribution: √(−2 ln(1 − u)) · cos(2πv) (Box and Muller, 1958).
fn normal(call: &mut Call, shape: &[usize]) -> Result<Value, Fault> {
    let (u, v) = (uniform(call, shape)?, uniform(call, shape)?);
    let b = &mut *call.b;
    let negative = b.neg(u)?;
    let positive = offset(b, negative, 1.0)?;
    let log = b.log(positive)?;
    let square = b.scale(log, -2.0)?;
    let (radius, angle) = (b.sqrt(square)?, b.scale(v, std::f64::consts::TAU)?);
    let cos = b.cos(angle)?;
    Ok(b.mul(radius, cos)?)
}

/// In the recorded dtype.
fn drawn(
    call: &mut Call,
    shape: &[usize],
    draw: fn(&mut Call, &[usize]) -> Result<Value, Fault>,
) -> Result<Value, Fault> {
    let (dtype, numbers) = (call.dtype()?, draw(call, shape)?);
    Ok(call.b.cast(numbers, dtype)?)
}

pub fn rand(call: &mut Call) -> Result<Value, Fault> {
    let shape = call.new_shape("size")?;
    drawn(call, &shape, uniform)
}

pub fn randn(call: &mut Call) -> Result<Value, Fault> {
    let shape = call.new_shape("size")?;
    drawn(call, &shape, normal)
}

pub fn rand_like(call: &mut Call) -> Result<Value, Fault> {
    let shape = call.b.shape(call.tensor("self")?).to_vec();
    drawn(call, &shape, uniform)
}

pub fn randn_like(call: &mut Call) -> Result<Value, Fault> {
    let shape = call.b.shape(call.tensor("self")?).to_vec();
    drawn(call, &shape, normal)
}

/// Ones with probability p, else zeros.
pub fn bernoulli(call: &mut Call) -> Result<Value, Fault> {
    let (x, p) = (call.tensor("self")?, call.float("p")?);
    if !(0.0..=1.0).contains(&p) {
        return Err(invalid("p", "a probability", p));
    }
    let (ty, shape) = (call.b.ty(x).clone(), call.b.shape(x).to_vec());
    let numbers = uniform(call, &shape)?;
    let threshold = call.b.full_like(numbers, p)?;
    let one = call.b.compare(CompareFn::Lt, numbers, threshold)?;
    Ok(call.b.cast(one, ty.dtype)?)
}
