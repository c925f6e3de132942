//! Elementwise ops, conversions and copies.

use super::super::call::{Arg, Call, unsupported};
use super::super::fault::Fault;
use super::super::memory::View;
use crate::layers::{activation, math};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// f(self), computed in the result's dtype.
pub fn unary(call: &mut Call, build: fn(&mut Builder, Value) -> Result<Value, TypeError>) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    Ok(build(call.b, x)?)
}

/// f(self, other), computed in the result's dtype.
pub fn binary(
    call: &mut Call,
    build: fn(&mut Builder, Value, Value) -> Result<Value, TypeError>,
) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    let y = like_result(call, "other", x)?;
    Ok(build(call.b, x, y)?)
}

/// self · other; of booleans: both.
pub fn product(b: &mut Builder, x: Value, y: Value) -> Result<Value, TypeError> {
    if b.ty(x).dtype == DType::Bool { b.and(x, y) } else { b.mul(x, y) }
}

/// |self|; of integers too.
pub fn absolute(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    if b.ty(x).dtype.is_float() {
        return b.abs(x);
    }
    let negative = b.scale(x, -1.0)?;
    b.maximum(x, negative)
}

/// self ⋈ other, compared in the dtype both promote to.
pub fn compare(call: &mut Call, kind: CompareFn) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let dtype = promoted(call, x, "other")?;
    let x = call.b.cast(x, dtype)?;
    let y = call.number_or_tensor("other", dtype, x)?;
    Ok(call.b.compare(kind, x, y)?)
}

/// Dtype in which a tensor and a tensor or number are compared, after PyTorch's type promotion.
fn promoted(call: &Call, x: Value, other: &str) -> Result<DType, Fault> {
    let a = call.b.ty(x);
    match call.args.get(other) {
        Some(Arg::Tensor(operand)) => {
            let b = call.b.ty(operand.value);
            // A scalar tensor counts only when it is of a higher category.
            let weight = |rank: usize, dtype: DType| (category(dtype), rank > 0, width(dtype));
            let (wa, wb) = (weight(a.rank(), a.dtype), weight(b.rank(), b.dtype));
            Ok(if wa >= wb { a.dtype } else { b.dtype })
        }
        Some(Arg::Float(_)) if !a.dtype.is_float() => Ok(DType::F32),
        Some(Arg::Int(_)) if a.dtype == DType::Bool => Ok(DType::I64),
        _ => Ok(a.dtype),
    }
}

fn category(dtype: DType) -> u8 {
    match dtype {
        DType::Bool => 0,
        _ if dtype.is_float() => 2,
        _ => 1,
    }
}

fn width(dtype: DType) -> usize {
    dtype.size_bytes()
}

/// A tensor argument in the result's dtype; a number, which decompositions put there, as a scalar of it.
pub fn converted(call: &mut Call, name: &str) -> Result<Value, Fault> {
    let dtype = call.dtype()?;
    if let Some(Arg::Int(_) | Arg::Float(_)) = call.args.get(name) {
        let number = call.float(name)?;
        return Ok(call.b.scalar(dtype, number)?);
    }
    let x = call.tensor(name)?;
    Ok(call.b.cast(x, dtype)?)
}

/// A tensor or number in the result's dtype; a number takes the shape of `like`.
pub fn like_result(call: &mut Call, name: &str, like: Value) -> Result<Value, Fault> {
    let dtype = call.dtype()?;
    call.number_or_tensor(name, dtype, like)
}

/// `other · alpha`
fn scaled_other(call: &mut Call, like: Value) -> Result<Value, Fault> {
    let (other, alpha) = (like_result(call, "other", like)?, call.float("alpha")?);
    if alpha == 1.0 { Ok(other) } else { Ok(call.b.scale(other, alpha)?) }
}

pub fn add(call: &mut Call) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    let y = scaled_other(call, x)?;
    Ok(call.b.add(x, y)?)
}

pub fn sub(call: &mut Call) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    let y = scaled_other(call, x)?;
    Ok(call.b.sub(x, y)?)
}

/// other − alpha · self
pub fn rsub(call: &mut Call) -> Result<Value, Fault> {
    let (x, alpha) = (converted(call, "self")?, call.float("alpha")?);
    let x = if alpha == 1.0 { x } else { call.b.scale(x, alpha)? };
    let y = like_result(call, "other", x)?;
    Ok(call.b.sub(y, x)?)
}

