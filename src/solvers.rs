//! From the recipe's words on loops to how their gradients are computed.

use gradc_frontend::recipe::{Recipe, Solver, SolverBackward, solvers_of};
use gradc_ir::diagnostic::Diagnostics;
use gradc_ir::graph::{Graph, NodeId};
use gradc_passes::loops::{Backward, LoopPolicies, Tolerance, loops};

/// The policies of the loops of a forward graph that still has them.
pub(crate) fn loop_policies(recipe: &Recipe, forward: &Graph) -> Result<LoopPolicies, Diagnostics> {
    let found: Vec<NodeId> = loops(forward);
    let layers: Vec<&str> = found.iter().map(|&id| forward.loc(id).layer.as_str()).collect();
    let chosen = solvers_of(recipe, &layers)?;
    Ok(found.into_iter().zip(chosen).filter_map(|(id, solver)| Some((id, backward(solver?)))).collect())
}

fn backward(solver: &Solver) -> Backward {
    let given = solver.tolerance;
    let tolerance = Tolerance { forward: given.forward, backward: given.backward, gap: given.gap };
    match solver.backward {
        SolverBackward::Auto | SolverBackward::Exact => Backward::Exact,
        SolverBackward::Checkpoint => Backward::Checkpoint,
        SolverBackward::Frozen => Backward::Frozen(tolerance),
        SolverBackward::Implicit => Backward::Implicit(tolerance),
    }
}
