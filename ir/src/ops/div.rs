//! `div`: elementwise quotient.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::Numerics;
use crate::scalar::int_div;

binary_op! {
    /// `y = a / b`, elementwise; both operands and the result have one numeric type.
    ///
    /// Integers truncate and wrap; by zero they give −1 (as RISC-V and XLA), so that `a = y · b + rem(a, b)`.
    /// `da = g / b`, `db = −(g / b) y`
    pub struct Div = "div";

    Binary {
        float: Some(|a, b| a / b),
        int: Some(|_, a, b| int_div(a, b)),
        bool: None,
        lower: BinaryFn::Div,
        numerics: Numerics::Rounding,
        vjp: |cx| {
            let (g, b, y) = (cx.grad(), cx.inputs[1], cx.outputs[0]);
            let da = cx.flow(0, |x| x.div(g, b))?;
            let db = cx.flow(1, |x| {
                let scaled = x.div(g, b)?;
                let product = x.mul(scaled, y)?;
                x.neg(product)
            })?;
            Ok(vec![da, db])
        },
        samples: [-2.0..2.0, 0.5..2.0],
    }
}
