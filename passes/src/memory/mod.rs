//! Memory planning: a place for every stored value, decided before the first step runs.
//!
//! Updates are written over the tensor they replace where every reader of the old value has run; other
//! values share one arena by liveness, a result taking over the buffer of an operand that dies with it
//! where the kernel reads that operand only at the point it writes.

mod check;

pub use check::check_plan;

use crate::schedule::{Forms, in_place_candidates, overwritable};
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::plan::{ALIGNMENT_BYTES, Action, MemoryPlan, Place, Schedule, Segment};
use std::collections::{BTreeMap, BTreeSet};

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
    let in_place = in_place_updates(&forms, &schedule);
    for (old, next) in &in_place {
        places.insert(*next, places[old]);
    }
    let buffers = buffers(&forms, &schedule, &places);
    let arena_bytes = place_buffers(buffers, &mut places);
    add_aliases(&forms, &mut places);
    let commits = commits(&forms, &places);
    MemoryPlan { schedule, places, commits, arena_bytes }
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

/// Index of the action that makes each stored value, and of the last that reads each.
struct Lifetimes {
    made: BTreeMap<Value, usize>,
    last_read: BTreeMap<Value, usize>,
}

fn lifetimes(forms: &Forms, schedule: &Schedule) -> Lifetimes {
    let (mut made, mut last_read) = (BTreeMap::new(), BTreeMap::new());
    for (k, action) in schedule.actions.iter().enumerate() {
        let (reads, writes) = reads_and_writes(forms, action);
        reads.into_iter().for_each(|v| _ = last_read.insert(v, k));
        writes.into_iter().for_each(|v| _ = made.insert(v, k));
    }
    Lifetimes { made, last_read }
}

fn reads_and_writes(forms: &Forms, action: &Action) -> (BTreeSet<Value>, Vec<Value>) {
    match action {
        Action::CheckFinite(value) => (BTreeSet::from([*value]), vec![]),
        Action::Run(group) => {
            let nodes: BTreeSet<_> = group.nodes.iter().collect();
            let operands = group.nodes.iter().flat_map(|&n| &forms.graph.node(n).operands);
            let outside = operands.map(|v| forms.root(*v)).filter(|v| !nodes.contains(&v.node));
            (outside.collect(), group.stored.clone())
        }
    }
}

/// Updates that may overwrite: (old value, next value).
fn in_place_updates(forms: &Forms, schedule: &Schedule) -> Vec<(Value, Value)> {
    let life = lifetimes(forms, schedule);
    let last_check = schedule.actions.iter().rposition(|a| matches!(a, Action::CheckFinite(_)));
    let allowed = |&(old, next): &(Value, Value)| {
        let Some(&at) = life.made.get(&next) else { return false };
        let Action::Run(group) = &schedule.actions[at] else { return false };
        let readers_done =
            life.last_read.get(&old).is_none_or(|&r| r < at || (r == at && overwritable(forms, group).contains(&old)));
        readers_done && last_check.is_none_or(|check| check < at)
    };
    in_place_candidates(forms).into_iter().filter(allowed).collect()
}

/// Bytes needed from the action that makes them to the last that reads them.
struct Buffer {
    values: Vec<Value>,
    size_bytes: usize,
    first: usize,
    last: usize,
}

fn buffers(forms: &Forms, schedule: &Schedule, places: &BTreeMap<Value, Place>) -> Vec<Buffer> {
    let life = lifetimes(forms, schedule);
    let end = schedule.actions.len();
    let leaves: BTreeSet<Value> = forms.graph.outputs().iter().map(|o| forms.root(o.value)).collect();
    let last_of =
        |v: &Value, made: usize| if leaves.contains(v) { end } else { life.last_read.get(v).copied().unwrap_or(made) };
    let mut buffers: Vec<Buffer> = Vec::new();
    for (k, action) in schedule.actions.iter().enumerate() {
        let Action::Run(group) = action else { continue };
        let mut free = overwritable(forms, group);
        for &value in group.stored.iter().filter(|v| !places.contains_key(v)) {
            let (size_bytes, last) = (forms.graph.ty(value).size_bytes(), last_of(&value, k));
            let dying = |b: &Buffer, v: &Value| {
                b.last == k && b.size_bytes == size_bytes && b.values.contains(v) && b.first < k
            };
            let taken = buffers.iter_mut().find_map(|b| free.iter().position(|v| dying(b, v)).map(|at| (b, at)));
            match taken {
                Some((buffer, at)) => {
                    free.remove(at);
                    buffer.values.push(value);
                    buffer.last = last;
                }
                None => buffers.push(Buffer { values: vec![value], size_bytes, first: k, last }),
            }
        }
    }
    buffers
}

/// Largest first, each at the lowest offset free for as long as it lives. Returns the arena's size.
fn place_buffers(mut buffers: Vec<Buffer>, places: &mut BTreeMap<Value, Place>) -> usize {
    buffers.sort_by_key(|b| (std::cmp::Reverse(b.size_bytes), b.first, b.values[0]));
    let mut placed: Vec<(usize, Buffer)> = Vec::new();
    for buffer in buffers {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, other)| other.first <= buffer.last && buffer.first <= other.last)
            .map(|(offset, other)| (*offset, offset + aligned(other.size_bytes)))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if start >= offset + aligned(buffer.size_bytes) {
                break;
            }
            offset = offset.max(end);
        }
        let place = Place { segment: Segment::Arena, offset_bytes: offset };
        buffer.values.iter().for_each(|&v| _ = places.insert(v, place));
        placed.push((offset, buffer));
    }
    placed.iter().map(|(offset, b)| offset + aligned(b.size_bytes)).max().unwrap_or(0)
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
