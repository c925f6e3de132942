//! `log`: natural logarithm.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = ln x`, elementwise on floats; NaN below 0, −∞ at 0. `dx = g / x`
    pub struct Log = "log";

    Unary {
        eval: f64::ln,
        lower: UnaryFn::Log,
        numerics: Numerics::Rounding,
        vjp: Some(|b, g, x, _| b.div(g, x)),
        sample: 0.5..4.0,
    }
}
