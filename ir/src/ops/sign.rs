//! `sign`: sign.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;
use crate::scalar::sign;

unary_op! {
    /// `y` = −1, 0 or 1 as `x` is below, equal to or above 0; NaN for NaN. Elementwise on floats, zero gradient.
    pub struct Sign = "sign";

    Unary {
        eval: sign,
        lower: UnaryFn::Sign,
        numerics: Numerics::Exact,
        vjp: None,
        sample: -2.0..2.0,
    }
}
