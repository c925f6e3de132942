//! The pipeline on one page: import → roll → hoist → fold → derive → optimize → schedule → plan → compile.
//!
//! Every stage is a function between named types; each is timed, verified and, when asked for, kept as text.

use crate::budget::Selector;
use crate::entries::{self, Entry, EntryKind};
use crate::micro_batches::{InParts, MicroBatches, Plan, Source, Training};
use crate::options::{Options, Stage};
use crate::parameters::ParameterReport;
use crate::report::{CompileReport, EntryReport, MadeAgain};
use crate::step::CompiledStep;
use crate::training_cost::TrainingCost;
use gradc_codegen::process::release_unused_memory;
use gradc_codegen::{EntryCode, Executable};
use gradc_frontend::model::Model;
use gradc_frontend::recipe::Recipe;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::Graph;
use gradc_ir::plan::{MemoryPlan, Schedule};
use gradc_ir::text;
use gradc_ir::verify::verify;
use gradc_passes::bands::{KnownConstants, find_bands};
use gradc_passes::bodies::map_bodies;
use gradc_passes::cache_blocking::block_for_cache;
use gradc_passes::cost::{flops_outside_bands, graph_cost};
use gradc_passes::egraph::explain::OptimizeReport;
use gradc_passes::egraph::rules::NumericClass;
use gradc_passes::egraph::{self, OptimizeOptions, fold_loops};
use gradc_passes::fit::{Rematerialised, rematerialise, rematerialise_in_spare_time};
use gradc_passes::layout::{LaidOut, assign_layouts, kept_layouts};
use gradc_passes::loops::{cut_loops, hoist};
use gradc_passes::memory::{SharedLayout, check_plan, guarded_live_bytes, largest_action_bytes, plan_memory};
use gradc_passes::micro_batch::map_parts;
use gradc_passes::recompute::recompute;
use gradc_passes::roll::roll;
use gradc_passes::schedule::{Peaks, schedule};
use std::collections::BTreeSet;

/// How often a search for values to make again is repeated because gaps between buffers leave the arena too large.
const MOST_AIMS: usize = 3;

/// Compiles a model: with a recipe its training step, evaluation and prediction; without one, prediction alone.
///
/// Under a budget that trains which matters most by the importances that the recipe gives, or else by the number of its
/// elements; a [`Selector`] also selects by measured ones.
pub fn compile(model: &Model, recipe: Option<&Recipe>, options: &Options) -> Result<CompiledStep, Diagnostics> {
    if let Some(recipe) = recipe.filter(|r| r.budget.is_some() && !options.importances) {
        let mut selector = Selector::new(model, recipe, options)?;
        let selection = selector.select(&selector.initial_importances().clone())?;
        return selector.compile(&selection);
    }
    let mut report = CompileReport::default();
    let model = rolled(model, options, &mut report)?;
    compile_rolled(&model, recipe, None, options, report)
}

/// Compiles a model whose loops are rolled; of what its recipe says may train, what is `chosen`, or all of it.
pub(crate) fn compile_rolled(
    model: &Model,
    recipe: Option<&Recipe>,
    chosen: Option<&BTreeSet<String>>,
    options: &Options,
    mut report: CompileReport,
) -> Result<CompiledStep, Diagnostics> {
    let derived = report.time("derive", || entries::derive(model, recipe, chosen, options))?;
    (report.notes, report.parameters) = (derived.notes, derived.parameters);
    let mut shared = Shared::of(&derived.entries, model);
    let mut planned = Vec::new();
    for entry in derived.entries {
        let graph = optimized(&entry, options, &mut report)?;
        if planned.is_empty() {
            shared.keep_as_wanted_by(&graph, &mut report)?;
        }
        planned.push(plan_entry((entry, graph), derived.training.as_ref(), &shared, options, &mut report)?);
    }
    if let Some((_, plan)) = planned.iter().find(|(entry, _)| entry.kind == EntryKind::Step) {
        report.training = Some(TrainingCost::of(plan, trained_bytes(&report.parameters)));
    }
    check_peak(options, &shared.layout, &planned, &report)?;
    let codes: Vec<EntryCode> =
        planned.iter().map(|(entry, plan)| crate::place::entry_code(entry.kind.name(), plan)).collect();
    stage_ends(options);
    let executable = report.time("codegen", || gradc_codegen::compile(&codes, &options.codegen()))?;
    stage_ends(options);
    report.keep(options, Stage::Clif, "all", || clif(&executable));
    report.kernels = executable.kernels();
    CompiledStep::new(
        model.name.clone(),
        &model.tensors,
        executable,
        planned,
        (derived.loss, recipe.cloned()),
        shared.layout,
        options.pool()?,
        report,
    )
}

