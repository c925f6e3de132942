//! From a forward graph with a loss to the graph of a whole training step.

use crate::differentiate::{differentiate_loops, where_gradient_stops};
use crate::egraph::rules::NumericClass;
use crate::loops::{LoopPolicies, bounded_loops, check_policies, merge_loops, segment_loops, sum_after_loops};
use crate::optimizers::{Optimizer, Schedule, Step, Trained, Updates};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::graph::{Graph, InputId, OutputKind, Role, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::part::Part;
use gradc_ir::types::{DType, TensorType, TypeError};

/// A parameter that trains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trainable {
    /// Its name.
    pub parameter: String,
    /// What of it trains; `None` is all of it.
    pub part: Option<Part>,
}

impl From<String> for Trainable {
    /// All of a parameter.
    fn from(parameter: String) -> Self {
        Trainable { parameter, part: None }
    }
}

/// How a graph trains.
#[derive(Clone, Debug)]
pub struct TrainSpec {
    /// Parameters that train, in the order of their updates.
    ///
    /// Gradients, optimizer state and updates of a part are as large as the part; the rest is never written.
    pub trainable: Vec<Trainable>,
    /// The optimizer; `None` leaves parameters alone and is only useful with `gradient_outputs`.
    pub optimizer: Option<Optimizer>,
    /// Learning-rate schedule over optimizer steps.
    pub schedule: Schedule,
    /// Largest global L2 norm of all gradients together.
    pub clip_norm: Option<f64>,
    /// Calls whose gradients are averaged before an update; at least 1.
    pub accumulate: u64,
    /// Adds each gradient as a result called `grad.<parameter>`; of a part, it has the part's shape.
    pub gradient_outputs: bool,
    /// Leaves parameters as they are and adds as results called `importance.<parameter>` what their updates are worth:
    /// Σ|g·Δ| over gradient and change, to first order what the update takes off the loss (Huang et al., 2024).
    pub importance_outputs: bool,
    /// Whether each parameter counts its own optimizer steps, because not all have trained from the start.
    pub steps_apart: bool,
    /// What sums over the steps of loops may do to bits.
    pub fp: NumericClass,
}

impl TrainSpec {
    /// At a constant rate, with an update per call, no results besides the loss, and sums as they are written.
    pub fn new(trainable: Vec<Trainable>, optimizer: Option<Optimizer>) -> Self {
        TrainSpec {
            trainable,
            optimizer,
            schedule: Schedule::default(),
            clip_norm: None,
            accumulate: 1,
            gradient_outputs: false,
            importance_outputs: false,
            steps_apart: false,
            fp: NumericClass::Bitwise,
        }
    }
}

/// Name of the loss among the outputs of a training step.
pub const LOSS: &str = "loss";

/// Name of the gradients' global L2 norm, an output of steps that clip by it. It is checked as the loss is.
pub const GRADIENT_NORM: &str = "gradient_norm";

/// What names of importances among the outputs of a training step start with; the parameter's name follows.
pub const IMPORTANCE: &str = "importance.";

/// Appends gradients and updates to a forward graph whose output [`LOSS`] is a float scalar.
///
/// Buffers keep the updates the forward graph has. The loss becomes a checked output: where it is not finite
/// nothing is updated.
pub fn derive_step(forward: &Graph, spec: &TrainSpec) -> Result<Graph, Diagnostics> {
    derive_step_of_loops(forward, spec, &LoopPolicies::new())
}

