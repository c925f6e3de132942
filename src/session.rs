//! A session: the tensors of one training run and the calls that use them.

use crate::entries::EntryKind;
use crate::error::{Origin, SessionError};
use crate::sharing::Sharing;
use crate::step::{CompiledStep, EntryInfo, HostInput, HostOutput, PersistentTensor};
use crate::view::TensorView;
use gradc_codegen::{AlignedBuffer, Executable, Memory, Pool, StepFailure};
use gradc_frontend::weights;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::graph::{Def, Graph, Input, NodeId, Role};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::plan::Segment;
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::TensorType;
use gradc_passes::loops::FALLBACKS;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Prefix of optimizer state in checkpoints, so that it cannot clash with the model's own names.
const STATE_PREFIX: &str = "state/";

/// Parameters, buffers and optimizer state of one run, with the memory its steps work in.
///
/// Independent of every other session of the same compiled model.
pub struct Session {
    step: CompiledStep,
    arena: AlignedBuffer,
    persistent: AlignedBuffer,
    constants: AlignedBuffer,
    scratch: AlignedBuffer,
    hyper: BTreeMap<String, HostTensor>,
    /// One per entry.
    sharing: Vec<Sharing>,
}

/// Results of a call, borrowed from the session until its next call.
pub struct Outputs<'a> {
    named: Vec<(&'a str, TensorView<'a>)>,
}

impl<'a> Outputs<'a> {
    /// The result called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorView<'a>> {
        self.named.iter().find(|(n, _)| *n == name).map(|(_, view)| view)
    }

    /// All results in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &TensorView<'a>)> {
        self.named.iter().map(|(name, view)| (*name, view))
    }

    /// The loss, when the entry has one.
    pub fn loss(&self) -> Option<f32> {
        self.get("loss").and_then(|view| view.to_f32().first().copied())
    }
}

impl Session {
    pub(crate) fn new(step: CompiledStep, mut values: BTreeMap<String, HostTensor>) -> Result<Self, Diagnostics> {
        let layout = &step.inner.layout;
        let mut session = Session {
            arena: AlignedBuffer::zeroed(step.report().arena_bytes()),
            persistent: AlignedBuffer::zeroed(layout.persistent_bytes),
            constants: AlignedBuffer::zeroed(layout.constant_bytes),
            scratch: AlignedBuffer::zeroed(step.scratch_bytes()),
            hyper: BTreeMap::new(),
            sharing: vec![Sharing::new(step.inner.pool.threads()); step.inner.entries.len()],
            step: step.clone(),
        };
        for tensor in step.persistent() {
            match values.remove(&tensor.name) {
                Some(data) => store(&mut session.persistent, tensor, data.bytes()),
                None if tensor.default == 0.0 => {}
                None => {
                    let initial = HostTensor::splat(tensor.ty.clone(), tensor.default);
                    store(&mut session.persistent, tensor, initial.bytes());
                }
            }
        }
        for (name, &offset) in &layout.constants {
            write(&mut session.constants, offset, values[name].bytes());
        }
        Ok(session)
    }

    /// A session of another step of the same model, in which other parameters train, that goes on from here: what both
    /// keep between calls is as it is here, and state that only the other has as it starts.
    pub fn continue_with(&self, step: &CompiledStep) -> Result<Session, Diagnostics> {
        let mut other = self.carried(step, |_| true)?;
        other.hyper = self.hyper.clone();
        Ok(other)
    }

    /// As [`Session::continue_with`], with all state as it starts.
    pub(crate) fn at_rest(&self, step: &CompiledStep) -> Result<Session, Diagnostics> {
        self.carried(step, |role| role != Role::State)
    }

    fn carried(&self, step: &CompiledStep, is_carried: impl Fn(Role) -> bool) -> Result<Session, Diagnostics> {
        let mut values = step.inner.tensors.clone();
        for tensor in step.persistent().iter().filter(|t| is_carried(t.role)) {
            let same = self.step.persistent().iter().find(|t| (&t.name, &t.ty) == (&tensor.name, &tensor.ty));
            values.extend(same.map(|t| (t.name.clone(), self.persistent_view(t).to_host())));
        }
        Session::new(step.clone(), values)
    }

