//! The entries of a compiled model: several functions over the same tensors.

use crate::index_ranges::IndexRange;
use crate::micro_batches::Training;
use crate::options::Options;
use crate::parameters::{ParameterReport, parameter_reports};
use crate::solvers::training_loops;
use crate::train_spec::train_spec;
use gradc_frontend::losses::{self, LossKind};
use gradc_frontend::model::Model;
use gradc_frontend::recipe::{Recipe, resolve};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::types::TypeError;
use gradc_passes::expand_regions::expand_small_regions;
use gradc_passes::train::{LOSS, Trainable, derive_step_of_loops};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Which function of a compiled model an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Forward, backward and update.
    Step,
    /// Loss and outputs in inference mode, nothing updated.
    Eval,
    /// Outputs in inference mode.
    Predict,
}

impl EntryKind {
    /// Every kind, in the order entries are compiled.
    pub const ALL: [EntryKind; 3] = [EntryKind::Step, EntryKind::Eval, EntryKind::Predict];

    /// Name in reports and dumps.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Step => "step",
            EntryKind::Eval => "eval",
            EntryKind::Predict => "predict",
        }
    }
}

/// One entry before it is optimized.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which it is.
    pub kind: EntryKind,
    /// Its graph.
    pub graph: Graph,
}

/// What a host needs to know of the loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossInfo {
    /// The model's output that is compared.
    pub prediction: String,
    /// The input it is compared with, if any.
    pub target: Option<String>,
    /// Number of classes, when targets are labels.
    pub classes: Option<usize>,
    /// Values labels may have.
    pub labels: Option<IndexRange>,
}

/// All entries of a model, and its loss if it trains.
pub(crate) struct Derived {
    pub entries: Vec<Entry>,
    /// What the step is derived from, where it may have to be derived again to fit into memory.
    pub training: Option<Training>,
    pub loss: Option<LossInfo>,
    pub parameters: Vec<ParameterReport>,
    pub notes: Vec<String>,
}

/// Name of each example's summed loss terms among the outputs of [`EntryKind::Eval`].
pub const LOSS_PER_EXAMPLE: &str = "loss.per_example";

/// Name of each example's weight in the mean among the outputs of [`EntryKind::Eval`].
pub const LOSS_WEIGHT: &str = "loss.weight";

/// Derives all entries of a model; of what the recipe says may train, what is `chosen`, or all of it.
pub(crate) fn derive(
    model: &Model,
    recipe: Option<&Recipe>,
    chosen: Option<&BTreeSet<String>>,
    options: &Options,
) -> Result<Derived, Diagnostics> {
    let inference = expand_small_regions(&model.infer, &options.expand, &options.target)?;
    let predict = Entry { kind: EntryKind::Predict, graph: inference.without_dead_nodes() };
    let Some(recipe) = recipe else {
        return Ok(Derived { entries: vec![predict], training: None, loss: None, parameters: vec![], notes: vec![] });
    };
    let resolved = resolve(recipe, model)?;
    let loss = loss_info(model, recipe, resolved.prediction)?;
    let forward = with_loss(model.train.clone(), recipe, &loss, false)?;
    let (forward, policies) = training_loops(recipe, &forward, options)?;
    let mut spec = train_spec(recipe, model, options)?;
    let is_chosen = |t: &Trainable| chosen.is_none_or(|chosen| chosen.contains(&t.parameter));
    let left_out: Vec<Trainable> = spec.trainable.extract_if(.., |t| !is_chosen(t)).collect();
    let parameters = parameter_reports(&forward, &spec.trainable, &left_out, model, recipe.trainable.is_some());
    let step = derive_step_of_loops(&forward, &spec, &policies)?;
    let step = expand_small_regions(&step, &options.expand, &options.target)?;
    let training = options.peak_mem_bytes.map(|_| Training { forward, spec, loops: policies });
    let eval = with_loss(inference, recipe, &loss, true)?;
    let entries =
        vec![Entry { kind: EntryKind::Step, graph: step }, Entry { kind: EntryKind::Eval, graph: eval }, predict];
    Ok(Derived { entries, training, loss: Some(loss), parameters, notes: resolved.notes })
}

/// What a host needs to know of the loss, in the model's own names.
fn loss_info(model: &Model, recipe: &Recipe, prediction: String) -> Result<LossInfo, Diagnostic> {
    let output = model.train.output_named(&prediction);
    let output =
        output.ok_or_else(|| Diagnostic::new("unknown-name", format!("the model has no output `{prediction}`")))?;
    let kind = &recipe.loss.kind;
    let classes = kind.classes(model.train.ty(output.value));
    let also = match kind {
        LossKind::SoftmaxCrossEntropy { ignore_index, .. } => Some(*ignore_index),
        _ => None,
    };
    let labels = classes.map(|count| IndexRange { min: 0, max: count as i64 - 1, also });
    let target = kind.has_target().then(|| recipe.loss.target.clone());
    Ok(LossInfo { prediction, target, classes, labels })
}

/// Appends the loss; keeps the model's outputs and the loss of each example only for evaluation.
fn with_loss(graph: Graph, recipe: &Recipe, loss: &LossInfo, evaluation: bool) -> Result<Graph, Diagnostics> {
    let prediction = graph.output_named(&loss.prediction).map(|o| o.value);
    let prediction = prediction
        .ok_or_else(|| Diagnostic::new("unknown-output", format!("the model has no output `{}`", loss.prediction)))?;
    let kept =
        graph.outputs().iter().filter(|o| evaluation || matches!(o.kind, OutputKind::Update(_))).cloned().collect();
    let mut builder = Builder::from_graph(graph.with_outputs(kept));
    let at = Loc { layer: LOSS.into(), ..Loc::default() };
    builder.set_loc(at.clone());
    append_loss(&mut builder, recipe, loss, prediction, evaluation)
        .map_err(|e| Diagnostic::from_type_error("loss-type", e, at))?;
    Ok(builder.finish().without_dead_nodes())
}

fn append_loss(
    b: &mut Builder,
    recipe: &Recipe,
    loss: &LossInfo,
    prediction: Value,
    evaluation: bool,
) -> Result<(), TypeError> {
    let kind = &recipe.loss.kind;
    let target = match (kind.target_type(&b.ty(prediction).clone())?, &loss.target) {
        (Some(ty), Some(name)) => Some(b.input(name, ty)?),
        _ => None,
    };
    let built = losses::build(b, kind, prediction, target)?;
    b.output(LOSS, built.loss, OutputKind::Result);
    if evaluation {
        b.output(LOSS_PER_EXAMPLE, built.per_example, OutputKind::Result);
        b.output(LOSS_WEIGHT, built.weight, OutputKind::Result);
    }
    Ok(())
}
