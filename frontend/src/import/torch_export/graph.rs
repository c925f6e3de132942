//! From the nodes of an exported program to a graph.

use super::arguments::Scope;
use super::call::{Arg, Call, Mode};
use super::fault::{Fault, Stop};
use super::memory::{Entry, Memory, SlotId, View, tensor_names};
use super::ops::{self, AtenOp};
use super::program::{Declared, OUT, Program, dangling, dtype, in_place_base, unsupported_dtype};
use super::provenance;
use super::resize::Resize;
use super::scalars;
use super::schema::{Argument, NamedArgument, Node, OutputSpec, SymIntArgument};
use super::sizes::{exported_shape, is_unrecorded};
use crate::layers::indexing::write_part;
use crate::layers::shape::unsqueeze;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{BTreeMap, BTreeSet};

struct Walk<'p> {
    program: &'p Program,
    b: Builder,
    mode: Mode,
    resize: Resize,
    memory: Memory<'p>,
    random_streams: usize,
    notes: Vec<String>,
    errors: Vec<Diagnostic>,
}

/// What a call makes.
struct Called {
    results: Vec<Value>,
    /// New values of arguments that the call overwrites.
    overwritten: Vec<(&'static str, Value)>,
    /// What the result is of the first operand's memory.
    view: Option<View>,
}

/// A type as recorded when exporting.
struct Recorded {
    ty: TensorType,
    /// False when a size is an expression without a value.
    shape_known: bool,
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
        memory: Memory::new(program),
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

impl<'p> Walk<'p> {
    fn declare(&mut self, aliases: &BTreeMap<String, String>) -> Result<(), Diagnostic> {
        let mut slots: BTreeMap<&str, SlotId> = BTreeMap::new();
        for declared in &self.program.declared {
            let name = aliases.get(&declared.name).unwrap_or(&declared.name);
            let slot = match slots.get(name.as_str()) {
                Some(&slot) => slot,
                None => {
                    let value = self.b.declare(name, declared.role, declared.ty.clone(), None);
                    let value = value.map_err(|e| Diagnostic::from_type_error("invalid-input", e, Loc::default()))?;
                    self.memory.new_slot(value, declared.role.is_persistent())
                }
            };
            slots.insert(name, slot);
            self.memory.define(&declared.id, Entry::Slot(slot));
        }
        Ok(())
    }

    fn node(&mut self, at: usize, node: &'p Node) {
        let loc = provenance::loc(node);
        self.b.set_loc(loc.clone());
        let Err(stop) = self.build_node(at, node) else { return };
        if let Stop::Fault(fault) = stop {
            self.errors.push(fault.at(node.name.as_deref().unwrap_or("unnamed"), loc));
        }
        node.outputs.iter().flat_map(defined_names).for_each(|name| self.memory.define_failed(name));
    }

    fn build_node(&mut self, at: usize, node: &'p Node) -> Result<(), Stop> {
        let outputs: Vec<&'p str> = node.outputs.iter().flat_map(defined_names).collect();
        if let Some(name) = outputs.iter().find(|name| self.memory.get(name).is_some()) {
            return Err(Fault::new("duplicate-name", format!("`{name}` is defined twice")).into());
        }
        if scalars::is_assertion(&node.target) {
            return Ok(());
        }
        if scalars::is_scalar(&node.target) {
            let value = self.scalar(node)?;
            outputs.into_iter().for_each(|name| self.memory.define(name, Entry::Int(value)));
            return Ok(());
        }
        let (op, written) = find_op(&node.target).ok_or_else(unsupported_target)?;
        let Called { results, mut overwritten, view } = self.call(node, op, &outputs)?;
        if let Some(argument) = written {
            let &[value] = &results[..] else { return Err(output_count(1, results.len()).into()) };
            overwritten.push((argument, value));
        }
        let mut target = None;
        for (argument, value) in overwritten {
            let input = node.inputs.iter().find(|input| op.parameter_of(&input.name) == argument);
            target = Some(self.overwrite(at, input, argument, value)?);
        }
        let source = if op.is_view { self.first_operand(node) } else { None };
        for (name, value) in outputs.into_iter().zip(results) {
            let slot = match (target, source) {
                (Some(target), _) if written.is_some() => target,
                (_, Some(source)) => self.memory.new_view(value, source, view.clone()),
                _ => self.memory.new_slot(value, false),
            };
            self.memory.define(name, Entry::Slot(slot));
        }
        Ok(())
    }

    fn scope(&self) -> Scope<'_> {
        Scope { program: self.program, memory: &self.memory, graph: self.b.graph() }
    }

