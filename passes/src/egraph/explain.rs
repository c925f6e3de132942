//! What the optimizer did and why: counts per window, and the rewrites behind the result.

use super::analysis::EGraph;
use super::extract::{Extraction, node_cost};
use super::language::Node;
use super::rules::{Family, NumericClass, RuleIndex};
use super::saturate::{Application, Saturated, StopReason, canonical};
use crate::cost::Cost;
use egg::{Id, Language};
use gradc_ir::target::Target;
use serde::Serialize;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

/// What [`optimize`](super::optimize) did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OptimizeReport {
    /// The graph as it came in.
    pub before: Totals,
    /// The graph as it went out.
    pub after: Totals,
    /// The windows, in order.
    pub windows: Vec<WindowReport>,
}

/// Size and estimated cost of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Nodes, inputs included.
    pub nodes: usize,
    /// Estimated cost.
    pub cost: Cost,
}

/// What happened in one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowReport {
    /// Where its first node comes from.
    pub place: String,
    /// Ops before.
    pub nodes_before: usize,
    /// Ops after.
    pub nodes_after: usize,
    /// E-nodes when exploring stopped.
    pub e_nodes: usize,
    /// Rounds of matching that found something.
    pub iterations: usize,
    /// Why exploring stopped.
    pub stop: StopReason,
    /// Whether an equal window was solved before and its solution used again.
    pub stamped: bool,
    /// The rewrites behind the result.
    pub rewrites: Vec<Rewrite>,
}

/// One rewrite on the way from the original graph to the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rewrite {
    /// Name of the rule.
    pub rule: &'static str,
    /// Its family.
    pub family: Family,
    /// What it may change.
    pub class: NumericClass,
    /// Where it happened.
    pub place: String,
    /// Change in scalar operations, counted as if nothing were shared.
    pub delta_flops: f64,
    /// Change in bytes moved, counted as if nothing were shared.
    pub delta_bytes: f64,
}

/// A rewrite of a window, its place still a node of the window.
#[derive(Clone, Debug)]
pub struct Step {
    /// Position in the rule list.
    pub rule: usize,
    /// Node of the window.
    pub place: u32,
    /// Change in scalar operations.
    pub delta_flops: f64,
    /// Change in bytes moved.
    pub delta_bytes: f64,
}

impl Step {
    /// The step as the report shows it.
    pub fn report(&self, rules: &RuleIndex, place: String) -> Rewrite {
        let rule = rules.rule(self.rule);
        Rewrite {
            rule: rule.name,
            family: rule.family,
            class: rule.class,
            place,
            delta_flops: self.delta_flops,
            delta_bytes: self.delta_bytes,
        }
    }
}

/// The rewrites on the way from the nodes of the window to the chosen nodes, in the order they were applied.
///
/// Top-down from the outputs: where a class's chosen node is not the one at hand, the applications on a shortest way
/// between the two are part of the explanation. What other applications made a rule match at all is not told.
pub fn explain(saturated: &Saturated, extraction: &Extraction, target: &Target) -> Vec<Step> {
    let ways = Ways::new(saturated);
    let egraph = &saturated.egraph;
    let mut used: Vec<usize> = Vec::new();
    let mut seen: HashSet<Id> = HashSet::new();
    let mut stack = vec![saturated.root];
    while let Some(id) = stack.pop() {
        let Some(chosen) = extraction.chosen.get(&egraph.find(id)).filter(|_| seen.insert(id)) else { continue };
        let node = egraph.id_to_node(id);
        let start = canonical(egraph, node);
        let way = if start == *chosen { vec![] } else { ways.between(&start, chosen) };
        match way.last() {
            None => stack.extend(node.children()),
            Some(&last) => stack.extend(egraph.id_to_node(saturated.applications[last].to).children()),
        }
        used.extend(way);
    }
    used.sort_unstable();
    used.dedup();
    used.into_iter().map(|k| step(egraph, &saturated.applications[k], target)).collect()
}

