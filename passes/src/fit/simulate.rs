//! What a graph would keep in memory, and why, if it were planned now.

use crate::layout::{KeptLayouts, assign_traced};
use crate::memory::{Lifetimes, lifetimes, storage_of};
use crate::recompute::Repeated;
use crate::schedule::{Forms, Ordering, Peaks, schedule};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::plan::{Action, Schedule};
use std::collections::{BTreeMap, BTreeSet};

/// What became of the forward values of a graph when a version of it with values made again was scheduled.
pub(crate) struct Simulation {
    /// The schedule.
    pub schedule: Schedule,
    /// Most bytes alive at once.
    pub peaks: Peaks,
    /// Forward nodes whose value is stored, each with how long.
    pub stored: BTreeMap<NodeId, Stored>,
}

/// How long a forward value is stored.
pub(crate) struct Stored {
    /// Size, bytes.
    pub bytes: usize,
    /// Whether only the backward pass reads it in the end.
    pub crosses: bool,
    /// Whether it is kept at the peak for the backward pass alone.
    pub at_peak: bool,
}

impl Simulation {
    /// Schedules a graph; `forward` says which nodes of the original belong to the forward pass.
    pub fn new(
        repeated: &Repeated,
        forward: &[bool],
        kept: &KeptLayouts,
        ordering: Ordering,
    ) -> Result<Self, Diagnostic> {
        let (laid_out, values) = assign_traced(&repeated.graph, kept);
        let (schedule, peaks) = schedule(laid_out, ordering)?;
        let forms = Forms::of(&schedule);
        let live = storage_of(&forms, &schedule).live();
        let peak = live.iter().position(|&bytes| bytes == peaks.chosen_bytes).unwrap_or(0);
        let origins = origins(&forms, &values, repeated, forward);
        let life = lifetimes(&forms, &schedule.actions);
        let forward_reads = forward_reads(&forms, &schedule.actions, &origins);
        let outputs: BTreeSet<Value> = forms.graph.outputs().iter().map(|o| forms.root(o.value)).collect();
        let mut stored: BTreeMap<NodeId, Stored> = BTreeMap::new();
        for (&value, &origin) in origins.iter().filter(|(v, _)| life.made.contains_key(v) && !outputs.contains(v)) {
            let next = Stored::new(&forms, &life, &forward_reads, value, peak);
            stored.entry(origin).and_modify(|s| s.join(&next)).or_insert(next);
        }
        Ok(Simulation { schedule, peaks, stored })
    }
}

impl Stored {
    fn new(forms: &Forms, life: &Lifetimes, forward_reads: &BTreeMap<Value, usize>, value: Value, peak: usize) -> Self {
        let made = life.made[&value];
        let last = life.last_read.get(&value).copied().unwrap_or(made);
        let last_forward = forward_reads.get(&value).copied().unwrap_or(made);
        Stored {
            bytes: forms.graph.ty(value).size_bytes(),
            crosses: last > last_forward,
            at_peak: last_forward < peak && peak <= last,
        }
    }

    /// Several stored values may stand for one: itself and copies of it in other layouts.
    fn join(&mut self, other: &Stored) {
        self.bytes = self.bytes.max(other.bytes);
        self.crosses |= other.crosses;
        self.at_peak |= other.at_peak;
    }
}

/// The node of the original behind each stored value of the forward pass: the first that is stored there.
fn origins(forms: &Forms, values: &[Vec<Value>], repeated: &Repeated, forward: &[bool]) -> BTreeMap<Value, NodeId> {
    let mut origins = BTreeMap::new();
    for (k, first) in repeated.first.iter().enumerate().filter(|(k, _)| forward[*k]) {
        for value in first.iter().flatten() {
            let placed = forms.root(values[value.node.index()][value.result as usize]);
            origins.entry(placed).or_insert(NodeId(k as u32));
        }
    }
    let known: BTreeSet<NodeId> = values.iter().flatten().map(|v| v.node).collect();
    for id in forms.graph.node_ids().filter(|id| !known.contains(id)) {
        // A copy in another layout.
        let behind = forms.graph.node(id).operands.first().map(|&v| forms.root(v));
        if let Some(&origin) = behind.and_then(|v| origins.get(&v)) {
            origins.insert(forms.root(Value { node: id, result: 0 }), origin);
        }
    }
    origins
}

/// The last action of the forward pass that reads each value.
fn forward_reads(forms: &Forms, actions: &[Action], origins: &BTreeMap<Value, NodeId>) -> BTreeMap<Value, usize> {
    let mut reads = BTreeMap::new();
    for (k, action) in actions.iter().enumerate() {
        let (read, written) = crate::memory::reads_and_writes(forms, action);
        if written.is_empty() || written.iter().any(|v| origins.contains_key(v)) {
            read.into_iter().for_each(|v| _ = reads.insert(v, k));
        }
    }
    reads
}
