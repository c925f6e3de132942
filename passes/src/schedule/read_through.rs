//! Stored values that every other group reads through the same map: that map is stored instead.
//!
//! A cheap map is computed in each of its users rather than stored. Where one of these shares a group with the map's own
//! operand, the other one makes the map again from a value that is stored for nothing else. Storing the map takes no more
//! memory; the other group reads it alone, and a sum that only adds it to products needs no loop of its own.

use super::forms::{Form, Forms};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::plan::Group;
use std::collections::{BTreeMap, BTreeSet};

/// The maps computed inside their users that are better stored, given the groups made without storing them.
pub(super) fn better_stored(forms: &Forms, inlined: &[bool], groups: &[Group]) -> BTreeSet<NodeId> {
    let readers = Readers::new(forms, groups);
    let is_output = |value: Value| forms.graph.outputs().iter().any(|o| forms.root(o.value) == value);
    let through = |at: usize, value: Value| {
        let nodes = &groups[at].nodes;
        let node = readers.only_outside(value, at)?;
        let map = Value { node, result: 0 };
        let is_map = inlined[node.index()] && matches!(forms.get(node), Form::Map(_)) && nodes.contains(&node);
        (is_map && size_bytes(forms, map) <= size_bytes(forms, value)).then_some(map)
    };
    let last_map = |at: usize, value: Value| {
        let maps = std::iter::successors(through(at, value), |&map| through(at, map));
        maps.last().map(|map| map.node)
    };
    let stored = groups.iter().enumerate().flat_map(|(at, group)| group.stored.iter().map(move |&value| (at, value)));
    stored.filter(|&(_, value)| !is_output(value)).filter_map(|(at, value)| last_map(at, value)).collect()
}

/// Whether groups are at least as good as others: no more of them, and no more bytes that they store.
pub(super) fn no_worse(forms: &Forms, groups: &[Group], others: &[Group]) -> bool {
    let stored_bytes = |groups: &[Group]| -> usize {
        groups.iter().flat_map(|group| &group.stored).map(|&value| size_bytes(forms, value)).sum()
    };
    groups.len() <= others.len() && stored_bytes(groups) <= stored_bytes(others)
}

fn size_bytes(forms: &Forms, value: Value) -> usize {
    forms.graph.ty(value).size_bytes()
}

/// The nodes that read each value, and the groups they are computed in.
struct Readers(BTreeMap<Value, BTreeSet<(NodeId, usize)>>);

impl Readers {
    fn new(forms: &Forms, groups: &[Group]) -> Self {
        let mut readers = Readers(BTreeMap::new());
        for (at, group) in groups.iter().enumerate() {
            for &node in &group.nodes {
                for &operand in &forms.graph.node(node).operands {
                    readers.0.entry(forms.root(operand)).or_default().insert((node, at));
                }
            }
        }
        readers
    }

    /// The node that reads a value in groups other than this one, if it is only one.
    fn only_outside(&self, value: Value, group: usize) -> Option<NodeId> {
        let outside: BTreeSet<NodeId> =
            self.0.get(&value)?.iter().filter(|(_, at)| *at != group).map(|(node, _)| *node).collect();
        outside.first().copied().filter(|_| outside.len() == 1)
    }
}
