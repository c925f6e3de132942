//! What the names of a program stand for while its nodes are built.
//!
//! The exported training graph is not functional: in-place ops and batch norm overwrite tensors. A name stands for
//! a slot that holds the current value; overwriting replaces the value, and those of the slots it is a part of. That is
//! right as long as no other name shares the memory and is read afterwards, which is checked.

use super::fault::{Fault, Stop};
use super::program::Program;
use super::schema::{Argument, OptionalTensor, OutputSpec};
use gradc_ir::graph::Value;
use std::collections::BTreeMap;

/// Index of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId(usize);

/// What a view is of the slot it was made from, where writing to it can be written through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// All of it.
    Whole,
    /// `start..end` by `step` of an axis, which the view does not have where `dropped` says so.
    Part { axis: usize, start: usize, end: usize, step: usize, dropped: bool },
}

/// A place in memory: its current value, and the memory it is part of.
struct Slot {
    value: Value,
    /// The slot it is a view of, and what of it.
    view: Option<(SlotId, View)>,
    /// The slot whose memory this one may share; itself when it has its own.
    memory: SlotId,
    /// Whether it is read after the last node, as a parameter or buffer is.
    persistent: bool,
}

/// What a name stands for.
#[derive(Clone, Copy)]
pub enum Entry {
    /// A tensor.
    Slot(SlotId),
    /// An integer.
    Int(i64),
    /// Nothing: its node failed, which has been reported.
    Failed,
}

/// Names and slots.
pub struct Memory<'p> {
    slots: Vec<Slot>,
    names: BTreeMap<&'p str, Entry>,
    /// Index of the last node that reads a name; the number of nodes for outputs.
    last_read: BTreeMap<&'p str, usize>,
}

impl<'p> Memory<'p> {
    /// No names yet.
    pub fn new(program: &'p Program) -> Self {
        Memory { slots: vec![], names: BTreeMap::new(), last_read: last_reads(program) }
    }

    /// A slot with memory of its own.
    pub fn new_slot(&mut self, value: Value, persistent: bool) -> SlotId {
        let id = SlotId(self.slots.len());
        self.slots.push(Slot { value, view: None, memory: id, persistent });
        id
    }

    /// A slot that may share the memory of another, of which it is a known view or any.
    pub fn new_view(&mut self, value: Value, of: SlotId, view: Option<View>) -> SlotId {
        let (id, memory) = (SlotId(self.slots.len()), self.slots[of.0].memory);
        self.slots.push(Slot { value, view: view.map(|view| (of, view)), memory, persistent: false });
        id
    }

    /// The slots that are written with a slot, from the one it is a view of on, with what the one before is of each.
    pub fn written_through(&self, slot: SlotId) -> Vec<(SlotId, View)> {
        let next = |(slot, _): &(SlotId, View)| self.slots[slot.0].view.clone();
        std::iter::successors(self.slots[slot.0].view.clone(), next).collect()
    }

    /// Gives a name its meaning.
    pub fn define(&mut self, name: &'p str, entry: Entry) {
        self.names.insert(name, entry);
    }

    /// Makes a name mean that its node failed, unless it means something already.
    pub fn define_failed(&mut self, name: &'p str) {
        self.names.entry(name).or_insert(Entry::Failed);
    }

    /// What a name means, `None` for one that is not defined.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.names.get(name).copied()
    }

    /// What the name of an operand means.
    pub fn entry(&self, name: &str) -> Result<Entry, Stop> {
        match self.get(name) {
            Some(Entry::Failed) => Err(Stop::OperandFailed),
            Some(entry) => Ok(entry),
            None => Err(Fault::new("dangling-reference", format!("`{name}` is not defined before it is used"))
                .help("the file is damaged: nodes of an exported program are in order")
                .into()),
        }
    }

    /// The slot of an operand.
    pub fn slot(&self, name: &str) -> Result<SlotId, Stop> {
        match self.entry(name)? {
            Entry::Slot(slot) => Ok(slot),
            _ => Err(Fault::new("invalid-argument", format!("`{name}` is no tensor")).into()),
        }
    }

    /// The current value of a slot.
    pub fn value(&self, slot: SlotId) -> Value {
        self.slots[slot.0].value
    }

    /// Fails unless a slot can be overwritten at a node: no name that shares its memory may be read afterwards, but for
    /// those that are written through.
    pub fn check_overwrite(&self, at: usize, slot: SlotId) -> Result<(), Fault> {
        let memory = self.slots[slot.0].memory;
        let through = self.written_through(slot);
        let is_written = |other: SlotId| other == slot || through.iter().any(|(known, _)| *known == other);
        let read_later = |name: &str| self.last_read.get(name).is_some_and(|&last| last > at);
        let stale = self.names.iter().find(|(name, entry)| match entry {
            Entry::Slot(other) if !is_written(*other) && self.slots[other.0].memory == memory => {
                self.slots[other.0].persistent || read_later(name)
            }
            _ => false,
        });
        if let Some((other, _)) = stale {
            let message = format!("overwrites a tensor that `{other}` shares memory with and that is used again");
            return Err(Fault::new("aliased-mutation", message).help(
                "clone before the in-place operation, or save `exported.run_decompositions({})`, which has none",
            ));
        }
        Ok(())
    }

    /// Whether a node or output reads a name.
    pub fn is_read(&self, name: &str) -> bool {
        self.last_read.contains_key(name)
    }

    /// Gives a slot a new value.
    pub fn set(&mut self, slot: SlotId, value: Value) {
        self.slots[slot.0].value = value;
    }
}

/// For every name, the last node that reads it.
fn last_reads(program: &Program) -> BTreeMap<&str, usize> {
    let mut last = BTreeMap::new();
    for (at, node) in program.nodes().iter().enumerate() {
        for name in node.inputs.iter().flat_map(|input| tensor_names(&input.arg)) {
            last.insert(name, at);
        }
    }
    for spec in &program.file.graph_module.signature.output_specs {
        if let Some(name) = output_name(spec) {
            last.insert(name, program.nodes().len());
        }
    }
    last
}

/// The tensors an argument refers to.
pub fn tensor_names(arg: &Argument) -> Vec<&str> {
    match arg {
        Argument::AsTensor(t) | Argument::AsOptionalTensor(OptionalTensor::AsTensor(t)) => vec![&t.name],
        Argument::AsTensors(list) => list.iter().map(|t| t.name.as_str()).collect(),
        Argument::AsOptionalTensors(list) => list.iter().filter_map(OptionalTensor::name).collect(),
        _ => vec![],
    }
}

fn output_name(spec: &OutputSpec) -> Option<&str> {
    match spec {
        OutputSpec::UserOutput { arg: Argument::AsTensor(t) } => Some(&t.name),
        OutputSpec::LossOutput { arg } | OutputSpec::BufferMutation { arg, .. } => Some(&arg.name),
        _ => None,
    }
}
