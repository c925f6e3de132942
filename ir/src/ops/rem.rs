//! `rem`: elementwise remainder.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};
use crate::scalar::int_rem;

binary_op! {
    /// `y = a − b · trunc(a / b)`, elementwise, with the sign of `a`; both operands and the result have one numeric type.
    ///
    /// Integers by zero give `a`. `da = g`, `db = −g · trunc(a / b)`. Source: C `fmod`.
    pub struct Rem = "rem";

    Binary {
        float: Some(|a, b| a % b),
        int: Some(|_, a, b| int_rem(a, b)),
        bool: None,
        lower: BinaryFn::Rem,
        numerics: Numerics::Rounding,
        vjp: |cx| {
            let (g, a, b, y) = (cx.grad(), cx.inputs[0], cx.inputs[1], cx.outputs[0]);
            let db = cx.flow(1, |x| {
                // `a − y` is a multiple of `b` up to rounding, so that rounding the quotient finds `trunc(a / b)`.
                let multiple = x.sub(a, y)?;
                let quotient = x.div(multiple, b)?;
                let whole = x.round(quotient)?;
                let product = x.mul(g, whole)?;
                x.neg(product)
            })?;
            Ok(vec![Cotangent::Flows(g), db])
        },
        samples: [4.1..4.9, 1.5..1.9],
    }
}
