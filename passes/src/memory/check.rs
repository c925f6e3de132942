//! The verifier of memory plans: trusted by nobody, run after planning and after reading a plan from a file.

use super::{Lifetimes, SharedLayout, aligned, input_places, lifetimes, reads_and_writes};
use crate::schedule::{Forms, groups, overwritable};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{OutputKind, Value};
use gradc_ir::plan::{ALIGNMENT_BYTES, Action, Group, MemoryPlan, Place, Schedule, Segment};
use std::collections::{BTreeMap, BTreeSet};

/// Fails unless running the plan computes what the graph says, whatever was in memory before:
/// what enters and leaves is stored in row-major order; the groups are those of the graph, in an order that makes every value before it is read; every stored value
/// has an aligned place inside its segment; no value is overwritten while it is still needed; and nothing
/// persistent is written before the last check.
pub fn check_plan(plan: &MemoryPlan, layout: &SharedLayout) -> Result<(), Diagnostic> {
    let forms = Forms::new(&plan.schedule.graph, &plan.schedule.layouts)?;
    check_layouts(&plan.schedule)?;
    check_order(&plan.schedule, &forms)?;
    check_inputs(plan, layout)?;
    check_bounds(plan, &forms, layout)?;
    check_overlaps(plan, &forms)?;
    check_updates(plan, &forms)
}

fn bad(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("memory-plan", message).help("the plan was not made by this version of gradc, or was damaged")
}

/// What the host and other entries see is row-major.
fn check_layouts(schedule: &Schedule) -> Result<(), Diagnostic> {
    let Schedule { graph, layouts, .. } = schedule;
    let mut seen = graph.inputs().iter().map(|i| i.value).chain(graph.outputs().iter().map(|o| o.value));
    match seen.find(|value| layouts.contains_key(value)) {
        Some(value) => Err(bad(format!("{value} enters or leaves in another order than row-major"))),
        None => Ok(()),
    }
}

fn check_order(schedule: &Schedule, forms: &Forms) -> Result<(), Diagnostic> {
    let graph = &schedule.graph;
    let key = |g: &Group| (g.nodes.clone(), g.stored.clone());
    let expected: BTreeSet<_> = groups(forms)?.iter().map(key).collect();
    let found: Vec<_> =
        schedule.actions.iter().filter_map(|a| if let Action::Run(g) = a { Some(key(g)) } else { None }).collect();
    if found.len() != expected.len() || found.into_iter().collect::<BTreeSet<_>>() != expected {
        return Err(bad("the schedule's groups are not the graph's"));
    }
    let mut made: BTreeSet<Value> = graph.inputs().iter().map(|i| i.value).collect();
    for action in &schedule.actions {
        let (reads, writes) = reads_and_writes(forms, action);
        if let Some(missing) = reads.iter().find(|v| !made.contains(v)) {
            return Err(bad(format!("{missing} is read before it is made")));
        }
        made.extend(writes);
    }
    let checked: BTreeSet<Value> =
        graph.outputs().iter().filter(|o| o.kind == OutputKind::Checked).map(|o| forms.root(o.value)).collect();
    let found = schedule.actions.iter().filter_map(|a| if let Action::CheckFinite(v) = a { Some(*v) } else { None });
    if found.collect::<BTreeSet<_>>() == checked {
        Ok(())
    } else {
        Err(bad("the schedule does not check the checked outputs"))
    }
}

fn check_inputs(plan: &MemoryPlan, layout: &SharedLayout) -> Result<(), Diagnostic> {
    let graph = &plan.schedule.graph;
    let wrong = input_places(graph, layout).into_iter().find(|(value, place)| plan.places.get(value) != Some(place));
    match wrong {
        Some((value, _)) => Err(bad(format!("input {value} is not where it is shared"))),
        None => Ok(()),
    }
}

