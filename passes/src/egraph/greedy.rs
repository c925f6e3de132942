//! Greedy rewriting: a rule is applied only where the window becomes cheaper at once.
//!
//! What saturation is measured against. Rules, costs and limits are the same; what has to be given up first to be won
//! later is out of reach.

use super::explain::Change;
use super::extract::{NODE_NS, applied, node_cost, overhead_ns, sum_cost, sum_overhead_ns};
use super::order::Time;
use super::rules::{RuleIndex, Term};
use super::saturate::{Limits, Match, Saturated, StopReason, apply, load, lookup, search};
use super::window::Window;
use crate::cost::{Cost, op_cost};
use egg::{Id, Language};
use gradc_ir::graph::Graph;
use gradc_ir::target::Target;
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{HashMap, HashSet};

/// A window when no rule makes it cheaper.
pub struct End {
    /// The window.
    pub program: Graph,
    /// Node of the original window that each node comes from.
    pub places: Vec<u32>,
    /// Every rewrite, in order.
    pub changes: Vec<Change>,
    /// Sweeps over the window, the last of which found nothing.
    pub sweeps: usize,
    /// Why it went no further.
    pub stop: StopReason,
}

/// Applies rules while the window becomes cheaper.
pub fn improve(window: &Window, rules: &RuleIndex, limits: &Limits, target: &Target) -> Result<End, TypeError> {
    let places = window.program.node_ids().map(|id| id.0).collect();
    let mut end =
        End { program: window.program.clone(), places, changes: vec![], sweeps: 0, stop: StopReason::IterationLimit };
    while end.sweeps < limits.iterations && end.stop == StopReason::IterationLimit {
        let before = end.changes.len();
        sweep(window, &mut end, rules, limits, target)?;
        end.sweeps += 1;
        if end.stop == StopReason::IterationLimit && end.changes.len() == before {
            end.stop = StopReason::Saturated;
        }
    }
    Ok(end)
}

/// One pass over the nodes of the window, which changes under way.
fn sweep(window: &Window, end: &mut End, rules: &RuleIndex, limits: &Limits, target: &Target) -> Result<(), TypeError> {
    let mut left = vec![limits.matches; rules.len()];
    let mut state = load(&end.program, &window.frame);
    let mut ledger = Ledger::new(&state, target);
    let mut next = 0;
    while next < state.originals.len() && end.stop == StopReason::IterationLimit {
        let found = search(&state.egraph, state.originals[next], rules, &mut left);
        let Some(found) = found.into_iter().find(|m| ledger.pays(&state, m)) else {
            next += 1;
            continue;
        };
        if !rewrite(window, end, &mut state, rules, found, target)? {
            next += 1;
        }
        state = load(&end.program, &window.frame);
        ledger = Ledger::new(&state, target);
    }
    Ok(())
}

/// Carries out one rewrite; whether it could be.
fn rewrite(
    window: &Window,
    end: &mut End,
    state: &mut Saturated,
    rules: &RuleIndex,
    found: Match,
    target: &Target,
) -> Result<bool, TypeError> {
    apply(state, found);
    state.egraph.rebuild();
    if let Some(reason) = state.egraph.analysis.poison.take() {
        end.stop = StopReason::Poisoned(reason);
        return Ok(false);
    }
    let done = state.applications.last().expect("a rewrite that is not ill-typed was applied");
    let times: Vec<Time> = end.places.iter().map(|&at| window.times[at as usize]).collect();
    let Some(next) = applied(&end.program, &times, state, done, target)? else { return Ok(false) };
    let place = end.places[done.place as usize];
    end.changes.push(Change::direct(&state.egraph, done, rules, place, next.graph.clone()));
    end.places = next.places.iter().map(|&at| end.places[at as usize]).collect();
    end.program = next.graph;
    Ok(true)
}

/// What every node of the window costs, and how often it is used.
struct Ledger<'a> {
    target: &'a Target,
    costs: Vec<Cost>,
    uses: Vec<usize>,
}

impl<'a> Ledger<'a> {
    fn new(state: &Saturated, target: &'a Target) -> Self {
        let egraph = &state.egraph;
        let cost =
            |(k, node)| with_overhead(node_cost(egraph, egraph.find(Id::from(k)), node, target), overhead_ns(node));
        let costs = egraph.nodes().iter().enumerate().map(cost).collect();
        let mut uses = vec![0; egraph.nodes().len()];
        for node in egraph.nodes() {
            node.children().iter().for_each(|&child| uses[usize::from(egraph.find(child))] += 1);
        }
        Ledger { target, costs, uses }
    }

    /// Whether the window becomes cheaper by a rewrite.
    fn pays(&self, state: &Saturated, m: &Match) -> bool {
        let (mut kept, mut cost) = (HashSet::new(), Cost::default());
        // a value made after the node may be made from it
        if self.added(state, &m.term, &mut kept, &mut cost).is_err() || kept.iter().any(|&id| id >= m.class) {
            return false;
        }
        let freed = self.freed(state, m.class, &kept, &mut HashMap::new());
        cost.time_ns - freed.time_ns < -1e-9 * freed.time_ns
    }

    /// Adds the cost of those nodes of a term that the window does not have yet; `kept` are those it has.
    fn added(
        &self,
        state: &Saturated,
        term: &Term,
        kept: &mut HashSet<Id>,
        cost: &mut Cost,
    ) -> Result<Made, TypeError> {
        if let Some(id) = lookup(&state.egraph, term) {
            kept.insert(id);
            let fact = &state.egraph[id].data;
            return Ok(Made { types: fact.types.clone(), invariant: fact.invariant });
        }
        let frame = &state.egraph.analysis.frame;
        let mut operands = Made { types: vec![], invariant: frame.steps > 1 };
        for arg in term.args() {
            let made = self.added(state, arg, kept, cost)?;
            operands.types.extend(made.types);
            operands.invariant &= made.invariant;
        }
        let Made { types, invariant } = operands;
        let inputs: Vec<&TensorType> = types.iter().collect();
        let (outputs, work, overhead_ns) = match term {
            Term::Op(op, _) => {
                let outputs = op.infer(&inputs)?;
                let work = op_cost(op, &inputs, &outputs, self.target);
                (outputs, work, if inputs.is_empty() { 0.0 } else { NODE_NS })
            }
            _ => {
                (vec![types[0].clone()], sum_cost(inputs.len(), inputs[0], self.target), sum_overhead_ns(inputs.len()))
            }
        };
        *cost += with_overhead(work * frame.share_of(invariant), overhead_ns);
        Ok(Made { types: outputs, invariant })
    }

    /// The cost of a node and of what only it uses.
    fn freed(&self, state: &Saturated, id: Id, kept: &HashSet<Id>, taken: &mut HashMap<Id, usize>) -> Cost {
        let mut cost = self.costs[usize::from(id)];
        for child in state.egraph.id_to_node(id).children().iter().map(|&c| state.egraph.find(c)) {
            let count = taken.entry(child).or_default();
            *count += 1;
            if *count == self.uses[usize::from(child)] && !kept.contains(&child) {
                cost += self.freed(state, child, kept, taken);
            }
        }
        cost
    }
}

/// What is known of a value before it is made.
struct Made {
    types: Vec<TensorType>,
    invariant: bool,
}

fn with_overhead(cost: Cost, overhead_ns: f64) -> Cost {
    Cost { time_ns: cost.time_ns + overhead_ns, ..cost }
}