/// Code generation takes most code and memory of all stages, and nothing that only the others need.
fn stage_ends(options: &Options) {
    if options.owns_process {
        release_unused_memory();
    }
}

/// A training step that was planned without being compiled.
pub(crate) struct PlannedStep {
    pub plan: MemoryPlan,
    pub cost: TrainingCost,
    pub parameters: Vec<ParameterReport>,
}

/// Plans the training step of a model whose loops are rolled, as [`compile_rolled`] would for a step that updates and
/// makes nothing again in spare time.
pub(crate) fn plan_step(
    model: &Model,
    recipe: &Recipe,
    chosen: Option<&BTreeSet<String>>,
    options: &Options,
) -> Result<PlannedStep, Diagnostics> {
    let quiet = Options { explain: false, emit: vec![], ..options.clone() };
    let options = Options { spare_time: false, gradients: false, importances: false, ..quiet };
    let derived = entries::derive(model, Some(recipe), chosen, &options)?;
    let mut report = CompileReport::default();
    let mut shared = Shared::of(&derived.entries, model);
    let step = derived.entries.into_iter().find(|entry| entry.kind == EntryKind::Step);
    let step = step.expect("a recipe asks for a training step");
    let graph = optimized(&step, &options, &mut report)?;
    shared.keep_as_wanted_by(&graph, &mut report)?;
    let (_, plan) = plan_entry((step, graph), derived.training.as_ref(), &shared, &options, &mut report)?;
    let cost = TrainingCost::of(&plan, trained_bytes(&derived.parameters));
    Ok(PlannedStep { plan, cost, parameters: derived.parameters })
}

/// What the entries of a model have in common.
pub(crate) struct Shared {
    /// Places and layouts of the tensors that live between calls.
    pub layout: SharedLayout,
    /// What is known of the model's constants.
    pub constants: KnownConstants,
}

impl Shared {
    fn of(entries: &[Entry], model: &Model) -> Shared {
        let layout = SharedLayout::of(entries.iter().map(|entry| &entry.graph));
        let constants = layout.constants.keys().filter_map(|name| Some((&name[..], model.tensors.get(name)?)));
        let constants = KnownConstants::of(constants);
        Shared { layout, constants }
    }

    /// Has all entries store what is kept as the first of them wants it: the training step, if there is one.
    fn keep_as_wanted_by(&mut self, graph: &Graph, report: &mut CompileReport) -> Result<(), Diagnostics> {
        self.layout.kept = report.time("layout", || Ok::<_, Diagnostic>(kept_layouts(graph)))?;
        Ok(())
    }
}

fn trained_bytes(parameters: &[ParameterReport]) -> usize {
    parameters.iter().map(|p| p.trained_bytes).sum()
}

/// The model with its unrolled loops rolled, unless the options forbid it, and nothing in loops that need not be there.
pub(crate) fn rolled(model: &Model, options: &Options, report: &mut CompileReport) -> Result<Model, Diagnostics> {
    report.keep(options, Stage::Forward, "train", || text::print(&model.train));
    let mut model = model.clone();
    for (name, graph) in [("train", &mut model.train), ("infer", &mut model.infer)] {
        if options.roll {
            let (rolled, found) = report.time("roll", || roll(graph))?;
            checked(&rolled, "roll")?;
            report.keep(options, Stage::Rolled, name, || text::print(&rolled));
            report.rolls.push((name, found));
            *graph = rolled;
        }
        *graph = report.time("hoist", || hoist(graph))?;
        checked(graph, "hoist")?;
        *graph = folded(name, graph, options, report)?;
    }
    Ok(model)
}

/// The graph with what its loops can share between steps shared, where sums and products may be re-associated for it.
fn folded(
    name: &'static str,
    graph: &Graph,
    options: &Options,
    report: &mut CompileReport,
) -> Result<Graph, Diagnostics> {
    if !options.optimize || options.fp == NumericClass::Bitwise {
        return Ok(graph.clone());
    }
    let (folded, rewrites) = report.time("fold", || fold_loops(graph, &rewriting(options)))?;
    checked(&folded, "fold")?;
    report.folds.push((name, rewrites));
    Ok(folded)
}

/// The graph of an entry, optimized if that is asked for.
fn optimized(entry: &Entry, options: &Options, report: &mut CompileReport) -> Result<Graph, Diagnostics> {
    let name = entry.kind.name();
    checked(&entry.graph, "derive")?;
    report.keep(options, Stage::Train, name, || text::print(&entry.graph));
    let graph = if options.optimize { optimize(entry, options, report)? } else { entry.graph.clone() };
    report.keep(options, Stage::Optimized, name, || text::print(&graph));
    Ok(graph)
}

