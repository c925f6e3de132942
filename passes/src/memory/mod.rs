//! Memory planning: a place for every stored value, decided before the first step runs.
//!
//! Updates are written over the tensor they replace where every reader of the old value has run; other
//! values share one arena by liveness, a result taking over the buffer of an operand that dies with it
//! where the kernel reads that operand only at the point it writes.

mod buffers;
mod check;
mod place;

pub(crate) use buffers::Storage;
pub use check::check_plan;

use crate::schedule::Forms;
use buffers::{Lifetimes, lifetimes, reads_and_writes};
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::plan::{ALIGNMENT_BYTES, MemoryPlan, Place, Schedule, Segment};
use place::place_buffers;
use std::collections::BTreeMap;

/// Places of the tensors that live between calls and are shared by all entries, by name.
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
}

impl SharedLayout {
    /// Lays out what the entries declare, in the order they declare it.
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
    let forms = Forms::of(&schedule);
    let mut places = input_places(&schedule.graph, layout);
    let storage = Storage::new(&forms, &schedule.actions);
    for (old, next) in &storage.in_place {
        places.insert(*next, places[old]);
    }
    let (offsets, arena_bytes) = place_buffers(&storage);
    for (buffer, offset_bytes) in storage.buffers.iter().zip(offsets) {
        let place = Place { segment: Segment::Arena, offset_bytes };
        buffer.values.iter().for_each(|&v| _ = places.insert(v, place));
    }
    add_aliases(&forms, &mut places);
    let commits = commits(&forms, &places);
    MemoryPlan { schedule, places, commits, arena_bytes }
}

/// The most bytes that are alive at once as a schedule runs: no arena for it can be smaller.
pub fn live_bytes(schedule: &Schedule) -> usize {
    Storage::new(&Forms::of(schedule), &schedule.actions).live_bytes()
}

fn input_places(graph: &Graph, layout: &SharedLayout) -> BTreeMap<Value, Place> {
    let mut hosts = 0;
    let mut place = |name: &str, role: Role| match role {
        Role::Parameter | Role::Buffer | Role::State => {
            Place { segment: Segment::Persistent, offset_bytes: layout.persistent[name] }
        }
        Role::Constant => Place { segment: Segment::Constants, offset_bytes: layout.constants[name] },
        Role::Input | Role::Hyper => {
            hosts += 1;
            Place { segment: Segment::Host(hosts - 1), offset_bytes: 0 }
        }
    };
    graph.inputs().iter().map(|i| (i.value, place(&i.name, i.role))).collect()
}

fn add_aliases(forms: &Forms, places: &mut BTreeMap<Value, Place>) {
    for output in forms.graph.outputs() {
        let place = places[&forms.root(output.value)];
        places.insert(output.value, place);
    }
}

fn commits(forms: &Forms, places: &BTreeMap<Value, Place>) -> Vec<(Place, Place, usize)> {
    let graph = forms.graph;
    let updates = graph.outputs().iter().filter_map(|o| match o.kind {
        OutputKind::Update(id) => {
            Some((places[&o.value], places[&graph.inputs()[id.index()].value], graph.ty(o.value).size_bytes()))
        }
        _ => None,
    });
    updates.filter(|(from, to, _)| from != to).collect()
}
