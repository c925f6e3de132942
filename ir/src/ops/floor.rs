//! `floor`: round down.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = ⌊x⌋`, elementwise on floats; zero gradient.
    pub struct Floor = "floor";

    Unary {
        eval: f64::floor,
        lower: UnaryFn::Floor,
        numerics: Numerics::Exact,
        vjp: None,
        sample: -4.0..4.0,
    }
}
