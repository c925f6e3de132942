//! `neg`: `y = −x`.

use super::elementwise::{Unary, unary_op};
use crate::lower::UnaryFn;
use crate::op::Numerics;

unary_op! {
    /// `y = −x`, elementwise on floats.
    pub struct Neg = "neg";

    Unary {
        eval: |x| -x,
        lower: UnaryFn::Neg,
        numerics: Numerics::Exact,
        vjp: Some(|b, g, _, _| b.neg(g)),
        sample: -2.0..2.0,
    }
}
