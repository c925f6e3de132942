//! `add`: elementwise sum.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};

binary_op! {
    /// `y = a + b`, elementwise; both operands and the result have one numeric type. Integers wrap.
    pub struct Add = "add";

    Binary {
        float: Some(|a, b| a + b),
        int: Some(|_, a, b| a.wrapping_add(b)),
        bool: None,
        lower: BinaryFn::Add,
        numerics: Numerics::Rounding,
        vjp: |cx| Ok(vec![Cotangent::Flows(cx.grad()), Cotangent::Flows(cx.grad())]),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
