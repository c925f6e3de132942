//! `cos`: cosine.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = cos x`, elementwise on floats, `x` in radians. `dx = −g sin x`
    pub struct Cos = "cos";

    Unary {
        eval: f64::cos,
        lower: UnaryFn::Cos,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, x, _| {
            let sin = b.sin(x)?;
            let slope = b.neg(sin)?;
            b.mul(g, slope)
        }),
        sample: -4.0..4.0,
    }
}
