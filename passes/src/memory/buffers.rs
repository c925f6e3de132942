//! What an order of actions keeps in the arena, and for how long.

use super::aligned;
use super::history::histories;
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
#[derive(Default)]
pub(crate) struct Storage {
    /// Updates written over the tensor they replace: (old value, next value).
    pub in_place: Vec<(Value, Value)>,
    /// What lives in the arena.
    pub buffers: Vec<Buffer>,
    /// Bytes from the beginning of its buffer to each value that does not begin there.
    pub offsets: BTreeMap<Value, usize>,
    /// Number of actions.
    pub actions: usize,
}

/// Bytes needed from the action that makes them to the last that reads them.
pub(crate) struct Buffer {
    /// The values that live in it one after the other, each written over the one before, or as parts of a history; none
    /// where bodies work.
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
        let mut in_place = in_place_updates(forms, actions, &life);
        in_place.retain(|(_, next)| !outside.placed.contains(next));
        let placed = in_place.iter().map(|(_, next)| *next).chain(outside.placed.iter().copied()).collect();
        let (mut buffers, offsets) = buffers(forms, actions, &life, &placed);
        for (k, action) in actions.iter().enumerate() {
            let Action::Region(region) = action else { continue };
            let size_bytes = aligned(outside.work_bytes[&region.node]);
            buffers.push(Buffer { values: vec![], work_of: Some(region.node), size_bytes, first: k, last: k });
        }
        Storage { buffers, in_place, offsets, actions: actions.len() }
    }

    /// Bytes from the beginning of its buffer to a value.
    pub fn offset_bytes(&self, value: Value) -> usize {
        self.offsets.get(&value).copied().unwrap_or(0)
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

/// The buffers of the arena, and where in theirs the values begin that do not do so at its beginning.
fn buffers(
    forms: &Forms,
    actions: &[Action],
    life: &Lifetimes,
    placed: &BTreeSet<Value>,
) -> (Vec<Buffer>, BTreeMap<Value, usize>) {
    let (leaves, end) = (leaves(forms), actions.len());
    let mut filling =
        Filling { forms, life, leaves, end, buffers: vec![], holder: BTreeMap::new(), offsets: BTreeMap::new() };
    for (k, action) in actions.iter().enumerate() {
        filling.add_histories(k, action);
        let mut free = overwritable(forms, action);
        let (_, writes) = reads_and_writes(forms, action);
        for value in writes.into_iter().filter(|v| !placed.contains(v)) {
            filling.add(k, value, &mut free);
        }
    }
    (filling.buffers, filling.offsets)
}

/// Buffers as actions fill them.
struct Filling<'a> {
    forms: &'a Forms<'a>,
    life: &'a Lifetimes,
    leaves: BTreeSet<Value>,
    /// Number of actions.
    end: usize,
    buffers: Vec<Buffer>,
    /// Which buffer the value that was written last of each is in.
    holder: BTreeMap<Value, usize>,
    /// Bytes from the beginning of its buffer to each value that does not begin there.
    offsets: BTreeMap<Value, usize>,
}

impl Filling<'_> {
    /// The action until which a value is needed that action `made` makes.
    fn last(&self, value: Value, made: usize) -> usize {
        match self.leaves.contains(&value) {
            true => self.end,
            false => self.life.last_read.get(&value).copied().unwrap_or(made),
        }
    }

    /// Adds a buffer for each history of a region, which is action `k`.
    fn add_histories(&mut self, k: usize, action: &Action) {
        let Action::Region(region) = action else { return };
        for history in histories(self.forms, region.node) {
            let (values, offsets): (Vec<Value>, Vec<usize>) = history.values(region.node).unzip();
            let last = values.iter().map(|&value| self.last(value, k)).max().expect("a history has values");
            self.holder.extend(values.iter().map(|&value| (value, self.buffers.len())));
            self.offsets.extend(values.iter().copied().zip(offsets));
            let size_bytes = aligned(history.size_bytes());
            self.buffers.push(Buffer { values, work_of: None, size_bytes, first: k, last });
        }
    }

    /// Adds a value that action `k` makes, unless it is part of a history. Of the pairs of a result and what it may be
    /// written over, those with what it is written over are taken.
    fn add(&mut self, k: usize, value: Value, free: &mut Vec<(Value, Value)>) {
        if self.holder.contains_key(&value) {
            return;
        }
        let bytes = |v: Value| self.forms.graph.ty(v).size_bytes();
        // The values of a history lie in each other.
        let shares = |v: Value, buffer: &Buffer| {
            let mut others = buffer.values.iter().filter(|&&other| other != v);
            self.offsets.contains_key(&v) && others.any(|&other| self.last(other, buffer.first) >= k)
        };
        let dies_here = |v: &Value| {
            let buffer = self.holder.get(v).map(|&at| &self.buffers[at]);
            buffer.is_some_and(|b| b.last == k && b.first < k && bytes(*v) == bytes(value) && !shares(*v, b))
        };
        let taken = free.iter().find(|(result, v)| *result == value && dies_here(v)).map(|(_, v)| *v);
        let (last, size_bytes) = (self.last(value, k), aligned(bytes(value)));
        let at = match taken {
            Some(taken) => {
                free.retain(|(_, v)| *v != taken);
                if let Some(&offset) = self.offsets.get(&taken) {
                    self.offsets.insert(value, offset);
                }
                self.holder[&taken]
            }
            None => {
                self.buffers.push(Buffer { values: vec![], work_of: None, size_bytes, first: k, last });
                self.buffers.len() - 1
            }
        };
        self.buffers[at].values.push(value);
        self.buffers[at].last = last;
        self.holder.insert(value, at);
    }
}
