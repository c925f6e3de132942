//! Where a graph stands that is optimized: what is the same in every step of the loop it is the body of, and what such
//! values are worth.

use super::analysis::EGraph;
use super::language::Node;
use crate::cost::{Cost, graph_cost_shared};
use egg::Language;
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::target::Target;

/// What is known of a graph besides its nodes. The default is a graph that is run once, its gradients taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// How often the graph is run; what is invariant is then moved out and made once.
    pub steps: usize,
    /// For every input whether it is the same in all steps; those missing are not.
    pub invariant: Vec<bool>,
    /// Whether gradients are yet to be taken, so that the places where they stop have to stay.
    pub differentiable: bool,
}

impl Default for Frame {
    fn default() -> Self {
        Frame { steps: 1, invariant: vec![], differentiable: false }
    }
}

impl Frame {
    /// Whether an input is the same in all steps.
    pub fn is_invariant_input(&self, input: usize) -> bool {
        self.invariant.get(input).copied().unwrap_or(false)
    }

    /// Which nodes of a graph are the same in all steps. None where there is one step.
    pub fn invariant_nodes(&self, graph: &Graph) -> Vec<bool> {
        let mut invariant = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            let same = match &node.def {
                Def::Input(input) => self.is_invariant_input(input.index()),
                Def::Op(_) => node.operands.iter().all(|v: &Value| invariant[v.node.index()]),
            };
            invariant.push(self.steps > 1 && same);
        }
        invariant
    }

    /// The share of a step in an e-node: what follows from invariant classes alone is made for all steps at once.
    pub fn share(&self, egraph: &EGraph, node: &Node) -> f64 {
        let operands = node.children();
        self.share_of(!operands.is_empty() && operands.iter().all(|&id| egraph[id].data.invariant))
    }

    /// The share of a step in what is made once, or in every step.
    pub fn share_of(&self, made_once: bool) -> f64 {
        if made_once { 1.0 / self.steps as f64 } else { 1.0 }
    }

    /// Cost of one step of a graph.
    pub fn cost(&self, graph: &Graph, target: &Target) -> Cost {
        let invariant = self.invariant_nodes(graph);
        graph_cost_shared(graph, target, |id: NodeId| self.share_of(invariant[id.index()]))
    }
}
