//! Choosing what to make again so that the rest fits.

use super::simulate::Simulation;
use crate::cost::{Cost, graph_cost, op_cost};
use crate::layout::KeptLayouts;
use crate::recompute::{Chains, Repeated, needed_by_the_loss, repeat};
use crate::schedule::{Forms, Ordering, Peaks};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::plan::Schedule;
use gradc_ir::target::Target;
use gradc_ir::types::TensorType;
use std::collections::{BTreeMap, BTreeSet};

/// Most schedules that are made in one search.
const MOST_TRIALS: usize = 48;

/// Time every kernel takes however little it does, ns: keeps values that save a few bytes from being made again.
const KERNEL_NS: f64 = 500.0;

/// Share of a step's time that making values again may take where memory is not limited.
///
/// On gpt_tiny, values that are estimated at 0.93 % of a step save 3 MiB of 20, and it takes 0.3 % longer.
const SPARE_TIME: f64 = 1.0 / 100.0;

/// Share of a step's operations that may be done again there: those of a map take several times as long as those of a
/// product.
const SPARE_FLOPS: f64 = 1.0 / 400.0;

/// Least share of what is alive at the peak that has to be saved for it where memory is not limited.
const WORTHWHILE: f64 = 1.0 / 12.0;

/// Least share of it that a single value has there.
const WORTHWHILE_VALUE: f64 = 1.0 / 128.0;

/// Least bytes of forward values that have to be read by the backward pass for it where memory is not limited.
const LEAST_BYTES: usize = 1 << 20;

/// Most schedules that are made in a search where memory is not limited.
const MOST_SPARE_TRIALS: usize = 2;

/// A graph that keeps less for the backward pass.
#[derive(Clone, Debug)]
pub struct Rematerialised {
    /// The graph; what it computes is the same, bit for bit.
    pub graph: Graph,
    /// A schedule of it, laid out.
    pub schedule: Schedule,
    /// Most bytes alive at once.
    pub peaks: Peaks,
    /// The same with everything kept.
    pub without_bytes: usize,
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
    kept: &KeptLayouts,
    ordering: Ordering,
    target: &Target,
) -> Result<Rematerialised, Diagnostic> {
    let forms = Forms::row_major(graph);
    let mut search = Search::new(&forms, kept, ordering, target)?;
    let unlimited = Cost { flops: f64::INFINITY, bytes: f64::INFINITY, time_ns: f64::INFINITY };
    search.run(&Bounds { peak_bytes: limit_bytes, value_bytes: 0, again: unlimited }, MOST_TRIALS)?;
    Ok(search.found())
}

/// Makes again what the backward pass reads of the forward pass as far as that lowers the peak and takes next to no time,
/// if that is worth it; `None` where it reads too little to ask.
pub fn rematerialise_in_spare_time(
    graph: &Graph,
    kept: &KeptLayouts,
    ordering: Ordering,
    target: &Target,
) -> Result<Option<Rematerialised>, Diagnostic> {
    let forms = Forms::row_major(graph);
    let read = read_by_the_backward_pass(graph, &needed_by_the_loss(&forms));
    if read.iter().flat_map(|&id| &graph.node(id).types).map(TensorType::size_bytes).sum::<usize>() < LEAST_BYTES {
        return Ok(None);
    }
    let mut search = Search::new(&forms, kept, ordering, target)?;
    let share_bytes = |share: f64| (share * search.without_bytes as f64) as usize;
    let whole = graph_cost(graph, target);
    let again = Cost { flops: SPARE_FLOPS * whole.flops, bytes: f64::INFINITY, time_ns: SPARE_TIME * whole.time_ns };
    let bounds = Bounds { peak_bytes: 0, value_bytes: share_bytes(WORTHWHILE_VALUE), again };
    if search.bytes(&search.choose(&bounds, usize::MAX)) >= share_bytes(WORTHWHILE) {
        search.run(&bounds, MOST_SPARE_TRIALS)?;
    }
    Ok(Some(search.found()))
}

/// The ops that the loss needs and whose results are read by others that it does not need.
fn read_by_the_backward_pass(graph: &Graph, forward: &[bool]) -> Vec<NodeId> {
    let users = graph.users();
    let is_read = |id: &NodeId| users[id.index()].iter().any(|user| !forward[user.index()]);
    let ops = graph.node_ids().filter(|id| forward[id.index()] && graph.op(*id).is_some());
    ops.filter(is_read).collect()
}

/// What a search may use.
struct Bounds {
    /// Bytes alive at once from which on nothing more is to be saved.
    peak_bytes: usize,
    /// Least size of a value that is made again, bytes.
    value_bytes: usize,
    /// Most that making values again may cost.
    again: Cost,
}

impl Bounds {
    /// Whether something may be done again beside what is.
    fn allow(&self, spent: Cost, added: Cost) -> bool {
        spent.flops + added.flops <= self.again.flops && spent.time_ns + added.time_ns <= self.again.time_ns
    }
}

/// A cost with the time that so many kernels take however little they do.
fn in_kernels(cost: Cost, kernels: usize) -> Cost {
    Cost { time_ns: cost.time_ns + KERNEL_NS * kernels as f64, ..cost }
}

