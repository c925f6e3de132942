//! Index lists as runs: what ops that pick or put at fixed indices of an axis share.

use crate::lower::{Affine, Body, CompareFn, Index, Scalar, ScalarId};
use crate::op::require;
use crate::types::{DType, TensorType, TypeError};

/// Indices that follow each other at one distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Position of the first in the list.
    pub at: usize,
    /// The first.
    pub first: usize,
    /// Distance of two, at least 1.
    pub stride: usize,
    /// How many.
    pub count: usize,
}

impl Run {
    /// The index at position `i[dim]` of the list, if that is in the run.
    pub fn affine(&self, rank: usize, dim: usize) -> Affine {
        let (at, first, stride) = (self.at as i64, self.first as i64, self.stride as i64);
        Affine::constant(rank, first - at * stride).plus(dim, stride)
    }
}

/// An ascending list in as few runs as greedy growth makes.
pub(super) fn runs(indices: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = vec![];
    for (at, &index) in indices.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.count == 1 => (run.stride, run.count) = (index - run.first, 2),
            Some(run) if index == run.first + run.count * run.stride => run.count += 1,
            _ => runs.push(Run { at, first: index, stride: 1, count: 1 }),
        }
    }
    runs
}

/// Fails unless `axis` is an axis of `x` and `indices` are ascending indices of it.
pub(super) fn indices_of(x: &TensorType, axis: usize, indices: &[usize]) -> Result<(), TypeError> {
    super::structural::axis_of(x, axis)?;
    let extent = x.shape[axis];
    let ascending = indices.windows(2).all(|w| w[0] < w[1]) && indices.last().is_none_or(|&last| last < extent);
    require(
        ascending,
        "`indices` must be ascending",
        format!("distinct indices below {extent}"),
        format!("{indices:?}"),
    )
}

/// `x` with another extent of `axis`.
pub(super) fn with_extent(x: &TensorType, axis: usize, extent: usize) -> TensorType {
    let mut shape = x.shape.clone();
    shape[axis] = extent;
    x.with_shape(shape)
}

/// What holds of the run that loop index `dim` is in: chosen from one scalar per run.
pub(super) fn of_run(
    body: &mut Body,
    runs: &[Run],
    dim: usize,
    mut scalar: impl FnMut(&mut Body, &Run) -> ScalarId,
) -> ScalarId {
    let index = body.push(Scalar::LoopIndex(dim), DType::I64);
    let (last, others) = runs.split_last().expect("an axis that is looped over has an index");
    let last_scalar = scalar(body, last);
    let ends = others.iter().zip(&runs[1..]).rev();
    ends.fold(last_scalar, |rest, (run, next)| {
        let end = body.constant(DType::I64, next.at as f64);
        let inside = body.compare(CompareFn::Lt, index, end);
        let own = scalar(body, run);
        body.select(inside, own, rest)
    })
}

/// The index at position `i[dim]` of the list, of `rank` loops: affine for a single run, else computed.
pub(super) fn listed_index(body: &mut Body, runs: &[Run], rank: usize, dim: usize) -> Index {
    if let [run] = runs {
        return run.affine(rank, dim).into();
    }
    let loaded = of_run(body, runs, dim, |body, run| body.affine(&run.affine(rank, dim)));
    Index { affine: Affine::constant(rank, 0), divisor: 1, loaded: Some(loaded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_fall_into_runs() {
        let run = |at, first, stride, count| Run { at, first, stride, count };
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[4]), [run(0, 4, 1, 1)]);
        assert_eq!(runs(&[2, 3, 4, 9, 11, 13]), [run(0, 2, 1, 3), run(3, 9, 2, 3)]);
        assert_eq!(runs(&[0, 3, 17]), [run(0, 0, 3, 2), run(2, 17, 1, 1)]);
    }

    #[test]
    fn every_index_is_in_its_run() {
        let list = [1, 2, 5, 6, 7, 20, 30, 40, 41];
        for run in runs(&list) {
            for (k, &index) in list[run.at..run.at + run.count].iter().enumerate() {
                assert_eq!(run.affine(2, 1).at(&[9, run.at + k]), index as i64);
            }
        }
    }
}
