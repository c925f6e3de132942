//! `sqrt`: square root.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = √x`, elementwise on floats; NaN below 0. `dx = g / 2y`
    pub struct Sqrt = "sqrt";

    Unary {
        eval: f64::sqrt,
        lower: UnaryFn::Sqrt,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, _, y| {
            let twice = b.scale(y, 2.0)?;
            b.div(g, twice)
        }),
        sample: 0.5..4.0,
    }
}
