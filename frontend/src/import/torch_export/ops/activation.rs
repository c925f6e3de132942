//! Activations with parameters, and what exporters call by names of their own.

use super::super::call::{Call, unsupported};
use super::super::fault::Fault;
use super::elementwise::{converted, like_result};
use crate::layers::activation as layers;
use crate::layers::{math, offset};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;

/// scale · elu(x, alpha) with the numbers of Klambauer et al. (2017).
pub fn selu(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let y = layers::elu(b, x, 1.673_263_242_354_377_2)?;
    b.scale(y, 1.050_700_987_355_480_5)
}

/// alpha · elu(x / alpha)
pub fn celu(call: &mut Call) -> Result<Value, Fault> {
    let (x, alpha) = (call.tensor("self")?, call.float("alpha")?);
    let scaled = call.b.scale(x, 1.0 / alpha)?;
    let y = layers::elu(call.b, scaled, 1.0)?;
    Ok(call.b.scale(y, alpha)?)
}

/// One half of an axis times the logistic function of the other.
pub fn glu(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let axis = call.axis("dim", call.b.shape(x).len())?;
    let extent = call.b.shape(x).get(axis).copied().unwrap_or(1);
    if !extent.is_multiple_of(2) {
        return Err(unsupported("dim", "an axis of even extent"));
    }
    let (value, gate) = (call.b.slice_axis(x, axis, 0, extent / 2)?, call.b.slice_axis(x, axis, extent / 2, extent)?);
    let gate = call.b.logistic(gate)?;
    Ok(call.b.mul(value, gate)?)
}

/// x, and 0 where |x| ≤ lambd.
pub fn hardshrink(call: &mut Call) -> Result<Value, Fault> {
    let (x, bound) = (call.tensor("self")?, call.float("lambd")?);
    let b = &mut *call.b;
    let (size, bound, zero) = (b.abs(x)?, b.full_like(x, bound)?, b.full_like(x, 0.0)?);
    let small = b.compare(CompareFn::Le, size, bound)?;
    Ok(b.select(small, zero, x)?)
}

/// x nearer to 0 by lambd, and 0 where |x| ≤ lambd.
pub fn softshrink(call: &mut Call) -> Result<Value, Fault> {
    let (x, by) = (call.tensor("self")?, call.float("lambd")?);
    let b = &mut *call.b;
    let (size, bound, zero, sign) = (b.abs(x)?, b.full_like(x, by)?, b.full_like(x, 0.0)?, b.sign(x)?);
    let towards = b.mul(sign, bound)?;
    let nearer = b.sub(x, towards)?;
    let small = b.compare(CompareFn::Le, size, bound)?;
    Ok(b.select(small, zero, nearer)?)
}

/// x where it is above the threshold, else a value.
pub fn threshold(call: &mut Call) -> Result<Value, Fault> {
    let (x, threshold, value) = (call.tensor("self")?, call.float("threshold")?, call.float("value")?);
    let b = &mut *call.b;
    let (threshold, value) = (b.full_like(x, threshold)?, b.full_like(x, value)?);
    let below = b.compare(CompareFn::Le, x, threshold)?;
    Ok(b.select(below, value, x)?)
}

/// ln(p / (1 − p)), of p no nearer to 0 and 1 than eps.
pub fn logit(call: &mut Call) -> Result<Value, Fault> {
    let (mut x, eps) = (converted(call, "self")?, call.optional_float("eps")?);
    if let Some(eps) = eps {
        x = layers::clamp(call.b, x, Some(eps), Some(1.0 - eps))?;
    }
    let b = &mut *call.b;
    let negative = b.neg(x)?;
    let rest = offset(b, negative, 1.0)?;
    let odds = b.div(x, rest)?;
    Ok(b.log(odds)?)
}

/// softplus(beta · x) / beta, and x itself where beta · x is above the threshold.
pub fn softplus(call: &mut Call) -> Result<Value, Fault> {
    let (x, beta, threshold) = (call.tensor("self")?, call.float("beta")?, call.float("threshold")?);
    let b = &mut *call.b;
    let scaled = if beta == 1.0 { x } else { b.scale(x, beta)? };
    let y = layers::softplus(b, scaled)?;
    let y = if beta == 1.0 { y } else { b.scale(y, 1.0 / beta)? };
    // From 20 on both are the same to 2·10⁻⁹.
    if threshold >= 20.0 {
        return Ok(y);
    }
    let threshold = b.full_like(scaled, threshold)?;
    let linear = b.compare(CompareFn::Gt, scaled, threshold)?;
    Ok(b.select(linear, x, y)?)
}

/// Numbers in place of NaN and of the infinities; without one 0, and the largest of the dtype.
pub fn nan_to_num(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    if !call.b.ty(x).dtype.is_float() {
        return Ok(x);
    }
    let largest = f64::from(f32::MAX);
    let number = |name: &str, absent: f64| Ok::<f64, Fault>(call.optional_float(name)?.unwrap_or(absent));
    let (nan, high, low) = (number("nan", 0.0)?, number("posinf", largest)?, number("neginf", -largest)?);
    if call.b.ty(x).dtype != gradc_ir::types::DType::F32 && (call.is_none("posinf") || call.is_none("neginf")) {
        return Err(unsupported("posinf", "a number, for operands that are not f32"));
    }
    let b = &mut *call.b;
    let is_nan = math::is_nan(b, x)?;
    let nan = b.full_like(x, nan)?;
    let mut y = b.select(is_nan, nan, x)?;
    for (infinity, number) in [(f64::INFINITY, high), (f64::NEG_INFINITY, low)] {
        let (infinity, number) = (b.full_like(x, infinity)?, b.full_like(x, number)?);
        let is = b.compare(CompareFn::Eq, x, infinity)?;
        y = b.select(is, number, y)?;
    }
    Ok(y)
}

/// √(x² + y²), with no gradient where it is 0.
pub fn hypot(b: &mut Builder, x: Value, y: Value) -> Result<Value, TypeError> {
    let (xx, yy) = (b.mul(x, x)?, b.mul(y, y)?);
    let sum = b.add(xx, yy)?;
    crate::layers::reduce::root_of_squares(b, sum)
}

/// The remainder of a division rounded towards 0 or down.
pub fn remainder(call: &mut Call) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    let y = like_result(call, "other", x)?;
    let (x, y) = call.b.broadcast_pair(x, y)?;
    Ok(math::remainder(call.b, x, y)?)
}
