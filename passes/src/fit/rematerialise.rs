//! Choosing what to make again so that the rest fits.

use super::simulate::Simulation;
use crate::cost::{Cost, op_cost};
use crate::recompute::{Chains, Repeated, needed_by_the_loss, repeat};
use crate::schedule::{Forms, Ordering};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::target::Target;
use gradc_ir::types::TensorType;
use std::collections::{BTreeMap, BTreeSet};

/// Most schedules that are made in one search.
const MOST_TRIALS: usize = 48;

/// Time every kernel takes however little it does, ns: keeps values that save a few bytes from being made again.
const KERNEL_NS: f64 = 500.0;

/// A graph that keeps less for the backward pass.
#[derive(Clone, Debug)]
pub struct Rematerialised {
    /// The graph; what it computes is the same, bit for bit.
    pub graph: Graph,
    /// Most bytes alive at once.
    pub peak_bytes: usize,
    /// Values that are not kept any more.
    pub dropped: usize,
    /// What is done again.
    pub again: Cost,
}

/// Makes again what the backward pass reads of the forward pass, as far as that is needed for no more than
/// `limit_bytes` to be alive at once, and cheapest first. Where the limit cannot be reached, the lowest peak found.
pub fn rematerialise(
    graph: &Graph,
    limit_bytes: usize,
    ordering: Ordering,
    target: &Target,
) -> Result<Rematerialised, Diagnostic> {
    let forms = Forms::row_major(graph);
    let mut search = Search::new(&forms, ordering, target)?;
    search.run(limit_bytes)?;
    let again = search.cost(&search.repeated_nodes(&search.dropped));
    let (graph, peak_bytes) = (search.best.graph, search.now.peak_bytes);
    Ok(Rematerialised { graph, peak_bytes, dropped: search.dropped.len(), again })
}

/// A search for what to drop.
struct Search<'a> {
    forms: &'a Forms<'a>,
    ordering: Ordering,
    target: &'a Target,
    /// Which nodes the loss needs.
    forward: Vec<bool>,
    /// Forward nodes that the backward pass reads.
    read: Vec<NodeId>,
    /// Nodes whose value the forward pass stores.
    stored: BTreeSet<NodeId>,
    /// Those of them that the backward pass reads: where making something again may begin.
    kept: BTreeSet<NodeId>,
    /// What is not kept.
    dropped: BTreeSet<NodeId>,
    /// What did not help.
    refused: BTreeSet<NodeId>,
    /// The best graph found and what it needs.
    best: Repeated,
    now: Simulation,
}

impl<'a> Search<'a> {
    fn new(forms: &'a Forms<'a>, ordering: Ordering, target: &'a Target) -> Result<Self, Diagnostic> {
        let forward = needed_by_the_loss(forms);
        let best = repeat(forms, &forward, &Chains::new())?;
        let now = Simulation::new(&best, &forward, ordering)?;
        let users = forms.graph.users();
        let is_read = |id: &NodeId| users[id.index()].iter().any(|user| !forward[user.index()]);
        let ops = forms.graph.node_ids().filter(|id| forward[id.index()] && forms.graph.op(*id).is_some());
        let read = ops.filter(is_read).collect();
        let stored = now.stored.keys().copied().collect();
        let kept = now.stored.iter().filter(|(_, s)| s.crosses).map(|(id, _)| *id).collect();
        let (dropped, refused) = (BTreeSet::new(), BTreeSet::new());
        Ok(Search { forms, ordering, target, forward, read, stored, kept, dropped, refused, best, now })
    }

    /// Drops values until the peak is low enough or nothing helps any more.
    fn run(&mut self, limit_bytes: usize) -> Result<(), Diagnostic> {
        let mut most = usize::MAX;
        for _ in 0..MOST_TRIALS {
            let excess_bytes = self.now.peak_bytes.saturating_sub(limit_bytes);
            let chosen = self.choose(excess_bytes, most);
            if excess_bytes == 0 || chosen.is_empty() {
                break;
            }
            most = if self.try_dropping(&chosen)? {
                usize::MAX
            } else if let [only] = chosen[..] {
                self.refused.insert(only);
                usize::MAX
            } else {
                chosen.len() / 2
            };
        }
        Ok(())
    }

    /// Schedules without some more values; keeps that unless the peak rises.
    fn try_dropping(&mut self, chosen: &[NodeId]) -> Result<bool, Diagnostic> {
        let dropped: BTreeSet<NodeId> = self.dropped.iter().chain(chosen).copied().collect();
        let trial = repeat(self.forms, &self.forward, &self.chains(&dropped))?;
        let simulation = Simulation::new(&trial, &self.forward, self.ordering)?;
        let helps = simulation.peak_bytes < self.now.peak_bytes;
        if helps {
            (self.best, self.now, self.dropped) = (trial, simulation, dropped);
        }
        Ok(helps)
    }

