//! Cutting a graph into kernels.

use super::forms::{Form, Forms};
use super::inline::{MAX_BODY, inlined};
use super::kernels::kernels;
use super::read_through::{better_stored, no_worse};
use super::rows::RowFusion;
use super::stages::cut_into_stages;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Kernel, KernelKind};
use gradc_ir::lower::{Access, Scalar};
use gradc_ir::plan::Group;
use std::collections::BTreeSet;

/// Largest number of buffers one kernel reads and writes.
const MAX_BUFFERS: usize = 24;

/// The groups of a graph in a topological order.
pub(crate) fn fuse(forms: &Forms) -> Vec<Group> {
    let mut inlined = inlined(forms);
    let groups = join(forms, &inlined);
    let better_stored = better_stored(forms, &inlined, &groups);
    if better_stored.is_empty() {
        return groups;
    }
    better_stored.iter().for_each(|map| inlined[map.index()] = false);
    let others = join(forms, &inlined);
    if no_worse(forms, &others, &groups) { others } else { groups }
}

/// The groups that stored nodes form with those computed inside them.
fn join(forms: &Forms, inlined: &[bool]) -> Vec<Group> {
    let mut partition = Partition::new(forms, inlined);
    for id in forms.graph.node_ids() {
        if matches!(forms.get(id), Form::Map(_)) && !inlined[id.index()] {
            partition.join_producers(id);
        }
    }
    partition.join_sums();
    let mut rows = RowFusion::new(partition);
    rows.join();
    let mut partition = rows.partition;
    cut_into_stages(&mut partition);
    partition.into_groups()
}

/// Which group each stored node belongs to, as groups grow.
pub(super) struct Partition<'a> {
    pub forms: &'a Forms<'a>,
    inlined: &'a [bool],
    /// Group of each scheduled node: the group's first node.
    pub group_of: Vec<Option<NodeId>>,
    /// Members of each group, at its first node.
    pub members: Vec<BTreeSet<NodeId>>,
    /// The members of each step of a group that runs by rows, in order, at its first node; else empty.
    pub steps: Vec<Vec<BTreeSet<NodeId>>>,
    /// For each scheduled node, the scheduled nodes whose stored values it reads.
    pub reads: Vec<BTreeSet<NodeId>>,
    /// For each node, the scheduled nodes that read its stored values.
    readers: Vec<Vec<NodeId>>,
    /// For each scheduled node, the scheduled nodes it must come after although it does not read them.
    waits: Vec<BTreeSet<NodeId>>,
    /// For each node, the scheduled nodes that must come after it.
    followers: Vec<Vec<NodeId>>,
    /// For each group, at its first node, the last node among its members and those of all groups it must come after.
    latest: Vec<NodeId>,
    /// For each stored map, the nodes whose values it reads only at the point it computes.
    pointwise: Vec<BTreeSet<NodeId>>,
}

impl<'a> Partition<'a> {
    fn new(forms: &'a Forms<'a>, inlined: &'a [bool]) -> Self {
        let count = forms.graph.nodes().len();
        let mut partition = Partition {
            forms,
            inlined,
            group_of: vec![None; count],
            members: vec![BTreeSet::new(); count],
            steps: vec![vec![]; count],
            reads: vec![BTreeSet::new(); count],
            readers: vec![vec![]; count],
            waits: vec![BTreeSet::new(); count],
            followers: vec![vec![]; count],
            latest: forms.graph.node_ids().collect(),
            pointwise: vec![BTreeSet::new(); count],
        };
        for id in forms.graph.node_ids() {
            if is_scheduled(forms, inlined, id) {
                partition.group_of[id.index()] = Some(id);
                partition.members[id.index()].insert(id);
                partition.reads[id.index()] = closure(forms, inlined, id)
                    .1
                    .into_iter()
                    .filter(|v| is_scheduled(forms, inlined, v.node))
                    .map(|v| v.node)
                    .collect();
                partition.reads[id.index()].iter().for_each(|read| partition.readers[read.index()].push(id));
                partition.waits[id.index()] = tokens(forms, &closure(forms, inlined, id).0)
                    .into_iter()
                    .filter(|&token| is_scheduled(forms, inlined, token))
                    .collect();
                partition.pointwise[id.index()] = pointwise_reads(forms, inlined, id);
                let before: BTreeSet<NodeId> = partition.comes_after(id).copied().collect();
                before.into_iter().for_each(|node| partition.followers[node.index()].push(id));
            }
        }
        partition
    }

