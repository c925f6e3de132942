//! Arithmetic, comparisons, logic and conversions.

use super::Rule::{self, Binary, One, Unary};
use super::{Fault, Node, Walk, require};
use crate::import::onnx::tensors::dtype;
use crate::layers::activation::clamp;
use crate::layers::{inverse, math};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("Abs", Unary(abs)),
    ("Acos", Unary(inverse::acos)),
    ("Acosh", Unary(inverse::acosh)),
    ("Add", Binary(Builder::add)),
    ("And", Binary(Builder::and)),
    ("Asin", Unary(inverse::asin)),
    ("Asinh", Unary(inverse::asinh)),
    ("Atan", Unary(inverse::atan)),
    ("Atanh", Unary(inverse::atanh)),
    ("Cast", One(cast)),
    ("CastLike", One(cast_like)),
    ("Ceil", Unary(Builder::ceil)),
    ("Clip", One(clip)),
    ("Cos", Unary(Builder::cos)),
    ("Cosh", Unary(math::cosh)),
    ("Div", Binary(Builder::div)),
    ("Equal", Binary(|b, x, y| b.compare(CompareFn::Eq, x, y))),
    ("Erf", Unary(Builder::erf)),
    ("Exp", Unary(Builder::exp)),
    ("Floor", Unary(Builder::floor)),
    ("Greater", Binary(|b, x, y| b.compare(CompareFn::Gt, x, y))),
    ("GreaterOrEqual", Binary(|b, x, y| b.compare(CompareFn::Ge, x, y))),
    ("IsInf", One(is_inf)),
    ("IsNaN", Unary(|b, x| b.compare(CompareFn::Ne, x, x))),
    ("Less", Binary(|b, x, y| b.compare(CompareFn::Lt, x, y))),
    ("LessOrEqual", Binary(|b, x, y| b.compare(CompareFn::Le, x, y))),
    ("Log", Unary(Builder::log)),
    ("Max", One(|cx, node| fold(cx, node, Builder::maximum))),
    ("Mean", One(mean)),
    ("Min", One(|cx, node| fold(cx, node, Builder::minimum))),
    ("Mod", One(modulo)),
    ("Mul", Binary(Builder::mul)),
    ("Neg", Unary(neg)),
    ("Not", Unary(Builder::not)),
    ("Or", Binary(Builder::or)),
    ("Pow", One(pow)),
    ("Reciprocal", Unary(Builder::recip)),
    ("Round", Unary(Builder::round)),
    ("Sign", Unary(Builder::sign)),
    ("Sin", Unary(Builder::sin)),
    ("Sinh", Unary(math::sinh)),
    ("Sqrt", Unary(Builder::sqrt)),
    ("Sub", Binary(Builder::sub)),
    ("Sum", One(|cx, node| fold(cx, node, Builder::add))),
    ("Tan", Unary(math::tan)),
    ("Tanh", Unary(Builder::tanh)),
    ("Where", One(select)),
    ("Xor", Binary(Builder::xor)),
];

/// Whether an element is infinite, of both signs or of one.
fn is_inf(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let (negative, positive) = (node.flag("detect_negative", true)?, node.flag("detect_positive", true)?);
    let found = |b: &mut Builder, wanted: bool, infinity: f64| -> Result<Value, TypeError> {
        // A NaN equals nothing.
        let infinity = b.full_like(x, if wanted { infinity } else { f64::NAN })?;
        b.compare(CompareFn::Eq, x, infinity)
    };
    let below = found(&mut cx.b, negative, f64::NEG_INFINITY)?;
    let above = found(&mut cx.b, positive, f64::INFINITY)?;
    Ok(cx.b.or(below, above)?)
}

fn neg(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    if b.ty(x).dtype.is_float() {
        return b.neg(x);
    }
    let zero = b.full_like(x, 0.0)?;
    b.sub(zero, x)
}

fn abs(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    if b.ty(x).dtype.is_float() {
        return b.abs(x);
    }
    let minus = neg(b, x)?;
    b.maximum(x, minus)
}

