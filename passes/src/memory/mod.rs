//! Memory planning: a place for every stored value, decided before the first step runs.
//!
//! Updates are written over the tensor they replace where every reader of the old value has run; other
//! values share one arena by liveness, a result taking over the buffer of an operand that dies with it
//! where the kernel reads that operand only at the point it writes.
//!
//! The bodies of a region are planned like entries, their carries being what is updated; while the region runs they work
//! in a part of the arena. What they return is written where the region's results are, where that is possible; a carry of
//! which all values are stacked moves through the stack ([`History`]).

mod border;
mod buffers;
mod check;
mod history;
mod place;

pub(crate) use buffers::{Lifetimes, Outside, Storage, lifetimes, reads_and_writes};
pub use check::check_plan;
pub use history::{History, region_histories};

use crate::layout::KeptLayouts;
use crate::schedule::{Form, Forms};
use border::Border;
use gradc_ir::graph::{Graph, NodeId, Role, Value};
use gradc_ir::plan::{
    ALIGNMENT_BYTES, Action, MemoryLayout, MemoryPlan, Place, RegionMemory, RegionSchedule, Schedule, Segment,
};
use history::histories;
use place::place_buffers;
use std::collections::{BTreeMap, BTreeSet};

/// Places and layouts of the tensors that live between calls and are shared by all entries, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedLayout {
    /// Offset of each parameter, buffer and state in the persistent segment, bytes.
    pub persistent: BTreeMap<String, usize>,
    /// Size of the persistent segment, bytes.
    pub persistent_bytes: usize,
    /// Offset of each constant in the constant segment, bytes.
    pub constants: BTreeMap<String, usize>,
    /// Size of the constant segment, bytes.
    pub constant_bytes: usize,
    /// How what is in the persistent segment is stored where not in row-major order.
    pub kept: KeptLayouts,
}

impl SharedLayout {
    /// Lays out what the entries declare, in the order they declare it, all of it in row-major order.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Graph>) -> Self {
        let mut layout = SharedLayout::default();
        for graph in entries {
            for input in graph.inputs() {
                let size = aligned(graph.ty(input.value).size_bytes());
                let (offsets, end) = match input.role {
                    Role::Parameter | Role::Buffer | Role::State => {
                        (&mut layout.persistent, &mut layout.persistent_bytes)
                    }
                    Role::Constant => (&mut layout.constants, &mut layout.constant_bytes),
                    Role::Input | Role::Hyper => continue,
                };
                offsets.entry(input.name.clone()).or_insert_with(|| {
                    *end += size;
                    *end - size
                });
            }
        }
        layout
    }
}

fn aligned(size_bytes: usize) -> usize {
    size_bytes.next_multiple_of(ALIGNMENT_BYTES)
}

/// Plans the memory of one entry.
pub fn plan_memory(schedule: Schedule, layout: &SharedLayout) -> MemoryPlan {
    let memory = lay_out(&schedule, Border::Entry(layout));
    MemoryPlan { schedule, memory }
}

fn lay_out(schedule: &Schedule, border: Border) -> MemoryLayout {
    let forms = Forms::of(schedule);
    let mut regions: BTreeMap<NodeId, RegionMemory> =
        regions_of(schedule).map(|region| (region.node, region_memory(&forms, region))).collect();
    let mut places = border.input_places(&schedule.graph);
    let results = border.result_places(&schedule.graph);
    let outside = Outside {
        placed: results.iter().map(|(output, _)| forms.root(*output)).collect(),
        work_bytes: regions
            .iter()
            .map(|(&node, region)| (node, region.work_bytes(blocks_at_once(&forms, node))))
            .collect(),
    };
    let storage = Storage::new(&forms, &schedule.actions, &outside);
    for (old, next) in &storage.in_place {
        places.insert(*next, places[old]);
    }
    for (output, place) in results {
        places.entry(forms.root(output)).or_insert(place);
    }
    let (offsets, mut arena_bytes) = place_buffers(&storage);
    for (buffer, offset_bytes) in storage.buffers.iter().zip(offsets) {
        let place = |v: Value| Place { segment: Segment::Arena, offset_bytes: offset_bytes + storage.offset_bytes(v) };
        buffer.values.iter().for_each(|&v| _ = places.insert(v, place(v)));
        if let Some(node) = buffer.work_of {
            regions.get_mut(&node).expect("every region has memory").work_offset_bytes = offset_bytes;
        }
    }
    add_aliases(&forms, &mut places);
    let commits = in_sequence(moves(&forms, &places, border), &mut arena_bytes);
    MemoryLayout { places, commits, arena_bytes, regions }
}

/// The most bytes that are alive at once as a schedule runs: no arena for it can be smaller.
pub fn live_bytes(schedule: &Schedule) -> usize {
    live_bytes_within(schedule, None, Guards::MayFail)
}

/// As [`live_bytes`], as long as every guard of the schedule holds; `None` where it has none.
///
/// A guard is a branch that either does nothing, for what it leads to has been computed, or computes something else.
pub fn guarded_live_bytes(schedule: &Schedule) -> Option<usize> {
    has_guards(schedule).then(|| live_bytes_within(schedule, None, Guards::Hold))
}

fn has_guards(schedule: &Schedule) -> bool {
    let within = |region: &RegionSchedule| is_guard(region) || region.bodies.iter().any(has_guards);
    regions_of(schedule).any(within)
}

fn is_guard(region: &RegionSchedule) -> bool {
    matches!(&region.bodies[..], [kept, other] if kept.actions.is_empty() && !other.actions.is_empty())
}

