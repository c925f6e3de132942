//! Row fusion: groups that make and read the same rows as steps of one kernel.
//!
//! A normalisation over an axis is several accumulations and maps over one tensor, each of which needs the one before. As
//! kernels of their own they bring the tensor from memory once each; as steps of a [`RowKernel`] they find the row where
//! the step before left it, and what no other kernel reads is never stored.

use super::forms::{Form, Forms};
use super::fuse::{Partition, reads_through_barriers};
use super::inline::operations;
use super::kernels::kernels;
use super::order::in_place_candidates;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel, RowKernel, RowStep, row_axes, stays_in_row};
use gradc_ir::lower::Access;
use gradc_ir::plan::Group;
use gradc_ir::types::TensorType;
use std::collections::{BTreeMap, BTreeSet};

/// Largest size of a row of all that a row kernel reads and makes, bytes: a first-level cache.
const ROW_BYTES: usize = 32 << 10;

/// The same where there are many rows: half a second-level cache, which is nearer than memory still.
const LONG_ROW_BYTES: usize = 1 << 20;

/// Rows of which there are many: threads have equal shares of them.
const MANY_ROWS: usize = 16;

/// Largest size of all that is read and made by a kernel with a single row, bytes: half a first-level cache.
const SINGLE_ROW_BYTES: usize = 16 << 10;

/// Bytes that a join may keep alive until what else its later steps read is there.
const KEPT_BYTES: usize = 2 << 10;

/// Scalar operations up to which a kernel with a single row may run on one thread.
const SINGLE_ROW_OPERATIONS: usize = 1 << 16;

/// Largest number of buffers a row kernel reads and writes.
const MAX_BUFFERS: usize = 32;

/// The kernel whose steps are loop kernels, in order; `stored` is what leaves it.
pub(super) fn row_kernel(forms: &Forms, steps: Vec<Kernel>, stored: &[Value]) -> Kernel {
    let rows = common_rows(&steps).expect("steps are joined where they have rows in common");
    let made: Vec<Value> = steps.iter().flat_map(|step| &step.results).copied().collect();
    let temporaries = made.iter().filter(|v| !stored.contains(v));
    let made: Vec<Value> = stored.iter().chain(temporaries).copied().collect();
    let read: BTreeSet<Value> = steps.iter().flat_map(|step| &step.operands).copied().collect();
    let operands: Vec<Value> = read.into_iter().filter(|v| !made.contains(v)).collect();
    let buffers = [&operands[..], &made].concat();
    let position = |list: &[Value], v: &Value| list.iter().position(|b| b == v).expect("every value has a buffer");
    let step = |Kernel { kind, operands, results }: Kernel| {
        let KernelKind::Loops(loops) = kind else { unreachable!("steps are loop kernels") };
        let loops = loops.renumbered(|k| position(&buffers, &operands[k]));
        RowStep { loops, makes: results.iter().map(|v| position(&made, v)).collect() }
    };
    let temporaries = made[stored.len()..].iter().map(|&v| forms.graph.ty(v).clone()).collect();
    let kernel = RowKernel { rows, temporaries, steps: steps.into_iter().map(step).collect() };
    Kernel { kind: KernelKind::Rows(kernel), operands, results: stored.to_vec() }
}

/// The most rows that some loop kernels can share: their spaces begin with these, and of what one of them makes the others
/// read the row that they are at.
fn common_rows(steps: &[Kernel]) -> Option<usize> {
    shared_rows(steps).into_iter().next_back()
}

/// All numbers of rows, ascending, that some loop kernels can share.
fn shared_rows(steps: &[Kernel]) -> BTreeSet<usize> {
    let made: BTreeSet<Value> = steps.iter().flat_map(|step| &step.results).copied().collect();
    let loops = steps.iter().map(|step| Some((step, loops_of(step)?))).collect::<Option<Vec<_>>>();
    let loops = loops.unwrap_or_default();
    let Some((_, first)) = loops.first() else { return BTreeSet::new() };
    let prefixes: BTreeSet<usize> = (0..=first.space.len()).map(|axes| first.space[..axes].iter().product()).collect();
    let shared = |&rows: &usize| {
        rows > 0
            && loops.iter().all(|(step, loops)| {
                let inside = |access: &Access| made.contains(&step.operands[access.operand]);
                row_axes(&loops.space, rows).is_some()
                    && loops.reads().all(|(a, reduced)| !inside(a) || stays_in_row(a, &loops.space, reduced, rows))
            })
    };
    prefixes.into_iter().filter(shared).collect()
}

pub(super) fn loops_of(kernel: &Kernel) -> Option<&LoopKernel> {
    if let KernelKind::Loops(loops) = &kernel.kind { Some(loops) } else { None }
}

