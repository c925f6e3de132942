//! `ceil`: round up.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = ⌈x⌉`, elementwise on floats; zero gradient.
    pub struct Ceil = "ceil";

    Unary {
        eval: f64::ceil,
        lower: UnaryFn::Ceil,
        numerics: Numerics::Exact,
        vjp: None,
        sample: -4.0..4.0,
    }
}