    /// Joins to the group of map `id` the groups that make what it reads element by element.
    fn join_producers(&mut self, id: NodeId) {
        let space = self.forms.space(id).expect("a map has a space").to_vec();
        for producer in self.pointwise[id.index()].clone() {
            self.try_join(producer, id, &space);
        }
    }

    fn try_join(&mut self, producer: NodeId, consumer: NodeId, space: &[usize]) {
        let (Some(from), Some(to)) = (self.group_of[producer.index()], self.group_of[consumer.index()]) else { return };
        if from == to
            || self.forms.space(producer) != Some(space)
            || self.forms.stored_shape(Value { node: producer, result: 0 }) != space
        {
            return;
        }
        let union: BTreeSet<NodeId> = self.members[from.index()].union(&self.members[to.index()]).copied().collect();
        let allowed = self.accumulators_allow(&union) && self.reads_pointwise(from, to);
        if allowed && !self.detour(from, to) && self.is_small(&union) {
            self.merge(from, to, union);
        }
    }

    pub fn merge(&mut self, from: NodeId, to: NodeId, union: BTreeSet<NodeId>) {
        let (kept, emptied) = (from.min(to), from.max(to));
        union.iter().for_each(|m| self.group_of[m.index()] = Some(kept));
        self.members[emptied.index()].clear();
        self.members[kept.index()] = union;
        self.latest[kept.index()] = self.latest[kept.index()].max(self.latest[emptied.index()]);
        self.tell_latest(kept);
    }

    /// Raises the latest node of all groups that come after this one to its own.
    fn tell_latest(&mut self, group: NodeId) {
        let latest = self.latest[group.index()];
        let mut open = vec![group];
        while let Some(group) = open.pop() {
            let followers = self.members[group.index()].iter().flat_map(|m| &self.followers[m.index()]);
            let groups: BTreeSet<NodeId> = followers.filter_map(|f| self.group_of[f.index()]).collect();
            for next in groups.into_iter().filter(|next| self.latest[next.index()] < latest).collect::<Vec<_>>() {
                self.latest[next.index()] = latest;
                open.push(next);
            }
        }
    }

    /// Whether group `to` reads what group `from` makes only at the point itself: in one kernel nothing else is there.
    pub fn reads_pointwise(&self, from: NodeId, to: NodeId) -> bool {
        let made = &self.members[from.index()];
        let reads =
            |m: &NodeId| self.reads[m.index()].intersection(made).all(|r| self.pointwise[m.index()].contains(r));
        self.members[to.index()].iter().all(reads)
    }

    /// Whether a path leads from group `from` to group `to` through a third group. What comes after `from` has a latest
    /// node no earlier than those of `from`; nothing else is searched.
    pub fn detour(&self, from: NodeId, to: NodeId) -> bool {
        let last = *self.members[from.index()].last().expect("groups are not empty");
        let mut seen = vec![false; self.members.len()];
        let mut open: Vec<NodeId> = vec![to];
        while let Some(group) = open.pop() {
            let before = self.members[group.index()].iter().flat_map(|m| self.comes_after(*m));
            for next in before.filter_map(|r| self.group_of[r.index()]) {
                if next == from && group != to {
                    return true;
                }
                let is_candidate = next != from && next != to && self.latest[next.index()] >= last;
                if is_candidate && !std::mem::replace(&mut seen[next.index()], true) {
                    open.push(next);
                }
            }
        }
        false
    }

    pub fn is_small(&self, union: &BTreeSet<NodeId>) -> bool {
        let kernel = kernels(self.forms, &self.group(union)).remove(0);
        let KernelKind::Loops(loops) = &kernel.kind else { return false };
        loops.body.scalars.len() <= MAX_BODY && kernel.operands.len() + kernel.results.len() <= MAX_BUFFERS
    }

    /// The group of some members: with what they compute inside, and what others read of it.
    pub fn group(&self, members: &BTreeSet<NodeId>) -> Group {
        let nodes: BTreeSet<NodeId> = members.iter().flat_map(|&m| closure(self.forms, self.inlined, m).0).collect();
        let stored = members.iter().flat_map(|&m| self.forms.results(m)).filter(|v| self.leaves(*v, members)).collect();
        Group { nodes: nodes.into_iter().collect(), stored, steps: vec![] }
    }

    /// The group whose first member is `first`, with its steps.
    fn whole_group(&self, first: NodeId) -> Group {
        let steps = self.steps[first.index()].iter().map(|step| self.group(step)).collect();
        Group { steps, ..self.group(&self.members[first.index()]) }
    }

