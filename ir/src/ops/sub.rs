//! `sub`: elementwise difference.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};

binary_op! {
    /// `y = a − b`, elementwise; both operands and the result have one numeric type. Integers wrap.
    pub struct Sub = "sub";

    Binary {
        float: Some(|a, b| a - b),
        int: Some(|_, a, b| a.wrapping_sub(b)),
        bool: None,
        lower: BinaryFn::Sub,
        numerics: Numerics::Rounding,
        vjp: |cx| {
            let g = cx.grad();
            Ok(vec![Cotangent::Flows(g), cx.flow(1, |x| x.neg(g))?])
        },
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
