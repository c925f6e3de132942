//! Reference semantics of scalars: what one scalar function makes of one element.
//!
//! Floats are computed in f64 whatever the dtype. Integers and booleans are held in i64, always within their dtype.

use crate::lower::{BinaryFn, CompareFn, UnaryFn};
use crate::types::DType;

/// A scalar as the interpreter holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of a floating-point dtype.
    Float(f64),
    /// Of an integer dtype, or a boolean (0 or 1).
    Int(i64),
}

impl Number {
    /// The constant `value` of a dtype: truncated for integers.
    pub fn constant(dtype: DType, value: f64) -> Self {
        if dtype.is_float() { Number::Float(value) } else { Number::Int(value as i64) }
    }

    /// Conversion to `to`: float→int truncates and saturates (NaN gives 0), int→int wraps, anything→bool is `≠ 0`.
    pub fn cast(self, to: DType) -> Self {
        match (self, to) {
            (Number::Float(v), _) if to.is_float() => Number::Float(v),
            (Number::Int(v), _) if to.is_float() => Number::Float(v as f64),
            (Number::Float(v), DType::Bool) => Number::Int((v != 0.0) as i64),
            (Number::Int(v), DType::Bool) => Number::Int((v != 0) as i64),
            (Number::Float(v), _) => Number::Int((v as i64).clamp(to.least(), to.greatest())),
            (Number::Int(v), _) => Number::Int(to.wrap(v)),
        }
    }
}

/// Larger of two, NaN if either is.
pub fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// Smaller of two, NaN if either is.
pub fn minimum(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// −1, 0 or 1; NaN for NaN.
pub fn sign(x: f64) -> f64 {
    if x.is_nan() || x == 0.0 { x } else { x.signum() }
}

/// Truncated quotient; −1 for a zero divisor, so that `a = quotient · b + remainder` always holds.
pub fn int_div(a: i64, b: i64) -> i64 {
    if b == 0 { -1 } else { a.wrapping_div(b) }
}

/// Remainder of [`int_div`], with the sign of `a`; `a` itself for a zero divisor.
pub fn int_rem(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { a.wrapping_rem(b) }
}

/// `a` shifted left by `b` modulo the width of the dtype.
pub fn shift_left(dtype: DType, a: i64, b: i64) -> i64 {
    a.wrapping_shl(shift_amount(dtype, b))
}

/// `a` shifted right by `b` modulo the width of the dtype, zeros coming in.
pub fn shift_right(dtype: DType, a: i64, b: i64) -> i64 {
    let bits = a as u64 & (u64::MAX >> (64 - width(dtype)));
    bits.wrapping_shr(shift_amount(dtype, b)) as i64
}

fn width(dtype: DType) -> u32 {
    dtype.size_bytes() as u32 * 8
}

fn shift_amount(dtype: DType, by: i64) -> u32 {
    by.rem_euclid(width(dtype) as i64) as u32
}

impl UnaryFn {
    /// The function on one element; `None` when it does not take elements of this kind.
    pub fn apply(self, x: Number) -> Option<Number> {
        match (self, x) {
            (UnaryFn::Not, Number::Int(v)) => Some(Number::Int((v == 0) as i64)),
            (_, Number::Int(_)) => None,
            (_, Number::Float(v)) => self.on_float(v).map(Number::Float),
        }
    }

    fn on_float(self, x: f64) -> Option<f64> {
        Some(match self {
            UnaryFn::Neg => -x,
            UnaryFn::Abs => x.abs(),
            UnaryFn::Exp => x.exp(),
            UnaryFn::Log => x.ln(),
            UnaryFn::Tanh => x.tanh(),
            UnaryFn::Erf => libm::erf(x),
            UnaryFn::Sqrt => x.sqrt(),
            UnaryFn::Rsqrt => x.sqrt().recip(),
            UnaryFn::Recip => x.recip(),
            UnaryFn::Sin => x.sin(),
            UnaryFn::Cos => x.cos(),
            UnaryFn::Floor => x.floor(),
            UnaryFn::Ceil => x.ceil(),
            UnaryFn::Round => x.round_ties_even(),
            UnaryFn::Sign => sign(x),
            UnaryFn::Not => return None,
        })
    }
}

impl BinaryFn {
    /// The function on two elements of `dtype`; `None` when it does not take such elements.
    pub fn apply(self, dtype: DType, a: Number, b: Number) -> Option<Number> {
        match (a, b) {
            (Number::Float(a), Number::Float(b)) => self.on_floats(a, b).map(Number::Float),
            (Number::Int(a), Number::Int(b)) => self.on_ints(dtype, a, b).map(|v| Number::Int(dtype.wrap(v))),
            _ => None,
        }
    }

    fn on_floats(self, a: f64, b: f64) -> Option<f64> {
        Some(match self {
            BinaryFn::Add => a + b,
            BinaryFn::Sub => a - b,
            BinaryFn::Mul => a * b,
            BinaryFn::Div => a / b,
            BinaryFn::Rem => a % b,
            BinaryFn::Max => maximum(a, b),
            BinaryFn::Min => minimum(a, b),
            BinaryFn::Pow => a.powf(b),
            BinaryFn::And | BinaryFn::Or | BinaryFn::Xor | BinaryFn::Shl | BinaryFn::Shr => return None,
        })
    }

    fn on_ints(self, dtype: DType, a: i64, b: i64) -> Option<i64> {
        Some(match self {
            BinaryFn::And => a & b,
            BinaryFn::Or => a | b,
            BinaryFn::Xor => a ^ b,
            _ if dtype == DType::Bool => return None,
            BinaryFn::Add => a.wrapping_add(b),
            BinaryFn::Sub => a.wrapping_sub(b),
            BinaryFn::Mul => a.wrapping_mul(b),
            BinaryFn::Div => int_div(a, b),
            BinaryFn::Rem => int_rem(a, b),
            BinaryFn::Max => a.max(b),
            BinaryFn::Min => a.min(b),
            BinaryFn::Shl => shift_left(dtype, a, b),
            BinaryFn::Shr => shift_right(dtype, a, b),
            BinaryFn::Pow => return None,
        })
    }
}

impl CompareFn {
    /// Whether `a ⋈ b`; NaN compares unequal to everything.
    pub fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            CompareFn::Eq => a == b,
            CompareFn::Ne => a != b,
            CompareFn::Lt => a < b,
            CompareFn::Le => a <= b,
            CompareFn::Gt => a > b,
            CompareFn::Ge => a >= b,
        }
    }
}