fn plan_entry(
    (entry, optimized): (Entry, Graph),
    training: Option<&Training>,
    shared: &Shared,
    options: &Options,
    report: &mut CompileReport,
) -> Result<(Entry, MemoryPlan), Diagnostics> {
    let name = entry.kind.name();
    let Planned { plan, peaks, copies, again, parts, checkpointed } = match arena_limit(&shared.layout, options) {
        Some(limit_bytes) => {
            let source = match (entry.kind, training) {
                (EntryKind::Step, Some(training)) => Source::Training(training),
                _ => Source::Forward(&entry.graph),
            };
            let plan = Plan { kind: entry.kind, source, limit_bytes, shared, options };
            plan_within(&optimized, &plan, report)?
        }
        None => plan_in_spare_time(&in_blocks(&optimized, options, report)?, shared, options, report)?,
    };
    let stored = format!("{} values stored in another order, {copies} copies", plan.schedule.layouts.len());
    report.note_pass(name, "layout", stored);
    let live = format!("{} bytes live at most, {} in program order", peaks.chosen_bytes, peaks.program_bytes);
    report.note_pass(name, "schedule", format!("{} kernels and copies, {live}", plan.schedule.actions.len()));
    let outside_mflop = flops_outside_bands(&plan.schedule) / 1e6;
    report.note_pass(name, "bands", format!("{outside_mflop:.1} MFLOP of products that masks make zero left out"));
    report.keep(options, Stage::Schedule, name, || text::print_schedule(&plan.schedule));
    report.keep(options, Stage::Memory, name, || text::print_plan(&plan));
    let nodes = optimized.nodes().len();
    let guarded_bytes = guarded_live_bytes(&plan.schedule);
    let arena_bytes = plan.memory.arena_bytes;
    report.entries.push(EntryReport { name, nodes, peaks, again, parts, checkpointed, arena_bytes, guarded_bytes });
    Ok((entry, plan))
}

/// A planned graph.
pub(crate) struct Planned {
    pub plan: MemoryPlan,
    peaks: Peaks,
    /// Copies in another layout.
    copies: usize,
    again: Option<MadeAgain>,
    parts: Option<MicroBatches>,
    /// Loops checkpointed so that it fits.
    checkpointed: usize,
}

/// Plans a graph, its loops in blocks where that pays.
pub(crate) fn plan_graph(
    graph: &Graph,
    shared: &Shared,
    options: &Options,
    report: &mut CompileReport,
) -> Result<Planned, Diagnostics> {
    plan_in_blocks(&in_blocks(graph, options, report)?, shared, options, report)
}

/// The graph with its loops in blocks where that pays.
fn in_blocks(graph: &Graph, options: &Options, report: &mut CompileReport) -> Result<Graph, Diagnostics> {
    let cut = report.time("blocks", || cut_loops(graph, &options.target))?;
    checked(&cut, "blocks")?;
    Ok(cut)
}

/// Plans a graph whose loops are cut.
fn plan_in_blocks(
    graph: &Graph,
    shared: &Shared,
    options: &Options,
    report: &mut CompileReport,
) -> Result<Planned, Diagnostics> {
    let laid_out: LaidOut =
        report.time("layout", || Ok::<_, Diagnostic>(assign_layouts(graph, &shared.layout.kept)))?;
    checked(&laid_out.graph, "layout")?;
    let copies = laid_out.graph.nodes().len() - graph.nodes().len();
    let (scheduled, peaks): (Schedule, Peaks) = report.time("schedule", || schedule(laid_out, options.ordering))?;
    plan_scheduled(scheduled, peaks, copies, shared, report)
}

fn plan_scheduled(
    scheduled: Schedule,
    peaks: Peaks,
    copies: usize,
    shared: &Shared,
    report: &mut CompileReport,
) -> Result<Planned, Diagnostics> {
    let scheduled = report.time("bands", || Ok::<_, Diagnostic>(find_bands(scheduled, &shared.constants)))?;
    let plan = report.time("plan", || Ok::<_, Diagnostic>(plan_memory(scheduled, &shared.layout)))?;
    check_plan(&plan, &shared.layout).map_err(|d| d.help("this is a bug in gradc: the planner made a wrong plan"))?;
    Ok(Planned { plan, peaks, copies, again: None, parts: None, checkpointed: 0 })
}