/// Pairs of a result of a row kernel and an operand that it may be written over: what reads the operand reads the row it
/// is at and has run, and the step that makes the result reads it at the point itself only.
pub(super) fn overwritable_rows(kernel: &RowKernel, operands: &[Value], results: &[Value]) -> Vec<(Value, Value)> {
    let makes = |result: usize| kernel.steps.iter().position(|step| step.makes.contains(&result));
    let free = |at: usize, operand: usize| {
        kernel.steps.iter().enumerate().all(|(k, RowStep { loops, .. })| {
            let mut reads = loops.reads().filter(|(access, _)| access.operand == operand);
            match k.cmp(&at) {
                std::cmp::Ordering::Less => {
                    reads.all(|(a, reduced)| stays_in_row(a, &loops.space, reduced, kernel.rows))
                }
                std::cmp::Ordering::Equal => {
                    loops.accumulate.is_none() && reads.all(|(a, _)| a.is_identity(&loops.space))
                }
                std::cmp::Ordering::Greater => reads.next().is_none(),
            }
        })
    };
    let mut pairs = vec![];
    for (k, &result) in results.iter().enumerate() {
        let at = makes(k).expect("every result is made by a step");
        let operands = operands.iter().enumerate().filter(|&(operand, _)| free(at, operand));
        pairs.extend(operands.map(|(_, &operand)| (result, operand)));
    }
    pairs
}

/// Joins groups as steps of row kernels.
pub(super) struct RowFusion<'a> {
    pub partition: Partition<'a>,
    /// The kernel of each step that was a group of its own, by its first member; only of what can be a step.
    kernels: BTreeMap<NodeId, Kernel>,
    /// Values that an update may write over the tensor they replace.
    updates: BTreeSet<Value>,
}

impl<'a> RowFusion<'a> {
    pub fn new(partition: Partition<'a>) -> Self {
        let forms = partition.forms;
        let groups = forms.graph.node_ids().filter(|id| !partition.members[id.index()].is_empty());
        let kernel = |id: NodeId| Some((id, step_kernel(forms, &partition.group(&partition.members[id.index()]))?));
        let kernels = groups.filter_map(kernel).collect();
        let updates = in_place_candidates(forms).into_iter().map(|(_, next)| next).collect();
        RowFusion { partition, kernels, updates }
    }

    /// Joins what has many rows first, then what is small as a single row.
    pub fn join(&mut self) {
        for least_rows in [2, 1] {
            for id in self.partition.forms.graph.node_ids() {
                if self.kernels.contains_key(&id) {
                    self.join_producers(id, least_rows);
                }
            }
        }
    }

    /// Joins to the group of a step those that make what it reads, the last first: what lies between two of them is
    /// joined before.
    fn join_producers(&mut self, step: NodeId, least_rows: usize) {
        let read: BTreeSet<NodeId> = self.reads(step).collect();
        for producer in read.into_iter().rev() {
            let group = |id: NodeId| self.partition.group_of[id.index()];
            if let (Some(from), Some(to)) = (group(producer), group(step))
                && from != to
                && self.may_join(from, to, least_rows)
            {
                self.merge(from, to);
            }
        }
    }

    /// The scheduled nodes that a step reads.
    fn reads(&self, step: NodeId) -> impl Iterator<Item = NodeId> {
        let made = self.kernels[&step].operands.iter().map(|v| v.node);
        made.filter(|node| self.partition.group_of[node.index()].is_some())
    }

    fn may_join(&self, from: NodeId, to: NodeId, least_rows: usize) -> bool {
        let (Some(before), Some(after)) = (self.steps(from), self.steps(to)) else { return false };
        let kernels: Vec<Kernel> = before.iter().chain(&after).map(|step| self.kernels[step].clone()).collect();
        let all = Joined::new(self.partition.forms, &kernels);
        let updates = kernels.iter().flat_map(|kernel| &kernel.results).any(|v| self.updates.contains(v));
        !updates
            && all.buffers.len() <= MAX_BUFFERS
            && self.runs_without_waiting(from, to)
            && !self.partition.detour(from, to)
            && common_rows(&kernels).is_some_and(|rows| rows >= least_rows && all.fits(rows))
            && !self.apart(from, to)
    }
}

impl RowFusion<'_> {
    /// The steps of a group, by their first members; `None` where it is no loop.
    fn steps(&self, group: NodeId) -> Option<Vec<NodeId>> {
        let steps = &self.partition.steps[group.index()];
        if steps.is_empty() {
            return self.kernels.contains_key(&group).then(|| vec![group]);
        }
        Some(steps.iter().map(|step| *step.first().expect("a step has members")).collect())
    }

    fn merge(&mut self, from: NodeId, to: NodeId) {
        let partition = &mut self.partition;
        let mut steps = vec![];
        for group in [from, to] {
            let own = std::mem::take(&mut partition.steps[group.index()]);
            let members = || vec![partition.members[group.index()].clone()];
            steps.extend(if own.is_empty() { members() } else { own });
        }
        let union = steps.iter().flatten().copied().collect();
        partition.merge(from, to, union);
        partition.steps[from.min(to).index()] = steps;
    }

    /// Whether `to` could run right after `from`: it waits for nothing that comes later in the graph, or little stays
    /// alive meanwhile that would be dead by then.
    fn runs_without_waiting(&self, from: NodeId, to: NodeId) -> bool {
        let Partition { forms, members, .. } = &self.partition;
        let [before, after] = [from, to].map(|group| &members[group.index()]);
        let last = before.last().expect("a group has members");
        let inside = |id: &NodeId| before.contains(id) || after.contains(id);
        let mut waits = after.iter().flat_map(|&m| self.partition.comes_after(m)).filter(|id| !inside(id));
        let [mut kept, read_later] = [before, after].map(|group| self.read_by(group));
        kept.retain(|id| !before.contains(id) && !read_later.contains(id));
        let bytes = |&node: &NodeId| forms.graph.ty(Value { node, result: 0 }).size_bytes();
        waits.all(|id| id < last) || kept.iter().map(bytes).sum::<usize>() <= KEPT_BYTES
    }

    /// What the members of a group read.
    fn read_by(&self, group: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        group.iter().flat_map(|m| &self.partition.reads[m.index()]).copied().collect()
    }

    /// Whether a barrier keeps what `from` makes from what `to` reads.
    fn apart(&self, from: NodeId, to: NodeId) -> bool {
        let Partition { forms, members, .. } = &self.partition;
        let read = reads_through_barriers(forms, &self.partition.group(&members[to.index()]));
        !read.is_disjoint(&members[from.index()])
    }
}

