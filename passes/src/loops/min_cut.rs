//! Which values a backward pass is handed, as a minimum cut.
//!
//! Every value of the forward pass is either handed over, which costs its bytes, or made again from others. A cut of the
//! graph of values between what only the forward pass has and what the backward pass reads is a choice of what is handed
//! over, and a minimum cut the one of fewest bytes (Zheng, Vasilache et al., min-cut rematerialisation, as in
//! PyTorch's `functorch.compile.min_cut_rematerialization_partition`).

use gradc_ir::graph::{Graph, NodeId, Value};
use petgraph::Direction::Incoming;
use petgraph::algo::maximum_flow::dinics;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// More than all values together have.
const UNBOUNDED: u64 = 1 << 56;

/// Units per byte: of two choices of equally many bytes the one of fewer values is taken.
const UNITS_PER_BYTE: u64 = 1 << 8;

/// What a choice is made of.
pub(super) struct Rules<'a> {
    /// Whether a node belongs to the forward pass.
    pub forward: &'a [bool],
    /// Inputs of the graph that the backward pass does not have.
    pub withheld: BTreeSet<Value>,
    /// Values that are handed over anyway.
    pub kept: BTreeSet<Value>,
    /// Whether a node may be done again.
    pub again: &'a dyn Fn(NodeId) -> bool,
}

/// The forward values to hand over so that `read` can be had from them and from inputs that are not withheld.
///
/// Of equally good choices, the one that does least again.
pub(super) fn handed_over(graph: &Graph, rules: &Rules, read: &BTreeSet<Value>) -> BTreeSet<Value> {
    let network = Network::new(graph, rules, read);
    let side = network.backward_side();
    let cut = network.values.iter().filter(|(_, (made, had))| !side.contains(made) && side.contains(had));
    cut.map(|(&value, _)| value).collect()
}

/// Flow runs from what only the forward pass has to what the backward pass reads.
struct Network {
    edges: DiGraph<(), u64>,
    forward_only: NodeIndex,
    read: NodeIndex,
    /// Every value as two vertices, made and had, whose edge is handing it over.
    values: BTreeMap<Value, (NodeIndex, NodeIndex)>,
}

impl Network {
    fn new(graph: &Graph, rules: &Rules, read: &BTreeSet<Value>) -> Self {
        let mut edges = DiGraph::new();
        let (forward_only, sink) = (edges.add_node(()), edges.add_node(()));
        let mut network = Network { edges, forward_only, read: sink, values: BTreeMap::new() };
        for id in graph.node_ids().filter(|id| rules.forward[id.index()]) {
            network.add_node(graph, rules, id);
        }
        for value in read {
            network.edges.add_edge(network.values[value].1, sink, UNBOUNDED);
        }
        network
    }

    fn add_node(&mut self, graph: &Graph, rules: &Rules, id: NodeId) {
        let work = self.edges.add_node(());
        for operand in &graph.node(id).operands {
            self.edges.add_edge(self.values[operand].1, work, UNBOUNDED);
        }
        let withheld = graph.results(id).any(|v| rules.withheld.contains(&v));
        if withheld || (graph.op(id).is_some() && !(rules.again)(id)) {
            self.edges.add_edge(self.forward_only, work, UNBOUNDED);
        }
        for value in graph.results(id) {
            let (made, had) = (self.edges.add_node(()), self.edges.add_node(()));
            let bytes = if rules.kept.contains(&value) { 0 } else { graph.ty(value).size_bytes() as u64 };
            self.edges.add_edge(work, made, UNBOUNDED);
            self.edges.add_edge(made, had, bytes * UNITS_PER_BYTE + 1);
            self.values.insert(value, (made, had));
        }
    }

    /// The vertices from which more could flow to what is read when as much flows as can.
    fn backward_side(&self) -> HashSet<NodeIndex> {
        let (_, flow) = dinics(&self.edges, self.forward_only, self.read);
        let (mut side, mut open) = (HashSet::from([self.read]), vec![self.read]);
        while let Some(vertex) = open.pop() {
            for next in self.upstream(vertex, &flow) {
                if side.insert(next) {
                    open.push(next);
                }
            }
        }
        side
    }

    /// The vertices with room for more flow to `vertex`.
    fn upstream<'a>(&'a self, vertex: NodeIndex, flow: &'a [u64]) -> impl Iterator<Item = NodeIndex> + 'a {
        let flows = |edge: EdgeIndex| flow[edge.index()];
        let into = self.edges.edges_directed(vertex, Incoming);
        let into = into.filter(move |e| flows(e.id()) < *e.weight()).map(|e| e.source());
        into.chain(self.edges.edges(vertex).filter(move |e| flows(e.id()) > 0).map(|e| e.target()))
    }
}
