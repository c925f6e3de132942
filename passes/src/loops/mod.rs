//! Derivatives of loops: what a backward loop reads of the forward one, and which backward loop is run.
//!
//! The body is differentiated by the sweep that differentiates the graph around it. Its derivative is then split
//! ([`split`]) into what depends on forward values alone, which the forward loop hands out stacked, and the rest, which
//! runs in a loop the other way ([`exact`]). The forward loop is written once more with the additional results;
//! [`merge_loops`] makes one loop of both, and [`sum_after_loops`] takes out of a loop what sums up over its steps.

mod activity;
mod blocks;
mod check;
mod exact;
mod extract;
mod frozen;
mod gmres;
mod guard;
mod hoist;
mod implicit;
mod linearised;
mod merge;
mod min_cut;
mod policy;
mod rebuild;
mod rows;
mod segments;
mod split;
mod sums;
mod until;

pub use blocks::cut_loops;
pub(crate) use blocks::reordered;
pub(crate) use check::check_policies;
pub use guard::FALLBACKS;
pub use hoist::hoist;
pub(crate) use hoist::hoist_here;
pub use merge::merge_loops;
pub use policy::{Backward, LoopPolicies, Tolerance};
pub(crate) use rebuild::rebuild;
pub use segments::segment_loops;
pub use sums::sum_after_loops;
pub use until::bounded_loops;

use activity::Activity;
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::op::{Cotangent, VjpContext};
use gradc_ir::ops::{IterateUntil, Op, Scan};
use gradc_ir::types::TypeError;
use guard::Whole;
use split::Again;

/// Code of the diagnostic of an op that has no derivative.
pub(crate) const NOT_DIFFERENTIABLE: &str = "not-differentiable";

/// The answers of a loop for its operands.
pub(crate) fn backward(scan: &Scan, policy: Backward, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
    let activity = match activity(scan, cx)? {
        Ok(activity) => activity,
        Err(answers) => return Ok(answers),
    };
    match policy {
        Backward::Exact => exact::backward(scan, &activity, Again::Cheap, cx),
        Backward::Checkpoint => exact::backward(scan, &activity, Again::Anything, cx),
        Backward::Frozen(tolerance) => frozen::backward(scan, &activity, &tolerance, cx),
        Backward::Implicit(tolerance) => implicit::backward(scan, &Whole::Scan(scan), &activity, &tolerance, cx),
    }
}

/// The answers of a loop that ends when it is done: those of its fixed point. For others it is written as a loop of all
/// steps ([`bounded_loops`]).
pub(crate) fn backward_until(
    until: &IterateUntil,
    policy: Backward,
    cx: &mut VjpContext,
) -> Result<Vec<Cotangent>, TypeError> {
    let Backward::Implicit(tolerance) = policy else {
        let reason = "the number of its steps depends on data";
        return Ok(vec![Cotangent::NotDifferentiable(reason.into()); cx.inputs.len()]);
    };
    let step = until::one_map(until)?;
    match activity(&step, cx)? {
        Ok(activity) => implicit::backward(&step, &Whole::Until(until), &activity, &tolerance, cx),
        Err(answers) => Ok(answers),
    }
}

/// Which gradients a loop carries, or its answers where an op without a derivative stands in their way.
fn activity(scan: &Scan, cx: &VjpContext) -> Result<Result<Activity, Vec<Cotangent>>, TypeError> {
    match Activity::new(scan, cx) {
        Ok(activity) => Ok(Ok(activity)),
        Err(d) if d.code == NOT_DIFFERENTIABLE => {
            let reason = d.found.map_or(d.message.clone(), |found| format!("{}: {found}", d.message));
            Ok(Err(vec![Cotangent::NotDifferentiable(reason); cx.inputs.len()]))
        }
        Err(d) => Err(TypeError::new(d.to_string())),
    }
}

/// The loops of a graph that have a derivative, in its order.
pub fn loops(graph: &Graph) -> Vec<NodeId> {
    let is_loop = |op: &Op| matches!(op, Op::Scan(_) | Op::Iterate(_) | Op::IterateUntil(_));
    graph.node_ids().filter(|&id| graph.op(id).is_some_and(is_loop)).collect()
}

/// The loop that an op is, with a number of steps known beforehand.
pub(crate) fn as_scan(op: &Op) -> Option<Scan> {
    match op {
        Op::Scan(scan) => Some(scan.clone()),
        Op::Iterate(iterate) => Some(iterate.scan()),
        _ => None,
    }
}
