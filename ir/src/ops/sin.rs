//! `sin`: sine.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = sin x`, elementwise on floats, `x` in radians. `dx = g cos x`
    pub struct Sin = "sin";

    Unary {
        eval: f64::sin,
        lower: UnaryFn::Sin,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, x, _| {
            let slope = b.cos(x)?;
            b.mul(g, slope)
        }),
        sample: -4.0..4.0,
    }
}
