//! Builder methods for computed indices.

use super::Builder;
use crate::graph::Value;
use crate::ops::{Gather, ScatterAdd, Sort};
use crate::types::TypeError;

impl Builder {
    /// Rows of `x` at `indices` along axis `batch`, which follows the axes that both share.
    pub fn gather(&mut self, x: Value, indices: Value, batch: usize) -> Result<Value, TypeError> {
        self.op(Gather { batch }, &[x, indices])
    }

    /// `base` with `updates` added at `indices` along axis `batch`, which follows the axes that both share.
    pub fn scatter_add(
        &mut self,
        base: Value,
        indices: Value,
        updates: Value,
        batch: usize,
    ) -> Result<Value, TypeError> {
        self.op(ScatterAdd { batch }, &[base, indices, updates])
    }

    /// Elements in order along `axis`, and their indices before; stable.
    pub fn sort(&mut self, x: Value, axis: usize, descending: bool) -> Result<[Value; 2], TypeError> {
        let results = self.apply(Sort { axis, descending }, &[x])?;
        Ok([results[0], results[1]])
    }
}