/// Plans a graph whose loops are cut, with that made again for the backward pass which takes next to no time, where it
/// saves memory and the options allow it.
fn plan_in_spare_time(
    graph: &Graph,
    shared: &Shared,
    options: &Options,
    report: &mut CompileReport,
) -> Result<Planned, Diagnostics> {
    if !options.spare_time {
        return plan_in_blocks(graph, shared, options, report);
    }
    let found: Option<Rematerialised> = report.time("rematerialise", || {
        rematerialise_in_spare_time(graph, &shared.layout.kept, options.ordering, &options.target)
    })?;
    match found {
        Some(found) => plan_made_again(found, shared, report),
        None => plan_in_blocks(graph, shared, options, report),
    }
}

/// Plans a graph with values made again as it has been scheduled.
fn plan_made_again(found: Rematerialised, shared: &Shared, report: &mut CompileReport) -> Result<Planned, Diagnostics> {
    checked(&found.graph, "rematerialise")?;
    checked(&found.schedule.graph, "layout")?;
    let again = (found.dropped > 0).then(|| MadeAgain::of(&found));
    let copies = found.schedule.graph.nodes().len() - found.graph.nodes().len();
    Ok(Planned { again, ..plan_scheduled(found.schedule, found.peaks, copies, shared, report)? })
}

/// The largest arena that leaves room for what is kept between steps, if memory is limited.
fn arena_limit(layout: &SharedLayout, options: &Options) -> Option<usize> {
    options.peak_mem_bytes.map(|limit| limit.saturating_sub(layout.persistent_bytes + layout.constant_bytes))
}

/// Plans a graph for an arena of at most `limit_bytes`: with values made again for the backward pass as far as that
/// takes, else with the batch in parts; where the limit cannot be reached, for the smallest arena found.
fn plan_within(graph: &Graph, plan: &Plan, report: &mut CompileReport) -> Result<Planned, Diagnostics> {
    let best = plan_with_values_made_again(graph, plan.limit_bytes, plan.shared, plan.options, report)?;
    if best.plan.memory.arena_bytes <= plan.limit_bytes {
        return Ok(best);
    }
    if let Some(fits) = plan_checkpointed(plan, report)? {
        return Ok(fits);
    }
    let mut trial = CompileReport::default();
    match plan.in_parts(&mut trial)? {
        Ok(InParts { planned, .. }) if planned.plan.memory.arena_bytes >= best.plan.memory.arena_bytes => Ok(best),
        Ok(found) => {
            report.replace(trial);
            let without_bytes = best.again.as_ref().map_or(best.peaks.chosen_bytes, |again| again.without_bytes);
            let flops = found.flops() - graph_cost(graph, &plan.options.target).flops;
            let (examples, parts) = found.split;
            let parts = MicroBatches { examples, parts, flops, without_bytes };
            Ok(Planned { parts: Some(parts), ..found.planned })
        }
        Err(reason) => {
            report.not_split.get_or_insert(reason);
            Ok(best)
        }
    }
}

/// Plans a training step with its loops checkpointed, if that fits.
fn plan_checkpointed(plan: &Plan, report: &mut CompileReport) -> Result<Option<Planned>, Diagnostics> {
    let Source::Training(training) = plan.source else { return Ok(None) };
    let Some((training, checkpointed)) = training.checkpointed() else { return Ok(None) };
    let mut trial = CompileReport::default();
    let graph = trial.time("derive", || training.step(plan.options))?;
    let graph = optimize(&Entry { kind: plan.kind, graph }, plan.options, &mut trial)?;
    let planned = plan_with_values_made_again(&graph, plan.limit_bytes, plan.shared, plan.options, &mut trial)?;
    if planned.plan.memory.arena_bytes > plan.limit_bytes {
        return Ok(None);
    }
    report.replace(trial);
    Ok(Some(Planned { checkpointed, ..planned }))
}