/// Quotient, as it is or rounded down or towards zero; of floats.
pub fn div_mode(call: &mut Call) -> Result<Value, Fault> {
    let quotient = binary(call, Builder::div)?;
    if call.is_none("rounding_mode") {
        return Ok(quotient);
    }
    if !call.dtype()?.is_float() {
        return Err(unsupported("rounding_mode", "None for integers"));
    }
    match call.text("rounding_mode")? {
        "floor" => Ok(call.b.floor(quotient)?),
        _ => Ok(math::trunc(call.b, quotient)?),
    }
}

/// selfᵉ; small exponents as products and roots, whose gradients are exact for negative bases.
pub fn pow_scalar(call: &mut Call) -> Result<Value, Fault> {
    let (x, exponent) = (converted(call, "self")?, call.float("exponent")?);
    let b = &mut *call.b;
    Ok(match exponent {
        0.0 => b.full_like(x, 1.0)?,
        1.0 => x,
        2.0 => b.mul(x, x)?,
        3.0 => {
            let square = b.mul(x, x)?;
            b.mul(square, x)?
        }
        0.5 => b.sqrt(x)?,
        -0.5 => b.rsqrt(x)?,
        -1.0 => b.recip(x)?,
        _ => {
            let exponent = b.full_like(x, exponent)?;
            b.pow(x, exponent)?
        }
    })
}

/// A number to the power of every element.
pub fn pow_of_number(call: &mut Call) -> Result<Value, Fault> {
    let exponent = converted(call, "exponent")?;
    let number = like_result(call, "self", exponent)?;
    Ok(call.b.pow(number, exponent)?)
}

pub fn pow_tensor(call: &mut Call) -> Result<Value, Fault> {
    let (x, exponent) = (converted(call, "self")?, converted(call, "exponent")?);
    Ok(call.b.pow(x, exponent)?)
}

/// self + weight · (end − self)
pub fn lerp(call: &mut Call) -> Result<Value, Fault> {
    let (x, end) = (converted(call, "self")?, converted(call, "end")?);
    let weight = like_result(call, "weight", x)?;
    let difference = call.b.sub(end, x)?;
    let step = call.b.mul(weight, difference)?;
    Ok(call.b.add(x, step)?)
}

/// self + value · tensor1 · tensor2
pub fn addcmul(call: &mut Call) -> Result<Value, Fault> {
    add_scaled(call, Builder::mul)
}

/// self + value · tensor1 / tensor2
pub fn addcdiv(call: &mut Call) -> Result<Value, Fault> {
    add_scaled(call, Builder::div)
}

fn add_scaled(
    call: &mut Call,
    combine: fn(&mut Builder, Value, Value) -> Result<Value, TypeError>,
) -> Result<Value, Fault> {
    let (x, value) = (converted(call, "self")?, call.float("value")?);
    let (left, right) = (converted(call, "tensor1")?, converted(call, "tensor2")?);
    let term = combine(call.b, left, right)?;
    let term = if value == 1.0 { term } else { call.b.scale(term, value)? };
    Ok(call.b.add(x, term)?)
}

/// −x; integers too.
pub fn negative(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    if b.ty(x).dtype.is_float() { b.neg(x) } else { b.scale(x, -1.0) }
}

/// x²
pub fn square(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    b.mul(x, x)
}

/// x · tanh(softplus(x)) (Misra, 2019).
pub fn mish(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let softplus = activation::softplus(b, x)?;
    let gate = b.tanh(softplus)?;
    b.mul(x, gate)
}

/// log σ(x) = −softplus(−x)
pub fn log_sigmoid(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    let softplus = activation::softplus(b, negative)?;
    b.neg(softplus)
}

pub fn is_nan(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    Ok(math::is_nan(call.b, x)?)
}

pub fn is_inf(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    Ok(math::is_inf(call.b, x)?)
}

/// Whether x − x is a number.
pub fn is_finite(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let difference = call.b.sub(x, x)?;
    Ok(call.b.compare(CompareFn::Eq, difference, difference)?)
}

pub fn logical_not(call: &mut Call) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    Ok(call.b.not(x)?)
}

/// Negation of booleans.
pub fn bitwise_not(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    Ok(call.b.not(x)?)
}

/// scale · x where x is positive, else scale · alpha · (e^(input_scale · x) − 1).
pub fn elu(call: &mut Call) -> Result<Value, Fault> {
    let (x, alpha, scale) = (call.tensor("self")?, call.float("alpha")?, call.float("scale")?);
    if call.float("input_scale")? != 1.0 {
        return Err(unsupported("input_scale", 1));
    }
    let y = activation::elu(call.b, x, alpha)?;
    if scale == 1.0 { Ok(y) } else { Ok(call.b.scale(y, scale)?) }
}