    fn segment(&self, segment: Segment) -> &[u8] {
        match segment {
            Segment::Arena => self.arena.bytes(),
            Segment::Persistent => self.persistent.bytes(),
            Segment::Constants => self.constants.bytes(),
            Segment::Host(_) | Segment::Argument(_) | Segment::Result(_) => &[],
        }
    }

    /// Bytes the session holds: arena, kept tensors, constants and work space.
    pub fn allocated_bytes(&self) -> usize {
        self.arena.len() + self.persistent.len() + self.constants.len() + self.scratch.len()
    }

    /// The compiled model.
    pub fn compiled(&self) -> &CompiledStep {
        &self.step
    }

    /// One training step; returns the loss before the update.
    ///
    /// Fails without updating anything when an input is wrong or the loss is not finite, or, where the recipe clips, the
    /// norm of the gradients. Without clipping a gradient that is not finite under a finite loss reaches its parameter;
    /// a later step and [`Session::save`] fail by that.
    pub fn step(&mut self, inputs: &[(&str, TensorView)]) -> Result<f32, SessionError> {
        let outputs = self.call(EntryKind::Step, inputs)?;
        outputs.loss().ok_or_else(|| SessionError::Input(Diagnostic::new("no-loss", "the step has no loss")))
    }

    /// Loss and outputs in inference mode; updates nothing.
    pub fn eval(&mut self, inputs: &[(&str, TensorView)]) -> Result<Outputs<'_>, SessionError> {
        self.call(EntryKind::Eval, inputs)
    }

    /// Outputs in inference mode; updates nothing.
    pub fn predict(&mut self, inputs: &[(&str, TensorView)]) -> Result<Outputs<'_>, SessionError> {
        self.call(EntryKind::Predict, inputs)
    }

    /// Runs an entry and returns its results.
    ///
    /// The threads of the pool share the work as long as it takes less time so; now and then a few calls find out. The
    /// results are the same.
    pub fn call(&mut self, kind: EntryKind, inputs: &[(&str, TensorView)]) -> Result<Outputs<'_>, SessionError> {
        let at = self.position(kind)?;
        let (start, shares) = (self.sharing[at].is_timed().then(Instant::now), self.sharing[at].shares_next());
        let alone = Pool::default();
        self.run(at, inputs, |executable, at, memory, hosts, pool| {
            executable.run(at, memory, hosts, if shares { pool } else { &alone })
        })?;
        if let Some(start) = start {
            self.sharing[at].took(start.elapsed());
        }
        let outputs = &self.step.inner.entries[at].outputs;
        Ok(Outputs { named: outputs.iter().map(|o| (o.name.as_str(), self.output_view(o))).collect() })
    }

    /// Whether the threads of the pool share the calls of an entry, as a rule; see [`Session::call`].
    pub fn is_shared(&self, kind: EntryKind) -> Result<bool, SessionError> {
        Ok(self.step.inner.pool.threads() > 1 && self.sharing[self.position(kind)?].shares())
    }

    fn position(&self, kind: EntryKind) -> Result<usize, SessionError> {
        let at = self.step.inner.entries.iter().position(|e| e.kind == kind);
        at.ok_or_else(|| SessionError::Input(no_entry(kind)))
    }

    /// Runs an entry compiled with [`Options::profile`](crate::Options), shared by the threads of the pool, and returns how
    /// long each kernel took, ns.
    pub fn profile(&mut self, kind: EntryKind, inputs: &[(&str, TensorView)]) -> Result<Vec<u64>, SessionError> {
        let at = self.position(kind)?;
        self.run(at, inputs, |executable, at, memory, hosts, pool| executable.profile(at, memory, hosts, pool))
    }

    fn run<R>(
        &mut self,
        at: usize,
        inputs: &[(&str, TensorView)],
        run: impl FnOnce(&Executable, usize, &mut Memory, &[&[u8]], &Pool) -> Result<R, StepFailure>,
    ) -> Result<R, SessionError> {
        let inner = &*self.step.inner;
        let entry = &inner.entries[at];
        let hosts = bind(&self.step, &self.hyper, entry, inputs).map_err(SessionError::Input)?;
        let mut memory = Memory {
            arena: &mut self.arena,
            persistent: &mut self.persistent,
            constants: &self.constants,
            scratch: &mut self.scratch,
        };
        run(&inner.executable, at, &mut memory, &hosts, &inner.pool).map_err(|failure| match failure {
            StepFailure::Arguments(diagnostic) => SessionError::Input(diagnostic),
            StepFailure::Action(_) => self.explain_failure(entry, &hosts),
        })
    }

    fn output_view(&self, output: &HostOutput) -> TensorView<'_> {
        let HostOutput { place, ty, .. } = output;
        let bytes = &self.segment(place.segment)[place.offset_bytes..place.offset_bytes + ty.size_bytes()];
        TensorView::new(ty.clone(), bytes).expect("a place is as large as its value")
    }

    /// Sets a hyperparameter (`lr`) for all further steps, without recompiling.
    pub fn set_hyper(&mut self, name: &str, value: f32) -> Result<(), SessionError> {
        let known = self.step.inner.hyper_defaults.get(name);
        let ty = known
            .ok_or_else(|| {
                SessionError::Input(Diagnostic::new(
                    "unknown-hyper",
                    format!("the step has no hyperparameter `{name}`"),
                ))
            })?
            .ty();
        self.hyper.insert(name.to_string(), HostTensor::splat(ty.clone(), value as f64));
        Ok(())
    }

    /// A parameter, buffer or state tensor; copied where it is kept in another order than row-major.
    pub fn parameter(&self, name: &str) -> Option<TensorView<'_>> {
        self.step.persistent().iter().find(|t| t.name == name).map(|t| self.persistent_view(t))
    }

    fn persistent_view(&self, tensor: &PersistentTensor) -> TensorView<'_> {
        let PersistentTensor { ty, offset_bytes, layout, .. } = tensor;
        let bytes = &self.segment(Segment::Persistent)[*offset_bytes..offset_bytes + ty.size_bytes()];
        match layout {
            None => TensorView::new(ty.clone(), bytes).expect("a place is as large as its tensor"),
            Some(layout) => TensorView::owned(ty.clone(), layout.restore(ty, bytes)),
        }
    }

    /// How often the gradient of each guarded solver was computed exactly because its guard did not hold, by the
    /// solver's layer.
    pub fn solver_fallbacks(&self) -> BTreeMap<String, u64> {
        let counters = self.step.persistent().iter().filter(|t| t.role == Role::State);
        let counters = counters.filter_map(|t| Some((t, t.name.strip_prefix(FALLBACKS)?.trim_start_matches('.'))));
        let count = |t: &PersistentTensor| self.persistent_view(t).ints().next().map_or(0, |count| count as u64);
        counters.map(|(t, solver)| (solver.to_string(), count(t))).collect()
    }

    /// Overwrites a parameter, buffer or state tensor.
    pub fn set_parameter(&mut self, name: &str, value: TensorView) -> Result<(), SessionError> {
        let step = self.step.clone();
        let tensor = step.persistent().iter().find(|t| t.name == name);
        let tensor = tensor.ok_or_else(|| {
            SessionError::Input(Diagnostic::new("unknown-parameter", format!("no tensor called `{name}`")))
        })?;
        if *value.ty() != tensor.ty {
            let wrong = Diagnostic::new("weight-type", format!("data of `{name}` has the wrong type"));
            return Err(SessionError::Input(wrong.expected(&tensor.ty).found(value.ty())));
        }
        store(&mut self.persistent, tensor, value.bytes());
        Ok(())
    }

    /// Copies of the model's own tensors (parameters and buffers), by their own names.
    pub fn weights(&self) -> BTreeMap<String, HostTensor> {
        let own = self.step.persistent().iter().filter(|t| t.role != Role::State);
        own.map(|t| (t.name.clone(), self.persistent_view(t).to_host())).collect()
    }

    /// Fails where steps have made a tensor not finite that was finite at the start.
    pub fn check_finite(&self) -> Result<(), SessionError> {
        let initial = &self.step.inner.tensors;
        let started_finite =
            |t: &&PersistentTensor| initial.get(&t.name).is_none_or(|data| TensorView::from(data).is_finite());
        let wrong = self.step.persistent().iter().filter(|t| !self.persistent_view(t).is_finite()).find(started_finite);
        let Some(tensor) = wrong else { return Ok(()) };
        let message = format!("`{}` has values that are not finite, made by an update", tensor.name);
        let help = "files written before are kept; resume from the last checkpoint with a lower learning rate, or clip \
                    gradients (`clip_norm`), which refuses such updates";
        Err(SessionError::Checkpoint(Diagnostic::new("non-finite-state", message).help(help)))
    }

    /// Writes everything kept between calls; the file is the old one or the new one, whatever happens. Fails where
    /// [`Session::check_finite`] does, so that what cannot go on never replaces what can.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SessionError> {
        self.save_with(path, &BTreeMap::new())
    }

    /// As [`Session::save`], with further text fields in the file's metadata.
    pub fn save_with(&self, path: impl AsRef<Path>, metadata: &BTreeMap<String, String>) -> Result<(), SessionError> {
        self.check_finite()?;
        let all = self.step.persistent().iter().map(|t| (file_name(t), self.persistent_view(t).to_host()));
        weights::write(path.as_ref(), &all.collect(), metadata).map_err(SessionError::Checkpoint)
    }

    /// Restores what [`Session::save`] wrote; returns the metadata. Changes nothing unless everything fits.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<BTreeMap<String, String>, SessionError> {
        let (tensors, metadata) = weights::read_with_metadata(path.as_ref()).map_err(SessionError::Checkpoint)?;
        let step = self.step.clone();
        for tensor in step.persistent() {
            check_stored(tensor, &tensors, path.as_ref()).map_err(SessionError::Checkpoint)?;
        }
        for tensor in step.persistent() {
            store(&mut self.persistent, tensor, tensors[&file_name(tensor)].bytes());
        }
        Ok(metadata)
    }

    /// Names the first op that makes a non-finite value, by the reference semantics in the dtypes' own precision.
    fn explain_failure(&self, entry: &EntryInfo, hosts: &[&[u8]]) -> SessionError {
        let graph = &entry.graph();
        let checked = || entry.outputs.iter().filter(|o| o.checked);
        let found = || {
            let tensors = self.interpreter_inputs(graph, entry, hosts)?;
            let run = evaluate(graph, &tensors, Precision::Storage).ok()?;
            checked().find_map(|output| {
                let node = run.origin_of_non_finite(graph, graph.output_named(&output.name)?.value)?;
                Some((output.name.clone(), Some(origin(graph, node)), graph.loc(node).clone()))
            })
        };
        let unknown = || (checked().next().map_or("loss".into(), |o| o.name.clone()), None, Loc::default());
        let (output, origin, loc) = found().unwrap_or_else(unknown);
        SessionError::NonFinite { output, origin, loc }
    }

    fn interpreter_inputs(&self, graph: &Graph, entry: &EntryInfo, hosts: &[&[u8]]) -> Option<Vec<Tensor>> {
        let named = |name: &str| {
            let (input, bytes) = entry.inputs.iter().zip(hosts).find(|(input, _)| input.name == name)?;
            HostTensor::new(input.ty.clone(), bytes.to_vec()).ok()
        };
        let of = |name: &str| self.parameter(name).map(|v| v.to_host()).or_else(|| named(name));
        let constant = |input: &Input| self.constant(&input.name, graph.ty(input.value));
        graph.inputs().iter().map(|i| of(&i.name).or_else(|| constant(i)).map(|t| t.to_tensor())).collect()
    }

    fn constant(&self, name: &str, ty: &TensorType) -> Option<HostTensor> {
        let start = *self.step.inner.layout.constants.get(name)?;
        HostTensor::new(ty.clone(), self.constants.bytes()[start..start + ty.size_bytes()].to_vec()).ok()
    }
}

