//! `xor`: bitwise xor.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};

binary_op! {
    /// Bitwise xor of integers; of booleans: exactly one. Elementwise; both operands and the result have one type.
    pub struct Xor = "xor";

    Binary {
        float: None,
        int: Some(|_, a, b| a ^ b),
        bool: Some(|a, b| a ^ b),
        lower: BinaryFn::Xor,
        numerics: Numerics::Exact,
        vjp: |_| Ok(vec![Cotangent::Zero, Cotangent::Zero]),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