/// As [`derive_step`], with a choice for loops of `forward` how their gradients are computed.
pub fn derive_step_of_loops(forward: &Graph, spec: &TrainSpec, loops: &LoopPolicies) -> Result<Graph, Diagnostics> {
    let ill_typed = |e| Diagnostic::from_type_error("internal-segments", e, Loc::default());
    let trained = input_values(forward, &find_parameters(forward, &spec.trainable)?);
    let (forward, loops) = bounded_loops(forward, loops, &trained).map_err(ill_typed)?;
    let (forward, loops) = segment_loops(&forward, &loops).map_err(ill_typed)?;
    let forward = &forward;
    let loss =
        forward.output_named(LOSS).ok_or_else(|| Diagnostic::new("no-loss", "the graph has no output `loss`"))?.value;
    let parameters = find_parameters(forward, &spec.trainable)?;
    let mut builder = Builder::from_graph(forward.clone());
    let wrt = input_values(forward, &parameters);
    check_policies(forward, &loops, &wrt)?;
    let gradients = differentiate_loops(&mut builder, loss, &wrt, &loops)?;
    let gradients = all_reached(forward, loss, &parameters, gradients)?;
    let parts = parameters.iter().zip(&spec.trainable);
    let trained: Result<Vec<_>, _> = parts.map(|(&id, of)| Trained::new(&mut builder, id, of.part.as_ref())).collect();
    trained
        .and_then(|trained| {
            let gradients = trained.iter().zip(&gradients).map(|(t, &g)| t.part_of(&mut builder, g));
            let gradients = gradients.collect::<Result<Vec<_>, _>>()?;
            append_updates(&mut builder, spec, &trained, &gradients)
        })
        .map_err(|e| Diagnostic::from_type_error("internal-update", e, Loc::default()))?;
    let step = merge_loops(&builder.finish().with_checked(LOSS).without_dead_nodes());
    let step = step.map_err(|e| Diagnostic::from_type_error("internal-merge", e, Loc::default()))?;
    Ok(sum_after_loops(&step, spec.fp)?)
}

fn input_values(graph: &Graph, inputs: &[InputId]) -> Vec<Value> {
    inputs.iter().map(|id| graph.inputs()[id.index()].value).collect()
}

/// The declarations of what trains.
pub(crate) fn find_parameters(graph: &Graph, trainable: &[Trainable]) -> Result<Vec<InputId>, Diagnostics> {
    let find = |Trainable { parameter: name, .. }: &Trainable| match graph.input_named(name) {
        Some((id, input)) if input.role == Role::Parameter => Ok(id),
        _ => Err(Diagnostic::new("unknown-parameter", format!("the model has no parameter `{name}`"))),
    };
    let (found, missing): (Vec<_>, Vec<_>) = trainable.iter().map(find).partition(Result::is_ok);
    let missing: Vec<Diagnostic> = missing.into_iter().filter_map(Result::err).collect();
    if missing.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(Diagnostics(missing)) }
}

fn all_reached(
    graph: &Graph,
    loss: Value,
    parameters: &[InputId],
    gradients: Vec<Option<Value>>,
) -> Result<Vec<Value>, Diagnostics> {
    let unreached: Vec<Diagnostic> = parameters
        .iter()
        .zip(&gradients)
        .filter(|(_, gradient)| gradient.is_none())
        .map(|(id, _)| no_gradient(graph, loss, *id))
        .collect();
    if unreached.is_empty() { Ok(gradients.into_iter().flatten().collect()) } else { Err(Diagnostics(unreached)) }
}

fn no_gradient(graph: &Graph, loss: Value, parameter: InputId) -> Diagnostic {
    let input = &graph.inputs()[parameter.index()];
    let message = format!("no gradient reaches parameter `{}`", input.name);
    let help = "freeze it with the recipe's `trainable`, or connect it to the loss";
    match where_gradient_stops(graph, loss, input.value) {
        Some(node) => {
            let op = graph.op(node).map_or("input", |op| op.name());
            graph
                .diagnostic_at(node, "no-gradient", message)
                .found(format!("`{op}` stops it: its derivative is zero"))
                .help(help)
        }
        None => Diagnostic::new("no-gradient", message).found("the loss does not depend on it").help(help),
    }
}

/// Appends the updates of what trains, given its gradients.
pub(crate) fn append_updates(
    b: &mut Builder,
    spec: &TrainSpec,
    trained: &[Trained],
    gradients: &[Value],
) -> Result<(), TypeError> {
    b.set_loc(Loc { source_op: "optimizer".into(), ..Loc::default() });
    if spec.gradient_outputs {
        for (trained, &gradient) in trained.iter().zip(gradients) {
            b.output(&format!("grad.{}", trained.parameter(b.graph())), gradient, OutputKind::Result);
        }
    }
    let Some(optimizer) = &spec.optimizer else { return Ok(()) };
    let (mut gradients, apply) = accumulate(b, spec.accumulate, trained, gradients)?;
    if let Some(max_norm) = spec.clip_norm {
        gradients = clip(b, &gradients, max_norm)?;
    }
    let lr = b.declare("lr", Role::Hyper, TensorType::f32([]), Some(optimizer.learning_rate()))?;
    let mut updates = Updates { builder: b, lr, step: lr, apply };
    updates.step = updates.count("step")?;
    updates.lr = spec.schedule.apply(updates.builder, lr, updates.step)?;
    let together = if spec.steps_apart { None } else { Some(optimizer.prepare(&mut updates, None)?) };
    for (trained, gradient) in trained.iter().zip(gradients) {
        let layer = trained.parameter(updates.builder.graph()).to_string();
        updates.builder.set_loc(Loc { layer, source_op: "optimizer".into(), ..Loc::default() });
        let shared = match &together {
            Some(shared) => shared,
            None => &optimizer.prepare(&mut updates, Some(&trained.name))?,
        };
        let step = optimizer.update(&mut updates, shared, trained, gradient)?;
        match spec.importance_outputs {
            true => append_importance(updates.builder, trained, gradient, step)?,
            false => updates.take(trained, step)?,
        }
    }
    Ok(())
}