fn cast(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    node.only_int("saturate", 1)?;
    let to = i32::try_from(node.int("to", 0)?).unwrap_or(0);
    Ok(cx.b.cast(node.input(0)?, dtype(to)?)?)
}

fn cast_like(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    node.only_int("saturate", 1)?;
    let to = cx.b.ty(node.input(1)?).dtype;
    Ok(cx.b.cast(node.input(0)?, to)?)
}

/// Bounds are attributes before version 11, then operands.
fn clip(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    if node.opset() < 11 {
        let bounds = [node.optional_float("min")?, node.optional_float("max")?];
        return Ok(clamp(&mut cx.b, x, bounds[0], bounds[1])?);
    }
    let low = bound(cx, node, 1)?;
    let high = bound(cx, node, 2)?;
    let numbers = |bound: &Bound| if let Bound::Number(v) = bound { Some(*v) } else { None };
    let mut y = clamp(&mut cx.b, x, numbers(&low), numbers(&high))?;
    if let Bound::Value(low) = low {
        y = cx.b.maximum(y, low)?;
    }
    if let Bound::Value(high) = high {
        y = cx.b.minimum(y, high)?;
    }
    Ok(y)
}

/// One bound of `Clip`.
enum Bound {
    None,
    Number(f64),
    Value(Value),
}

fn bound(cx: &mut Walk, node: &Node, at: usize) -> Result<Bound, Fault> {
    let Some(value) = node.optional(at)? else { return Ok(Bound::None) };
    require(cx.b.shape(value).is_empty(), "a bound must be a scalar", "no axes", cx.b.ty(value))?;
    if cx.known(value).is_none() {
        return Ok(Bound::Value(value));
    }
    Ok(cx.optional_number(node, at)?.map_or(Bound::None, Bound::Number))
}

type Combine = fn(&mut Builder, Value, Value) -> Result<Value, TypeError>;

/// Combines any number of operands from the left.
fn fold(cx: &mut Walk, node: &Node, combine: Combine) -> Result<Value, Fault> {
    let first = node.input(0)?;
    Ok(node.inputs()?[1..].iter().try_fold(first, |acc, &x| combine(&mut cx.b, acc, x))?)
}

fn mean(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let sum = fold(cx, node, Builder::add)?;
    Ok(cx.b.scale(sum, 1.0 / node.input_count() as f64)?)
}

/// `fmod` 1 takes the dividend's sign, as truncated division does; integers with 0 take the divisor's.
fn modulo(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, y) = (node.input(0)?, node.input(1)?);
    let truncated = cx.b.rem(x, y)?;
    if node.flag("fmod", false)? {
        return Ok(truncated);
    }
    let b = &mut cx.b;
    require(!b.ty(x).dtype.is_float(), "`fmod` must be 1 for floats", "integers", b.ty(x))?;
    let lifted = b.add(truncated, y)?;
    Ok(b.rem(lifted, y)?)
}

/// Common constant exponents become products and roots, which are exact and have derivatives everywhere.
fn pow(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, exponent) = (node.input(0)?, node.input(1)?);
    let known = match cx.b.ty(exponent).elements() {
        1 if cx.b.shape(exponent).len() <= cx.b.shape(x).len() => cx.known(exponent),
        _ => None,
    };
    let number = known.and_then(|_| cx.optional_number(node, 1).ok().flatten());
    let b = &mut cx.b;
    let float = b.ty(x).dtype.is_float();
    Ok(match number {
        Some(1.0) => x,
        Some(2.0) => b.mul(x, x)?,
        Some(3.0) => {
            let square = b.mul(x, x)?;
            b.mul(square, x)?
        }
        Some(0.5) if float => b.sqrt(x)?,
        Some(-0.5) if float => b.rsqrt(x)?,
        Some(-1.0) if float => b.recip(x)?,
        _ => {
            let exponent = b.cast(exponent, b.ty(x).dtype)?;
            b.pow(x, exponent)?
        }
    })
}

fn select(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let condition = node.input(0)?;
    require(cx.b.ty(condition).dtype == DType::Bool, "the condition must be boolean", "bool", cx.b.ty(condition))?;
    Ok(cx.b.select(condition, node.input(1)?, node.input(2)?)?)
}