fn check_bounds(plan: &MemoryPlan, forms: &Forms, layout: &SharedLayout) -> Result<(), Diagnostic> {
    let size = |value: Value| forms.graph.ty(value).size_bytes();
    let stored = plan.schedule.actions.iter().flat_map(|a| reads_and_writes(forms, a).1);
    let outputs = forms.graph.outputs().iter().map(|o| o.value);
    for value in stored.chain(outputs) {
        let place = plan.places.get(&value).ok_or_else(|| bad(format!("{value} has no place")))?;
        let end = match place.segment {
            Segment::Arena => plan.arena_bytes,
            Segment::Persistent => layout.persistent_bytes,
            Segment::Constants => layout.constant_bytes,
            Segment::Host(_) => size(value),
        };
        let inside = place.offset_bytes.checked_add(size(value)).is_some_and(|e| e <= end);
        if !inside || place.offset_bytes % ALIGNMENT_BYTES != 0 {
            return Err(bad(format!("{value} is outside its segment")));
        }
        if plan.places.get(&forms.root(value)) != Some(place) {
            return Err(bad(format!("{value} is not where its storage is")));
        }
    }
    Ok(())
}

/// Walks the actions, keeping who owns which bytes.
fn check_overlaps(plan: &MemoryPlan, forms: &Forms) -> Result<(), Diagnostic> {
    let life = lifetimes(forms, &plan.schedule.actions);
    let needed_until = last_needs(plan, forms, &life);
    let mut alive: BTreeMap<Value, Place> =
        forms.graph.inputs().iter().map(|i| (i.value, plan.places[&i.value])).collect();
    for (k, action) in plan.schedule.actions.iter().enumerate() {
        let Action::Run(group) = action else { continue };
        let shared = overwritable(forms, group);
        for &value in &group.stored {
            let place = plan.places[&value];
            let clash = alive.iter().find(|(other, at)| {
                let until = needed_until.get(other).copied().unwrap_or(0);
                let dies_here = until == k && shared.contains(other) && **at == place;
                until >= k && !dies_here && overlap(forms, (value, place), (**other, **at))
            });
            if let Some((other, _)) = clash {
                return Err(bad(format!("{value} overwrites {other}, which is still needed")));
            }
        }
        alive.extend(group.stored.iter().map(|v| (*v, plan.places[v])));
    }
    Ok(())
}

/// The action until which each value must stay as it is; results stay to the end.
fn last_needs(plan: &MemoryPlan, forms: &Forms, life: &Lifetimes) -> BTreeMap<Value, usize> {
    let mut needs = life.last_read.clone();
    for (value, made) in &life.made {
        needs.entry(*value).or_insert(*made);
    }
    for output in forms.graph.outputs() {
        needs.insert(forms.root(output.value), plan.schedule.actions.len());
    }
    // What no update replaces must be the same after the call.
    for input in forms.graph.inputs() {
        let replaced =
            forms.graph.outputs().iter().any(|o| matches!(o.kind, OutputKind::Update(_)) && o.name == input.name);
        if !replaced {
            needs.insert(input.value, plan.schedule.actions.len());
        }
    }
    needs
}

fn overlap(forms: &Forms, (a, at): (Value, Place), (b, bt): (Value, Place)) -> bool {
    let end = |v: Value, p: Place| p.offset_bytes + aligned(forms.graph.ty(v).size_bytes());
    at.segment == bt.segment && at.offset_bytes < end(b, bt) && bt.offset_bytes < end(a, at)
}

fn check_updates(plan: &MemoryPlan, forms: &Forms) -> Result<(), Diagnostic> {
    let last_check = plan.schedule.actions.iter().rposition(|a| matches!(a, Action::CheckFinite(_)));
    for (k, action) in plan.schedule.actions.iter().enumerate() {
        let (_, writes) = reads_and_writes(forms, action);
        let persistent = writes.iter().any(|v| plan.places[v].segment != Segment::Arena);
        if persistent && last_check.is_some_and(|check| k < check) {
            return Err(bad("a tensor is updated before the loss is checked"));
        }
    }
    let commits = super::commits(forms, &plan.places);
    if commits == plan.commits { Ok(()) } else { Err(bad("the plan does not store every update")) }
}
