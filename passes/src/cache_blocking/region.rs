//! Nodes that large values connect.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, NodeId, Value};
use gradc_ir::lower::{Access, Contraction, Lowering, Scalar};
use gradc_ir::types::{DType, TensorType, TypeError};
use petgraph::unionfind::UnionFind;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a value that is worth to be made in parts, at least: more than a core's own caches hold beside what else is
/// read.
pub(super) const LARGE_BYTES: usize = 1 << 20;

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
    /// Nodes that can be made in parts and depend on some input.
    can_be_cut: Vec<bool>,
    /// Numbers of elements of what products make that is large.
    sizes: BTreeSet<usize>,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a Graph, sizes: BTreeSet<usize>) -> Self {
        let mut free: Vec<bool> = Vec::with_capacity(graph.nodes().len());
        for id in graph.node_ids() {
            let is_free = graph.op(id).is_some() && graph.node(id).operands.iter().all(|v| free[v.node.index()]);
            free.push(is_free);
        }
        let can_be_cut = graph.node_ids().map(|id| !free[id.index()] && can_be_cut(graph, id)).collect();
        Finder { graph, can_be_cut, sizes }
    }

    /// Whether a value is as large as what products make.
    fn is_large(&self, value: Value) -> bool {
        self.can_be_cut[value.node.index()] && self.sizes.contains(&self.graph.ty(value).elements())
    }

    /// Nodes that make or read large values, by what these connect.
    fn components(&self) -> Vec<BTreeSet<NodeId>> {
        let graph = self.graph;
        let mut connected = UnionFind::<usize>::new(graph.nodes().len());
        let mut members = BTreeSet::new();
        for id in graph.node_ids().filter(|id| self.can_be_cut[id.index()]) {
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
        let is_map = |id: NodeId| self.can_be_cut[id.index()] && contraction(graph, id).is_none();
        let mut after = members.clone();
        for id in graph.node_ids() {
            if graph.node(id).operands.iter().any(|v| after.contains(&v.node)) && is_map(id) {
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
            if repeats(graph, node) || component.contains(&node) && self.is_large(value) {
                nodes.insert(node);
                needed.extend(operands(node));
            } else {
                inputs.insert(value);
            }
        }
        let read = graph.node_ids().filter(|id| !members.contains(id)).flat_map(operands);
        let read: BTreeSet<Value> = read.chain(graph.outputs().iter().map(|o| o.value)).collect();
        let outputs = read.into_iter().filter(|v| members.contains(&v.node)).collect();
        Region { members, nodes, inputs, outputs }
    }
}

fn lowering(graph: &Graph, id: NodeId) -> Option<Lowering> {
    let node = graph.node(id);
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    Some(graph.op(id)?.lower(&operands, &node.types))
}

fn can_be_cut(graph: &Graph, id: NodeId) -> bool {
    matches!(lowering(graph, id), Some(Lowering::Nests(_) | Lowering::Contraction(_) | Lowering::Lines(_)))
}

/// Whether a node computes nothing and makes more than it reads: a constant, or the same values again and again.
fn repeats(graph: &Graph, id: NodeId) -> bool {
    let Some(Lowering::Nests(nests)) = lowering(graph, id) else { return false };
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
    let moves = |access: &Access, d: usize| access.indices.iter().any(|index| index.affine.coeffs[d] != 0);
    (0..of.space.len()).any(|d| of.space[d] > 1 && moves(&of.lhs, d) && moves(&of.rhs, d))
}
