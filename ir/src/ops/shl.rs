//! `shl`: logical shift left.

use super::elementwise::{Binary, binary_op};
use crate::lower::BinaryFn;
use crate::op::{Cotangent, Numerics};
use crate::scalar::shift_left;

binary_op! {
    /// `a` shifted left by `b` modulo the width of the dtype, zeros coming in; elementwise on integers of one type.
    pub struct Shl = "shl";

    Binary {
        float: None,
        int: Some(shift_left),
        bool: None,
        lower: BinaryFn::Shl,
        numerics: Numerics::Exact,
        vjp: |_| Ok(vec![Cotangent::Zero, Cotangent::Zero]),
        samples: [-2.0..2.0, -2.0..2.0],
    }
}
