//! `erf`: error function.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;
use std::f64::consts::FRAC_2_SQRT_PI;

unary_op! {
    /// `y = erf x = 2/√π ∫₀ˣ exp(−t²) dt`, elementwise on floats. `dx = g · 2/√π · exp(−x²)`
    pub struct Erf = "erf";

    Unary {
        eval: libm::erf,
        lower: UnaryFn::Erf,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, x, _| {
            let square = b.mul(x, x)?;
            let negated = b.neg(square)?;
            let bell = b.exp(negated)?;
            let slope = b.scale(bell, FRAC_2_SQRT_PI)?;
            b.mul(g, slope)
        }),
        sample: -2.0..2.0,
    }
}