    /// An integer computed from sizes.
    fn scalar(&self, node: &Node) -> Result<i64, Stop> {
        let mut values = Vec::new();
        for input in &node.inputs {
            values.push(match self.scope().resolve(&input.arg)? {
                Arg::Int(value) => scalars::Operand::Int(value),
                Arg::Tensor(t) => scalars::Operand::Shape(self.b.shape(t.value).to_vec()),
                _ => {
                    let message = format!("argument `{}` is no integer", input.name);
                    return Err(Fault::new("invalid-argument", message).into());
                }
            });
        }
        Ok(scalars::evaluate(&node.target, &values)?)
    }

    /// Builds a call, whose results are as many and of such types as were recorded.
    fn call(&mut self, node: &Node, op: &AtenOp, outputs: &[&str]) -> Result<Called, Stop> {
        let args = self.scope().arguments(node, op)?;
        let recorded = outputs.iter().map(|name| self.recorded(name)).collect::<Result<Vec<_>, Fault>>()?;
        let mut call = Call {
            b: &mut self.b,
            resize: &mut self.resize,
            mode: self.mode,
            args,
            recorded: recorded.iter().map(|r| r.ty.clone()).collect(),
            read: outputs.iter().map(|name| self.memory.is_read(name)).collect(),
            overwritten: vec![],
            view: None,
            notes: &mut self.notes,
            random_streams: &mut self.random_streams,
        };
        let results = op.build.apply(&mut call)?;
        let (overwritten, view) = (call.overwritten, call.view);
        if results.len() != outputs.len() {
            return Err(output_count(outputs.len(), results.len()).into());
        }
        for (&value, recorded) in results.iter().zip(&recorded) {
            self.check_recorded(value, recorded)?;
        }
        Ok(Called { results, overwritten, view })
    }

    fn recorded(&self, name: &str) -> Result<Recorded, Fault> {
        let missing = || Fault::new("dangling-reference", format!("`{name}` has no recorded type"));
        let meta = self.program.meta(name).ok_or_else(missing)?;
        let unsupported = || Fault::new("unsupported-dtype", unsupported_dtype(name, meta.dtype).message);
        let dtype = dtype(meta.dtype).ok_or_else(unsupported)?;
        match exported_shape(meta) {
            Some(shape) => Ok(Recorded { ty: TensorType::new(dtype, shape), shape_known: true }),
            None if is_unrecorded(meta) => Ok(Recorded { ty: TensorType::new(dtype, []), shape_known: false }),
            None => Err(Fault::new("invalid-size", format!("`{name}` has an impossible recorded shape"))),
        }
    }

    /// PyTorch recorded the type of every value; another type here would be a wrong reading of the op.
    fn check_recorded(&self, value: Value, recorded: &Recorded) -> Result<(), Fault> {
        let (found, old) = (self.b.ty(value), &recorded.ty);
        let same_shape = found.rank() == old.rank()
            && found.shape.iter().zip(&old.shape).all(|(&new, &old)| self.resize.is_consistent(old, new));
        if found.dtype == old.dtype && (same_shape || !recorded.shape_known) {
            return Ok(());
        }
        Err(Fault::new("type-mismatch", "the result has another type than was recorded when exporting")
            .expected(old)
            .found(found))
    }

    /// The slot of a node's first tensor.
    fn first_operand(&self, node: &Node) -> Option<SlotId> {
        let name = node.inputs.iter().find_map(|input| tensor_names(&input.arg).first().copied())?;
        self.memory.slot(name).ok()
    }

    /// Gives the tensor behind an argument a new value; returns its slot.
    fn overwrite(
        &mut self,
        at: usize,
        input: Option<&NamedArgument>,
        argument: &str,
        value: Value,
    ) -> Result<SlotId, Stop> {
        let name = input.and_then(|input| tensor_names(&input.arg).first().copied());
        let missing = || Fault::new("missing-argument", format!("argument `{argument}` is missing"));
        let slot = self.memory.slot(name.ok_or_else(missing)?)?;
        let (new, old) = (self.b.ty(value), self.b.ty(self.memory.value(slot)));
        if new != old {
            let error = TypeError::new("overwrites a tensor by one of another type").expected(old).found(new);
            return Err(Fault::from(error).into());
        }
        self.memory.check_overwrite(at, slot)?;
        self.memory.set(slot, value);
        let mut written = value;
        for (whole, view) in self.memory.written_through(slot) {
            written = self.write_through(self.memory.value(whole), view, written).map_err(Fault::from)?;
            self.memory.set(whole, written);
        }
        Ok(slot)
    }

    /// `whole` with `written` in place of what a view is of it.
    fn write_through(&mut self, whole: Value, view: View, written: Value) -> Result<Value, TypeError> {
        let View::Part { axis, start, end, step, dropped } = view else { return Ok(written) };
        let part = if dropped { unsqueeze(&mut self.b, written, &[axis])? } else { written };
        let indices: Vec<usize> = (start..end).step_by(step).collect();
        write_part(&mut self.b, whole, part, axis, &indices)
    }

