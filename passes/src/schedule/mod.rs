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

use crate::layout::LaidOut;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::kernel::Kernel;
use gradc_ir::plan::{Action, Group, Schedule};

/// Cuts a graph into kernels and orders them; regions must have been expanded.
pub fn schedule(laid_out: LaidOut, ordering: Ordering) -> Result<(Schedule, Peaks), Diagnostic> {
    let LaidOut { graph, layouts } = laid_out;
    let forms = Forms::new(&graph, &layouts)?;
    let (actions, peaks) = order::order(&forms, groups(&forms)?, ordering);
    Ok((Schedule { graph, layouts, actions }, peaks))
}

/// Cuts a graph into groups, in a topological order.
pub(crate) fn groups(forms: &Forms) -> Result<Vec<Group>, Diagnostic> {
    if let Some(region) = forms.graph.node_ids().find(|&id| matches!(forms.get(id), Form::Region)) {
        return Err(forms.graph.diagnostic_at(
            region,
            "internal-region",
            "a region reached the scheduler without being expanded",
        ));
    }
    Ok(fuse::fuse(forms))
}

/// The kernels of each action of a schedule, none for a check; recomputed, so that a schedule is plain data.
pub fn kernels(schedule: &Schedule) -> Vec<Vec<Kernel>> {
    let forms = Forms::of(schedule);
    let of_action = |action: &Action| match action {
        Action::Run(group) => kernels::kernels(&forms, group),
        Action::CheckFinite(_) => vec![],
    };
    schedule.actions.iter().map(of_action).collect()
}
