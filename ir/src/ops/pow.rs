//! `pow`: elementwise power.

use super::elementwise::{Binary, binary_op};
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{BinaryFn, CompareFn};
use crate::op::Numerics;
use crate::types::TypeError;

binary_op! {
    /// `y = aᵇ`, elementwise on floats; NaN for a negative base with a fractional exponent.
    ///
    /// `da = g b aᵇ⁻¹`, 0 where `b = 0`; `db = g y ln a`, 0 where `a = 0 ≤ b` (as PyTorch).
    pub struct Pow = "pow";

    Binary {
        float: Some(f64::powf),
        int: None,
        bool: None,
        lower: BinaryFn::Pow,
        numerics: Numerics::Rounding,
        vjp: |cx| {
            let (g, a, b, y) = (cx.grad(), cx.inputs[0], cx.inputs[1], cx.outputs[0]);
            let da = cx.flow(0, |x| base_gradient(x, g, a, b))?;
            let db = cx.flow(1, |x| exponent_gradient(x, g, a, b, y))?;
            Ok(vec![da, db])
        },
        samples: [0.5..2.0, -2.0..2.0],
    }
}

fn base_gradient(x: &mut Builder, g: Value, a: Value, b: Value) -> Result<Value, TypeError> {
    let (zero, one) = (x.full_like(a, 0.0)?, x.full_like(a, 1.0)?);
    let lowered = x.sub(b, one)?;
    let power = x.pow(a, lowered)?;
    let slope = x.mul(b, power)?;
    let product = x.mul(g, slope)?;
    let constant = x.compare(CompareFn::Eq, b, zero)?;
    x.select(constant, zero, product)
}

fn exponent_gradient(x: &mut Builder, g: Value, a: Value, b: Value, y: Value) -> Result<Value, TypeError> {
    let zero = x.full_like(a, 0.0)?;
    let log = x.log(a)?;
    let slope = x.mul(y, log)?;
    let product = x.mul(g, slope)?;
    let base_zero = x.compare(CompareFn::Eq, a, zero)?;
    let not_negative = x.compare(CompareFn::Ge, b, zero)?;
    let constant = x.and(base_zero, not_negative)?;
    x.select(constant, zero, product)
}
