//! From the recipe's words on loops to how their gradients are computed.

use crate::options::Options;
use gradc_frontend::recipe::{Recipe, Solver, SolverBackward, Solvers};
use gradc_ir::diagnostic::{Diagnostics, Loc};
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::region::RegionForm;
use gradc_passes::expand_regions::expand_where;
use gradc_passes::loops::{Backward, LoopPolicies, Tolerance, loops};

/// A forward graph with the loops that are differentiated as loops, and how; the others are unrolled.
pub(crate) fn training_loops(
    recipe: &Recipe,
    forward: &Graph,
    options: &Options,
) -> Result<(Graph, LoopPolicies), Diagnostics> {
    let solvers = Solvers::of(recipe)?;
    let forward = expand_where(forward, &|_, _| false)?;
    let layers: Vec<&str> = loops(&forward).into_iter().map(|id| layer(&forward, id)).collect();
    solvers.check_used(&layers)?;
    let kept = expand_where(&forward, &|at, form| is_unrolled(&solvers, options, at, form))?;
    let policy = |id: NodeId| Some((id, backward(solvers.for_layer(layer(&kept, id))?)));
    let policies = loops(&kept).into_iter().filter_map(policy).collect();
    Ok((kept, policies))
}

fn layer(graph: &Graph, id: NodeId) -> &str {
    &graph.loc(id).layer
}

/// Whether a region is differentiated as the ops that it stands for.
fn is_unrolled(solvers: &Solvers, options: &Options, at: &Loc, form: &RegionForm) -> bool {
    let chosen = match form {
        RegionForm::Loop(_) => solvers.for_layer(&at.layer).map(|solver| solver.backward),
        RegionForm::Branch(_) => None,
    };
    match chosen {
        Some(SolverBackward::Unrolled) => true,
        None | Some(SolverBackward::Auto) => options.expand.hold(form, &options.target),
        Some(_) => false,
    }
}

fn backward(solver: &Solver) -> Backward {
    let given = solver.tolerance;
    let tolerance = Tolerance { forward: given.forward, backward: given.backward, gap: given.gap };
    match solver.backward {
        SolverBackward::Auto | SolverBackward::Unrolled | SolverBackward::Exact => Backward::Exact,
        SolverBackward::Checkpoint => Backward::Checkpoint,
        SolverBackward::Frozen => Backward::Frozen(tolerance),
        SolverBackward::Implicit => Backward::Implicit(tolerance),
    }
}
