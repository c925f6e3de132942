//! `recip`: reciprocal.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = 1/x`, elementwise on floats. `dx = −g y²`
    pub struct Recip = "recip";

    Unary {
        eval: f64::recip,
        lower: UnaryFn::Recip,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, _, y| {
            let square = b.mul(y, y)?;
            let slope = b.neg(square)?;
            b.mul(g, slope)
        }),
        sample: 0.5..4.0,
    }
}