    /// Values alive at the peak that together are large enough, most bytes per nanosecond first; at most `most`.
    fn choose(&self, excess_bytes: usize, most: usize) -> Vec<NodeId> {
        let (mut chosen, mut saved_bytes) = (vec![], 0);
        let mut dropped = self.dropped.clone();
        let mut open: Vec<(NodeId, usize)> = self.candidates();
        while saved_bytes < excess_bytes && chosen.len() < most {
            let repeated = self.repeated_nodes(&dropped);
            let score = |&(id, bytes): &(NodeId, usize)| bytes as f64 / self.added_ns(id, &dropped, &repeated);
            let scored = open.iter().enumerate().map(|(k, candidate)| (score(candidate), k));
            let Some((_, at)) = scored.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
            let (id, bytes) = open.remove(at);
            dropped.insert(id);
            chosen.push(id);
            saved_bytes += bytes;
        }
        chosen
    }

    fn candidates(&self) -> Vec<(NodeId, usize)> {
        let is_open = |id: &NodeId| self.kept.contains(id) && !self.refused.contains(id) && !self.dropped.contains(id);
        let at_peak = self.now.stored.iter().filter(|(id, s)| s.at_peak && is_open(id));
        at_peak.map(|(id, s)| (*id, s.bytes)).collect()
    }

    /// Time it takes to make a value again, beyond what is done again anyway.
    fn added_ns(&self, id: NodeId, dropped: &BTreeSet<NodeId>, repeated: &BTreeSet<NodeId>) -> f64 {
        let mut chain = BTreeSet::new();
        self.collect(id, Some(id), dropped, &mut chain);
        let added: BTreeSet<NodeId> = chain.difference(repeated).copied().collect();
        KERNEL_NS + self.cost(&added).time_ns
    }

    fn cost(&self, nodes: &BTreeSet<NodeId>) -> Cost {
        let graph = self.forms.graph;
        let mut total = Cost::default();
        for &id in nodes {
            let Some(op) = graph.op(id) else { continue };
            let inputs: Vec<&TensorType> = graph.node(id).operands.iter().map(|&v| graph.ty(v)).collect();
            total += op_cost(op, &inputs, &graph.node(id).types, self.target);
        }
        total
    }

    fn repeated_nodes(&self, dropped: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.chains(dropped).into_values().flatten().collect()
    }

    /// For what the backward pass reads of dropped values, what to do again.
    fn chains(&self, dropped: &BTreeSet<NodeId>) -> Chains {
        let mut stands_on_dropped: BTreeMap<NodeId, bool> = BTreeMap::new();
        let mut chains = Chains::new();
        for &id in &self.read {
            if self.stands_on(id, dropped, &mut stands_on_dropped) {
                let mut chain = BTreeSet::new();
                self.collect(id, None, dropped, &mut chain);
                chains.insert(id, chain);
            }
        }
        chains
    }

    /// The forward node that stores what a node renames.
    fn holder(&self, id: NodeId) -> NodeId {
        self.forms.root(gradc_ir::graph::Value { node: id, result: 0 }).node
    }

    /// Whether a reader of a node reads a dropped value, through what is computed in its place.
    fn stands_on(&self, id: NodeId, dropped: &BTreeSet<NodeId>, known: &mut BTreeMap<NodeId, bool>) -> bool {
        let mut open = vec![id];
        let mut seen = BTreeSet::new();
        let mut found = false;
        while let Some(node) = open.pop() {
            let holder = self.holder(node);
            if known.get(&holder) == Some(&true) || dropped.contains(&holder) {
                found = true;
                break;
            }
            let passes = !self.stored.contains(&holder) && known.get(&holder).is_none() && seen.insert(holder);
            if passes {
                open.extend(self.forms.graph.node(holder).operands.iter().map(|v| v.node));
            }
        }
        known.insert(self.holder(id), found);
        found
    }

    /// Adds what has to be done again for the value of a node to `chain`: up to inputs and what is kept, except `without`.
    fn collect(&self, id: NodeId, without: Option<NodeId>, dropped: &BTreeSet<NodeId>, chain: &mut BTreeSet<NodeId>) {
        let mut open = vec![id];
        while let Some(node) = open.pop() {
            let holder = self.holder(node);
            let is_dropped = dropped.contains(&holder) || Some(holder) == without;
            let at_hand = self.kept.contains(&holder) && !is_dropped;
            if self.forms.graph.op(node).is_some() && !at_hand && chain.insert(node) {
                open.extend(self.forms.graph.node(node).operands.iter().map(|v| v.node));
            }
        }
    }
}