fn origin(graph: &Graph, node: NodeId) -> Origin {
    match &graph.node(node).def {
        Def::Op(op) => Origin::Op(op.name().to_string()),
        Def::Input(id) => {
            let input = &graph.inputs()[id.index()];
            match input.role {
                Role::Input | Role::Hyper => Origin::Input(input.name.clone()),
                _ => Origin::Stored(input.name.clone()),
            }
        }
    }
}

fn write(buffer: &mut AlignedBuffer, offset: usize, bytes: &[u8]) {
    buffer.bytes_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Writes a tensor, given in row-major order, as it is kept.
fn store(persistent: &mut AlignedBuffer, tensor: &PersistentTensor, bytes: &[u8]) {
    let PersistentTensor { ty, offset_bytes, layout, .. } = tensor;
    match layout {
        None => write(persistent, *offset_bytes, bytes),
        Some(layout) => {
            layout.store(ty, bytes, &mut persistent.bytes_mut()[*offset_bytes..offset_bytes + ty.size_bytes()]);
        }
    }
}

type Hyper = BTreeMap<String, HostTensor>;

/// The bytes of each input of the entry, in its order: given by the caller or kept.
fn bind<'a>(
    step: &'a CompiledStep,
    hyper: &'a Hyper,
    entry: &EntryInfo,
    inputs: &'a [(&str, TensorView)],
) -> Result<Vec<&'a [u8]>, Diagnostic> {
    let mut given: Vec<Option<&TensorView>> = vec![None; entry.inputs.len()];
    for (name, view) in inputs {
        let at = entry.inputs.iter().position(|declared| declared.name == *name);
        let at = at.ok_or_else(|| unknown_input(name, entry))?;
        given[at].get_or_insert(view);
    }
    let bind = |(declared, given): (&HostInput, Option<&'a TensorView>)| match given {
        Some(view) => bind_view(declared, view),
        None => hyperparameter(step, hyper, declared),
    };
    entry.inputs.iter().zip(given).map(bind).collect()
}