pub fn gelu(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    match call.text("approximate")? {
        "none" => Ok(activation::gelu_erf(call.b, x)?),
        "tanh" => Ok(activation::gelu_tanh(call.b, x)?),
        _ => Err(unsupported("approximate", "none or tanh")),
    }
}

pub fn hardtanh(call: &mut Call) -> Result<Value, Fault> {
    let (x, lo, hi) = (call.tensor("self")?, call.float("min_val")?, call.float("max_val")?);
    Ok(activation::clamp(call.b, x, Some(lo), Some(hi))?)
}

pub fn leaky_relu(call: &mut Call) -> Result<Value, Fault> {
    let (x, slope) = (call.tensor("self")?, call.float("negative_slope")?);
    Ok(activation::leaky_relu(call.b, x, slope)?)
}

/// x where it is positive, else weight · x, with one weight or one per channel (He et al., 2015).
pub fn prelu(call: &mut Call) -> Result<Value, Fault> {
    let (x, weight) = (call.tensor("self")?, call.tensor("weight")?);
    let rank = call.b.shape(x).len();
    let mut shape = vec![1; rank];
    if let Some(channels) = shape.get_mut(1) {
        *channels = call.b.ty(weight).elements();
    }
    let weight = call.b.reshape(weight, &shape)?;
    let scaled = call.b.mul(x, weight)?;
    let zero = call.b.full_like(x, 0.0)?;
    let positive = call.b.compare(CompareFn::Gt, x, zero)?;
    Ok(call.b.select(positive, x, scaled)?)
}

pub fn clamp(call: &mut Call) -> Result<Value, Fault> {
    let x = converted(call, "self")?;
    let (lo, hi) = (call.optional_float("min")?, call.optional_float("max")?);
    Ok(activation::clamp(call.b, x, lo, hi)?)
}

/// As [`clamp`], by elements of tensors.
pub fn clamp_tensor(call: &mut Call) -> Result<Value, Fault> {
    let mut x = converted(call, "self")?;
    for (name, outside) in [("min", CompareFn::Lt), ("max", CompareFn::Gt)] {
        if call.is_none(name) {
            continue;
        }
        let bound = converted(call, name)?;
        let (wide, bound) = call.b.broadcast_pair(x, bound)?;
        let out = call.b.compare(outside, wide, bound)?;
        x = call.b.select(out, bound, wide)?;
    }
    Ok(x)
}

pub fn where_(call: &mut Call) -> Result<Value, Fault> {
    let condition = call.tensor("condition")?;
    let x = like_result(call, "self", condition)?;
    let y = like_result(call, "other", condition)?;
    Ok(call.b.select(condition, x, y)?)
}

pub fn masked_fill(call: &mut Call) -> Result<Value, Fault> {
    let (x, mask) = (converted(call, "self")?, call.tensor("mask")?);
    let value = like_result(call, "value", x)?;
    Ok(call.b.select(mask, value, x)?)
}

/// The operand in the recorded dtype, which is what `to`, `type_as` and their kin come down to.
pub fn convert(call: &mut Call) -> Result<Value, Fault> {
    converted(call, "self")
}

/// Another name of the same memory.
pub fn alias(call: &mut Call) -> Result<Value, Fault> {
    call.view = Some(View::Whole);
    call.tensor("self")
}

/// The operand, in memory of its own or not.
pub fn identity(call: &mut Call) -> Result<Value, Fault> {
    call.tensor("self")
}

pub fn detach(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    if call.b.ty(x).dtype.is_float() { Ok(call.b.stop_gradient(x)?) } else { Ok(x) }
}

/// `src` in the shape and dtype of `self`.
pub fn copy(call: &mut Call) -> Result<Value, Fault> {
    let source = converted(call, "src")?;
    let shape = call.b.shape(call.tensor("self")?).to_vec();
    Ok(call.b.broadcast_to(source, &shape)?)
}

/// A number, or an element, in the shape and dtype of `self`.
pub fn fill(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let shape = call.b.shape(x).to_vec();
    let value = like_result(call, "value", x)?;
    Ok(call.b.broadcast_to(value, &shape)?)
}

pub fn zero(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    Ok(call.b.full_like(x, 0.0)?)
}
