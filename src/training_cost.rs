//! What one training step costs, from its plan: arithmetic by part of the step, and memory by what it is for.

use gradc_ir::graph::{Graph, NodeId, Role, Value};
use gradc_ir::plan::{Action, MemoryPlan, Schedule};
use gradc_ir::region::RegionForm;
use gradc_passes::cost::node_flops;
use gradc_passes::micro_batch::takes_parts;
use gradc_passes::schedule::kernels;
use serde::Serialize;
use std::collections::BTreeMap;

/// Arithmetic and memory of a training step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrainingCost {
    /// Operations of the forward pass; two per product of a sum of products.
    pub forward_flops: u64,
    /// Operations of the backward pass, what it makes again included.
    pub backward_flops: u64,
    /// Operations of the optimizer.
    pub update_flops: u64,
    /// Values that are stored when the loss has been made and read later, bytes.
    pub saved_bytes: usize,
    /// Gradients of what trains, whether or not they are ever stored, bytes.
    pub gradient_bytes: usize,
    /// Optimizer state, bytes.
    pub state_bytes: usize,
    /// Place for all values that are not kept between steps, bytes.
    pub arena_bytes: usize,
}

impl TrainingCost {
    /// The cost of a planned step in which so many bytes of parameters train.
    pub(crate) fn of(plan: &MemoryPlan, trained_bytes: usize) -> TrainingCost {
        let graph = &plan.schedule.graph;
        let part = part_of_batch(&plan.schedule);
        let passes = part.map_or(&plan.schedule, |(_, part, _)| part);
        let mut cost = TrainingCost {
            saved_bytes: saved_in(passes).iter().map(|s| passes.graph.ty(s.value).size_bytes()).sum(),
            gradient_bytes: trained_bytes,
            state_bytes: state_bytes(graph),
            arena_bytes: plan.memory.arena_bytes,
            ..TrainingCost::default()
        };
        for id in graph.node_ids().filter(|&id| part.is_none_or(|(node, ..)| node != id)) {
            cost.add(phase(graph, id), flops(&plan.schedule, id));
        }
        if let Some((_, schedule, parts)) = part {
            let graph = &schedule.graph;
            graph.node_ids().for_each(|id| cost.add(phase(graph, id), parts * flops(schedule, id)));
        }
        cost
    }

    fn add(&mut self, phase: Phase, flops: u64) {
        match phase {
            Phase::Forward => self.forward_flops += flops,
            Phase::Backward => self.backward_flops += flops,
            Phase::Update => self.update_flops += flops,
        }
    }

    /// Bytes that training needs for activations, gradients and optimizer state: the arena, in which the first two
    /// live, and the state.
    pub fn training_bytes(&self) -> usize {
        self.arena_bytes + self.state_bytes
    }
}

/// The loop that takes the batch in parts, the schedule of a part, and the number of parts; `None` where it is taken at
/// once.
fn part_of_batch(schedule: &Schedule) -> Option<(NodeId, &Schedule, u64)> {
    schedule.actions.iter().find_map(|action| {
        let Action::Region(region) = action else { return None };
        let form = RegionForm::of_node(&schedule.graph, region.node).filter(takes_parts)?;
        Some((region.node, &region.bodies[0], form.steps() as u64))
    })
}

/// Part of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Forward,
    Backward,
    Update,
}

/// The part of a step that a node belongs to.
pub(crate) fn phase(graph: &Graph, id: NodeId) -> Phase {
    match graph.loc(id) {
        loc if loc.source_op == "optimizer" => Phase::Update,
        loc if loc.backward => Phase::Backward,
        _ => Phase::Forward,
    }
}

/// Operations of a node.
pub(crate) fn flops(schedule: &Schedule, id: NodeId) -> u64 {
    node_flops(schedule, id) as u64
}

fn state_bytes(graph: &Graph) -> usize {
    let states = graph.inputs().iter().filter(|i| i.role == Role::State);
    states.map(|i| graph.ty(i.value).size_bytes()).sum()
}

/// A value that is alive when the loss has been made.
pub(crate) struct Saved {
    /// The value, made until then.
    pub value: Value,
    /// Nodes that are made later by kernels that read it; at least one.
    pub read_for: Vec<NodeId>,
}

/// All values alive when the loss has been made.
pub(crate) fn saved(plan: &MemoryPlan) -> Vec<Saved> {
    saved_in(&plan.schedule)
}

fn saved_in(schedule: &Schedule) -> Vec<Saved> {
    let mut made: BTreeMap<Value, usize> = BTreeMap::new();
    let mut reads: BTreeMap<Value, Vec<(usize, NodeId)>> = BTreeMap::new();
    for (k, (action, kernels)) in schedule.actions.iter().zip(kernels(schedule)).enumerate() {
        if let Action::Run(group) = action {
            made.extend(group.stored.iter().map(|&value| (value, k)));
        }
        for kernel in kernels {
            for operand in kernel.operands {
                reads.entry(operand).or_default().extend(kernel.results.iter().map(|result| (k, result.node)));
            }
        }
    }
    let Some(border) = loss_made(schedule, &made) else { return vec![] };
    let read_later = |value: &Value| {
        let of_value = reads.get(value).into_iter().flatten();
        of_value.filter(|(k, _)| *k > border).map(|&(_, id)| id).collect()
    };
    let until_then = made.iter().filter(|(_, at)| **at <= border);
    let saved = until_then.map(|(&value, _)| Saved { value, read_for: read_later(&value) });
    saved.filter(|s| !s.read_for.is_empty()).collect()
}

/// The action that makes the last checked value, the loss; of a part of the batch its first result. `made` has the
/// actions that make values.
fn loss_made(schedule: &Schedule, made: &BTreeMap<Value, usize>) -> Option<usize> {
    let checked = |action: &Action| match action {
        Action::CheckFinite(value) => made.get(value).copied(),
        _ => None,
    };
    let first = || made.get(&schedule.graph.outputs().first()?.value).copied();
    schedule.actions.iter().filter_map(checked).max().or_else(first)
}
