//! Terms of data-moving ops that leave out what does nothing.

use super::Term;
use crate::axes::is_identity;
use gradc_ir::ops::{Broadcast, Constant, Reshape, Transpose};
use gradc_ir::types::TensorType;

/// `x` with its axes permuted.
pub fn transpose(x: impl Into<Term>, perm: Vec<usize>) -> Term {
    if is_identity(&perm) { x.into() } else { Term::op(Transpose { perm }, [x.into()]) }
}

/// `x`, which has shape `from`, under shape `to`.
pub fn reshape(x: impl Into<Term>, from: &[usize], to: &[usize]) -> Term {
    if from == to { x.into() } else { Term::op(Reshape { shape: to.to_vec() }, [x.into()]) }
}

/// `x` repeated along the axes of `shape` that are not in `dims`.
pub fn broadcast(x: impl Into<Term>, shape: &[usize], dims: Vec<usize>) -> Term {
    if dims.len() == shape.len() { x.into() } else { Term::op(Broadcast { shape: shape.to_vec(), dims }, [x.into()]) }
}

/// A tensor of one repeated value.
pub fn constant(ty: &TensorType, value: f64) -> Term {
    Term::op(Constant { value: value.into(), dtype: ty.dtype, shape: ty.shape.clone() }, [])
}