fn unknown_input(name: &str, entry: &EntryInfo) -> Diagnostic {
    let names: Vec<&str> = entry.inputs.iter().map(|i| i.name.as_str()).collect();
    Diagnostic::new("unknown-input", format!("the model has no input `{name}`")).expected(names.join(", "))
}

fn bind_view<'a>(declared: &HostInput, view: &'a TensorView) -> Result<&'a [u8], Diagnostic> {
    if *view.ty() != declared.ty {
        let message = format!("input `{}` has the wrong type", declared.name);
        return Err(Diagnostic::new("input-type", message).expected(&declared.ty).found(view.ty()));
    }
    check_range(declared, view)?;
    Ok(view.bytes())
}

/// The value of a hyperparameter.
fn hyperparameter<'a>(step: &'a CompiledStep, hyper: &'a Hyper, declared: &HostInput) -> Result<&'a [u8], Diagnostic> {
    let value = hyper.get(&declared.name).or_else(|| step.inner.hyper_defaults.get(&declared.name));
    value.map(HostTensor::bytes).ok_or_else(|| {
        let missing = Diagnostic::new("missing-input", format!("no tensor for input `{}`", declared.name));
        missing.expected(&declared.ty)
    })
}

fn no_entry(kind: EntryKind) -> Diagnostic {
    Diagnostic::new("no-entry", format!("the model was compiled without `{}`", kind.name()))
        .help("compile with a recipe")
}

