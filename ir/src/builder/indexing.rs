//! Builder methods for computed indices.

use super::Builder;
use crate::graph::Value;
use crate::ops::{CumulativeSum, Gather, IndexCopy, IndexSelect, ScatterAdd, Sort};
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

    /// `x` at ascending `indices` of `axis`; a slice where they follow each other at one distance.
    pub fn index_select(&mut self, x: Value, axis: usize, indices: &[usize]) -> Result<Value, TypeError> {
        let shape = self.shape(x).to_vec();
        let (Some(&first), Some(&last)) = (indices.first(), indices.last()) else {
            return self.op(IndexSelect { axis, indices: vec![] }, &[x]);
        };
        let step = indices.get(1).map_or(1, |second| second.saturating_sub(first).max(1));
        let even = indices.iter().enumerate().all(|(k, &index)| index == first + k * step);
        if !even || axis >= shape.len() || last >= shape[axis] {
            return self.op(IndexSelect { axis, indices: indices.to_vec() }, &[x]);
        }
        let (mut start, mut limit, mut stride) = (vec![0; shape.len()], shape.clone(), vec![1; shape.len()]);
        (start[axis], limit[axis], stride[axis]) = (first, last + 1, step);
        self.slice(x, &start, &limit, &stride)
    }

    /// `base` with `source` at ascending `indices` of `axis`.
    pub fn index_copy(
        &mut self,
        base: Value,
        source: Value,
        axis: usize,
        indices: &[usize],
    ) -> Result<Value, TypeError> {
        self.op(IndexCopy { axis, indices: indices.to_vec() }, &[base, source])
    }

    /// Elements in order along `axis`, and their indices before; stable.
    pub fn sort(&mut self, x: Value, axis: usize, descending: bool) -> Result<[Value; 2], TypeError> {
        let count = self.shape(x).get(axis).copied().unwrap_or(0);
        self.sort_first(x, axis, descending, count)
    }

    /// The first `count` elements of [`sort`](Self::sort).
    pub fn sort_first(
        &mut self,
        x: Value,
        axis: usize,
        descending: bool,
        count: usize,
    ) -> Result<[Value; 2], TypeError> {
        let results = self.apply(Sort { axis, descending, count }, &[x])?;
        Ok([results[0], results[1]])
    }

    /// The sums of the elements up to each along `axis`, or from each to the last one.
    pub fn cumulative_sum(&mut self, x: Value, axis: usize, reverse: bool) -> Result<Value, TypeError> {
        self.op(CumulativeSum { axis, reverse }, &[x])
    }
}
