//! Carries of which a loop stacks the values of all steps: these stand behind each other, where the step that takes one,
//! the step that made it and the readers of the stack all find it, so that none is moved.

use crate::schedule::{Form, Forms};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::plan::{ALIGNMENT_BYTES, Schedule, Segment};
use gradc_ir::region::{Loop, RegionForm};
use std::collections::{BTreeMap, BTreeSet};

/// The values of a carry: what the first step takes, then what each step makes; the other way round in memory where the
/// loop runs from the last slice to the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Position of the carry.
    pub carry: usize,
    /// The result of the region that stacks what each step takes, by its position.
    taken: Option<usize>,
    /// The result that stacks what each step makes.
    made: Option<usize>,
    /// Bytes of one value.
    value_bytes: usize,
    steps: usize,
    reverse: bool,
}

impl History {
    /// Size of all values, bytes.
    pub fn size_bytes(&self) -> usize {
        (self.steps + 1) * self.value_bytes
    }

    /// Bytes from the first value in memory to what the first step takes.
    pub fn start_bytes(&self) -> usize {
        if self.reverse { self.steps * self.value_bytes } else { 0 }
    }

    /// Bytes from what a step takes to what it makes.
    pub fn step_bytes(&self) -> i64 {
        if self.reverse { -(self.value_bytes as i64) } else { self.value_bytes as i64 }
    }

    /// The region's results that are part of it, by position: how many bytes from the first value in memory each begins.
    pub fn results(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let last = self.steps * self.value_bytes;
        let [carry, taken, made] = if self.reverse { [0, self.value_bytes, 0] } else { [last, 0, self.value_bytes] };
        let stacks = [(self.taken, taken), (self.made, made)];
        let stacks = stacks.into_iter().filter_map(|(result, bytes)| Some((result?, bytes)));
        [(self.carry, carry)].into_iter().chain(stacks)
    }

    /// The values of a node that are part of it, with the same numbers.
    pub(super) fn values(&self, node: NodeId) -> impl Iterator<Item = (Value, usize)> + use<> {
        self.results().map(move |(result, bytes)| (Value { node, result: result as u16 }, bytes))
    }

    /// Where a body has its result `k`, if that is part of it: what it takes it is given, what it makes is the next value.
    pub fn segment(&self, k: usize) -> Option<Segment> {
        if self.taken == Some(k) {
            return Some(Segment::Argument(self.carry as u32));
        }
        (k == self.carry || self.made == Some(k)).then_some(Segment::Result(self.carry as u32))
    }
}

/// The histories of a region whose results may stand anywhere: of none that leaves the graph.
pub(crate) fn histories(forms: &Forms, region: NodeId) -> Vec<History> {
    let Form::Region(RegionForm::Loop(looped)) = forms.get(region) else { return vec![] };
    let leaves: BTreeSet<Value> = forms.graph.outputs().iter().map(|o| forms.root(o.value)).collect();
    let value_bytes = |carry: usize| forms.graph.ty(Value { node: region, result: carry as u16 }).size_bytes();
    let mut stacked: BTreeSet<usize> = (looped.carries..looped.body.outputs().len()).collect();
    let mut found = vec![];
    for carry in 0..looped.carries {
        let Some(history) = history(looped, carry, value_bytes(carry), &stacked) else { continue };
        if history.values(region).all(|(value, _)| !leaves.contains(&value)) {
            stacked.retain(|&result| history.segment(result).is_none());
            found.push(history);
        }
    }
    found
}

/// The history of a carry, given the stacked results that are not part of another one.
fn history(looped: &Loop, carry: usize, value_bytes: usize, stacked: &BTreeSet<usize>) -> Option<History> {
    let body = &looped.body;
    let output = |k: usize| body.outputs()[k].value;
    let (before, after) = (body.inputs()[carry].value, output(carry));
    let aligned = value_bytes > 0 && value_bytes.is_multiple_of(ALIGNMENT_BYTES);
    if looped.until_done || before == after || !aligned {
        return None;
    }
    let stacks = |value: Value| stacked.iter().copied().find(|&k| output(k) == value);
    let (taken, made) = (stacks(before), stacks(after));
    let Loop { steps, reverse, .. } = *looped;
    (taken.is_some() || made.is_some()).then_some(History { carry, taken, made, value_bytes, steps, reverse })
}

/// The histories of each region of a schedule.
pub fn region_histories(schedule: &Schedule) -> BTreeMap<NodeId, Vec<History>> {
    let regions: Vec<NodeId> = super::regions_of(schedule).map(|region| region.node).collect();
    if regions.is_empty() {
        return BTreeMap::new();
    }
    let forms = Forms::of(schedule);
    regions.into_iter().map(|node| (node, histories(&forms, node))).collect()
}
