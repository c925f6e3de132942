//! Nodes that large values connect.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, NodeId, Value};
use gradc_ir::lower::{Access, Contraction, Lowering, Nest, Scalar};
use gradc_ir::types::{DType, TensorType, TypeError};
use petgraph::unionfind::UnionFind;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a value that is worth to be made in parts, at least: more than a core's own caches hold beside what else is
/// read.
const LARGE_BYTES: usize = 1 << 20;

/// Elements that a product makes of each of the larger of its factors, at least, for its result to be what a region is
/// for: such as scores of a sequence longer than heads are wide.
const GROWTH: usize = 2;

/// Nodes to be made in parts.
pub(super) struct Region {
    /// The nodes it stands for.
    pub members: BTreeSet<NodeId>,
    /// What it computes: its members, what they need of large values from before, what needs no inputs.
    pub nodes: BTreeSet<NodeId>,
    /// What it reads.
    pub inputs: BTreeSet<Value>,
    /// What others read of it.
    pub outputs: Vec<Value>,
}

impl Region {
    /// Whether parts could be worth it: products make more than goes in and out, and little is made twice.
    pub fn pays(&self, graph: &Graph) -> bool {
        let products = self.nodes.iter().filter_map(|&id| Some((id, contraction(graph, id)?)));
        let products: Vec<(NodeId, Contraction)> = products.collect();
        let bytes = |values: &mut dyn Iterator<Item = Value>| values.map(|v| graph.ty(v).size_bytes()).sum::<usize>();
        let made = products.iter().map(|(id, _)| Value { node: *id, result: 0 });
        let inside = bytes(&mut made.filter(|v| !self.outputs.contains(v)));
        let border = bytes(&mut self.inputs.iter().chain(&self.outputs).copied());
        let again = products.iter().filter(|(id, _)| !self.members.contains(id)).count();
        2 * inside >= border && 3 * again <= products.len() && products.iter().all(|(_, product)| is_repeated(product))
    }

    /// What it computes as a closed function.
    pub fn function(&self, graph: &Graph) -> Result<Function, TypeError> {
        let types: Vec<TensorType> = self.inputs.iter().map(|&v| graph.ty(v).clone()).collect();
        Builder::function("part of a region", &types, |b, x| {
            let mut made: BTreeMap<Value, Value> = self.inputs.iter().copied().zip(x.iter().copied()).collect();
            for &id in &self.nodes {
                b.set_loc(graph.loc(id).clone());
                let operands: Vec<Value> = graph.node(id).operands.iter().map(|v| made[v]).collect();
                let op = graph.op(id).expect("a region computes ops").clone();
                made.extend(graph.results(id).zip(b.apply(op, &operands)?));
            }
            Ok(self.outputs.iter().map(|v| made[v]).collect())
        })
    }
}

/// The regions of a graph, those first that depend on others.
pub(super) fn regions(graph: &Graph) -> Vec<Region> {
    let sizes: BTreeSet<usize> = graph.node_ids().filter_map(|id| grown_elements(graph, id)).collect();
    if sizes.is_empty() {
        return vec![];
    }
    let finder = Finder::new(graph, sizes);
    let mut found: Vec<Region> = finder.components().iter().flat_map(|nodes| finder.rounds(nodes)).collect();
    found.sort_by_key(|region| std::cmp::Reverse(region.members.first().copied()));
    found
}

struct Finder<'a> {
    graph: &'a Graph,
    kinds: Vec<Kind>,
    users: Vec<Vec<NodeId>>,
    /// Numbers of elements of what products make that is large.
    sizes: BTreeSet<usize>,
}

