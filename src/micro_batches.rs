//! Splitting the batch where a limit of memory asks for it and nothing that keeps every bit fits.

use crate::compile::{Planned, Shared, optimize, plan_graph};
use crate::entries::{Entry, EntryKind};
use crate::options::Options;
use crate::report::CompileReport;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::target::Target;
use gradc_passes::cost::graph_cost;
use gradc_passes::expand_regions::expand_small_regions;
use gradc_passes::fit::rematerialise;
use gradc_passes::layout::KeptLayouts;
use gradc_passes::loops::{Backward, LoopPolicies, loops};
use gradc_passes::micro_batch::{batch_sizes, derive_step_in_parts, evaluate_in_parts, map_parts};
use gradc_passes::train::{TrainSpec, derive_step_of_loops};

/// What a training step is derived from.
#[derive(Clone, Debug)]
pub(crate) struct Training {
    /// The forward pass with its loss.
    pub forward: Graph,
    /// How it trains.
    pub spec: TrainSpec,
    /// How gradients of loops are computed.
    pub loops: LoopPolicies,
}

impl Training {
    /// The same with every loop checkpointed whose gradient is exact, and how many those are; `None` without any.
    pub fn checkpointed(&self) -> Option<(Training, usize)> {
        let is_exact = |id: &NodeId| matches!(self.loops.get(id), None | Some(Backward::Exact));
        let exact: Vec<NodeId> = loops(&self.forward).into_iter().filter(is_exact).collect();
        let mut training = self.clone();
        training.loops.extend(exact.iter().map(|&id| (id, Backward::Checkpoint)));
        (!exact.is_empty()).then_some((training, exact.len()))
    }

    /// The training step.
    pub fn step(&self, options: &Options) -> Result<Graph, Diagnostics> {
        let step = derive_step_of_loops(&self.forward, &self.spec, &self.loops)?;
        Ok(expand_small_regions(&step, &options.expand, &options.target)?)
    }
}

/// A batch that is taken in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroBatches {
    /// Examples of the batch.
    pub examples: usize,
    /// Equal parts they are taken in, one after the other.
    pub parts: usize,
    /// Scalar operations more than for the whole batch at once.
    pub flops: f64,
    /// Most bytes alive at once if the batch were taken as a whole.
    pub without_bytes: usize,
}

/// What an entry is derived from.
pub(crate) enum Source<'a> {
    /// A training step.
    Training(&'a Training),
    /// An entry without gradients.
    Forward(&'a Graph),
}

impl Source<'_> {
    fn forward(&self) -> &Graph {
        match self {
            Source::Training(training) => &training.forward,
            Source::Forward(graph) => graph,
        }
    }

    fn in_parts(&self, examples: usize, parts: usize) -> Result<Graph, Diagnostics> {
        match self {
            Source::Training(Training { forward, spec, loops }) => {
                derive_step_in_parts(forward, spec, loops, examples, parts)
            }
            Source::Forward(graph) => Ok(evaluate_in_parts(graph, examples, parts)?),
        }
    }
}

/// What an entry taken in parts is planned for.
pub(crate) struct Plan<'a> {
    /// Which entry it is.
    pub kind: EntryKind,
    /// What it is derived from.
    pub source: Source<'a>,
    /// Most bytes its arena may have.
    pub limit_bytes: usize,
    /// What it shares with other entries.
    pub shared: &'a Shared,
    /// How it is compiled.
    pub options: &'a Options,
}

/// An entry planned in parts.
pub(crate) struct InParts {
    /// The graph that was planned.
    graph: Graph,
    /// Its plan.
    pub planned: Planned,
    /// Examples, and into how many parts they are taken.
    pub split: (usize, usize),
}

impl InParts {
    /// Scalar operations.
    pub fn flops(&self) -> f64 {
        graph_cost(&self.graph, &Target::host()).flops
    }

    fn arena_bytes(&self) -> usize {
        self.planned.plan.memory.arena_bytes
    }

    /// Bytes that the bodies of loops work in.
    fn work_bytes(&self) -> usize {
        self.planned.plan.memory.regions.values().map(|region| region.block_bytes()).max().unwrap_or(0)
    }
}

impl Plan<'_> {
    /// Plans for as few parts as the limit takes; where none fits, for as many as there are examples, with values made
    /// again within a part. Where examples cannot be told apart, why.
    pub fn in_parts(&self, report: &mut CompileReport) -> Result<Result<InParts, Diagnostic>, Diagnostics> {
        let mut refused = None;
        for examples in batch_sizes(self.source.forward()) {
            match self.fewest_parts(examples, report) {
                Ok(Some(found)) => return Ok(Ok(found)),
                Ok(None) => {}
                Err(problems) if problems.0.iter().all(|d| d.code == "examples-mix") => {
                    refused = refused.or(problems.0.into_iter().next());
                }
                Err(problems) => return Err(problems),
            }
        }
        Ok(Err(refused.unwrap_or_else(|| Diagnostic::new("examples-mix", "no input has an axis for examples"))))
    }

    fn fewest_parts(&self, examples: usize, report: &mut CompileReport) -> Result<Option<InParts>, Diagnostics> {
        let mut best: Option<InParts> = None;
        let mut parts = 1;
        while let Some(more) = (parts + 1..=examples).find(|&n| examples.is_multiple_of(n)) {
            parts = self.likely(more, best.as_ref(), examples);
            let found = self.planned(examples, parts, report)?;
            let fits = found.arena_bytes() <= self.limit_bytes;
            if best.as_ref().is_none_or(|best| found.arena_bytes() < best.arena_bytes()) {
                best = Some(found);
            }
            if fits {
                return Ok(best);
            }
        }
        best.map(|best| self.with_values_made_again(best, report)).transpose()
    }

    /// The fewest parts from `least` on that may fit, if what a part works in shrinks with it.
    fn likely(&self, least: usize, last: Option<&InParts>, examples: usize) -> usize {
        let Some(last) = last else { return least };
        let fixed_bytes = last.arena_bytes() - last.work_bytes();
        let fits = |n: &usize| fixed_bytes + last.work_bytes() * last.split.1 / n <= self.limit_bytes;
        let mut divisors = (least..=examples).filter(|n| examples.is_multiple_of(*n));
        divisors.clone().find(fits).or(divisors.next_back()).unwrap_or(least)
    }

    fn planned(&self, examples: usize, parts: usize, report: &mut CompileReport) -> Result<InParts, Diagnostics> {
        let graph = report.time("derive", || self.source.in_parts(examples, parts))?;
        let graph = optimize(&Entry { kind: self.kind, graph }, self.options, report)?;
        let planned = plan_graph(&graph, self.shared, self.options, report)?;
        Ok(InParts { graph, planned, split: (examples, parts) })
    }

    /// The same with values made again in its parts, if that is smaller.
    fn with_values_made_again(&self, found: InParts, report: &mut CompileReport) -> Result<InParts, Diagnostics> {
        let excess_bytes = found.arena_bytes().saturating_sub(self.limit_bytes);
        let aim_bytes = found.work_bytes().saturating_sub(excess_bytes);
        let (ordering, target) = (self.options.ordering, &self.options.target);
        let kept = KeptLayouts::new(); // Parts have inputs of their own.
        let graph = report.time("rematerialise", || {
            map_parts(&found.graph, |part| {
                rematerialise(part, aim_bytes, &kept, ordering, target).map(|made| made.graph)
            })
        })?;
        let planned = plan_graph(&graph, self.shared, self.options, report)?;
        let again = InParts { graph, planned, split: found.split };
        Ok(if again.arena_bytes() < found.arena_bytes() { again } else { found })
    }
}
