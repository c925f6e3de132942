//! `round`: round to nearest.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y` = nearest integer to `x`, ties to even; elementwise on floats, zero gradient.
    pub struct Round = "round";

    Unary {
        eval: f64::round_ties_even,
        lower: UnaryFn::Round,
        numerics: Numerics::Exact,
        vjp: None,
        sample: -4.0..4.0,
    }
}