/// What a node is to a region.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A map, a sum or work along lines.
    Map,
    /// Makes more than it reads and computes nothing: the same values again and again.
    Repeats,
    /// Sums of products.
    Products,
    /// What is not made in parts: what needs no inputs, loops, updates.
    Other,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a Graph, sizes: BTreeSet<usize>) -> Self {
        let mut free: Vec<bool> = Vec::with_capacity(graph.nodes().len());
        for id in graph.node_ids() {
            let is_free = graph.op(id).is_some() && graph.node(id).operands.iter().all(|v| free[v.node.index()]);
            free.push(is_free);
        }
        let kinds = graph.node_ids().map(|id| kind(graph, id, free[id.index()])).collect();
        Finder { graph, kinds, users: graph.users(), sizes }
    }

    fn kind(&self, id: NodeId) -> Kind {
        self.kinds[id.index()]
    }

    /// Whether a value is as large as what products make, and not just something smaller again and again, which others
    /// may share.
    fn is_large(&self, value: Value) -> bool {
        matches!(self.kind(value.node), Kind::Map | Kind::Products)
            && self.sizes.contains(&self.graph.ty(value).elements())
    }

    /// Nodes that make or read large values, by what these connect.
    fn components(&self) -> Vec<BTreeSet<NodeId>> {
        let graph = self.graph;
        let mut connected = UnionFind::<usize>::new(graph.nodes().len());
        let mut members = BTreeSet::new();
        for id in graph.node_ids().filter(|&id| self.kind(id) != Kind::Other) {
            for value in graph.node(id).operands.iter().filter(|&&v| self.is_large(v)) {
                connected.union(id.index(), value.node.index());
                members.extend([id, value.node]);
            }
        }
        let mut components: BTreeMap<usize, BTreeSet<NodeId>> = BTreeMap::new();
        for id in members {
            components.entry(connected.find(id.index())).or_default().insert(id);
        }
        components.into_values().map(|members| self.with_maps_between(members)).collect()
    }

    /// Nodes, and the maps and sums that make what some of them read of what others of them make: what is done with the
    /// sums of rows, say.
    fn with_maps_between(&self, members: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let graph = self.graph;
        let is_map = |id: NodeId| matches!(self.kind(id), Kind::Map | Kind::Repeats);
        let mut after = members.clone();
        for id in graph.node_ids() {
            if is_map(id) && graph.node(id).operands.iter().any(|v| after.contains(&v.node)) {
                after.insert(id);
            }
        }
        let mut between = members;
        for id in graph.node_ids().rev().filter(|id| after.contains(id)) {
            if between.contains(&id) {
                between.extend(graph.node(id).operands.iter().map(|v| v.node).filter(|node| after.contains(node)));
            }
        }
        between
    }

    /// A component taken apart where one of its nodes needs something outside that needs another of its nodes.
    fn rounds(&self, component: &BTreeSet<NodeId>) -> Vec<Region> {
        let graph = self.graph;
        let mut round = vec![0; graph.nodes().len()];
        let mut rounds: BTreeMap<usize, BTreeSet<NodeId>> = BTreeMap::new();
        for id in graph.node_ids() {
            let is_member = component.contains(&id);
            let after = |v: &Value| round[v.node.index()] + usize::from(!is_member && component.contains(&v.node));
            round[id.index()] = graph.node(id).operands.iter().map(after).max().unwrap_or(0);
            if is_member {
                rounds.entry(round[id.index()]).or_default().insert(id);
            }
        }
        rounds.into_values().map(|members| self.region(component, members)).collect()
    }

    fn region(&self, component: &BTreeSet<NodeId>, members: BTreeSet<NodeId>) -> Region {
        let graph = self.graph;
        let operands = |id: NodeId| graph.node(id).operands.iter().copied();
        let (mut nodes, mut inputs) = (members.clone(), BTreeSet::new());
        let mut needed: Vec<Value> = members.iter().flat_map(|&id| operands(id)).collect();
        while let Some(value) = needed.pop() {
            let node = value.node;
            if nodes.contains(&node) {
                continue;
            }
            if self.kind(node) == Kind::Repeats || component.contains(&node) && self.is_large(value) {
                nodes.insert(node);
                needed.extend(operands(node));
            } else {
                inputs.insert(value);
            }
        }
        let users = members.iter().flat_map(|id| &self.users[id.index()]).filter(|id| !members.contains(id));
        let read: BTreeSet<Value> =
            users.flat_map(|&id| operands(id)).chain(graph.outputs().iter().map(|o| o.value)).collect();
        let outputs = read.into_iter().filter(|v| members.contains(&v.node)).collect();
        Region { members, nodes, inputs, outputs }
    }
}

fn lowering(graph: &Graph, id: NodeId) -> Option<Lowering> {
    let node = graph.node(id);
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    Some(graph.op(id)?.lower(&operands, &node.types))
}

fn kind(graph: &Graph, id: NodeId, is_free: bool) -> Kind {
    match lowering(graph, id) {
        Some(Lowering::Nests(nests)) if repeats(graph, id, &nests) => Kind::Repeats,
        Some(Lowering::Nests(_) | Lowering::Lines(_)) if !is_free => Kind::Map,
        Some(Lowering::Contraction(_)) if !is_free => Kind::Products,
        _ => Kind::Other,
    }
}

/// Whether a node computes nothing and makes more than it reads: a constant, or the same values again and again.
fn repeats(graph: &Graph, id: NodeId, nests: &[Nest]) -> bool {
    let computes = |(scalar, _): &(Scalar, DType)| !matches!(scalar, Scalar::Load(_) | Scalar::Const(_));
    let computes = nests.iter().any(|nest| nest.combine.is_some() || nest.body.scalars.iter().any(computes));
    let elements = |values: &mut dyn Iterator<Item = Value>| values.map(|v| graph.ty(v).elements()).sum::<usize>();
    !computes && elements(&mut graph.results(id)) > elements(&mut graph.node(id).operands.iter().copied())
}

/// The products of a node, if that is what it is.
pub(super) fn contraction(graph: &Graph, id: NodeId) -> Option<Contraction> {
    match lowering(graph, id)? {
        Lowering::Contraction(contraction) => Some(contraction),
        _ => None,
    }
}

/// Number of elements of the result of a node, if it is products that make much more than they read.
fn grown_elements(graph: &Graph, id: NodeId) -> Option<usize> {
    let result = &graph.node(id).types[0];
    let read = graph.node(id).operands.iter().map(|&v| graph.ty(v).elements()).max()?;
    let grows = result.size_bytes() >= LARGE_BYTES && result.elements() >= GROWTH * read;
    let product = if grows { contraction(graph, id) } else { None };
    product.filter(is_repeated).map(|_| result.elements())
}

/// Whether there is a product for each step of a loop, of which both factors are others in each.
fn is_repeated(of: &Contraction) -> bool {
    repetitions(of).next().is_some()
}

/// Extents of the loops for each step of which there is a product of other factors.
pub(super) fn repetitions(of: &Contraction) -> impl Iterator<Item = usize> {
    let moves = |access: &Access, d: usize| access.indices.iter().any(|index| index.affine.coeffs[d] != 0);
    let repeats = move |&d: &usize| of.space[d] > 1 && moves(&of.lhs, d) && moves(&of.rhs, d);
    (0..of.space.len()).filter(repeats).map(|d| of.space[d])
}