/// Whether loop kernels fit together as steps of one kernel with several rows.
pub(super) fn run_by_rows(forms: &Forms, steps: &[Kernel]) -> bool {
    let all = Joined::new(forms, steps);
    all.buffers.len() <= MAX_BUFFERS && shared_rows(steps).into_iter().any(|rows| rows > 1 && all.fits(rows))
}

/// The kernel of a group that can be a step: a loop nest other than a sum of products, which tiles compute.
pub(super) fn step_kernel(forms: &Forms, group: &Group) -> Option<Kernel> {
    let is_loop = |id: &NodeId| matches!(forms.get(*id), Form::Map(_) | Form::Reduce(_));
    let all_loops = group.nodes.iter().all(is_loop);
    let kernel = all_loops.then(|| kernels(forms, group).remove(0))?;
    loops_of(&kernel).is_some_and(|loops| !loops.space.contains(&0)).then_some(kernel)
}

/// What the steps of a row kernel read and make together.
struct Joined<'s> {
    steps: &'s [Kernel],
    /// The types of all buffers.
    buffers: BTreeMap<Value, &'s TensorType>,
}

impl<'s> Joined<'s> {
    fn new(forms: &'s Forms, steps: &'s [Kernel]) -> Self {
        let buffers = steps.iter().flat_map(|k| k.operands.iter().chain(&k.results));
        Joined { steps, buffers: buffers.map(|&v| (v, forms.graph.ty(v))).collect() }
    }

    /// Whether a row of all buffers fits a cache. A single one only where one thread is enough; a long one only where no
    /// row reads parts of others, since it would bring whole lines of memory for them that are gone by the next row.
    fn fits(&self, rows: usize) -> bool {
        let beyond: Vec<(Value, &Access, &[usize])> = self.reads_beyond_rows(rows).collect();
        let whole: BTreeSet<Value> = beyond.iter().map(|(v, ..)| *v).collect();
        let row_bytes = |(v, ty): (&Value, &&TensorType)| ty.size_bytes() / if whole.contains(v) { 1 } else { rows };
        let bytes: usize = self.buffers.iter().map(row_bytes).sum();
        let operations = || self.steps.iter().filter_map(loops_of).map(loop_operations).sum::<usize>();
        let is_apart = || !beyond.iter().any(|(_, access, space)| moves_with_row(access, space, rows));
        match rows {
            1 => bytes <= SINGLE_ROW_BYTES && operations() <= SINGLE_ROW_OPERATIONS,
            MANY_ROWS.. if is_apart() => bytes <= LONG_ROW_BYTES,
            _ => bytes <= ROW_BYTES,
        }
    }

    /// Reads of more than the row that a step is at: of what, how, and in which space.
    fn reads_beyond_rows(&self, rows: usize) -> impl Iterator<Item = (Value, &Access, &[usize])> {
        let all = self.steps.iter().filter_map(|step| Some((step, loops_of(step)?)));
        let reads = all.flat_map(|(step, loops)| loops.reads().map(move |read| (step, &loops.space[..], read)));
        let beyond = reads.filter(move |(_, space, (access, reduced))| !stays_in_row(access, space, reduced, rows));
        beyond.map(|(step, space, (access, _))| (step.operands[access.operand], access, space))
    }
}

/// Whether an access reads something else from row to row.
fn moves_with_row(access: &Access, space: &[usize], rows: usize) -> bool {
    let axes = row_axes(space, rows).unwrap_or(0);
    access.flat().is_none_or(|flat| flat.coeffs.iter().zip(space).take(axes).any(|(&c, &extent)| c != 0 && extent > 1))
}

fn loop_operations(loops: &LoopKernel) -> usize {
    let points: usize = loops.space.iter().product();
    let accumulated = match &loops.accumulate {
        Some(Accumulate::Reduce { extents, body, .. }) => (operations(body) + 1) * extents.iter().product::<usize>(),
        _ => 0,
    };
    points * (operations(&loops.body) + accumulated)
}
