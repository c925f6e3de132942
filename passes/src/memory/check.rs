//! The verifier of memory plans: trusted by nobody, run after planning and after reading a plan from a file.

use super::border::Border;
use super::history::{History, histories};
use super::{Lifetimes, SharedLayout, aligned, blocks_at_once, lifetimes, reads_and_writes, regions_of};
use crate::schedule::{Form, Forms, check_arguments, groups, overwritable};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{NodeId, OutputKind, Role, Value};
use gradc_ir::plan::{ALIGNMENT_BYTES, Action, Group, MemoryLayout, MemoryPlan, Place, Schedule, Segment};
use std::collections::{BTreeMap, BTreeSet};

/// Fails unless running the plan computes what the graph says, whatever was in memory before:
/// what enters and leaves is stored in row-major order, or as it is kept; the groups are those of the graph, in an order
/// that makes every value before it is read; every stored value has an aligned place inside its segment; no value is
/// overwritten while it is still needed; what leaves ends up where it belongs; and nothing persistent is written before
/// the last check. All of it holds in the bodies of regions too.
pub fn check_plan(plan: &MemoryPlan, layout: &SharedLayout) -> Result<(), Diagnostic> {
    check(&plan.schedule, &plan.memory, Border::Entry(layout))
}

fn check(schedule: &Schedule, memory: &MemoryLayout, border: Border) -> Result<(), Diagnostic> {
    let forms = Forms::new(&schedule.graph, &schedule.layouts)?;
    let plan = Checked { schedule, memory, border, forms: &forms };
    plan.check_layouts()?;
    plan.check_order()?;
    plan.check_inputs()?;
    plan.check_bounds()?;
    plan.check_overlaps()?;
    plan.check_updates()?;
    plan.check_commits()?;
    plan.check_regions()
}

fn bad(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("memory-plan", message).help("the plan was not made by this version of gradc, or was damaged")
}

/// A plan of an entry or of a body.
struct Checked<'a> {
    schedule: &'a Schedule,
    memory: &'a MemoryLayout,
    border: Border<'a>,
    forms: &'a Forms<'a>,
}

