//! When values of a window exist in the whole graph, and which choices keep to it.
//!
//! A window need not be convex: a layer's backward pass depends on later layers. A value that came to depend on a
//! later one could close a cycle through other windows, so every value is made from what exists before it did.

use super::analysis::EGraph;
use super::language::Node;
use super::saturate::Saturated;
use egg::{Id, Language};
use std::collections::HashMap;

/// A place in the order of the whole graph: `2k + 1` for node `k` of the window, `2k` for what is made outside between
/// nodes `k - 1` and `k`; 0 for what can be made at any time.
pub type Time = u32;

/// For every class the time from which on it may be used.
pub struct Deadlines {
    times: HashMap<Id, Time>,
}

/// Classes of single results of the window's ops, which exist as soon as the op does.
fn results_of_originals(egraph: &EGraph, times: &HashMap<Id, Time>) -> Vec<(Id, Time)> {
    let time_of = |node: &Node| match node {
        Node::Project(_, of) => times.get(&egraph.find(*of)).copied(),
        _ => None,
    };
    egraph.classes().filter_map(|class| Some((class.id, class.nodes.iter().filter_map(time_of).min()?))).collect()
}

impl Deadlines {
    /// The times of all classes, given those of the nodes of the window's program.
    ///
    /// A class that holds a node of the window has that node's time, one that rules made the earliest possible.
    pub fn new(saturated: &Saturated, node_times: &[Time]) -> Deadlines {
        let egraph = &saturated.egraph;
        let mut times = HashMap::new();
        for (&id, &time) in saturated.originals.iter().zip(node_times) {
            let known = times.entry(egraph.find(id)).or_insert(time);
            *known = time.min(*known);
        }
        for (class, time) in results_of_originals(egraph, &times) {
            let known = times.entry(class).or_insert(time);
            *known = time.min(*known);
        }
        let mut made: Vec<Id> = egraph.classes().map(|c| c.id).filter(|id| !times.contains_key(id)).collect();
        made.sort_unstable();
        let mut deadlines = Deadlines { times };
        let mut changed = true;
        while changed {
            changed = made.iter().filter(|&&id| deadlines.lower(egraph, id)).count() > 0;
        }
        deadlines
    }

    /// Lowers the time of a class to the earliest its nodes allow; whether it changed.
    fn lower(&mut self, egraph: &EGraph, class: Id) -> bool {
        let earliest = egraph[class].nodes.iter().filter_map(|node| self.of_operands(egraph, node)).min();
        match (earliest, self.times.get(&class)) {
            (Some(time), known) if known.is_none_or(|&known| time < known) => {
                self.times.insert(class, time);
                true
            }
            _ => false,
        }
    }

    /// When all operands of a node exist; `None` while that is unknown.
    fn of_operands(&self, egraph: &EGraph, node: &Node) -> Option<Time> {
        let mut times = node.children().iter().map(|&c| self.times.get(&egraph.find(c)).copied());
        times.try_fold(0, |latest, time| Some(latest.max(time?)))
    }

    /// Whether a class may be made by one of its nodes.
    pub fn allow(&self, egraph: &EGraph, class: Id, node: &Node) -> bool {
        matches!(node, Node::Roots(_)) || self.of_operands(egraph, node) <= self.times.get(&class).copied()
    }
}
