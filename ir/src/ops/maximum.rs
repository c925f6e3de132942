//! `maximum`: elementwise larger of two.

use super::elementwise::{Binary, binary_op, winner_takes_gradient};
use crate::lower::{BinaryFn, CompareFn};
use crate::op::Numerics;
use crate::scalar::maximum;

binary_op! {
    /// `y = max(a, b)`, elementwise, NaN if either is; both operands and the result have one numeric type.
    ///
    /// The gradient goes to the operand that won, half to each when they are equal (as PyTorch).
    pub struct Maximum = "maximum";

    Binary {
        float: Some(maximum),
        int: Some(|_, a, b| a.max(b)),
        bool: None,
        lower: BinaryFn::Max,
        numerics: Numerics::Exact,
        vjp: |cx| winner_takes_gradient(cx, CompareFn::Lt),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
