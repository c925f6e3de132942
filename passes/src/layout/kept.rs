//! In which order tensors are kept between calls.
//!
//! Who sees them from outside sees row-major order, so they may be stored as the graph would copy them in every call:
//! weights of convolutions as they are multiplied. What is computed from them point by point and replaces them is stored
//! like them, and so are the states of an optimizer, which are read for it.

use super::roles::Roles;
use super::{LaidOut, assign_layouts};
use gradc_ir::graph::{Graph, NodeId, OutputKind, Value};
use gradc_ir::layout::Layout;
use gradc_ir::lower::Lowering;
use gradc_ir::ops::Op;
use gradc_ir::types::TensorType;
use std::collections::{BTreeMap, BTreeSet};

/// Layouts of the tensors kept between calls that are not stored in row-major order, by name.
pub type KeptLayouts = BTreeMap<String, Layout>;

/// The layouts of what a graph keeps with which it makes fewer copies for its windows.
pub fn kept_layouts(graph: &Graph) -> KeptLayouts {
    let candidates = multiplied_in_windows(graph);
    if candidates.is_empty() {
        return KeptLayouts::new();
    }
    let mut before = Copies::of(&assign_layouts(graph, &KeptLayouts::new()));
    before.0.retain(|name, _| candidates.contains(&name[..]));
    let mut wanted = KeptLayouts::new();
    let families = families(graph, &before);
    for family in &families {
        let layout = family.iter().find_map(|name| before.first_layout(name)).expect("something of a family is copied");
        family.iter().for_each(|name| _ = wanted.entry(name.to_string()).or_insert_with(|| layout.clone()));
    }
    let after = Copies::of(&assign_layouts(graph, &wanted));
    for family in families.iter().filter(|family| after.count(family) >= before.count(family)) {
        wanted.retain(|name, _| !family.contains(&name[..]));
    }
    wanted
}

/// The names of what is kept and read by contractions with windows, but by no other contraction or region: these read
/// it as they find it, or in several orders.
fn multiplied_in_windows(graph: &Graph) -> BTreeSet<&str> {
    let (mut windows, mut others) = (BTreeSet::new(), BTreeSet::new());
    for id in graph.node_ids() {
        let kept = |&value: &Value| graph.input_of(value).filter(|input| input.role.is_persistent());
        let names: Vec<&str> = graph.node(id).operands.iter().filter_map(kept).map(|input| &input.name[..]).collect();
        if names.is_empty() {
            continue;
        }
        match lowering(graph, id) {
            Some(Lowering::Contraction(c)) if Roles::new(&c).is_windowed() => windows.extend(names),
            Some(Lowering::Contraction(_) | Lowering::Region(_)) => others.extend(names),
            _ => {}
        }
    }
    &windows - &others
}

/// The copies of what is kept, and of what replaces it, in a graph that is laid out.
struct Copies(BTreeMap<String, Vec<Option<Layout>>>);

impl Copies {
    fn of(laid_out: &LaidOut) -> Copies {
        let LaidOut { graph, layouts, .. } = laid_out;
        let mut copies: BTreeMap<String, Vec<Option<Layout>>> = BTreeMap::new();
        let made = graph.node_ids().filter(|&id| matches!(graph.op(id), Some(Op::Copy(_))));
        for copy in made.map(|node| Value { node, result: 0 }) {
            let updates = graph.outputs().iter().filter(|o| o.value == copy && matches!(o.kind, OutputKind::Update(_)));
            let read = graph.input_of(graph.node(copy.node).operands[0]).filter(|input| input.role.is_persistent());
            for name in updates.map(|o| &o.name).chain(read.map(|input| &input.name)) {
                copies.entry(name.clone()).or_default().push(layouts.get(&copy).cloned());
            }
        }
        Copies(copies)
    }

    fn first_layout(&self, name: &str) -> Option<Layout> {
        self.0.get(name)?.iter().flatten().next().cloned()
    }

    fn count(&self, names: &BTreeSet<&str>) -> usize {
        names.iter().filter_map(|&name| self.0.get(name)).map(Vec::len).sum()
    }
}

/// What is kept and had better be stored alike: that from which an update is computed point by point, with the tensor it
/// replaces, and else each tensor by itself; only where something of it is copied into another order.
fn families<'a>(graph: &'a Graph, copies: &Copies) -> Vec<BTreeSet<&'a str>> {
    let mut families: Vec<BTreeSet<&str>> = vec![];
    let updates = graph.outputs().iter().filter(|o| matches!(o.kind, OutputKind::Update(_)));
    let read = updates.map(|o| read_pointwise(graph, o.value).into_iter().chain([&o.name[..]]).collect());
    let each = graph.inputs().iter().filter(|i| i.role.is_persistent()).map(|i| BTreeSet::from([&i.name[..]]));
    for mut family in read.chain(each) {
        while let Some(at) = families.iter().position(|other| !other.is_disjoint(&family)) {
            family.extend(families.swap_remove(at));
        }
        families.push(family);
    }
    families.retain(|family| family.iter().any(|name| copies.first_layout(name).is_some()));
    families
}

/// The names of what is kept and read at the same point as each element of a value is made, through maps of its shape.
fn read_pointwise(graph: &Graph, value: Value) -> BTreeSet<&str> {
    let shape = &graph.ty(value).shape;
    let (mut names, mut open, mut seen) = (BTreeSet::new(), vec![value], BTreeSet::new());
    while let Some(value) = open.pop() {
        match graph.input_of(value) {
            Some(input) => names.extend(input.role.is_persistent().then_some(&input.name[..])),
            None if is_map(graph, value.node) => {
                let operands = graph.node(value.node).operands.iter().filter(|&&v| graph.ty(v).shape == *shape);
                open.extend(operands.filter(|&&v| seen.insert(v)));
            }
            None => {}
        }
    }
    names
}

fn is_map(graph: &Graph, id: NodeId) -> bool {
    matches!(lowering(graph, id), Some(Lowering::Nests(nests)) if nests.iter().all(|nest| nest.combine.is_none()))
}

fn lowering(graph: &Graph, id: NodeId) -> Option<Lowering> {
    let node = graph.node(id);
    let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    graph.op(id).map(|op| op.lower(&inputs, &node.types))
}
