//! Scheduling: which nodes run together, and in which order.
//!
//! A graph is cut into groups, one kernel each ([`fuse`]); groups are ordered so that few bytes live at a
//! time ([`order`]). An update runs as soon as what it reads is there, after the last reader of the old value.

mod forms;
mod fuse;
mod inline;
mod kernels;
mod order;

pub(crate) use forms::{Form, Forms};
use fuse::{identity_reads, tokens};
pub(crate) use inline::{is_polynomial, operations};
pub use order::{Ordering, Peaks};
pub(crate) use order::{in_place_candidates, overwritable};

use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::Graph;
use gradc_ir::kernel::Kernel;
use gradc_ir::plan::{Group, Schedule};

/// Cuts a graph into kernels and orders them; regions must have been expanded.
pub fn schedule(graph: &Graph, ordering: Ordering) -> Result<(Schedule, Peaks), Diagnostic> {
    let groups = groups(graph)?;
    let (actions, peaks) = order::order(&Forms::new(graph), groups, ordering);
    Ok((Schedule { graph: graph.clone(), actions }, peaks))
}

/// Cuts a graph into groups, in a topological order.
pub(crate) fn groups(graph: &Graph) -> Result<Vec<Group>, Diagnostic> {
    let forms = Forms::new(graph);
    if let Some(region) = graph.node_ids().find(|&id| matches!(forms.get(id), Form::Region)) {
        return Err(graph.diagnostic_at(
            region,
            "internal-region",
            "a region reached the scheduler without being expanded",
        ));
    }
    Ok(fuse::fuse(&forms))
}

/// The kernels of every group of a schedule, in order; recomputed from the graph, so that a schedule is plain data.
pub fn kernels<'a>(graph: &Graph, groups: impl IntoIterator<Item = &'a Group>) -> Vec<Vec<Kernel>> {
    let forms = Forms::new(graph);
    groups.into_iter().map(|group| kernels::kernels(&forms, group)).collect()
}
