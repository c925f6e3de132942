//! `abs`: `y = |x|`.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = |x|`, elementwise on floats. `dx = g sign(x)`, which is 0 at 0.
    pub struct Abs = "abs";

    Unary {
        eval: f64::abs,
        lower: UnaryFn::Abs,
        numerics: Numerics::Exact,
        vjp: Some(|b, g, x, _| {
            let sign = b.sign(x)?;
            b.mul(g, sign)
        }),
        sample: 0.1..2.0,
    }
}
