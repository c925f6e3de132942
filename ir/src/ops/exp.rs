//! `exp`: `y = eˣ`.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = eˣ`, elementwise on floats. `dx = g y`
    pub struct Exp = "exp";

    Unary {
        eval: f64::exp,
        lower: UnaryFn::Exp,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, _, y| b.mul(g, y)),
        sample: -2.0..2.0,
    }
}