/// A search for what to drop.
struct Search<'a> {
    forms: &'a Forms<'a>,
    /// How what is kept between calls is stored.
    kept_layouts: &'a KeptLayouts,
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
    /// Most bytes alive at once with everything kept.
    without_bytes: usize,
}

impl<'a> Search<'a> {
    fn new(
        forms: &'a Forms<'a>,
        kept_layouts: &'a KeptLayouts,
        ordering: Ordering,
        target: &'a Target,
    ) -> Result<Self, Diagnostic> {
        let forward = needed_by_the_loss(forms);
        let best = repeat(forms, &forward, &Chains::new())?;
        let now = Simulation::new(&best, &forward, kept_layouts, ordering)?;
        let read = read_by_the_backward_pass(forms.graph, &forward);
        let stored = now.stored.keys().copied().collect();
        let kept = now.stored.iter().filter(|(_, s)| s.crosses).map(|(id, _)| *id).collect();
        let (dropped, refused, without_bytes) = (BTreeSet::new(), BTreeSet::new(), now.peaks.chosen_bytes);
        Ok(Search {
            forms,
            kept_layouts,
            ordering,
            target,
            forward,
            read,
            stored,
            kept,
            dropped,
            refused,
            best,
            now,
            without_bytes,
        })
    }

    /// Drops values until the peak is low enough or nothing helps any more.
    fn run(&mut self, bounds: &Bounds, most_trials: usize) -> Result<(), Diagnostic> {
        let mut most = usize::MAX;
        for _ in 0..most_trials {
            let chosen = self.choose(bounds, most);
            if chosen.is_empty() {
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

    fn found(self) -> Rematerialised {
        let again = self.cost(&self.repeated_nodes(&self.dropped));
        Rematerialised {
            graph: self.best.graph,
            schedule: self.now.schedule,
            peaks: self.now.peaks,
            without_bytes: self.without_bytes,
            dropped: self.dropped.len(),
            again,
        }
    }

    /// Schedules without some more values; keeps that unless the peak rises.
    fn try_dropping(&mut self, chosen: &[NodeId]) -> Result<bool, Diagnostic> {
        let dropped: BTreeSet<NodeId> = self.dropped.iter().chain(chosen).copied().collect();
        let trial = repeat(self.forms, &self.forward, &self.chains(&dropped))?;
        let simulation = Simulation::new(&trial, &self.forward, self.kept_layouts, self.ordering)?;
        let helps = simulation.peaks.chosen_bytes < self.now.peaks.chosen_bytes;
        if helps {
            (self.best, self.now, self.dropped) = (trial, simulation, dropped);
        }
        Ok(helps)
    }

    /// Values alive at the peak that together are large enough, most bytes per nanosecond first; at most `most`, and none
    /// that costs too much with the others.
    fn choose(&self, bounds: &Bounds, most: usize) -> Vec<NodeId> {
        let excess_bytes = self.now.peaks.chosen_bytes.saturating_sub(bounds.peak_bytes);
        let (mut chosen, mut saved_bytes) = (vec![], 0);
        let mut dropped = self.dropped.clone();
        let mut spent = self.spent(&dropped);
        let mut open: Vec<(NodeId, usize)> = self.candidates();
        open.retain(|(_, bytes)| *bytes >= bounds.value_bytes);
        while saved_bytes < excess_bytes && chosen.len() < most {
            let repeated = self.repeated_nodes(&dropped);
            let added = open.iter().map(|&(id, bytes)| (bytes, self.added(id, &dropped, &repeated)));
            let allowed = added.enumerate().filter(|(_, (_, added))| bounds.allow(spent, *added));
            let scored = allowed.map(|(at, (bytes, added))| (bytes as f64 / added.time_ns, at, added));
            let Some((_, at, added)) = scored.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
            let (id, bytes) = open.remove(at);
            dropped.insert(id);
            chosen.push(id);
            saved_bytes += bytes;
            spent += added;
        }
        chosen
    }

    /// What it costs to make again what is not kept.
    fn spent(&self, dropped: &BTreeSet<NodeId>) -> Cost {
        in_kernels(self.cost(&self.repeated_nodes(dropped)), dropped.len())
    }

    /// Size of values that the forward pass stores, bytes.
    fn bytes(&self, values: &[NodeId]) -> usize {
        values.iter().map(|id| self.now.stored[id].bytes).sum()
    }

    fn candidates(&self) -> Vec<(NodeId, usize)> {
        let is_open = |id: &NodeId| self.kept.contains(id) && !self.refused.contains(id) && !self.dropped.contains(id);
        let at_peak = self.now.stored.iter().filter(|(id, s)| s.at_peak && is_open(id));
        at_peak.map(|(id, s)| (*id, s.bytes)).collect()
    }

    /// What it costs to make a value again, beyond what is done again anyway.
    fn added(&self, id: NodeId, dropped: &BTreeSet<NodeId>, repeated: &BTreeSet<NodeId>) -> Cost {
        let mut chain = BTreeSet::new();
        self.collect(id, Some(id), dropped, &mut chain);
        in_kernels(self.cost(&chain.difference(repeated).copied().collect()), 1)
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
