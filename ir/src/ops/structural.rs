//! What structural ops share: axis rules.

use crate::op::require;
use crate::types::{TensorType, TypeError};

/// Fails unless `axis` is an axis of `x`.
pub(super) fn axis_of(x: &TensorType, axis: usize) -> Result<(), TypeError> {
    require(axis < x.rank(), "`axis` is out of range", format!("an axis of {x}"), axis)
}

/// Fails unless `axes` are ascending axes of `x`.
pub(super) fn ascending_axes_of(x: &TensorType, axes: &[usize]) -> Result<(), TypeError> {
    let valid = axes.windows(2).all(|w| w[0] < w[1]) && axes.iter().all(|&d| d < x.rank());
    require(valid, "`axes` must be ascending axes of the operand", format!("axes of {x}"), format!("{axes:?}"))
}
