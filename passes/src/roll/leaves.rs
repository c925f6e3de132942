//! What may differ from step to step of a loop: constants, and slices of one tensor.
//!
//! The only place of rolling that knows ops.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, NodeId, Value};
use gradc_ir::ops::{Constant, Op, Slice};
use gradc_ir::types::TypeError;

/// A value that a step reads and that no other step need read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// A constant of the type of this one.
    Literal(NodeId),
    /// A slice of the same tensor, as large as this one.
    Slice(NodeId),
}

/// The op as a constant.
pub(super) fn literal(op: &Op) -> Option<&Constant> {
    if let Op::Constant(constant) = op { Some(constant) } else { None }
}

/// The op as a slice.
pub(super) fn slice(op: &Op) -> Option<&Slice> {
    if let Op::Slice(slice) = op { Some(slice) } else { None }
}

fn literal_at(graph: &Graph, id: NodeId) -> Option<&Constant> {
    graph.op(id).and_then(literal)
}

fn slice_at(graph: &Graph, id: NodeId) -> Option<&Slice> {
    graph.op(id).and_then(slice)
}

impl Leaf {
    /// The leaf that two steps read where one reads `a` and the other `b`, if they may differ so.
    pub(super) fn of(graph: &Graph, a: NodeId, b: NodeId) -> Option<Leaf> {
        if graph.node(a).types != graph.node(b).types {
            return None;
        }
        if literal_at(graph, a).is_some() && literal_at(graph, b).is_some() {
            return Some(Leaf::Literal(b));
        }
        let (from, to) = (slice_at(graph, a)?, slice_at(graph, b)?);
        let one_tensor = graph.node(a).operands == graph.node(b).operands && from.stride == to.stride;
        (one_tensor && a != b).then_some(Leaf::Slice(b))
    }

    /// Whether a step may read `id` as this leaf.
    pub(super) fn admits(self, graph: &Graph, id: NodeId) -> bool {
        match self {
            Leaf::Literal(sample) | Leaf::Slice(sample) if sample == id => true,
            _ => Leaf::of(graph, id, self.sample()) == Some(self),
        }
    }

    /// What one of the steps reads.
    pub(super) fn sample(self) -> NodeId {
        let (Leaf::Literal(sample) | Leaf::Slice(sample)) = self;
        sample
    }
}

/// One leaf over all steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    /// The same constant in every step: part of the body.
    Fixed(Constant),
    /// Constants, one per step.
    Literals(Vec<Constant>),
    /// Slices of one tensor, evenly spaced along one axis.
    Slices(Slices),
}

/// Slices `0..count` of `source`: the one numbered k starts k · `distance` after the first along `axis`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slices {
    source: Value,
    /// The slice with the lowest start.
    lowest: Slice,
    axis: usize,
    /// Elements between the starts of neighbours, positive.
    distance: usize,
    count: usize,
    /// Whether the first step reads the last slice.
    pub(super) descending: bool,
}

impl Sequence {
    /// What the steps read, in their order; `None` where slices are not evenly spaced or overlap.
    pub(super) fn of(graph: &Graph, leaf: Leaf, steps: &[NodeId]) -> Option<Sequence> {
        match leaf {
            Leaf::Literal(_) => {
                let all: Vec<Constant> = steps.iter().filter_map(|&id| literal_at(graph, id)).cloned().collect();
                let same = all.iter().all(|c| *c == all[0]);
                Some(if same { Sequence::Fixed(all[0].clone()) } else { Sequence::Literals(all) })
            }
            Leaf::Slice(sample) => {
                let all: Vec<&Slice> = steps.iter().filter_map(|&id| slice_at(graph, id)).collect();
                Slices::of(graph, graph.node(sample).operands[0], &all).map(Sequence::Slices)
            }
        }
    }
}

impl Slices {
    fn of(graph: &Graph, source: Value, steps: &[&Slice]) -> Option<Slices> {
        let descending = steps[0].start > steps[1].start;
        let ordered: Vec<&Slice> = if descending { steps.iter().rev().copied().collect() } else { steps.to_vec() };
        let (first, second) = (ordered[0], ordered[1]);
        let axis = (0..first.start.len()).find(|&d| first.start[d] != second.start[d])?;
        let distance = second.start[axis].checked_sub(first.start[axis])?;
        let even = |(k, slice): (usize, &&Slice)| {
            let shift = |at: &[usize]| -> Vec<usize> {
                at.iter().enumerate().map(|(d, &i)| if d == axis { i + k * distance } else { i }).collect()
            };
            slice.start == shift(&first.start) && slice.limit == shift(&first.limit)
        };
        let evenly = ordered.iter().enumerate().all(even);
        let span = first.limit[axis] - first.start[axis];
        let extent = graph.ty(source).shape[axis];
        let inside = span == distance || first.start[axis] + ordered.len() * distance <= extent || span == 1;
        let apart = span <= distance && (span == 1 || first.stride[axis] == 1);
        (evenly && apart && inside).then(|| Slices {
            source,
            lowest: first.clone(),
            axis,
            distance,
            count: steps.len(),
            descending,
        })
    }

    /// The tensor that is sliced.
    pub(super) fn source(&self) -> Value {
        self.source
    }

    /// All slices, lowest first, along a new leading axis.
    ///
    /// No element is moved where `axis` is the leading one and the slices are neighbours.
    pub(super) fn stacked(&self, b: &mut Builder, source: Value) -> Result<Value, TypeError> {
        let Slices { lowest, axis, distance, count, .. } = self;
        let span = lowest.limit[*axis] - lowest.start[*axis];
        let (mut limit, mut stride) = (lowest.limit.clone(), lowest.stride.clone());
        let block = if span == 1 { 1 } else { *distance };
        if span == 1 {
            (limit[*axis], stride[*axis]) = (lowest.start[*axis] + (count - 1) * distance + 1, *distance);
        } else {
            limit[*axis] = lowest.start[*axis] + count * distance;
        }
        let all = b.slice(source, &lowest.start, &limit, &stride)?;
        let shape = b.shape(all).to_vec();
        let blocks = b.reshape(all, &[&shape[..*axis], &[*count, block], &shape[axis + 1..]].concat())?;
        let blocks = b.slice_axis(blocks, axis + 1, 0, span)?;
        let mut perm: Vec<usize> = (0..b.shape(blocks).len()).collect();
        perm[..=*axis].rotate_right(1);
        b.transpose(blocks, &perm)
    }
}

/// Constants of the steps as one tensor of scalars, `[steps]`.
pub(super) fn stacked_literals(b: &mut Builder, steps: &[Constant]) -> Result<Value, TypeError> {
    let scalars = steps.iter().map(|c| b.op(Constant { shape: vec![1], ..c.clone() }, &[]));
    let scalars = scalars.collect::<Result<Vec<_>, _>>()?;
    b.concat(&scalars, 0)
}
