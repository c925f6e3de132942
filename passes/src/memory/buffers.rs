//! What an order of actions keeps in the arena, and for how long.

use super::aligned;
use crate::schedule::{Forms, in_place_candidates, overwritable, roots};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::plan::Action;
use std::collections::{BTreeMap, BTreeSet};

/// What a sequence of actions needs besides what it says itself.
pub(crate) struct Outside {
    /// Values that have places outside the arena.
    pub placed: BTreeSet<Value>,
    /// Bytes that the bodies of each region work in.
    pub work_bytes: BTreeMap<NodeId, usize>,
}

/// What a sequence of actions stores, without places yet.
pub(crate) struct Storage {
    /// Updates written over the tensor they replace: (old value, next value).
    pub in_place: Vec<(Value, Value)>,
    /// What lives in the arena.
    pub buffers: Vec<Buffer>,
    /// Number of actions.
    pub actions: usize,
}

/// Bytes needed from the action that makes them to the last that reads them.
pub(crate) struct Buffer {
    /// The values that live in it one after the other, each written over the one before; none where bodies work.
    pub values: Vec<Value>,
    /// The region whose bodies work in it.
    pub work_of: Option<NodeId>,
    /// Size, a multiple of the alignment.
    pub size_bytes: usize,
    /// The action that makes the first value.
    pub first: usize,
    /// The action that reads the last value last; the number of actions for what leaves the graph.
    pub last: usize,
}

impl Storage {
    pub fn new(forms: &Forms, actions: &[Action], outside: &Outside) -> Self {
        let life = lifetimes(forms, actions);
        let in_place = in_place_updates(forms, actions, &life);
        let placed = in_place.iter().map(|(_, next)| *next).chain(outside.placed.iter().copied()).collect();
        let mut buffers = buffers(forms, actions, &life, &placed);
        for (k, action) in actions.iter().enumerate() {
            let Action::Region(region) = action else { continue };
            let size_bytes = aligned(outside.work_bytes[&region.node]);
            buffers.push(Buffer { values: vec![], work_of: Some(region.node), size_bytes, first: k, last: k });
        }
        Storage { buffers, in_place, actions: actions.len() }
    }

    /// Bytes alive while each action runs.
    pub fn live(&self) -> Vec<usize> {
        let mut change = vec![0isize; self.actions + 2];
        for buffer in &self.buffers {
            change[buffer.first] += buffer.size_bytes as isize;
            change[buffer.last + 1] -= buffer.size_bytes as isize;
        }
        let mut live_bytes = 0;
        let running = change.into_iter().map(|by| {
            live_bytes += by;
            live_bytes as usize
        });
        running.take(self.actions + 1).collect()
    }

    /// The most bytes alive at once.
    pub fn live_bytes(&self) -> usize {
        self.live().into_iter().max().unwrap_or(0)
    }
}

/// Index of the action that makes each stored value, and of the last that reads each.
pub(crate) struct Lifetimes {
    pub made: BTreeMap<Value, usize>,
    pub last_read: BTreeMap<Value, usize>,
}

pub(crate) fn lifetimes(forms: &Forms, actions: &[Action]) -> Lifetimes {
    let (mut made, mut last_read) = (BTreeMap::new(), BTreeMap::new());
    for (k, action) in actions.iter().enumerate() {
        let (reads, writes) = reads_and_writes(forms, action);
        reads.into_iter().for_each(|v| _ = last_read.insert(v, k));
        writes.into_iter().for_each(|v| _ = made.insert(v, k));
    }
    Lifetimes { made, last_read }
}

pub(crate) fn reads_and_writes(forms: &Forms, action: &Action) -> (BTreeSet<Value>, Vec<Value>) {
    match action {
        Action::CheckFinite(value) => (BTreeSet::from([*value]), vec![]),
        Action::Region(region) => {
            (roots(forms, region.node).into_iter().collect(), forms.graph.results(region.node).collect())
        }
        Action::Run(group) => {
            let nodes: BTreeSet<_> = group.nodes.iter().collect();
            let operands = group.nodes.iter().flat_map(|&n| &forms.graph.node(n).operands);
            let outside = operands.map(|v| forms.root(*v)).filter(|v| !nodes.contains(&v.node));
            (outside.collect(), group.stored.clone())
        }
    }
}

/// Updates that may overwrite: (old value, next value).
fn in_place_updates(forms: &Forms, actions: &[Action], life: &Lifetimes) -> Vec<(Value, Value)> {
    let last_check = actions.iter().rposition(|a| matches!(a, Action::CheckFinite(_)));
    let leaves = leaves(forms);
    let allowed = |&(old, next): &(Value, Value)| {
        let Some(&at) = life.made.get(&next) else { return false };
        let may_overwrite = || overwritable(forms, &actions[at]).contains(&(next, old));
        let readers_done = life.last_read.get(&old).is_none_or(|&r| r < at || (r == at && may_overwrite()));
        readers_done && !leaves.contains(&old) && last_check.is_none_or(|check| check < at)
    };
    in_place_candidates(forms).into_iter().filter(allowed).collect()
}

/// The stored values that leave the graph.
fn leaves(forms: &Forms) -> BTreeSet<Value> {
    forms.graph.outputs().iter().map(|o| forms.root(o.value)).collect()
}

fn buffers(forms: &Forms, actions: &[Action], life: &Lifetimes, placed: &BTreeSet<Value>) -> Vec<Buffer> {
    let leaves = leaves(forms);
    let last_of = |v: &Value, made: usize| match leaves.contains(v) {
        true => actions.len(),
        false => life.last_read.get(v).copied().unwrap_or(made),
    };
    let mut buffers: Vec<Buffer> = Vec::new();
    // Which buffer the value that was written last of each is in.
    let mut holder: BTreeMap<Value, usize> = BTreeMap::new();
    for (k, action) in actions.iter().enumerate() {
        let mut free = overwritable(forms, action);
        let (_, writes) = reads_and_writes(forms, action);
        for value in writes.into_iter().filter(|v| !placed.contains(v)) {
            let (size_bytes, last) = (aligned(forms.graph.ty(value).size_bytes()), last_of(&value, k));
            let dies_here = |v: &Value| {
                let buffer = holder.get(v).map(|&at| &buffers[at]);
                let same = forms.graph.ty(*v).size_bytes() == forms.graph.ty(value).size_bytes();
                buffer.is_some_and(|b| b.last == k && b.first < k && same)
            };
            let taken = free.iter().find(|(result, v)| *result == value && dies_here(v)).map(|(_, v)| *v);
            let at = match taken {
                Some(taken) => {
                    free.retain(|(_, v)| *v != taken);
                    holder[&taken]
                }
                None => {
                    buffers.push(Buffer { values: vec![], work_of: None, size_bytes, first: k, last });
                    buffers.len() - 1
                }
            };
            buffers[at].values.push(value);
            buffers[at].last = last;
            holder.insert(value, at);
        }
    }
    buffers
}