impl Checked<'_> {
    /// What the host and other steps see is row-major, and what is kept is stored alike in all entries; what no step
    /// changes may be stored otherwise, as the operand of the region is.
    fn check_layouts(&self) -> Result<(), Diagnostic> {
        let Schedule { graph, layouts, .. } = self.schedule;
        let free = |role| matches!(self.border, Border::Body(..)) && role == Role::Constant;
        let kept = |name: &str| if let Border::Entry(shared) = self.border { shared.kept.get(name) } else { None };
        let inputs = graph.inputs().iter().filter(|i| !free(i.role)).map(|i| (i.value, kept(&i.name)));
        let outputs = graph.outputs().iter().map(|o| match o.kind {
            OutputKind::Update(_) => (o.value, kept(&o.name)),
            OutputKind::Result | OutputKind::Checked => (o.value, None),
        });
        match inputs.chain(outputs).find(|(value, layout)| layouts.get(value) != *layout) {
            Some((value, _)) => Err(bad(format!("{value} enters or leaves in another order than it is kept in"))),
            None => Ok(()),
        }
    }

    fn check_order(&self) -> Result<(), Diagnostic> {
        let graph = self.forms.graph;
        let is_region = |id: NodeId| matches!(self.forms.get(id), Form::Region(_));
        let expected: BTreeSet<_> = groups(self.forms)?.into_iter().map(|g| (is_region(g.nodes[0]), g)).collect();
        let found = self.schedule.actions.iter().filter_map(|action| match action {
            Action::Run(group) => Some((false, group.clone())),
            Action::Region(region) => {
                let stored = graph.results(region.node).collect();
                Some((true, Group { nodes: vec![region.node], stored, steps: vec![] }))
            }
            Action::CheckFinite(_) => None,
        });
        let found: Vec<_> = found.collect();
        if found.len() != expected.len() || found.into_iter().collect::<BTreeSet<_>>() != expected {
            return Err(bad("the schedule's groups are not the graph's"));
        }
        let mut made: BTreeSet<Value> = graph.inputs().iter().map(|i| i.value).collect();
        for action in &self.schedule.actions {
            let (reads, writes) = reads_and_writes(self.forms, action);
            if let Some(missing) = reads.iter().find(|v| !made.contains(v)) {
                return Err(bad(format!("{missing} is read before it is made")));
            }
            made.extend(writes);
        }
        self.check_checks()
    }

    fn check_checks(&self) -> Result<(), Diagnostic> {
        let outputs = self.forms.graph.outputs().iter().filter(|o| o.kind == OutputKind::Checked);
        let checked: BTreeSet<Value> = outputs.map(|o| self.forms.root(o.value)).collect();
        let found =
            self.schedule.actions.iter().filter_map(|a| if let Action::CheckFinite(v) = a { Some(*v) } else { None });
        if found.collect::<BTreeSet<_>>() == checked {
            Ok(())
        } else {
            Err(bad("the schedule does not check the checked outputs"))
        }
    }

    fn check_inputs(&self) -> Result<(), Diagnostic> {
        let mut expected = self.border.input_places(self.forms.graph).into_iter();
        match expected.find(|(value, place)| self.memory.places.get(value) != Some(place)) {
            Some((value, _)) => Err(bad(format!("input {value} is not where it is shared"))),
            None => Ok(()),
        }
    }

    fn size_bytes(&self, value: Value) -> usize {
        self.forms.graph.ty(value).size_bytes()
    }

    fn is_inside(&self, place: Place, size_bytes: usize) -> bool {
        let segment = self.border.segment_bytes(self.forms.graph, place.segment, self.memory.arena_bytes);
        let ends =
            place.offset_bytes.checked_add(size_bytes).is_some_and(|end| segment.is_some_and(|bytes| end <= bytes));
        ends && place.offset_bytes.is_multiple_of(ALIGNMENT_BYTES)
    }

    fn check_bounds(&self) -> Result<(), Diagnostic> {
        let stored = self.schedule.actions.iter().flat_map(|a| reads_and_writes(self.forms, a).1);
        let outputs = self.forms.graph.outputs().iter().map(|o| o.value);
        for value in stored.chain(outputs) {
            let place = self.memory.places.get(&value).ok_or_else(|| bad(format!("{value} has no place")))?;
            if !self.is_inside(*place, self.size_bytes(value)) {
                return Err(bad(format!("{value} is outside its segment")));
            }
            if self.memory.places.get(&self.forms.root(value)) != Some(place) {
                return Err(bad(format!("{value} is not where its storage is")));
            }
        }
        Ok(())
    }

    /// Walks the actions, keeping who owns which bytes.
    fn check_overlaps(&self) -> Result<(), Diagnostic> {
        let places = &self.memory.places;
        let needed_until = self.last_needs(&lifetimes(self.forms, &self.schedule.actions));
        let mut alive: BTreeMap<Value, Place> =
            self.forms.graph.inputs().iter().map(|i| (i.value, places[&i.value])).collect();
        let needed = |k: usize, value: &Value| needed_until.get(value).is_some_and(|&until| until >= k);
        let mut last_needed_at: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
        needed_until.iter().for_each(|(&value, &until)| last_needed_at.entry(until).or_default().push(value));
        for (k, action) in self.schedule.actions.iter().enumerate() {
            let shared = overwritable(self.forms, action);
            let histories = histories_of(self.forms, action);
            for value in reads_and_writes(self.forms, action).1 {
                let place = places[&value];
                let clash = alive.iter().find(|(other, at)| {
                    if !self.overlap((value, place), (**other, **at)) {
                        return false;
                    }
                    let dies_here = needed_until.get(other) == Some(&k) && shared.contains(&(value, **other));
                    let taken_over = dies_here && **at == place;
                    let together = histories.iter().any(|values| values.contains(&value) && values.contains(other));
                    needed(k, other) && !taken_over && !together
                });
                if let Some((other, _)) = clash {
                    return Err(bad(format!("{value} overwrites {other}, which is still needed")));
                }
                alive.insert(value, place);
            }
            if let Action::Region(region) = action {
                let needed = alive.iter().filter(|(value, _)| needed(k, value));
                let needed: Vec<(Value, Place)> = needed.map(|(value, place)| (*value, *place)).collect();
                self.check_histories(region.node, &needed)?;
                self.check_work(region.node, needed.into_iter())?;
            }
            last_needed_at.remove(&k).iter().flatten().for_each(|value| _ = alive.remove(value));
        }
        Ok(())
    }

    /// The parts of each history stand where its values do, and between them nothing that is needed.
    fn check_histories(&self, node: NodeId, needed: &[(Value, Place)]) -> Result<(), Diagnostic> {
        for history in histories(self.forms, node) {
            let parts: Vec<(Value, usize)> = history.values(node).collect();
            let begins = |(value, bytes): (Value, usize)| {
                let place = self.memory.places[&value];
                Some(Place { offset_bytes: place.offset_bytes.checked_sub(bytes)?, ..place })
            };
            let first = begins(parts[0]);
            let Some(first) = first.filter(|_| parts.iter().all(|&part| begins(part) == first)) else {
                return Err(bad(format!("the values of {} do not stand behind each other", parts[0].0)));
            };
            if first.segment != Segment::Arena || !self.is_inside(first, history.size_bytes()) {
                return Err(bad(format!("the values of {} are outside the arena", parts[0].0)));
            }
            let others = needed.iter().filter(|(value, _)| parts.iter().all(|(part, _)| part != value));
            let whole = (first, history.size_bytes());
            if let Some((other, _)) = others.into_iter().find(|(v, at)| overlap(whole, (*at, self.size_bytes(*v)))) {
                return Err(bad(format!("the values of {} overwrite {other}, which is still needed", parts[0].0)));
            }
        }
        Ok(())
    }

    /// What the bodies of a region work in is part of the arena and holds nothing that is needed.
    fn check_work(&self, node: NodeId, mut needed: impl Iterator<Item = (Value, Place)>) -> Result<(), Diagnostic> {
        let value = Value { node, result: 0 };
        let memory =
            self.memory.regions.get(&node).ok_or_else(|| bad(format!("the bodies of {value} have no memory")))?;
        let work = Place { segment: Segment::Arena, offset_bytes: memory.work_offset_bytes };
        let bytes = memory.work_bytes(blocks_at_once(self.forms, node));
        if !self.is_inside(work, bytes) {
            return Err(bad(format!("the bodies of {value} work outside the arena")));
        }
        match needed.find(|&(other, at)| overlap((work, bytes), (at, self.size_bytes(other)))) {
            Some((other, _)) => Err(bad(format!("the bodies of {value} overwrite {other}, which is still needed"))),
            None => Ok(()),
        }
    }

    /// The action until which each value must stay as it is; results stay to the end.
    fn last_needs(&self, life: &Lifetimes) -> BTreeMap<Value, usize> {
        let (graph, end) = (self.forms.graph, self.schedule.actions.len());
        let mut needs = life.last_read.clone();
        for (value, made) in &life.made {
            needs.entry(*value).or_insert(*made);
        }
        for output in graph.outputs() {
            needs.insert(self.forms.root(output.value), end);
        }
        // What no update replaces must be the same after the call, and so must what others read in a stack.
        for (k, input) in graph.inputs().iter().enumerate() {
            let replaced =
                graph.outputs().iter().any(|o| matches!(o.kind, OutputKind::Update(_)) && o.name == input.name);
            if !replaced || self.border.is_history(k) {
                needs.insert(input.value, end);
            }
        }
        needs
    }

    fn overlap(&self, (a, at): (Value, Place), (b, bt): (Value, Place)) -> bool {
        overlap((at, self.size_bytes(a)), (bt, self.size_bytes(b)))
    }

    fn check_updates(&self) -> Result<(), Diagnostic> {
        let last_check = self.schedule.actions.iter().rposition(|a| matches!(a, Action::CheckFinite(_)));
        for (k, action) in self.schedule.actions.iter().enumerate() {
            let (_, writes) = reads_and_writes(self.forms, action);
            let persistent = writes.iter().any(|v| self.memory.places[v].segment != Segment::Arena);
            if persistent && last_check.is_some_and(|check| k < check) {
                return Err(bad("a tensor is updated before the loss is checked"));
            }
        }
        Ok(())
    }

    /// Carries the commits out on what stands in each place, and looks whether everything is then where it belongs.
    fn check_commits(&self) -> Result<(), Diagnostic> {
        let graph = self.forms.graph;
        let destinations = self.border.destinations(graph);
        let mut contents: BTreeMap<Place, Value> =
            graph.outputs().iter().map(|o| (self.memory.places[&o.value], self.forms.root(o.value))).collect();
        for &(from, to, bytes) in &self.memory.commits {
            let moved = contents.get(&from).copied().filter(|&v| self.size_bytes(v) == bytes);
            let may_write = to.segment == Segment::Arena || destinations.iter().any(|(_, place)| *place == to);
            let Some(moved) = moved.filter(|_| may_write && self.is_inside(to, bytes)) else {
                return Err(bad(format!("the commit from {from} to {to} moves no value to where one belongs")));
            };
            contents.retain(|at, value| !overlap((*at, self.size_bytes(*value)), (to, bytes)));
            contents.insert(to, moved);
        }
        let moved = destinations.iter().map(|(value, _)| *value).collect::<BTreeSet<_>>();
        let stays = graph.outputs().iter().filter(|o| !moved.contains(&o.value));
        let stays = stays.map(|o| (o.value, self.memory.places[&o.value]));
        match destinations.into_iter().chain(stays).find(|(v, to)| contents.get(to) != Some(&self.forms.root(*v))) {
            Some((value, to)) => Err(bad(format!("the plan does not store {value} in {to}"))),
            None => Ok(()),
        }
    }

    fn check_regions(&self) -> Result<(), Diagnostic> {
        for region in regions_of(self.schedule) {
            check_arguments(self.forms, &self.schedule.layouts, region).map_err(|d| bad(d.message))?;
            let Form::Region(form) = self.forms.get(region.node) else { unreachable!("its arguments are checked") };
            let bodies = &self.memory.regions[&region.node].bodies;
            if bodies.len() != region.bodies.len() {
                return Err(bad("the plan does not say where all bodies of a region work"));
            }
            let histories = histories(self.forms, region.node);
            for (body, memory) in region.bodies.iter().zip(bodies) {
                check(body, memory, Border::Body(form, &histories))?;
            }
        }
        Ok(())
    }
}

/// The values of each history of an action, if it is a region.
fn histories_of(forms: &Forms, action: &Action) -> Vec<Vec<Value>> {
    let Action::Region(region) = action else { return vec![] };
    let values = |history: History| history.values(region.node).map(|(value, _)| value).collect();
    histories(forms, region.node).into_iter().map(values).collect()
}

/// Whether bytes at two places, each up to the next aligned one, have some in common.
fn overlap((a, a_bytes): (Place, usize), (b, b_bytes): (Place, usize)) -> bool {
    let end = |place: Place, bytes: usize| place.offset_bytes + aligned(bytes);
    a.segment == b.segment && a.offset_bytes < end(b, b_bytes) && b.offset_bytes < end(a, a_bytes)
}