    /// Whether something outside `members` reads the value.
    fn leaves(&self, value: Value, members: &BTreeSet<NodeId>) -> bool {
        let is_output = || self.forms.graph.outputs().iter().any(|o| self.forms.root(o.value) == value);
        let is_read = || self.readers[value.node.index()].iter().any(|reader| !members.contains(reader));
        members.len() == 1 || is_read() || is_output()
    }

    fn into_groups(self) -> Vec<Group> {
        let mut open: Vec<NodeId> =
            self.forms.graph.node_ids().filter(|id| !self.members[id.index()].is_empty()).collect();
        let mut done: BTreeSet<NodeId> = BTreeSet::new();
        let mut order = Vec::new();
        while !open.is_empty() {
            let ready = open.iter().position(|&g| self.is_ready(g, &done)).expect("joining keeps groups acyclic");
            let group = open.remove(ready);
            done.extend(&self.members[group.index()]);
            order.push(self.whole_group(group));
        }
        order
    }

    fn is_ready(&self, group: NodeId, done: &BTreeSet<NodeId>) -> bool {
        let members = &self.members[group.index()];
        members.iter().flat_map(|m| self.comes_after(*m)).all(|r| done.contains(r) || members.contains(r))
    }

    pub fn comes_after(&self, node: NodeId) -> impl Iterator<Item = &NodeId> {
        self.reads[node.index()].iter().chain(&self.waits[node.index()])
    }
}

/// The nodes whose values a stored map reads only at the point it computes; empty for other nodes.
fn pointwise_reads(forms: &Forms, inlined: &[bool], id: NodeId) -> BTreeSet<NodeId> {
    let Form::Map(nest) = forms.get(id) else { return BTreeSet::new() };
    let alone =
        Group { nodes: closure(forms, inlined, id).0, stored: vec![Value { node: id, result: 0 }], steps: vec![] };
    let kernel = kernels(forms, &alone).remove(0);
    let apart = reads_through_barriers(forms, &alone);
    identity_reads(&kernel, &nest.space).into_iter().map(|v| v.node).filter(|node| !apart.contains(node)).collect()
}

/// The nodes whose values are tokens of barriers that some nodes read through.
pub(crate) fn tokens(forms: &Forms, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    let operands = nodes.iter().flat_map(|&id| &forms.graph.node(id).operands);
    operands.flat_map(|&v| forms.tokens(v)).map(|token| forms.root(token).node).collect()
}

/// What a group reads through barriers: it must not run together with what makes that.
pub(super) fn reads_through_barriers(forms: &Forms, group: &Group) -> BTreeSet<NodeId> {
    let operands = group.nodes.iter().flat_map(|&id| &forms.graph.node(id).operands);
    operands.filter(|&&v| !forms.tokens(v).is_empty()).map(|&v| forms.root(v).node).collect()
}

fn is_scheduled(forms: &Forms, inlined: &[bool], id: NodeId) -> bool {
    !inlined[id.index()] && !matches!(forms.get(id), Form::Input | Form::Alias(_))
}

/// A node with the inlined nodes computed in it, ascending, and the stored values these read.
fn closure(forms: &Forms, inlined: &[bool], id: NodeId) -> (Vec<NodeId>, BTreeSet<Value>) {
    let (mut nodes, mut reads, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![id]);
    while let Some(node) = open.pop() {
        if nodes.insert(node) {
            for &operand in &forms.graph.node(node).operands {
                if inlined[operand.node.index()] {
                    open.push(operand.node)
                } else {
                    _ = reads.insert(forms.root(operand))
                }
            }
        }
    }
    (nodes.into_iter().collect(), reads)
}

/// Operands of a map kernel that every point reads only at itself.
pub(crate) fn identity_reads(kernel: &Kernel, space: &[usize]) -> Vec<Value> {
    let KernelKind::Loops(loops) = &kernel.kind else { return vec![] };
    let of = |operand: usize| {
        loops.body.scalars.iter().filter_map(move |(s, _)| match s {
            Scalar::Load(access) if access.operand == operand => Some(access),
            _ => None,
        })
    };
    let pointwise = |access: &Access| access.is_identity(space);
    let all = |k: usize| of(k).next().is_some() && of(k).all(pointwise);
    kernel.operands.iter().enumerate().filter(|(k, _)| all(*k)).map(|(_, v)| *v).collect()
}
