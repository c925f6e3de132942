//! What memory borders on: other entries and the host around an entry, a region around its bodies.

use super::{History, SharedLayout};
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::region::{BodyResult, RegionForm};
use std::collections::BTreeMap;

/// What lies around the memory of a graph.
#[derive(Clone, Copy)]
pub(super) enum Border<'a> {
    /// Tensors shared with other entries, and slices of the host.
    Entry(&'a SharedLayout),
    /// A region, whose body the graph is, and the histories of its carries.
    Body(&'a RegionForm, &'a [History]),
}

impl Border<'_> {
    /// Where the inputs are.
    pub fn input_places(self, graph: &Graph) -> BTreeMap<Value, Place> {
        match self {
            Border::Entry(layout) => entry_inputs(graph, layout),
            Border::Body(..) => graph
                .inputs()
                .iter()
                .enumerate()
                .map(|(k, i)| (i.value, start_of(Segment::Argument(k as u32))))
                .collect(),
        }
    }

    /// Results that belong to a place of the region, each once.
    pub fn result_places(self, graph: &Graph) -> Vec<(Value, Place)> {
        let places = self.body_results(graph).into_iter();
        places.filter(|(_, place)| matches!(place.segment, Segment::Result(_))).collect()
    }

    /// Where results of a body belong, but for carries without a history.
    fn body_results(self, graph: &Graph) -> Vec<(Value, Place)> {
        let Border::Body(form, histories) = self else { return vec![] };
        let segment = |k: usize| match form.result(k) {
            BodyResult::Slice | BodyResult::Whole => Some(Segment::Result(k as u32)),
            BodyResult::Carry | BodyResult::Done => None,
        };
        let segment = |k: usize| histories.iter().find_map(|history| history.segment(k)).or_else(|| segment(k));
        let outputs = graph.outputs().iter().enumerate();
        outputs.filter_map(|(k, output)| Some((output.value, start_of(segment(k)?)))).collect()
    }

    /// Whether input `k` of a body is part of a history, which it must not be written over.
    pub fn is_history(self, k: usize) -> bool {
        matches!(self, Border::Body(_, histories) if histories.iter().any(|history| history.carry == k))
    }

    /// Everything that must stand in a certain place when all actions are done: results, and updates of inputs.
    pub fn destinations(self, graph: &Graph) -> Vec<(Value, Place)> {
        let inputs = self.input_places(graph);
        let updates = graph.outputs().iter().filter_map(|o| match o.kind {
            OutputKind::Update(id) if !self.is_history(id.index()) => {
                Some((o.value, inputs[&graph.inputs()[id.index()].value]))
            }
            _ => None,
        });
        updates.chain(self.body_results(graph)).collect()
    }

    /// Bytes from the start of a segment that values of the graph may occupy; `None` where it has no such segment.
    pub fn segment_bytes(self, graph: &Graph, segment: Segment, arena_bytes: usize) -> Option<usize> {
        match (self, segment) {
            (_, Segment::Arena) => Some(arena_bytes),
            (Border::Entry(layout), Segment::Persistent) => Some(layout.persistent_bytes),
            (Border::Entry(layout), Segment::Constants) => Some(layout.constant_bytes),
            _ => {
                let here = start_of(segment);
                let mut ends = self.input_places(graph).into_iter().chain(self.result_places(graph));
                ends.find(|(_, place)| *place == here).map(|(value, _)| graph.ty(value).size_bytes())
            }
        }
    }
}

fn start_of(segment: Segment) -> Place {
    Place { segment, offset_bytes: 0 }
}

fn entry_inputs(graph: &Graph, layout: &SharedLayout) -> BTreeMap<Value, Place> {
    let mut hosts = 0;
    let mut place = |name: &str, role: Role| match role {
        Role::Parameter | Role::Buffer | Role::State => {
            Place { segment: Segment::Persistent, offset_bytes: layout.persistent[name] }
        }
        Role::Constant => Place { segment: Segment::Constants, offset_bytes: layout.constants[name] },
        Role::Input | Role::Hyper => {
            hosts += 1;
            start_of(Segment::Host(hosts - 1))
        }
    };
    graph.inputs().iter().map(|i| (i.value, place(&i.name, i.role))).collect()
}
