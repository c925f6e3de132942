//! Derivatives of loops: what a backward loop reads of the forward one, and which backward loop is run.
//!
//! The body is differentiated by the sweep that differentiates the graph around it. Its derivative is then split
//! ([`split`]) into what depends on forward values alone, which the forward loop hands out stacked, and the rest, which
//! runs in a loop the other way ([`exact`]). The forward loop is written once more with the additional results;
//! [`merge_loops`] makes one loop of both.

mod activity;
mod check;
mod exact;
mod extract;
mod frozen;
mod gmres;
mod guard;
mod implicit;
mod linearised;
mod merge;
mod min_cut;
mod policy;
mod rebuild;
mod rows;
mod segments;
mod split;

pub(crate) use check::check_policies;
pub use guard::FALLBACKS;
pub use merge::merge_loops;
pub use policy::{Backward, LoopPolicies, Tolerance};
pub use segments::segment_loops;

use activity::Activity;
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::op::{Cotangent, VjpContext};
use gradc_ir::ops::{Op, Scan};
use gradc_ir::types::TypeError;
use split::Again;

/// Code of the diagnostic of an op that has no derivative.
pub(crate) const NOT_DIFFERENTIABLE: &str = "not-differentiable";

/// The answers of a loop for its operands.
pub(crate) fn backward(scan: &Scan, policy: Backward, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
    let activity = match Activity::new(scan, cx) {
        Ok(activity) => activity,
        Err(d) if d.code == NOT_DIFFERENTIABLE => {
            let reason = d.found.map_or(d.message.clone(), |found| format!("{}: {found}", d.message));
            return Ok(vec![Cotangent::NotDifferentiable(reason); cx.inputs.len()]);
        }
        Err(d) => return Err(TypeError::new(d.to_string())),
    };
    match policy {
        Backward::Exact => exact::backward(scan, &activity, Again::Cheap, cx),
        Backward::Checkpoint => exact::backward(scan, &activity, Again::Anything, cx),
        Backward::Frozen(tolerance) => frozen::backward(scan, &activity, &tolerance, cx),
        Backward::Implicit(tolerance) => implicit::backward(scan, &activity, &tolerance, cx),
    }
}

/// The loops of a graph that have a derivative, in its order.
pub fn loops(graph: &Graph) -> Vec<NodeId> {
    graph.node_ids().filter(|&id| graph.op(id).and_then(as_scan).is_some()).collect()
}

/// The loop that an op is, with a number of steps known beforehand.
pub(crate) fn as_scan(op: &Op) -> Option<Scan> {
    match op {
        Op::Scan(scan) => Some(scan.clone()),
        Op::Iterate(iterate) => Some(iterate.scan()),
        _ => None,
    }
}