    fn outputs(&mut self) {
        let (mut named, mut mutations) = (BTreeSet::new(), Vec::new());
        for spec in &self.program.file.graph_module.signature.output_specs {
            let made = match spec {
                OutputSpec::UserOutput { arg: Argument::AsTensor(t) } => self.result(&t.name, &mut named),
                OutputSpec::LossOutput { arg } => self.result(&arg.name, &mut named),
                OutputSpec::BufferMutation { arg, buffer_name } => {
                    self.mutation(&arg.name, buffer_name).map(|mutation| mutations.extend(mutation))
                }
                OutputSpec::UserOutput { .. } => {
                    self.notes.push("an output that is not a tensor is left out".into());
                    Ok(())
                }
                OutputSpec::Unknown(kind) => Err(unsupported_output(kind.keys().cloned().collect())),
            };
            self.errors.extend(made.err());
        }
        // Only now: an output may still read what a buffer was.
        mutations.into_iter().for_each(|(slot, value)| self.memory.set(slot, value));
    }

    /// The slot of an output, `None` when its node failed.
    fn output_slot(&self, name: &str) -> Result<Option<SlotId>, Diagnostic> {
        match self.memory.get(name) {
            Some(Entry::Slot(slot)) => Ok(Some(slot)),
            Some(Entry::Failed) => Ok(None),
            Some(Entry::Int(_)) => Err(unsupported_output("an integer".into())),
            None => Err(dangling(name)),
        }
    }

    fn result(&mut self, name: &'p str, named: &mut BTreeSet<&'p str>) -> Result<(), Diagnostic> {
        if let Some(slot) = self.output_slot(name)?
            && named.insert(name)
        {
            self.b.output(name, self.memory.value(slot), OutputKind::Result);
        }
        Ok(())
    }

    /// The signature's word on what a buffer becomes.
    fn mutation(&self, name: &str, buffer: &str) -> Result<Option<(SlotId, Value)>, Diagnostic> {
        let declared = self.program.declared.iter().find(|d| d.name == buffer).ok_or_else(|| dangling(buffer))?;
        let (from, to) = (self.output_slot(name)?, self.output_slot(&declared.id)?);
        Ok(from.zip(to).map(|(from, to)| (to, self.memory.value(from))))
    }

    /// Makes what was overwritten the next value of buffers; nothing else may have been overwritten.
    fn updates(&mut self) {
        for declared in &self.program.declared {
            let made = self.update(declared);
            self.errors.extend(made.err());
        }
    }

    fn update(&mut self, declared: &Declared) -> Result<(), Diagnostic> {
        let Some(slot) = self.output_slot(&declared.id)? else { return Ok(()) };
        let value = self.memory.value(slot);
        // A tied name is not declared itself.
        let Some((id, input)) = self.b.graph().input_named(&declared.name) else { return Ok(()) };
        if input.value == value {
            return Ok(());
        }
        if declared.role != Role::Buffer {
            let message = format!("the program overwrites `{}`, which is not a buffer", declared.name);
            return Err(Diagnostic::new("unsupported-mutation", message));
        }
        let updated = self.b.update(id, value);
        updated.map_err(|e| Diagnostic::from_type_error("invalid-update", e, Loc::default()))
    }
}

/// Names that an output of a node defines: tensors and integers.
fn defined_names(arg: &Argument) -> Vec<&str> {
    match arg {
        Argument::AsSymInt(SymIntArgument::AsName(name)) => vec![name],
        _ => tensor_names(arg),
    }
}

/// The op behind a target, and the argument that the target overwrites.
fn find_op(target: &str) -> Option<(&'static AtenOp, Option<&'static str>)> {
    let name = target.strip_prefix("torch.ops.aten.")?;
    if let Some(op) = ops::lookup(name) {
        return Some((op, None));
    }
    if let Some(base) = name.strip_suffix(OUT) {
        let of_tensors = || ops::lookup(&format!("{base}.Tensor"));
        return Some((ops::lookup(&format!("{base}.default")).or_else(of_tensors)?, Some("out")));
    }
    let op = ops::lookup(&in_place_base(target)?)?;
    Some((op, Some(op.parameters[0].0)))
}

fn unsupported_target() -> Fault {
    Fault::new("unsupported-op", "gradc has no such op")
        .help("rewrite the line with supported operations, or export another variant of it")
}

fn output_count(expected: usize, found: usize) -> Fault {
    Fault::new("output-count", "the op and the node differ in the number of outputs").expected(expected).found(found)
}

fn unsupported_output(kind: String) -> Diagnostic {
    Diagnostic::new("unsupported-output", "an output of the program is of an unsupported kind").found(kind)
}