/// Plans a graph for an arena of at most `limit_bytes`, with values made again for the backward pass as far as that
/// takes; where the limit cannot be reached, for the smallest arena found.
fn plan_with_values_made_again(
    graph: &Graph,
    limit_bytes: usize,
    shared: &Shared,
    options: &Options,
    report: &mut CompileReport,
) -> Result<Planned, Diagnostics> {
    let graph = &in_blocks(graph, options, report)?;
    let mut best = plan_in_spare_time(graph, shared, options, report)?;
    let mut aim_bytes = limit_bytes;
    for _ in 0..MOST_AIMS {
        if best.plan.memory.arena_bytes <= limit_bytes {
            break;
        }
        let fitted: Rematerialised = report.time("rematerialise", || {
            rematerialise(graph, aim_bytes, &shared.layout.kept, options.ordering, &options.target)
        })?;
        let is_met = fitted.peaks.chosen_bytes <= aim_bytes;
        let planned = plan_made_again(fitted, shared, report)?;
        let arena_bytes = planned.plan.memory.arena_bytes;
        if arena_bytes < best.plan.memory.arena_bytes {
            best = planned;
        }
        if !is_met {
            break;
        }
        // Gaps between buffers are not foreseen: aim lower by as much.
        aim_bytes = aim_bytes.saturating_sub(arena_bytes.saturating_sub(limit_bytes));
    }
    Ok(best)
}

pub(crate) fn optimize(entry: &Entry, options: &Options, report: &mut CompileReport) -> Result<Graph, Diagnostics> {
    let (graph, rewrites) = report.time("optimize", || optimize_with_bodies(&entry.graph, &rewriting(options)))?;
    checked(&graph, "optimize")?;
    let (graph, regions) = report.time("parts", || block_for_cache(&graph))?;
    checked(&graph, "parts")?;
    let blocked = format!("{regions} regions of large values made in parts");
    report.note_pass(entry.kind.name(), "parts", blocked);
    let once = graph.nodes().len();
    let graph = report.time("recompute", || recompute(&graph, &options.target))?;
    let graph = report.time("recompute", || map_parts(&graph, |part| recompute(part, &options.target)))?;
    checked(&graph, "recompute")?;
    report.rewrites.push((entry.kind.name(), rewrites));
    let again = graph.nodes().len().saturating_sub(once);
    report.note_pass(entry.kind.name(), "recompute", format!("{again} nodes made again for the backward pass"));
    Ok(graph)
}

/// How graphs are to be rewritten.
fn rewriting(options: &Options) -> OptimizeOptions {
    OptimizeOptions {
        families: options.families.clone(),
        strategy: options.strategy,
        fp: options.fp,
        explain: options.explain,
        ..OptimizeOptions::new(options.target.clone())
    }
}

/// Optimizes the bodies of regions, then the graph; the report has the windows of all.
fn optimize_with_bodies(graph: &Graph, settings: &OptimizeOptions) -> Result<(Graph, OptimizeReport), Diagnostic> {
    let mut windows = Vec::new();
    let graph = map_bodies(graph, &mut |body: &Graph| -> Result<Graph, Diagnostic> {
        let (body, report) = egraph::optimize(body, settings)?;
        windows.extend(report.windows);
        Ok(body)
    })?;
    let (graph, mut report) = egraph::optimize(&graph, settings)?;
    report.windows.extend(windows);
    Ok((graph, report))
}

/// A graph that a stage made must be well formed: anything else is a bug in gradc, not in the input.
fn checked(graph: &Graph, stage: &str) -> Result<(), Diagnostics> {
    verify(graph).map_err(|d| {
        Diagnostics::from(d.help(format!("this is a bug in gradc: stage `{stage}` made an ill-formed graph")))
    })
}

fn clif(executable: &Executable) -> String {
    executable.texts().iter().map(|(name, text)| format!("; {name}\n{text}\n")).collect()
}

fn check_peak(
    options: &Options,
    layout: &SharedLayout,
    planned: &[(Entry, MemoryPlan)],
    report: &CompileReport,
) -> Result<(), Diagnostics> {
    let kept_bytes = layout.persistent_bytes + layout.constant_bytes;
    let (Some(limit), needed) = (options.peak_mem_bytes, report.arena_bytes() + kept_bytes) else { return Ok(()) };
    if needed <= limit {
        return Ok(());
    }
    let largest = report.entries.iter().rev().max_by_key(|entry| entry.arena_bytes).map_or("", |entry| entry.name);
    let one_kernel = planned.iter().map(|(_, plan)| largest_action_bytes(&plan.schedule)).max().unwrap_or(0);
    let message = format!("the planned peak is {} bytes above the limit", needed - limit);
    let help = "lower the batch size, or freeze parameters with the recipe's `trainable`";
    let split = report.not_split.as_ref().map(|reason| format!("; the batch cannot be split: {reason}"));
    Err(Diagnostic::new("peak-mem", message)
        .expected(format!("at most {limit} bytes"))
        .found(format!(
            "{needed} bytes: {kept_bytes} kept between steps and an arena of {} for `{largest}`, of which one kernel alone takes {one_kernel}",
            report.arena_bytes()
        ))
        .help(format!("{help}{}", split.unwrap_or_default()))
        .into())
}
