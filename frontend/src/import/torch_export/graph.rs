//! From the nodes of an exported program to a graph.
//!
//! The exported training graph is not functional: in-place ops and batch norm overwrite tensors. A name stands for
//! a slot that holds the current value; overwriting replaces the value. That is right as long as no other name
//! shares the memory and is read afterwards, which is checked.

use super::call::{Arg, Call, Mode, Operand};
use super::fault::Fault;
use super::ops::{self, AtenOp, PLACEMENT};
use super::program::{Program, dangling, dtype, in_place_base, unsupported_dtype};
use super::provenance;
use super::resize::Resize;
use super::scalars;
use super::schema::{Argument, Node, OptionalTensor, OutputSpec, SymIntArgument};
use super::sizes::exported_shape;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{BTreeMap, BTreeSet};

/// A place in memory: its current value, and the memory it is part of.
struct Slot {
    value: Value,
    /// The slot whose memory this one may share; itself when it has its own.
    memory: usize,
}

/// What a name of the program stands for.
#[derive(Clone, Copy)]
enum Entry {
    Slot(usize),
    Int(i64),
    /// Its node failed, which has been reported.
    Failed,
}

struct Walk<'p> {
    program: &'p Program,
    b: Builder,
    mode: Mode,
    resize: Resize,
    slots: Vec<Slot>,
    names: BTreeMap<&'p str, Entry>,
    /// Index of the last node that reads a name; the number of nodes for outputs.
    last_read: BTreeMap<&'p str, usize>,
    random_streams: usize,
    notes: Vec<String>,
    errors: Vec<Diagnostic>,
}

/// Builds the graph of a program; tied parameters are declared once, under the name they are aliases of.
///
/// # Errors
/// Every node that cannot be built, with its line in the user's program.
pub fn build(
    program: &Program,
    aliases: &BTreeMap<String, String>,
    name: &str,
    mode: Mode,
) -> Result<(Graph, Vec<String>), Diagnostics> {
    let mut walk = Walk {
        program,
        b: Builder::new(name),
        mode,
        resize: Resize::new(program.sizes.batch, program.sizes.changed()),
        slots: vec![],
        names: BTreeMap::new(),
        last_read: last_reads(program),
        random_streams: 0,
        notes: vec![],
        errors: vec![],
    };
    walk.declare(aliases)?;
    for (at, node) in program.nodes().iter().enumerate() {
        walk.node(at, node);
    }
    walk.b.set_loc(Loc::default());
    walk.outputs();
    if walk.mode.training {
        walk.updates();
    }
    if walk.errors.is_empty() {
        Ok((walk.b.finish().without_dead_nodes(), walk.notes))
    } else {
        Err(Diagnostics(walk.errors))
    }
}

/// For every name, the last node that reads it.
fn last_reads(program: &Program) -> BTreeMap<&str, usize> {
    let mut last = BTreeMap::new();
    for (at, node) in program.nodes().iter().enumerate() {
        for name in node.inputs.iter().flat_map(|input| names_of(&input.arg)) {
            last.insert(name, at);
        }
    }
    for spec in &program.file.graph_module.signature.output_specs {
        if let Some(name) = output_id(spec) {
            last.insert(name, program.nodes().len());
        }
    }
    last
}

/// The tensors an argument refers to.
fn names_of(arg: &Argument) -> Vec<&str> {
    match arg {
        Argument::AsTensor(t) | Argument::AsOptionalTensor(OptionalTensor::AsTensor(t)) => vec![&t.name],
        Argument::AsTensors(list) => list.iter().map(|t| t.name.as_str()).collect(),
        Argument::AsOptionalTensors(list) => list.iter().filter_map(OptionalTensor::name).collect(),
        _ => vec![],
    }
}

fn output_id(spec: &OutputSpec) -> Option<&str> {
    match spec {
        OutputSpec::UserOutput { arg: Argument::AsTensor(t) } => Some(&t.name),
        OutputSpec::LossOutput { arg } | OutputSpec::BufferMutation { arg, .. } => Some(&arg.name),
        _ => None,
    }
}

