//! Elementwise ops; those of several operands broadcast them as in NumPy first.

use super::{Builder, broadcast_shape};
use crate::graph::Value;
use crate::lower::CompareFn;
use crate::ops::*;
use crate::types::{DType, TypeError};

macro_rules! unary_methods {
    ($($(#[$meta:meta])* $method:ident: $op:ident),+ $(,)?) => {
        impl Builder {
            $($(#[$meta])* pub fn $method(&mut self, x: Value) -> Result<Value, TypeError> {
                self.op($op {}, &[x])
            })+
        }
    };
}

unary_methods! {
    /// |x|
    abs: Abs,
    /// Smallest integer not below.
    ceil: Ceil,
    /// Cosine.
    cos: Cos,
    /// Error function.
    erf: Erf,
    /// eˣ
    exp: Exp,
    /// Largest integer not above.
    floor: Floor,
    /// Natural logarithm.
    log: Log,
    /// 1 / (1 + e⁻ˣ), also called sigmoid.
    logistic: Logistic,
    /// −x
    neg: Neg,
    /// Boolean negation.
    not: Not,
    /// 1/x
    recip: Recip,
    /// Nearest integer, ties to even.
    round: Round,
    /// 1/√x
    rsqrt: Rsqrt,
    /// −1, 0 or 1; NaN for NaN.
    sign: Sign,
    /// Sine.
    sin: Sin,
    /// √x
    sqrt: Sqrt,
    /// The operand itself, through which no gradient flows.
    stop_gradient: StopGradient,
    /// Hyperbolic tangent.
    tanh: Tanh,
}

macro_rules! binary_methods {
    ($($(#[$meta:meta])* $method:ident: $op:ident),+ $(,)?) => {
        impl Builder {
            $($(#[$meta])* pub fn $method(&mut self, a: Value, b: Value) -> Result<Value, TypeError> {
                let (a, b) = self.broadcast_pair(a, b)?;
                self.op($op {}, &[a, b])
            })+
        }
    };
}

binary_methods! {
    /// a + b
    add: Add,
    /// Bitwise and; of booleans: both.
    and: And,
    /// a / b
    div: Div,
    /// Larger of two; NaN if either is.
    maximum: Maximum,
    /// Smaller of two; NaN if either is.
    minimum: Minimum,
    /// a · b
    mul: Mul,
    /// Bitwise or; of booleans: either.
    or: Or,
    /// aᵇ
    pow: Pow,
    /// Remainder of truncated division.
    rem: Rem,
    /// a shifted left by b.
    shl: Shl,
    /// a shifted right by b, zeros coming in.
    shr: Shr,
    /// a − b
    sub: Sub,
    /// Bitwise exclusive or; of booleans: exactly one.
    xor: Xor,
}

impl Builder {
    /// Product with a compile-time scalar.
    pub fn scale(&mut self, a: Value, factor: f64) -> Result<Value, TypeError> {
        let factor = self.full_like(a, factor)?;
        self.mul(a, factor)
    }

    /// a ⋈ b as booleans.
    pub fn compare(&mut self, kind: CompareFn, a: Value, b: Value) -> Result<Value, TypeError> {
        let (a, b) = self.broadcast_pair(a, b)?;
        self.op(Compare { kind }, &[a, b])
    }

    /// `a` where `condition`, else `b`.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Result<Value, TypeError> {
        let shape = broadcast_shape(self.shape(a), self.shape(b))?;
        let shape = broadcast_shape(self.shape(condition), &shape)?;
        let operands =
            [self.broadcast_to(condition, &shape)?, self.broadcast_to(a, &shape)?, self.broadcast_to(b, &shape)?];
        self.op(Select {}, &operands)
    }

    /// Conversion to `dtype`; returns the operand when it has that dtype.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Result<Value, TypeError> {
        if self.ty(x).dtype == dtype { Ok(x) } else { self.op(Cast { dtype }, &[x]) }
    }
}
