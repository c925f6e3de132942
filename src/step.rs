//! A compiled model: native code and what a host needs to know to call it. Shareable between threads.

use crate::entries::{Entry, EntryKind, LossInfo};
use crate::index_ranges::{IndexRange, index_ranges};
use crate::report::CompileReport;
use crate::session::Session;
use gradc_codegen::{Engine, Executable, Pool};
use gradc_frontend::recipe::Recipe;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{Graph, OutputKind, Role};
use gradc_ir::layout::Layout;
use gradc_ir::plan::{Action, MemoryPlan, Place, Schedule};
use gradc_ir::tensor::HostTensor;
use gradc_ir::text;
use gradc_ir::types::TensorType;
use gradc_passes::cost::schedule_flops;
use gradc_passes::memory::SharedLayout;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A compiled model. Cheap to clone; `Send + Sync`; every [`Session`] made from it has tensors of its own.
#[derive(Clone)]
pub struct CompiledStep {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub name: String,
    pub executable: Executable,
    pub entries: Vec<EntryInfo>,
    pub loss: Option<LossInfo>,
    pub recipe: Option<Recipe>,
    pub layout: SharedLayout,
    pub persistent: Vec<PersistentTensor>,
    /// Initial values of persistent tensors and constants, by name; state starts at its default.
    pub tensors: BTreeMap<String, HostTensor>,
    /// Defaults of scalar step inputs, by name.
    pub hyper_defaults: BTreeMap<String, HostTensor>,
    pub pool: Pool,
    pub report: CompileReport,
}

/// A tensor kept between calls.
#[derive(Clone, Debug, PartialEq)]
pub struct PersistentTensor {
    /// Name, unique among all inputs.
    pub name: String,
    /// Parameter, buffer or state.
    pub role: Role,
    /// Type.
    pub ty: TensorType,
    /// Offset in the persistent segment, bytes.
    pub(crate) offset_bytes: usize,
    /// How it is stored there; `None` is row-major.
    pub(crate) layout: Option<Layout>,
    /// Initial value where the model has none.
    pub(crate) default: f64,
}

/// What a call of an entry takes from the host.
#[derive(Clone, Debug)]
pub struct HostInput {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: TensorType,
    /// Value when the host gives none (hyperparameters).
    pub default: Option<f64>,
    /// Bounds that integer values must respect because they are used as indices.
    pub range: Option<IndexRange>,
}

/// What a call of an entry hands back.
#[derive(Clone, Debug)]
pub struct HostOutput {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: TensorType,
    /// Whether a non-finite element stops the step.
    pub checked: bool,
    pub(crate) place: Place,
}

/// One entry of a compiled model.
///
/// Calls need none of its graphs, which would be most of what a session keeps on the heap: only their text stays.
#[derive(Debug)]
pub struct EntryInfo {
    /// Which it is.
    pub kind: EntryKind,
    /// What it takes, in order.
    pub inputs: Vec<HostInput>,
    /// What it hands back.
    pub outputs: Vec<HostOutput>,
    arena_bytes: usize,
    kernels: usize,
    flops: u64,
    /// The graph before optimizing, as text.
    pub(crate) graph_text: Box<str>,
    /// The memory plan, as text.
    pub(crate) plan_text: Box<str>,
}

impl EntryInfo {
    /// Arena the entry needs, bytes.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Native kernels of the entry.
    pub fn kernels(&self) -> usize {
        self.kernels
    }

    /// Floating-point operations of one call: two per product of a sum of products inside of its bands, one per scalar
    /// operation elsewhere; of loops that end early and of branches as many as there can be.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    /// The graph before optimizing, whose reference semantics explain failures.
    pub(crate) fn graph(&self) -> Graph {
        text::parse(&self.graph_text).expect("what is printed parses back equal")
    }

    /// The memory plan.
    pub(crate) fn plan(&self) -> MemoryPlan {
        text::parse_plan(&self.plan_text).expect("what is printed parses back equal")
    }

    fn new(entry: &Entry, plan: &MemoryPlan, loss: Option<&LossInfo>) -> Self {
        let graph = &plan.schedule.graph;
        let ranges = index_ranges(graph);
        let labels = |name: &str| loss.filter(|l| l.target.as_deref() == Some(name)).and_then(|l| l.labels.clone());
        let hosts = graph.inputs().iter().filter(|i| matches!(i.role, Role::Input | Role::Hyper));
        let inputs = hosts.map(|i| HostInput {
            name: i.name.clone(),
            ty: graph.ty(i.value).clone(),
            default: i.default.map(|d| d.get()),
            range: labels(&i.name).or_else(|| ranges.get(&i.value).cloned()),
        });
        let results = graph.outputs().iter().filter(|o| !matches!(o.kind, OutputKind::Update(_)));
        let outputs = results.map(|o| HostOutput {
            name: o.name.clone(),
            ty: graph.ty(o.value).clone(),
            checked: o.kind == OutputKind::Checked,
            place: plan.memory.places[&o.value],
        });
        EntryInfo {
            kind: entry.kind,
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            arena_bytes: plan.memory.arena_bytes,
            kernels: groups(&plan.schedule),
            flops: schedule_flops(&plan.schedule) as u64,
            graph_text: text::print(&entry.graph).into(),
            plan_text: text::print_plan(plan).into(),
        }
    }
}

/// Groups of a schedule and of the bodies of its regions.
fn groups(schedule: &Schedule) -> usize {
    let of_action = |action: &Action| match action {
        Action::Run(_) => 1,
        Action::CheckFinite(_) => 0,
        Action::Region(region) => region.bodies.iter().map(groups).sum(),
    };
    schedule.actions.iter().map(of_action).sum()
}