impl<'p> Walk<'p> {
    fn declare(&mut self, aliases: &BTreeMap<String, String>) -> Result<(), Diagnostic> {
        let mut slots: BTreeMap<&str, usize> = BTreeMap::new();
        for declared in &self.program.declared {
            let name = aliases.get(&declared.name).unwrap_or(&declared.name);
            let slot = match slots.get(name.as_str()) {
                Some(&slot) => slot,
                None => {
                    let value = self.b.declare(name, declared.role, declared.ty.clone(), None);
                    let value = value.map_err(|e| Diagnostic::from_type_error("invalid-input", e, Loc::default()))?;
                    slots.insert(name, self.slots.len());
                    self.new_slot(value, None)
                }
            };
            self.names.insert(&declared.id, Entry::Slot(slot));
        }
        Ok(())
    }

    /// A slot with memory of its own, or that of another slot.
    fn new_slot(&mut self, value: Value, memory: Option<usize>) -> usize {
        let at = self.slots.len();
        self.slots.push(Slot { value, memory: memory.unwrap_or(at) });
        at
    }

    fn node(&mut self, at: usize, node: &'p Node) {
        let loc = provenance::loc(node);
        self.b.set_loc(loc.clone());
        let result = self.build_node(at, node);
        if let Err(Some(fault)) = result {
            self.errors.push(fault.at(node.name.as_deref().unwrap_or("unnamed"), loc));
        }
    }

    /// `Err(None)` when an operand failed before, which has been reported.
    fn build_node(&mut self, at: usize, node: &'p Node) -> Result<(), Option<Fault>> {
        let outputs: Vec<&'p str> = node.outputs.iter().flat_map(names_or_ints).collect();
        if let Some(&name) = outputs.iter().find(|name| self.names.contains_key(*name)) {
            return Err(Some(Fault::new("duplicate-name", format!("`{name}` is defined twice"))));
        }
        self.names.extend(outputs.iter().map(|&name| (name, Entry::Failed)));
        if scalars::is_assertion(&node.target) {
            return Ok(());
        }
        if scalars::is_scalar(&node.target) {
            let value = self.scalar(node)?;
            self.names.extend(outputs.iter().map(|&name| (name, Entry::Int(value))));
            return Ok(());
        }
        let (op, in_place) = find_op(&node.target).ok_or_else(|| Some(unsupported_target()))?;
        let (results, overwritten) = self.call(node, op, &outputs)?;
        for (argument, value) in overwritten {
            self.overwrite(at, node, argument, value)?;
        }
        if in_place {
            let &[value] = &results[..] else { return Err(Some(output_count(1, results.len()))) };
            let slot = self.overwrite(at, node, op.parameters[0].0, value)?;
            self.names.extend(outputs.iter().map(|&name| (name, Entry::Slot(slot))));
            return Ok(());
        }
        let memory = if op.is_view { self.first_memory(node) } else { None };
        for (name, value) in outputs.into_iter().zip(results) {
            let slot = self.new_slot(value, memory);
            self.names.insert(name, Entry::Slot(slot));
        }
        Ok(())
    }

    /// An integer computed from sizes.
    fn scalar(&mut self, node: &'p Node) -> Result<i64, Option<Fault>> {
        let mut values = Vec::new();
        for input in &node.inputs {
            values.push(match self.resolve(&input.arg)? {
                Arg::Int(value) => scalars::Operand::Int(value),
                Arg::Tensor(t) => scalars::Operand::Shape(self.b.shape(t.value).to_vec()),
                _ => {
                    return Err(Some(Fault::new(
                        "invalid-argument",
                        format!("argument `{}` is no integer", input.name),
                    )));
                }
            });
        }
        Ok(scalars::evaluate(&node.target, &values)?)
    }

