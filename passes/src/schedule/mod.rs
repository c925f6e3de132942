//! Scheduling: which nodes run together, and in which order.
//!
//! A graph is cut into groups, one kernel each ([`fuse`], [`read_through`]), sums of the same columns and groups over the same rows joined
//! ([`sums`], [`rows`]); groups are ordered so that few bytes live at a time ([`order`]). A region is a group of its own;
//! its bodies are scheduled by themselves. An update runs as soon as what it reads is there, after the last reader of the
//! old value.

mod forms;
mod fuse;
mod inline;
mod kernels;
mod order;
mod read_through;
mod rows;
mod stages;
mod sums;

pub(crate) use forms::{Form, Forms};
use fuse::{identity_reads, tokens};
pub(crate) use inline::{is_polynomial, operations};
pub(crate) use kernels::roots;
pub use order::{Ordering, Peaks};
pub(crate) use order::{in_place_candidates, overwritable};

use crate::layout::LaidOut;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::Kernel;
use gradc_ir::layout::Layouts;
use gradc_ir::plan::{Action, Group, RegionSchedule, Schedule};
use std::collections::BTreeMap;

/// Cuts a graph and the bodies of its regions into kernels and orders them; what always expands must be expanded.
pub fn schedule(laid_out: LaidOut, ordering: Ordering) -> Result<(Schedule, Peaks), Diagnostic> {
    let LaidOut { graph, layouts, bodies } = laid_out;
    let mut regions = BTreeMap::new();
    for (node, bodies) in bodies {
        let bodies =
            bodies.into_iter().map(|body| Ok(schedule(body, ordering)?.0)).collect::<Result<_, Diagnostic>>()?;
        regions.insert(node, RegionSchedule { node, bodies });
    }
    let forms = Forms::new(&graph, &layouts)?;
    let groups = groups(&forms)?;
    for region in regions.values() {
        check_arguments(&forms, &layouts, region)?;
    }
    let (actions, peaks) = order::order(&forms, groups, regions, ordering);
    Ok((Schedule { graph, layouts, bands: BTreeMap::new(), actions }, peaks))
}

/// Fails unless the bodies of a region are its own and take its operands in the order in which these are stored.
pub(crate) fn check_arguments(forms: &Forms, layouts: &Layouts, region: &RegionSchedule) -> Result<(), Diagnostic> {
    let wrong = || {
        let message = "the bodies of a region are not its own, or take operands in another order than they are stored";
        forms.graph.diagnostic_at(region.node, "node-layout", message)
    };
    let Form::Region(form) = forms.get(region.node) else { return Err(wrong()) };
    let operands = &forms.graph.node(region.node).operands;
    let fits = |body: &Schedule| {
        let arguments = body.graph.inputs().iter().enumerate();
        arguments
            .map(|(k, i)| (i.value, operands[form.operand_of(k)]))
            .all(|(a, o)| body.layouts.get(&a) == layouts.get(&o))
    };
    let own = region.bodies.iter().map(|body| &body.graph).eq(form.frames().iter());
    if own && region.bodies.iter().all(fits) { Ok(()) } else { Err(wrong()) }
}

/// Cuts a graph into groups, in a topological order.
pub(crate) fn groups(forms: &Forms) -> Result<Vec<Group>, Diagnostic> {
    if let Some(expandable) = forms.graph.node_ids().find(|&id| matches!(forms.get(id), Form::Expandable)) {
        return Err(forms.graph.diagnostic_at(
            expandable,
            "internal-region",
            "an op that stands for others reached the scheduler without being expanded",
        ));
    }
    Ok(fuse::fuse(forms))
}

/// The stored values that the operands of each region in a schedule are.
pub fn region_operands(schedule: &Schedule) -> BTreeMap<NodeId, Vec<Value>> {
    let regions = schedule.actions.iter().filter_map(|a| if let Action::Region(r) = a { Some(r.node) } else { None });
    let nodes: Vec<NodeId> = regions.collect();
    if nodes.is_empty() {
        return BTreeMap::new();
    }
    let forms = Forms::of(schedule);
    nodes.into_iter().map(|node| (node, roots(&forms, node))).collect()
}

/// The kernels of each action of a schedule, none for a check and for a region, whose bodies have schedules of their
/// own; recomputed, so that a schedule is plain data.
pub fn kernels(schedule: &Schedule) -> Vec<Vec<Kernel>> {
    let forms = Forms::of(schedule);
    let of_action = |action: &Action| match action {
        Action::Run(group) => kernels::kernels(&forms, group),
        Action::CheckFinite(_) | Action::Region(_) => vec![],
    };
    schedule.actions.iter().map(of_action).collect()
}