/// What is assumed of guards.
#[derive(Clone, Copy)]
enum Guards {
    /// What has been computed is kept.
    Hold,
    /// Either branch may run.
    MayFail,
}

impl Guards {
    /// The bodies of a region that may run.
    fn bodies(self, region: &RegionSchedule) -> &[Schedule] {
        match self {
            Guards::Hold if is_guard(region) => &region.bodies[..1],
            _ => &region.bodies,
        }
    }
}

/// The most bytes of the arena that one action alone reads and writes: no order and no recomputation needs less.
pub fn largest_action_bytes(schedule: &Schedule) -> usize {
    let forms = Forms::of(schedule);
    let storage = storage_of(&forms, schedule);
    let buffer_of: BTreeMap<Value, usize> =
        storage.buffers.iter().enumerate().flat_map(|(k, b)| b.values.iter().map(move |&v| (v, k))).collect();
    let bytes = schedule.actions.iter().map(|action| {
        let (reads, writes) = reads_and_writes(&forms, action);
        let used: BTreeSet<usize> = reads.iter().chain(&writes).filter_map(|v| buffer_of.get(v).copied()).collect();
        used.into_iter().map(|k| storage.buffers[k].size_bytes).sum()
    });
    bytes.max().unwrap_or(0)
}

/// The most bytes alive at once in the arena, in the body of a region besides what is written to the region's results.
fn live_bytes_within(schedule: &Schedule, region: Option<Border>, guards: Guards) -> usize {
    storage_while(&Forms::of(schedule), schedule, region, guards).live_bytes()
}

/// The most bytes that the bodies of a region work in at once.
pub(crate) fn region_live_bytes(forms: &Forms, region: &RegionSchedule) -> usize {
    region_live_bytes_while(forms, region, Guards::MayFail)
}

fn region_live_bytes_while(forms: &Forms, region: &RegionSchedule, guards: Guards) -> usize {
    let Form::Region(form) = forms.get(region.node) else { unreachable!("only regions are scheduled as such") };
    let histories = histories(forms, region.node);
    let border = Border::Body(form, &histories);
    let bodies = guards.bodies(region).iter();
    let most = bodies.map(|body| live_bytes_within(body, Some(border), guards)).max().unwrap_or(0);
    aligned(most) * form.blocks_at_once()
}

/// How many blocks of rows a region works on at the same time, each in memory of its own.
fn blocks_at_once(forms: &Forms, region: NodeId) -> usize {
    if let Form::Region(form) = forms.get(region) { form.blocks_at_once() } else { 1 }
}

/// What the schedule of an entry stores, without places yet.
pub(crate) fn storage_of(forms: &Forms, schedule: &Schedule) -> Storage {
    storage_while(forms, schedule, None, Guards::MayFail)
}

/// What a schedule stores; that of a body, which has a region around it, without what is written to the region's results.
fn storage_while(forms: &Forms, schedule: &Schedule, region: Option<Border>, guards: Guards) -> Storage {
    let results = region.map_or(vec![], |border| border.result_places(&schedule.graph));
    let work_bytes = |region: &RegionSchedule| (region.node, region_live_bytes_while(forms, region, guards));
    let outside = Outside {
        placed: results.into_iter().map(|(output, _)| forms.root(output)).collect(),
        work_bytes: regions_of(schedule).map(work_bytes).collect(),
    };
    Storage::new(forms, &schedule.actions, &outside)
}

fn regions_of(schedule: &Schedule) -> impl Iterator<Item = &RegionSchedule> {
    schedule.actions.iter().filter_map(|a| if let Action::Region(region) = a { Some(region) } else { None })
}

fn region_memory(forms: &Forms, region: &RegionSchedule) -> RegionMemory {
    let Form::Region(form) = forms.get(region.node) else { unreachable!("only regions are scheduled as such") };
    let histories = histories(forms, region.node);
    let bodies = region.bodies.iter().map(|body| lay_out(body, Border::Body(form, &histories))).collect();
    RegionMemory { work_offset_bytes: 0, bodies }
}

fn add_aliases(forms: &Forms, places: &mut BTreeMap<Value, Place>) {
    for output in forms.graph.outputs() {
        let place = places[&forms.root(output.value)];
        places.insert(output.value, place);
    }
}

/// Bytes to be moved when all actions are done: (from, to, size in bytes).
type Move = (Place, Place, usize);

/// What leaves the graph but was not made where it belongs.
fn moves(forms: &Forms, places: &BTreeMap<Value, Place>, border: Border) -> Vec<Move> {
    let graph = forms.graph;
    let all = border.destinations(graph).into_iter();
    let all = all.map(|(output, to)| (places[&output], to, graph.ty(output).size_bytes()));
    all.filter(|(from, to, _)| from != to).collect()
}

/// Moves that are to see what was there before any of them, in an order in which they do; where they go round in a
/// circle, what one of them takes is set aside behind the arena first.
fn in_sequence(mut moves: Vec<Move>, arena_bytes: &mut usize) -> Vec<Move> {
    let mut sequence = Vec::with_capacity(moves.len());
    while let Some(&(from, _, bytes)) = moves.first() {
        let unread = |to: Place| !moves.iter().any(|(from, ..)| *from == to);
        match moves.iter().position(|&(_, to, _)| unread(to)) {
            Some(next) => sequence.push(moves.remove(next)),
            None => {
                let aside = Place { segment: Segment::Arena, offset_bytes: *arena_bytes };
                *arena_bytes += aligned(bytes);
                sequence.push((from, aside, bytes));
                moves.iter_mut().filter(|m| m.0 == from).for_each(|m| m.0 = aside);
            }
        }
    }
    sequence
}