    /// Builds a call and checks its results against what was recorded.
    #[expect(clippy::type_complexity, reason = "results and overwritten arguments of one call, used once")]
    fn call(
        &mut self,
        node: &'p Node,
        op: &AtenOp,
        outputs: &[&str],
    ) -> Result<(Vec<Value>, Vec<(&'static str, Value)>), Option<Fault>> {
        let args = self.arguments(node, op)?;
        let recorded = outputs.iter().map(|name| self.recorded(name)).collect::<Result<Vec<_>, Fault>>()?;
        let mut call = Call {
            b: &mut self.b,
            resize: &mut self.resize,
            mode: self.mode,
            args,
            recorded: recorded.iter().map(|(ty, _)| ty.clone()).collect(),
            overwritten: vec![],
            notes: &mut self.notes,
            random_streams: &mut self.random_streams,
        };
        let results = op.build.apply(&mut call)?;
        let overwritten = call.overwritten;
        if results.len() != outputs.len() {
            return Err(Some(output_count(outputs.len(), results.len())));
        }
        for (&value, (ty, shape_known)) in results.iter().zip(&recorded) {
            self.check_recorded(value, ty, *shape_known)?;
        }
        Ok((results, overwritten))
    }

    /// Type of a tensor when it was exported, and whether its shape is recorded.
    fn recorded(&self, name: &str) -> Result<(TensorType, bool), Fault> {
        let meta = self
            .program
            .meta(name)
            .ok_or_else(|| Fault::new("dangling-reference", format!("`{name}` has no recorded type")))?;
        let dtype = dtype(meta.dtype)
            .ok_or_else(|| Fault::new("unsupported-dtype", unsupported_dtype(name, meta.dtype).message))?;
        let shape = exported_shape(meta);
        Ok((TensorType::new(dtype, shape.clone().unwrap_or_default()), shape.is_some()))
    }

    /// PyTorch recorded the type of every value; another type here would be a wrong reading of the op.
    fn check_recorded(&self, value: Value, recorded: &TensorType, shape_known: bool) -> Result<(), Fault> {
        let found = self.b.ty(value);
        let same_shape = found.rank() == recorded.rank()
            && found.shape.iter().zip(&recorded.shape).all(|(&new, &old)| self.resize.is_consistent(old, new));
        if found.dtype == recorded.dtype && (same_shape || !shape_known) {
            return Ok(());
        }
        Err(Fault::new("type-mismatch", "the result has another type than was recorded when exporting")
            .expected(recorded)
            .found(found))
    }

    /// Arguments by name, with the defaults of those left out.
    fn arguments(&self, node: &'p Node, op: &AtenOp) -> Result<BTreeMap<String, Arg>, Option<Fault>> {
        let mut args = BTreeMap::new();
        for input in &node.inputs {
            let name = input.name.as_str();
            if !op.parameters.iter().any(|(p, _)| *p == name) {
                if PLACEMENT.contains(&name) {
                    continue;
                }
                let fault = Fault::new("unsupported-attribute", format!("argument `{name}` is not supported"));
                let known: Vec<&str> = op.parameters.iter().map(|(p, _)| *p).collect();
                return Err(Some(fault.expected(known.join(", "))));
            }
            if args.insert(name.to_string(), self.resolve(&input.arg)?).is_some() {
                return Err(Some(Fault::new("duplicate-name", format!("argument `{name}` is given twice"))));
            }
        }
        for (name, default) in &op.parameters {
            if let Some(default) = default {
                args.entry(name.to_string()).or_insert_with(|| default.clone());
            }
        }
        Ok(args)
    }

    fn resolve(&self, arg: &Argument) -> Result<Arg, Option<Fault>> {
        Ok(match arg {
            Argument::AsNone(_) | Argument::AsOptionalTensor(OptionalTensor::AsNone(_)) => Arg::None,
            Argument::AsTensor(t) | Argument::AsOptionalTensor(OptionalTensor::AsTensor(t)) => {
                Arg::Tensor(self.operand(&t.name)?)
            }
            Argument::AsTensors(list) => {
                Arg::Tensors(list.iter().map(|t| self.operand(&t.name).map(Some)).collect::<Result<_, _>>()?)
            }
            Argument::AsOptionalTensors(list) => {
                let each = |t: &OptionalTensor| t.name().map(|name| self.operand(name)).transpose();
                Arg::Tensors(list.iter().map(each).collect::<Result<_, _>>()?)
            }
            Argument::AsInt(value) => Arg::Int(*value),
            Argument::AsInts(values) => Arg::Ints { values: values.clone(), current: false },
            Argument::AsFloat(value) => Arg::Float(*value),
            Argument::AsBool(value) => Arg::Bool(*value),
            Argument::AsString(text) => Arg::Text(text.clone()),
            Argument::AsScalarType(_) | Argument::AsDevice(_) | Argument::AsLayout(_) | Argument::AsMemoryFormat(_) => {
                Arg::Storage
            }
            Argument::AsSymInt(value) => Arg::Int(self.int(value)?),
            Argument::AsSymInts(values) => {
                Arg::Ints { values: values.iter().map(|v| self.int(v)).collect::<Result<_, _>>()?, current: true }
            }
            Argument::Unknown(kind) => {
                let kind = kind.keys().next().cloned().unwrap_or_default();
                return Err(Some(
                    Fault::new("unsupported-argument", "an argument is of an unsupported kind").found(kind),
                ));
            }
        })
    }

    fn int(&self, value: &SymIntArgument) -> Result<i64, Option<Fault>> {
        match value {
            SymIntArgument::AsInt(value) => Ok(*value),
            SymIntArgument::AsName(name) => match self.entry(name)? {
                Entry::Int(value) => Ok(value),
                _ => Err(Some(Fault::new("invalid-argument", format!("`{name}` is no integer")))),
            },
        }
    }

    fn entry(&self, name: &str) -> Result<Entry, Option<Fault>> {
        match self.names.get(name) {
            Some(Entry::Failed) => Err(None),
            Some(entry) => Ok(*entry),
            None => Err(Some(
                Fault::new("dangling-reference", format!("`{name}` is not defined before it is used"))
                    .help("the file is damaged: nodes of an exported program are in order"),
            )),
        }
    }

    fn slot(&self, name: &str) -> Result<usize, Option<Fault>> {
        match self.entry(name)? {
            Entry::Slot(slot) => Ok(slot),
            _ => Err(Some(Fault::new("invalid-argument", format!("`{name}` is no tensor")))),
        }
    }

    fn operand(&self, name: &str) -> Result<Operand, Option<Fault>> {
        let value = self.slots[self.slot(name)?].value;
        let new = self.b.shape(value);
        let old = self.program.meta(name).and_then(exported_shape).filter(|old| old.len() == new.len());
        Ok(Operand { value, old: old.unwrap_or_else(|| new.to_vec()) })
    }

    /// Memory of a node's first tensor.
    fn first_memory(&self, node: &Node) -> Option<usize> {
        let name = node.inputs.iter().find_map(|input| names_of(&input.arg).first().copied())?;
        self.slot(name).ok().map(|slot| self.slots[slot].memory)
    }

    /// Gives the tensor behind an argument a new value; returns its slot.
    fn overwrite(&mut self, at: usize, node: &Node, argument: &str, value: Value) -> Result<usize, Option<Fault>> {
        let input = node.inputs.iter().find(|input| input.name == argument);
        let name = input.and_then(|input| names_of(&input.arg).first().copied());
        let slot = self.slot(name.ok_or_else(|| Fault::new("missing-argument", format!("no tensor `{argument}`")))?)?;
        let memory = self.slots[slot].memory;
        let is_shared = |other: usize| other != slot && self.slots[other].memory == memory;
        let read_later = |name: &str| self.last_read.get(name).is_some_and(|&last| last > at);
        let persists =
            |slot: usize| self.b.graph().input_of(self.slots[slot].value).is_some_and(|i| i.role.is_persistent());
        let stale = self.names.iter().find(|(name, entry)| match entry {
            Entry::Slot(other) => is_shared(*other) && (read_later(name) || persists(*other)),
            _ => false,
        });
        if let Some((other, _)) = stale {
            return Err(Some(
                Fault::new("aliased-mutation", format!("overwrites a tensor that `{other}` shares memory with and that is used again"))
                    .help("export.run_decompositions({}) makes the program functional; or clone before the in-place operation"),
            ));
        }
        let (new, old) = (self.b.ty(value), self.b.ty(self.slots[slot].value));
        if new != old {
            return Err(Some(
                TypeError::new("overwrites a tensor by one of another type").expected(old).found(new).into(),
            ));
        }
        self.slots[slot].value = value;
        Ok(slot)
    }

    fn outputs(&mut self) {
        let mut named = BTreeSet::new();
        for spec in &self.program.file.graph_module.signature.output_specs {
            let result = match spec {
                OutputSpec::UserOutput { arg: Argument::AsTensor(t) } => self.result(&t.name, &mut named),
                OutputSpec::LossOutput { arg } => self.result(&arg.name, &mut named),
                OutputSpec::BufferMutation { arg, buffer_name } => self.buffer(&arg.name, buffer_name),
                OutputSpec::UserOutput { .. } => {
                    self.notes.push("an output that is not a tensor is left out".into());
                    Ok(())
                }
                OutputSpec::Unknown(kind) => Err(Some(
                    Diagnostic::new("unsupported-output", "an output of the program is of an unsupported kind")
                        .found(kind.keys().cloned().collect::<String>()),
                )),
            };
            if let Err(Some(error)) = result {
                self.errors.push(error);
            }
        }
    }

    fn output_slot(&self, name: &str) -> Result<usize, Option<Diagnostic>> {
        match self.names.get(name) {
            Some(Entry::Slot(slot)) => Ok(*slot),
            Some(Entry::Failed) => Err(None),
            _ => Err(Some(dangling(name))),
        }
    }

    fn result(&mut self, name: &'p str, named: &mut BTreeSet<&'p str>) -> Result<(), Option<Diagnostic>> {
        let value = self.slots[self.output_slot(name)?].value;
        if named.insert(name) {
            self.b.output(name, value, OutputKind::Result);
        }
        Ok(())
    }

    /// The signature says what a buffer becomes; taken as if a node had overwritten it.
    fn buffer(&mut self, name: &str, buffer: &str) -> Result<(), Option<Diagnostic>> {
        let value = self.slots[self.output_slot(name)?].value;
        let declared = self.program.declared.iter().find(|d| d.name == buffer);
        let slot = self.output_slot(&declared.ok_or_else(|| dangling(buffer))?.id)?;
        self.slots[slot].value = value;
        Ok(())
    }

    /// Makes what was overwritten the next value of buffers; nothing else may have been overwritten.
    fn updates(&mut self) {
        for declared in &self.program.declared {
            let Some(&Entry::Slot(slot)) = self.names.get(declared.id.as_str()) else { continue };
            let value = self.slots[slot].value;
            let Some((id, input)) = self.b.graph().input_named(&declared.name) else { continue };
            if input.value == value {
                continue;
            }
            let result = match declared.role {
                Role::Buffer => self
                    .b
                    .update(id, value)
                    .map_err(|e| Diagnostic::from_type_error("invalid-update", e, Loc::default())),
                _ => Err(Diagnostic::new(
                    "unsupported-mutation",
                    format!("the program overwrites `{}`, which is not a buffer", declared.name),
                )),
            };
            self.errors.extend(result.err());
        }
    }
}

/// Names that a node's output defines: tensors and integers.
fn names_or_ints(arg: &Argument) -> Vec<&str> {
    match arg {
        Argument::AsSymInt(SymIntArgument::AsName(name)) => vec![name],
        _ => names_of(arg),
    }
}

/// The op behind a target, and whether the target overwrites its first operand.
fn find_op(target: &str) -> Option<(&'static AtenOp, bool)> {
    let name = target.strip_prefix("torch.ops.aten.")?;
    match ops::lookup(name) {
        Some(op) => Some((op, false)),
        None => Some((ops::lookup(&in_place_base(target)?)?, true)),
    }
}

fn unsupported_target() -> Fault {
    Fault::new("unsupported-op", "gradc has no such op")
        .help("rewrite the line with supported operations, or export another variant of it")
}

fn output_count(expected: usize, found: usize) -> Fault {
    Fault::new("output-count", "the op and the node differ in the number of outputs").expected(expected).found(found)
}
