//! `or`: bitwise or.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};

binary_op! {
    /// Bitwise or of integers; of booleans: either. Elementwise; both operands and the result have one type.
    pub struct Or = "or";

    Binary {
        float: None,
        int: Some(|_, a, b| a | b),
        bool: Some(|a, b| a | b),
        lower: BinaryFn::Or,
        numerics: Numerics::Exact,
        vjp: |_| Ok(vec![Cotangent::Zero, Cotangent::Zero]),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