/// Name of a tensor in a checkpoint.
fn file_name(tensor: &PersistentTensor) -> String {
    if tensor.role == Role::State { format!("{STATE_PREFIX}{}", tensor.name) } else { tensor.name.clone() }
}

fn check_stored(
    tensor: &PersistentTensor,
    stored: &BTreeMap<String, HostTensor>,
    path: &Path,
) -> Result<(), Diagnostic> {
    let name = file_name(tensor);
    let Some(data) = stored.get(&name) else {
        let missing = Diagnostic::new("checkpoint-mismatch", format!("the checkpoint has no tensor `{name}`"));
        return Err(missing
            .in_file(path.display())
            .expected(&tensor.ty)
            .help("it was written by another model or recipe"));
    };
    if *data.ty() == tensor.ty {
        return Ok(());
    }
    let wrong = Diagnostic::new("checkpoint-mismatch", format!("tensor `{name}` of the checkpoint has the wrong type"));
    Err(wrong.in_file(path.display()).expected(&tensor.ty).found(data.ty()))
}

fn check_range(declared: &HostInput, view: &TensorView) -> Result<(), Diagnostic> {
    let Some(range) = &declared.range else { return Ok(()) };
    let outside = |v: &i64| !(range.min..=range.max).contains(v) && range.also != Some(*v);
    let Some((at, found)) = view.ints().enumerate().find(|(_, v)| outside(v)) else { return Ok(()) };
    Err(Diagnostic::new("index-range", format!("element {at} of input `{}` is out of range", declared.name))
        .expected(format!("{} to {}", range.min, range.max))
        .found(found))
}
