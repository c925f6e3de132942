//! What one training step costs, from its plan: arithmetic by part of the step, and memory by what it is for.

use gradc_ir::graph::{Graph, NodeId, Role, Value};
use gradc_ir::plan::{Action, MemoryPlan};
use gradc_ir::target::Target;
use gradc_ir::types::TensorType;
use gradc_passes::cost::op_cost;
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
        let mut cost = TrainingCost {
            saved_bytes: saved_bytes(plan),
            gradient_bytes: trained_bytes,
            state_bytes: state_bytes(graph),
            arena_bytes: plan.memory.arena_bytes,
            ..TrainingCost::default()
        };
        for id in graph.node_ids() {
            let flops = flops(graph, id);
            match phase(graph, id) {
                Phase::Forward => cost.forward_flops += flops,
                Phase::Backward => cost.backward_flops += flops,
                Phase::Update => cost.update_flops += flops,
            }
        }
        cost
    }

    /// Bytes that training needs for activations, gradients and optimizer state: the arena, in which the first two
    /// live, and the state.
    pub fn training_bytes(&self) -> usize {
        self.arena_bytes + self.state_bytes
    }
}

/// Part of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Forward,
    Backward,
    Update,
}

fn phase(graph: &Graph, id: NodeId) -> Phase {
    match graph.loc(id) {
        loc if loc.source_op == "optimizer" => Phase::Update,
        loc if loc.backward => Phase::Backward,
        _ => Phase::Forward,
    }
}

fn flops(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    graph.op(id).map_or(0, |op| op_cost(op, &inputs, &node.types, &Target::host()).flops as u64)
}

fn state_bytes(graph: &Graph) -> usize {
    let states = graph.inputs().iter().filter(|i| i.role == Role::State);
    states.map(|i| graph.ty(i.value).size_bytes()).sum()
}

/// Values alive when the loss has been made: made until then and read later.
fn saved_bytes(plan: &MemoryPlan) -> usize {
    let (mut made, mut read): (BTreeMap<Value, usize>, BTreeMap<Value, usize>) = Default::default();
    for (k, (action, kernels)) in plan.schedule.actions.iter().zip(kernels(&plan.schedule)).enumerate() {
        if let Action::Run(group) = action {
            made.extend(group.stored.iter().map(|&value| (value, k)));
        }
        read.extend(kernels.into_iter().flat_map(|kernel| kernel.operands).map(|value| (value, k)));
    }
    let checked =
        plan.schedule.actions.iter().filter_map(|a| if let Action::CheckFinite(v) = a { Some(v) } else { None });
    let Some(border) = checked.filter_map(|loss| made.get(loss)).max().copied() else { return 0 };
    let saved = made.iter().filter(|(value, at)| **at <= border && read.get(value).is_some_and(|&last| last > border));
    saved.map(|(&value, _)| plan.schedule.graph.ty(value).size_bytes()).sum()
}
