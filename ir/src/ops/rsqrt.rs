//! `rsqrt`: reciprocal square root.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = 1/√x`, elementwise on floats; +∞ at 0, NaN below. `dx = −½ g y³`
    pub struct Rsqrt = "rsqrt";

    Unary {
        eval: |x| x.sqrt().recip(),
        lower: UnaryFn::Rsqrt,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, _, y| {
            let square = b.mul(y, y)?;
            let cube = b.mul(square, y)?;
            let slope = b.scale(cube, -0.5)?;
            b.mul(g, slope)
        }),
        sample: 0.5..4.0,
    }
}
