//! What a compilation tells.

use crate::budget::Selection;
use crate::entries::{Entry, EntryKind};
use crate::micro_batches::MicroBatches;
use crate::options::{Options, Stage};
use crate::parameters::ParameterReport;
use crate::training_cost::TrainingCost;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::plan::MemoryPlan;
use gradc_passes::egraph::explain::OptimizeReport;
use gradc_passes::fit::Rematerialised;
use gradc_passes::memory::{guarded_live_bytes, live_bytes};
use gradc_passes::roll::RollReport;
use gradc_passes::schedule::Peaks;
use std::time::{Duration, Instant};

/// What a compilation did.
#[derive(Debug, Default)]
pub struct CompileReport {
    /// Time per stage, summed over the entries.
    pub stages: Vec<(&'static str, Duration)>,
    /// One report per entry.
    pub entries: Vec<EntryReport>,
    /// Loops found in the model's graphs, `train` and `infer`.
    pub rolls: Vec<(&'static str, RollReport)>,
    /// What was done so that the steps of loops share more, by graph of the model, `train` and `infer`; empty where
    /// nothing may be re-associated.
    pub folds: Vec<(&'static str, OptimizeReport)>,
    /// Rewrites of each entry, by entry name.
    pub rewrites: Vec<(&'static str, OptimizeReport)>,
    /// What the passes beside the e-graph did.
    pub passes: Vec<PassNote>,
    /// Text of the stages asked for: (stage, entry, text).
    pub texts: Vec<(Stage, &'static str, String)>,
    /// What becomes of each parameter in training; empty without a recipe, and for a package.
    pub parameters: Vec<ParameterReport>,
    /// Arithmetic and memory of the training step; `None` without a recipe, and for a package.
    pub training: Option<TrainingCost>,
    /// What was selected under the recipe's budget.
    pub selection: Option<Selection>,
    /// What the user should know although it is not an error.
    pub notes: Vec<String>,
    /// Native kernels altogether.
    pub kernels: usize,
    /// Why the batch was not split although memory does not suffice.
    pub(crate) not_split: Option<Diagnostic>,
}

/// What a pass did to an entry, in a line.
#[derive(Debug)]
pub struct PassNote {
    /// `step`, `eval` or `predict`.
    pub entry: &'static str,
    /// Name of the pass.
    pub pass: &'static str,
    /// What it did.
    pub what: String,
}

/// What became of one entry.
#[derive(Debug)]
pub struct EntryReport {
    /// `step`, `eval` or `predict`.
    pub name: &'static str,
    /// Nodes after optimizing.
    pub nodes: usize,
    /// Live bytes with and without reordering; the arena cannot be smaller than with it.
    pub peaks: Peaks,
    /// What is made again for the backward pass, because it takes next to no time or so that memory suffices.
    pub again: Option<MadeAgain>,
    /// The parts that the batch is taken in so that memory suffices; loss and gradients are the same but for the order
    /// in which examples are summed.
    pub parts: Option<MicroBatches>,
    /// Loops of which about √K of the K states are kept, not all, so that memory suffices; the order of a few sums
    /// differs.
    pub checkpointed: usize,
    /// Arena the entry needs, bytes.
    pub arena_bytes: usize,
    /// Most bytes alive at once as long as the guards of approximate gradients hold; the arena has room for when one
    /// does not. `None` without such gradients.
    pub guarded_bytes: Option<usize>,
}

/// What is made again for the backward pass so that less is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeAgain {
    /// Values of the forward pass that are made again instead of being kept.
    pub values: usize,
    /// Scalar operations that are done again for them.
    pub flops: f64,
    /// Most bytes alive at once if they were kept.
    pub without_bytes: usize,
}

impl MadeAgain {
    pub(crate) fn of(found: &Rematerialised) -> Self {
        MadeAgain { values: found.dropped, flops: found.again.flops, without_bytes: found.without_bytes }
    }
}

impl CompileReport {
    /// The report of a package that was loaded.
    pub(crate) fn loaded(&mut self, planned: &[(Entry, MemoryPlan)], kernels: usize) {
        self.kernels = kernels;
        self.entries = planned
            .iter()
            .map(|(entry, plan)| {
                let bytes = live_bytes(&plan.schedule);
                let peaks = Peaks { program_bytes: bytes, chosen_bytes: bytes };
                EntryReport {
                    name: entry.kind.name(),
                    nodes: plan.schedule.graph.nodes().len(),
                    peaks,
                    again: None,
                    parts: None,
                    checkpointed: 0,
                    arena_bytes: plan.memory.arena_bytes,
                    guarded_bytes: guarded_live_bytes(&plan.schedule),
                }
            })
            .collect();
    }

    pub(crate) fn time<T, E>(
        &mut self,
        stage: &'static str,
        run: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, Diagnostics>
    where
        Diagnostics: From<E>,
    {
        let start = Instant::now();
        let result = run();
        self.add_time(stage, start.elapsed());
        Ok(result?)
    }

    fn add_time(&mut self, stage: &'static str, elapsed: Duration) {
        match self.stages.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, total)) => *total += elapsed,
            None => self.stages.push((stage, elapsed)),
        }
    }

    /// Takes over what is told of an entry that was derived anew, and the time that took.
    pub(crate) fn replace(&mut self, other: CompileReport) {
        other.stages.into_iter().for_each(|(stage, time)| self.add_time(stage, time));
        let last = other.rewrites.into_iter().last();
        self.rewrites.retain(|(entry, _)| last.as_ref().is_none_or(|(new, _)| new != entry));
        self.rewrites.extend(last);
    }

    pub(crate) fn note_pass(&mut self, entry: &'static str, pass: &'static str, what: String) {
        self.passes.push(PassNote { entry, pass, what });
    }

    pub(crate) fn keep(
        &mut self,
        options: &Options,
        stage: Stage,
        entry: &'static str,
        print: impl FnOnce() -> String,
    ) {
        if options.emit.contains(&stage) {
            self.texts.push((stage, entry, print()));
        }
    }

    /// All rewrites by what they are rewrites of: the model's loops, where there are any, and the entries.
    pub fn told(&self) -> Vec<(String, &OptimizeReport)> {
        let folds = self.folds.iter().filter(|(_, report)| !report.windows.is_empty());
        let folds = folds.map(|(graph, report)| (format!("loops of {graph}"), report));
        folds.chain(self.rewrites.iter().map(|(entry, report)| (entry.to_string(), report))).collect()
    }

    /// Size of the arena, which serves one entry at a time, bytes.
    pub fn arena_bytes(&self) -> usize {
        self.entries.iter().map(|e| e.arena_bytes).max().unwrap_or(0)
    }

    /// Parts that the training step takes the batch in; 1 where it takes it at once.
    pub fn micro_batches(&self) -> usize {
        let step = self.entries.iter().find(|e| e.name == EntryKind::Step.name());
        step.and_then(|e| e.parts.as_ref()).map_or(1, |split| split.parts)
    }

    /// As [`CompileReport::arena_bytes`], as long as the guards of approximate gradients hold.
    pub fn guarded_arena_bytes(&self) -> usize {
        self.entries.iter().map(|e| e.guarded_bytes.unwrap_or(e.arena_bytes)).max().unwrap_or(0)
    }

    /// Time of all stages together.
    pub fn total(&self) -> Duration {
        self.stages.iter().map(|(_, time)| *time).sum()
    }
}
