//! `tanh`: hyperbolic tangent.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = tanh x`, elementwise on floats. `dx = g (1 − y²)`
    pub struct Tanh = "tanh";

    Unary {
        eval: f64::tanh,
        lower: UnaryFn::Tanh,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, _, y| {
            let one = b.full_like(y, 1.0)?;
            let square = b.mul(y, y)?;
            let slope = b.sub(one, square)?;
            b.mul(g, slope)
        }),
        sample: -2.0..2.0,
    }
}
