//! Sums down the columns of the same tensors in one kernel.
//!
//! The gradients of a normalisation's shift and scale, and of its statistics, are sums of different products over the same
//! rows. What each of them reads is most of what it takes: together they read it once.

use super::forms::{Form, Forms};
use super::fuse::Partition;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::lower::{Affine, Combine, Nest, Scalar};
use gradc_ir::types::DType;
use std::collections::BTreeSet;

/// Most sums of one kernel: partial results of two vectors of each are kept in registers.
const MOST_SUMS: usize = 4;

/// What sums in one kernel have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ColumnSum<'a> {
    space: &'a [usize],
    reduce: &'a [usize],
}

impl ColumnSum<'_> {
    /// Of a node that sums f32 whose innermost axis it keeps; `None` for other nodes.
    pub fn of<'a>(forms: &'a Forms, id: NodeId) -> Option<ColumnSum<'a>> {
        let Form::Reduce(nest) = forms.get(id) else { return None };
        let sums_f32 = nest.combine == Some(Combine::Sum) && nest.body.dtype(nest.result) == DType::F32;
        (sums_f32 && keeps_innermost(nest)).then_some(ColumnSum { space: &nest.space, reduce: &nest.reduce })
    }

    fn terms(&self) -> usize {
        self.space.iter().chain(self.reduce).product()
    }
}

/// Whether neighbours in what is read belong to neighbouring points.
fn keeps_innermost(nest: &Nest) -> bool {
    let Some(last) = nest.space.len().checked_sub(1) else { return false };
    let column = Affine::dim(nest.rank(), last);
    nest.body.scalars.iter().all(|(scalar, _)| match scalar {
        Scalar::Load(access) => access.indices.last().is_some_and(|index| index.divisor == 1 && index.affine == column),
        _ => true,
    })
}

impl Partition<'_> {
    /// Joins the groups of sums over the same that read a tensor in common.
    pub fn join_sums(&mut self) {
        let forms = self.forms;
        let scheduled = forms.graph.node_ids().filter(|id| self.group_of[id.index()].is_some());
        let sums: Vec<(NodeId, ColumnSum)> = scheduled.filter_map(|id| Some((id, ColumnSum::of(forms, id)?))).collect();
        for (at, &(later, kind)) in sums.iter().enumerate() {
            for &(earlier, other) in &sums[..at] {
                if kind == other && self.read_in_common(earlier, later, kind.terms()) {
                    self.try_join_sums(earlier, later);
                }
            }
        }
    }

    /// Whether two nodes read the same tensor of at least so many elements.
    fn read_in_common(&self, a: NodeId, b: NodeId, elements: usize) -> bool {
        let large = |&&node: &&NodeId| self.forms.graph.ty(Value { node, result: 0 }).elements() >= elements;
        self.reads[a.index()].intersection(&self.reads[b.index()]).any(|node| large(&node))
    }

    fn try_join_sums(&mut self, earlier: NodeId, later: NodeId) {
        let (Some(from), Some(to)) = (self.group_of[earlier.index()], self.group_of[later.index()]) else { return };
        if from == to {
            return;
        }
        let union: BTreeSet<NodeId> = &self.members[from.index()] | &self.members[to.index()];
        let apart = self.detour(from, to) || self.detour(to, from);
        if self.accumulators_allow(&union)
            && self.reads_pointwise(from, to)
            && self.reads_pointwise(to, from)
            && !apart
            && self.is_small(&union)
        {
            self.merge(from, to, union);
        }
    }

    /// At most one member accumulates, or several are sums over the same; they read nothing that the kernel itself makes.
    pub fn accumulators_allow(&self, union: &BTreeSet<NodeId>) -> bool {
        let accumulators: Vec<NodeId> = union.iter().copied().filter(|&id| self.forms.accumulates(id)).collect();
        let together = || {
            let kinds: Vec<Option<ColumnSum>> = accumulators.iter().map(|&id| ColumnSum::of(self.forms, id)).collect();
            kinds.len() <= MOST_SUMS && kinds[0].is_some() && kinds.iter().all(|kind| *kind == kinds[0])
        };
        accumulators.iter().all(|id| self.reads[id.index()].is_disjoint(union))
            && (accumulators.len() < 2 || together())
    }
}
