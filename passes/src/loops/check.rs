//! Which loops can be differentiated at their result alone.

use super::{Backward, LoopPolicies, as_scan, until};
use crate::differentiate::dependents;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{Graph, NodeId, Value};
use gradc_ir::ops::{Op, Scan};

/// Fails for every loop whose policy it cannot have; `wrt` is what is differentiated.
pub(crate) fn check_policies(graph: &Graph, policies: &LoopPolicies, wrt: &[Value]) -> Result<(), Diagnostics> {
    let depends = dependents(graph, wrt);
    let problem = |(&id, &policy): (&NodeId, &Backward)| {
        let scan = match graph.op(id)? {
            Op::IterateUntil(until) => until::one_map(until).ok()?,
            op => as_scan(op)?,
        };
        let starts = &graph.node(id).operands[..scan.carries];
        let start_trains = starts.iter().any(|v| depends[v.node.index()]);
        let reason = match policy {
            Backward::Exact | Backward::Checkpoint => None,
            Backward::Frozen(_) => one_map(&scan),
            Backward::Implicit(_) if start_trains => Some("the gradient of where the loop starts is asked for"),
            Backward::Implicit(_) => one_map(&scan),
        };
        reason.map(|reason| refused(graph, id, policy, reason))
    };
    let problems: Vec<Diagnostic> = policies.iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(Diagnostics(problems)) }
}

/// Why the loop is not one map applied to its own result, of which only the last result is used.
fn one_map(scan: &Scan) -> Option<&'static str> {
    let body = &scan.body;
    let carried: Vec<_> = body.inputs()[..scan.carries].iter().map(|i| body.ty(i.value).dtype).collect();
    if scan.scanned > 0 {
        Some("steps differ in constants of their own")
    } else if body.outputs().len() > scan.carries {
        Some("results of single steps are used outside of the loop")
    } else if !carried.iter().all(|dtype| dtype.is_float() && *dtype == carried[0]) {
        Some("the loop carries more than floats of one type, such as a counter")
    } else {
        None
    }
}

fn refused(graph: &Graph, id: NodeId, policy: Backward, reason: &str) -> Diagnostic {
    let name = if matches!(policy, Backward::Frozen(_)) { "frozen" } else { "implicit" };
    graph
        .diagnostic_at(id, "solver-backward", format!("the gradient of this loop cannot be {name}"))
        .expected("one map that is applied to its own result, of which only the last result is used")
        .found(reason)
        .help("choose `exact` or `checkpoint` for it in the recipe's `solvers`")
}
