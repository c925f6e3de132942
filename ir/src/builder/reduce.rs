//! Reductions over axes, which disappear.

use super::Builder;
use crate::graph::Value;
use crate::lower::CompareFn;
use crate::ops::*;
use crate::types::{DType, TypeError};

macro_rules! reduction_methods {
    ($($(#[$meta:meta])* $method:ident: $op:ident),+ $(,)?) => {
        impl Builder {
            $($(#[$meta])* pub fn $method(&mut self, x: Value, axes: &[usize]) -> Result<Value, TypeError> {
                if axes.is_empty() { Ok(x) } else { self.op($op { axes: axes.to_vec() }, &[x]) }
            })+
        }
    };
}

reduction_methods! {
    /// Maximum over `axes` (ascending); NaN if any is. Returns the operand when there are none.
    reduce_max: ReduceMax,
    /// Minimum over `axes` (ascending); NaN if any is. Returns the operand when there are none.
    reduce_min: ReduceMin,
    /// Product over `axes` (ascending); returns the operand when there are none.
    reduce_prod: ReduceProd,
    /// Sum over `axes` (ascending); returns the operand when there are none.
    reduce_sum: ReduceSum,
}

impl Builder {
    /// Index (i64) of the first maximum along `axis`, which disappears; of the first NaN if there is one.
    pub fn arg_max(&mut self, x: Value, axis: usize) -> Result<Value, TypeError> {
        let ty = self.ty(x).clone();
        let maximum = self.reduce_max(x, &[axis])?;
        let kept: Vec<usize> = (0..ty.rank()).filter(|&d| d != axis).collect();
        let maximum = self.broadcast(maximum, &ty.shape, &kept)?;
        let mut hit = self.compare(CompareFn::Eq, x, maximum)?;
        if ty.dtype.is_float() {
            let nan = self.compare(CompareFn::Ne, x, x)?;
            hit = self.or(hit, nan)?;
        }
        let index = self.iota(DType::index_of(ty.shape[axis]), &ty.shape, axis)?;
        let none = self.full_like(index, ty.shape[axis] as f64)?;
        let candidates = self.select(hit, index, none)?;
        let first = self.reduce_min(candidates, &[axis])?;
        self.cast(first, DType::I64)
    }
}
