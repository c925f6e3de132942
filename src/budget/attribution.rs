//! Costs of a planned training step by the parameters whose updates need them.

use crate::training_cost::{Phase, flops, phase, saved};
use gradc_ir::graph::{InputId, Role};
use gradc_ir::plan::MemoryPlan;
use gradc_passes::select::{Attributed, Needs, ParameterSet, SharedCosts};
use serde::Serialize;

/// What training one parameter costs, beside others that train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterCost {
    /// Its name.
    pub name: String,
    /// Operations of the backward pass.
    pub backward_flops: Attributed,
    /// Operations of its update alone.
    pub update_flops: u64,
    /// Activations kept for the backward pass and optimizer state, bytes.
    pub kept_bytes: Attributed,
}

/// What a planned training step costs, by the parameters that train.
#[derive(Clone, Debug, Default)]
pub(super) struct Attribution {
    /// The parameters, by number.
    pub parameters: Vec<String>,
    /// Operations of the backward pass; together those of `TrainingCost`.
    pub backward_flops: SharedCosts,
    /// Operations of updates.
    pub update_flops: SharedCosts,
    /// Activations kept for the backward pass and optimizer state, bytes: together those of `TrainingCost`.
    pub kept_bytes: SharedCosts,
}

impl Attribution {
    pub fn of(plan: &MemoryPlan) -> Attribution {
        let graph = &plan.schedule.graph;
        let needs = Needs::of(graph);
        let name = |id: &InputId| graph.inputs()[id.index()].name.clone();
        let mut costs =
            Attribution { parameters: needs.parameters().iter().map(name).collect(), ..Attribution::default() };
        for id in graph.node_ids() {
            match phase(graph, id) {
                Phase::Forward => {}
                Phase::Backward => costs.backward_flops.add(needs.at(id), flops(&plan.schedule, id)),
                Phase::Update => costs.update_flops.add(needs.at(id), flops(&plan.schedule, id)),
            }
        }
        costs.add_kept(plan, &needs);
        costs
    }

    fn add_kept(&mut self, plan: &MemoryPlan, needs: &Needs) {
        let graph = &plan.schedule.graph;
        for kept in saved(plan) {
            let mut needed_by = ParameterSet::with_capacity(self.parameters.len());
            kept.read_for.iter().for_each(|&id| needed_by.union_with(needs.at(id)));
            self.kept_bytes.add(&needed_by, graph.ty(kept.value).size_bytes() as u64);
        }
        for state in graph.inputs().iter().filter(|i| i.role == Role::State) {
            self.kept_bytes.add(needs.at(state.value.node), graph.ty(state.value).size_bytes() as u64);
        }
    }

    /// What each parameter costs.
    pub fn parameter_costs(&self) -> Vec<ParameterCost> {
        let count = self.parameters.len();
        let (flops, updates) = (self.backward_flops.attribute(count), self.update_flops.attribute(count));
        let bytes = self.kept_bytes.attribute(count);
        let cost = |(k, name): (usize, &String)| ParameterCost {
            name: name.clone(),
            backward_flops: flops[k],
            update_flops: updates[k].own,
            kept_bytes: bytes[k],
        };
        self.parameters.iter().enumerate().map(cost).collect()
    }
}
