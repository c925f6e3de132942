//! From a memory plan to what code generation takes: kernels with a place for every operand and result.

use gradc_codegen::{EntryCode, Operand, PlacedAction};
use gradc_ir::graph::Value;
use gradc_ir::plan::{Action, MemoryPlan};
use gradc_passes::schedule::kernels;

/// The actions of a plan, in order, each kernel with its places.
pub(crate) fn entry_code(name: &str, plan: &MemoryPlan) -> EntryCode {
    let graph = &plan.schedule.graph;
    let operand = |v: &Value| Operand { place: plan.places[v], ty: graph.ty(*v).clone() };
    let mut actions = Vec::new();
    for (action, made) in plan.schedule.actions.iter().zip(kernels(&plan.schedule)) {
        if let Action::CheckFinite(value) = action {
            actions.push(PlacedAction::CheckFinite { operand: operand(value) });
        }
        actions.extend(made.into_iter().map(|kernel| PlacedAction::Run {
            operands: kernel.operands.iter().map(operand).collect(),
            results: kernel.results.iter().map(operand).collect(),
            kernel: Box::new(kernel),
        }));
    }
    EntryCode { name: name.to_string(), actions, commits: plan.commits.clone() }
}