/// Applications as edges between the nodes of a class.
struct Ways {
    edges: HashMap<Node, Vec<(usize, Node)>>,
}

impl Ways {
    fn new(saturated: &Saturated) -> Ways {
        let egraph = &saturated.egraph;
        let mut edges: HashMap<Node, Vec<(usize, Node)>> = HashMap::new();
        for (k, application) in saturated.applications.iter().enumerate() {
            let from = canonical(egraph, &application.from);
            let to = canonical(egraph, egraph.id_to_node(application.to));
            edges.entry(from.clone()).or_default().push((k, to.clone()));
            edges.entry(to).or_default().push((k, from));
        }
        Ways { edges }
    }

    /// Applications on a shortest way between two nodes of a class, breadth first.
    fn between(&self, start: &Node, end: &Node) -> Vec<usize> {
        let mut reached: HashMap<&Node, Option<(usize, &Node)>> = HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front().filter(|node| *node != end) {
            for (k, next) in self.edges.get(node).into_iter().flatten() {
                if !reached.contains_key(next) {
                    reached.insert(next, Some((*k, node)));
                    queue.push_back(next);
                }
            }
        }
        let mut way = Vec::new();
        let mut at = end;
        while let Some(Some((k, before))) = reached.get(at) {
            way.push(*k);
            at = before;
        }
        way.reverse();
        way
    }
}

fn step(egraph: &EGraph, application: &Application, target: &Target) -> Step {
    let mut delta = Cost::default();
    for &id in &application.made {
        delta += node_cost(egraph, egraph.find(id), egraph.id_to_node(id), target);
    }
    let class = egraph.find(application.to);
    let mut replaced = node_cost(egraph, class, &application.from, target);
    let is_leaf = |id: Id| application.leaves.iter().any(|&leaf| egraph.find(leaf) == egraph.find(id));
    // operands the replacement does not start from were matched as well, by a node over what it starts from
    for arg in application.from.children().iter().map(|&arg| egraph.find(arg)).filter(|&arg| !is_leaf(arg)) {
        let matched = egraph[arg].nodes.iter().filter(|node| node.children().iter().any(|&c| is_leaf(c)));
        let costs = matched.map(|node| node_cost(egraph, arg, node, target));
        replaced += costs.min_by(|a, b| a.time_ns.total_cmp(&b.time_ns)).unwrap_or_default();
    }
    Step {
        rule: application.rule,
        place: application.place,
        delta_flops: delta.flops - replaced.flops,
        delta_bytes: delta.bytes - replaced.bytes,
    }
}

impl fmt::Display for OptimizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (&self.before, &self.after);
        writeln!(f, "nodes {} -> {}", a.nodes, b.nodes)?;
        writeln!(f, "flops {:.4e} -> {:.4e}", a.cost.flops, b.cost.flops)?;
        writeln!(f, "bytes {:.4e} -> {:.4e}", a.cost.bytes, b.cost.bytes)?;
        self.windows.iter().try_for_each(|w| w.fmt(f))
    }
}

impl fmt::Display for WindowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamped = if self.stamped { ", stamped" } else { "" };
        writeln!(
            f,
            "window at {}: ops {} -> {}, {} e-nodes, {} iterations, {}{stamped}",
            self.place, self.nodes_before, self.nodes_after, self.e_nodes, self.iterations, self.stop
        )?;
        self.rewrites.iter().try_for_each(|r| r.fmt(f))
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, place) = (self.rule, &self.place);
        writeln!(
            f,
            "  {rule} [{:?}] {:+.3e} flops {:+.3e} bytes at {place}",
            self.class, self.delta_flops, self.delta_bytes
        )
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Saturated => f.write_str("saturated"),
            StopReason::IterationLimit => f.write_str("stopped by the iteration limit"),
            StopReason::NodeLimit => f.write_str("stopped by the node limit"),
            StopReason::Poisoned(reason) => write!(f, "left as it was, a rule is wrong: {reason}"),
        }
    }
}
