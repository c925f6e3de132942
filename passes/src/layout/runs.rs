//! Which axes of a tensor a product walks as one.
//!
//! Micro-kernels go along rows, columns and what is summed over with one stride each. Several axes that a product takes
//! for the same are one to it as long as they stand next to each other in both tensors that have them.

use super::roles::Roles;
use gradc_ir::layout::Layout;
use std::cmp::Reverse;

/// One of the three tensors of a contraction.
#[derive(Clone, Copy)]
pub(super) enum Tensor {
    Factor(usize),
    Result,
}

/// What a loop is to a product.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Batch,
    Row,
    Column,
    Summed,
}

/// The axes of a tensor longer than 1 as they stand, and for each the loop that moves along it.
type Walk = Vec<(usize, usize)>;

impl Roles<'_> {
    /// The layout of a row-major factor in which a product walks as one what it cannot walk so now, its innermost axis
    /// being innermost still; `None` where there is nothing to win, and for windows.
    pub fn joining_layout(&self, factor: usize, shape: &[usize], result: &[usize]) -> Option<Layout> {
        let walk = self.walk(Tensor::Factor(factor), shape)?;
        let innermost = self.kind(walk.last()?.1);
        let first = |kind: Kind| walk.iter().position(|&(_, d)| self.kind(d) == kind);
        let mut joined = walk.clone();
        joined.sort_by_key(|&(_, d)| (self.kind(d) == innermost, first(self.kind(d))));
        let other = self.walk(Tensor::Factor(1 - factor), &self.factor(1 - factor).view)?;
        let result = self.walk(Tensor::Result, result)?;
        let wins = |kind: &Kind| {
            let elsewhere = if *kind == Kind::Summed { &other } else { &result };
            self.run(&walk, *kind).is_none() && self.run(elsewhere, *kind) == self.run(&joined, *kind)
        };
        [Kind::Row, Kind::Column, Kind::Summed].iter().any(wins).then(|| stored_as(&joined, shape))?
    }

    /// Whether a product walks a tensor in this layout as it does in row-major order.
    pub fn keeps_runs(&self, tensor: Tensor, shape: &[usize], layout: &Layout) -> bool {
        let Some(walk) = self.walk(tensor, shape) else { return false };
        let place = |axis: usize| layout.order().iter().position(|&a| a == axis);
        let mut moved = walk.clone();
        moved.sort_by_key(|&(axis, _)| place(axis));
        let keeps = |kind: Kind| self.run(&walk, kind).is_none_or(|run| self.run(&moved, kind) == Some(run));
        walk.last() == moved.last() && [Kind::Row, Kind::Column, Kind::Summed].into_iter().all(keeps)
    }

    /// `None` where a tensor is read through a window or under another shape.
    fn walk(&self, tensor: Tensor, shape: &[usize]) -> Option<Walk> {
        if self.is_windowed() {
            return None;
        }
        let long = (0..shape.len()).filter(|&axis| shape[axis] > 1);
        let Tensor::Factor(factor) = tensor else {
            return (self.space() == shape).then(|| long.map(|axis| (axis, axis)).collect());
        };
        let access = self.factor(factor);
        let walked = |axis: usize| match self.loops_along(&access.indices[axis])[..] {
            [d] => Some((axis, d)),
            _ => None,
        };
        (access.view == shape).then(|| long.map(walked).collect())?
    }

    fn kind(&self, d: usize) -> Kind {
        match (d < self.space().len(), self.is_row(d), self.is_column(d)) {
            (false, ..) => Kind::Summed,
            (true, true, _) => Kind::Row,
            (true, _, true) => Kind::Column,
            (true, ..) => Kind::Batch,
        }
    }

    /// The loops of a kind in the order in which they stand; `None` where others stand between them.
    fn run(&self, walk: &Walk, kind: Kind) -> Option<Vec<usize>> {
        let is_of_kind = |(_, d): &&(usize, usize)| self.kind(*d) == kind;
        let from = walk.iter().position(|step| is_of_kind(&step)).unwrap_or(walk.len());
        let run: Vec<usize> = walk[from..].iter().take_while(is_of_kind).map(|&(_, d)| d).collect();
        (run.len() == walk.iter().filter(is_of_kind).count()).then_some(run)
    }
}

fn stored_as(walk: &Walk, shape: &[usize]) -> Option<Layout> {
    let place = |axis: usize| walk.iter().position(|&(a, _)| a == axis);
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|&axis| (Reverse(place(axis).is_some()), place(axis)));
    Layout::new(&order, shape)
}
