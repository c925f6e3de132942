//! `minimum`: elementwise smaller of two.

use super::elementwise::{Binary, binary_op, winner_takes_gradient};
use crate::lower::{BinaryFn, CompareFn};
use crate::op::Numerics;
use crate::scalar::minimum;

binary_op! {
    /// `y = min(a, b)`, elementwise, NaN if either is; both operands and the result have one numeric type.
    ///
    /// The gradient goes to the operand that won, half to each when they are equal (as PyTorch).
    pub struct Minimum = "minimum";

    Binary {
        float: Some(minimum),
        int: Some(|_, a, b| a.min(b)),
        bool: None,
        lower: BinaryFn::Min,
        numerics: Numerics::Exact,
        vjp: |cx| winner_takes_gradient(cx, CompareFn::Gt),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
