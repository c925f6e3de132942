//! `shr`: logical shift right.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};
use crate::scalar::shift_right;

binary_op! {
    /// `a` shifted right by `b` modulo the width of the dtype, zeros coming in; elementwise on integers of one type.
    pub struct Shr = "shr";

    Binary {
        float: None,
        int: Some(shift_right),
        bool: None,
        lower: BinaryFn::Shr,
        numerics: Numerics::Exact,
        vjp: |_| Ok(vec![Cotangent::Zero, Cotangent::Zero]),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
