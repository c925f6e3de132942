//! `mul`: elementwise product.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::Numerics;

binary_op! {
    /// `y = a · b`, elementwise; both operands and the result have one numeric type. Integers wrap.
    pub struct Mul = "mul";

    Binary {
        float: Some(|a, b| a * b),
        int: Some(|_, a, b| a.wrapping_mul(b)),
        bool: None,
        lower: BinaryFn::Mul,
        numerics: Numerics::Rounding,
        vjp: |cx| {
            let (g, a, b) = (cx.grad(), cx.inputs[0], cx.inputs[1]);
            Ok(vec![cx.flow(0, |x| x.mul(g, b))?, cx.flow(1, |x| x.mul(g, a))?])
        },
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