/// Adds Σ|g·Δ| of a parameter as a result.
fn append_importance(b: &mut Builder, trained: &Trained, gradient: Value, step: Step) -> Result<(), TypeError> {
    let product = b.mul(gradient, step.change)?;
    let each = b.abs(product)?;
    let axes: Vec<usize> = (0..b.shape(each).len()).collect();
    let importance = b.reduce_sum(each, &axes)?;
    b.output(&format!("{IMPORTANCE}{}", trained.parameter(b.graph())), importance, OutputKind::Result);
    Ok(())
}

/// Gradients averaged over `calls` calls, and whether this call is the last of them.
fn accumulate(
    b: &mut Builder,
    calls: u64,
    trained: &[Trained],
    gradients: &[Value],
) -> Result<(Vec<Value>, Option<Value>), TypeError> {
    if calls <= 1 {
        return Ok((gradients.to_vec(), None));
    }
    let count = b.declare("accumulate.calls", Role::State, TensorType::new(DType::I64, []), Some(0.0))?;
    let count_id = InputId(b.graph().inputs().len() as u32 - 1);
    let (zero, one, last) =
        (b.scalar(DType::I64, 0.0)?, b.scalar(DType::I64, 1.0)?, b.scalar(DType::I64, calls as f64 - 1.0)?);
    let apply = b.compare(CompareFn::Ge, count, last)?;
    let counted = b.add(count, one)?;
    let next = b.select(apply, zero, counted)?;
    b.update(count_id, next)?;
    let mut sums = Vec::new();
    for (trained, &gradient) in trained.iter().zip(gradients) {
        let ty = b.ty(gradient).clone();
        let before = b.declare(&format!("accumulate.{}", trained.name), Role::State, ty.clone(), Some(0.0))?;
        let sum_id = InputId(b.graph().inputs().len() as u32 - 1);
        let share = b.scale(gradient, 1.0 / calls as f64)?;
        let sum = b.add(before, share)?;
        let empty = b.splat(&ty, 0.0)?;
        let kept = b.select(apply, empty, sum)?;
        b.update(sum_id, kept)?;
        sums.push(sum);
    }
    Ok((sums, Some(apply)))
}

/// Scales all gradients by min(1, max_norm / (‖g‖₂ + 1e-6)), as `torch.nn.utils.clip_grad_norm_`.
fn clip(b: &mut Builder, gradients: &[Value], max_norm: f64) -> Result<Vec<Value>, TypeError> {
    let mut total = b.scalar(DType::F32, 0.0)?;
    for &gradient in gradients {
        let axes: Vec<usize> = (0..b.shape(gradient).len()).collect();
        let square = b.mul(gradient, gradient)?;
        let sum = b.reduce_sum(square, &axes)?;
        let sum = b.cast(sum, DType::F32)?;
        total = b.add(total, sum)?;
    }
    let norm = b.sqrt(total)?;
    // All updates wait for the norm, so that it guards them at no cost.
    b.output(GRADIENT_NORM, norm, OutputKind::Checked);
    let (eps, limit, one) = (b.scalar(DType::F32, 1e-6)?, b.scalar(DType::F32, max_norm)?, b.scalar(DType::F32, 1.0)?);
    let padded = b.add(norm, eps)?;
    let ratio = b.div(limit, padded)?;
    let factor = b.minimum(ratio, one)?;
    let scaled = |b: &mut Builder, g| {
        let factor = b.cast(factor, b.ty(g).dtype)?;
        b.mul(g, factor)
    };
    gradients.iter().map(|&g| scaled(b, g)).collect()
}