impl CompiledStep {
    #[allow(clippy::too_many_arguments, reason = "the parts of a compiled model")]
    pub(crate) fn new(
        name: String,
        weights: &BTreeMap<String, HostTensor>,
        executable: Executable,
        planned: Vec<(Entry, MemoryPlan)>,
        training: (Option<LossInfo>, Option<Recipe>),
        layout: SharedLayout,
        pool: Pool,
        report: CompileReport,
    ) -> Result<Self, Diagnostics> {
        let persistent = persistent_tensors(&planned, &layout);
        let needed = persistent.iter().map(|t| &t.name).chain(layout.constants.keys());
        let tensors = needed.filter_map(|n| Some((n.clone(), weights.get(n)?.clone()))).collect();
        let (loss, recipe) = training;
        let entries: Vec<EntryInfo> =
            planned.iter().map(|(entry, plan)| EntryInfo::new(entry, plan, loss.as_ref())).collect();
        let hyper_defaults = hyper_defaults(&entries);
        let inner = Inner {
            name,
            executable,
            entries,
            loss,
            recipe,
            layout,
            persistent,
            tensors,
            hyper_defaults,
            pool,
            report,
        };
        inner.check_tensors()?;
        Ok(CompiledStep { inner: Arc::new(inner) })
    }

    /// A session: its own parameters, buffers, optimizer state and arena.
    pub fn session(&self) -> Result<Session, Diagnostics> {
        self.inner.check_tensors()?;
        Session::new(self.clone(), self.inner.tensors.clone())
    }

    /// The only session of a compiled model: it takes the initial values over instead of copying them, unless another
    /// handle of the model is alive. No further session can be made then.
    pub fn into_session(mut self) -> Result<Session, Diagnostics> {
        self.inner.check_tensors()?;
        let values = match Arc::get_mut(&mut self.inner) {
            Some(inner) => std::mem::take(&mut inner.tensors),
            None => self.inner.tensors.clone(),
        };
        Session::new(self, values)
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What the compilation did.
    pub fn report(&self) -> &CompileReport {
        &self.inner.report
    }

    /// An entry, if the model was compiled with it.
    pub fn entry(&self, kind: EntryKind) -> Option<&EntryInfo> {
        self.inner.entries.iter().find(|e| e.kind == kind)
    }

    /// What computes each leaf of an entry's actions, in order; `None` for checks and copies.
    pub fn engines(&self, kind: EntryKind) -> &[Option<Engine>] {
        let at = self.inner.entries.iter().position(|e| e.kind == kind);
        at.map_or(&[], |at| self.inner.executable.engines(at))
    }

    /// The loss, if the model was compiled with a recipe.
    pub fn loss(&self) -> Option<&LossInfo> {
        self.inner.loss.as_ref()
    }

    /// The recipe the model was compiled with.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.inner.recipe.as_ref()
    }

    /// The tensors kept between calls.
    pub fn persistent(&self) -> &[PersistentTensor] {
        &self.inner.persistent
    }

    /// Parameters, buffers, state and constants of a session, bytes.
    pub fn persistent_bytes(&self) -> usize {
        self.inner.layout.persistent_bytes + self.inner.layout.constant_bytes
    }

    /// Work space of a session's threads, bytes.
    pub fn scratch_bytes(&self) -> usize {
        self.inner.executable.scratch_bytes(self.inner.pool.threads())
    }

    /// The native code; the same bytes for the same model, recipe and options.
    pub fn code(&self) -> &[u8] {
        self.inner.executable.code()
    }

    /// Size of the native code, bytes.
    pub fn code_bytes(&self) -> usize {
        self.inner.executable.code_bytes()
    }
}

impl Inner {
    /// Every parameter, buffer and constant needs a value of its declared type before anything runs.
    fn check_tensors(&self) -> Result<(), Diagnostics> {
        let mut wrong = Vec::new();
        for tensor in self.persistent.iter().filter(|t| t.role != Role::State) {
            match self.tensors.get(&tensor.name) {
                None => wrong.push(
                    Diagnostic::new("missing-weight", format!("no data for `{}`", tensor.name)).expected(&tensor.ty),
                ),
                Some(data) if *data.ty() != tensor.ty => wrong.push(
                    Diagnostic::new("weight-type", format!("data of `{}` has the wrong type", tensor.name))
                        .expected(&tensor.ty)
                        .found(data.ty()),
                ),
                Some(_) => {}
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong)) }
    }
}

fn hyper_defaults(entries: &[EntryInfo]) -> BTreeMap<String, HostTensor> {
    let inputs = entries.iter().flat_map(|e| &e.inputs);
    inputs.filter_map(|i| Some((i.name.clone(), HostTensor::splat(i.ty.clone(), i.default?)))).collect()
}

fn persistent_tensors(planned: &[(Entry, MemoryPlan)], layout: &SharedLayout) -> Vec<PersistentTensor> {
    let mut found: BTreeMap<usize, PersistentTensor> = BTreeMap::new();
    for (_, plan) in planned {
        let graph = &plan.schedule.graph;
        for input in graph.inputs().iter().filter(|i| i.role.is_persistent()) {
            let offset_bytes = layout.persistent[&input.name];
            let default = input.default.map_or(0.0, |d| d.get());
            let tensor = PersistentTensor {
                name: input.name.clone(),
                role: input.role,
                ty: graph.ty(input.value).clone(),
                offset_bytes,
                layout: layout.kept.get(&input.name).cloned(),
                default,
            };
            found.entry(offset_bytes).or_insert(tensor);
        }
    }
    found.into_values().collect()
}
