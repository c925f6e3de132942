//! Growing the e-graph of one window: load, match, add, repair, within fixed limits.

use super::analysis::{EGraph, Facts, NOWHERE, common_type, infer};
use super::frame::Frame;
use super::language::Node;
use super::rules::{RuleIndex, Site, Term, is_selection};
use egg::{Id, Language};
use gradc_ir::graph::{Def, Graph, NodeId, Value};

/// How far a window is explored. No limit is a time, so that the result depends on the input alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sweeps over a window.
    pub iterations: usize,
    /// E-nodes.
    pub nodes: usize,
    /// Matches of one rule in one sweep.
    pub matches: usize,
    /// E-nodes that rules make of one node of the window and what became of it, so that no node uses up what others
    /// need.
    pub nodes_per_place: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { iterations: 8, nodes: 10_000, matches: 1_000, nodes_per_place: 40 }
    }
}

/// Why a window was explored no further.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// No rule has anything to add.
    Saturated,
    /// As many sweeps as allowed were run.
    IterationLimit,
    /// The e-graph, or the part of it that came from one node, is as large as allowed.
    NodeLimit,
    /// A rule broke an invariant and the window was left as it was; a bug in gradc.
    Poisoned(String),
}

/// One application of a rule.
#[derive(Clone, Debug)]
pub struct Application {
    /// Position in the rule list.
    pub rule: usize,
    /// The node that was matched.
    pub from: Node,
    /// What it was found equal to; uncanonical, so that it names the very node.
    pub to: Id,
    /// The op nodes of the replacement.
    pub made: Vec<Id>,
    /// The replacement, starting from the classes of its time.
    pub term: Term,
    /// Node of the window it happened at.
    pub place: u32,
}

/// A window's e-graph when exploring has stopped.
pub struct Saturated {
    /// The e-graph, repaired.
    pub egraph: EGraph,
    /// Class of everything used outside.
    pub root: Id,
    /// Id of every node of the window.
    pub originals: Vec<Id>,
    /// Every rewrite that added or merged something, in order.
    pub applications: Vec<Application>,
    /// Sweeps that added something.
    pub iterations: usize,
    /// Why it stopped.
    pub stop: StopReason,
    /// E-nodes that rules made, by the node of the window they come from.
    made: Vec<usize>,
}

impl Saturated {
    /// Whether a match adds nothing, or its place may still grow.
    fn may_grow_by(&self, found: &Match, limits: &Limits) -> bool {
        let place = self.egraph[found.class].data.place as usize;
        self.made[place] < limits.nodes_per_place || lookup(&self.egraph, &found.term).is_some()
    }
}

/// Loads a window and applies `rules` until nothing is new or a limit is reached.
pub fn saturate(window: &Graph, frame: &Frame, rules: &RuleIndex, limits: &Limits) -> Saturated {
    let mut state = load(window, frame);
    state.egraph.rebuild();
    while let Some(more) = sweep(&mut state, rules, limits) {
        state.iterations += 1;
        if let Some(reason) = more {
            state.stop = reason;
            break;
        }
    }
    if let Some(reason) = &state.egraph.analysis.poison {
        state.stop = StopReason::Poisoned(reason.clone());
    }
    state
}

/// The e-graph of a window as it is: one node per class.
pub fn load(window: &Graph, frame: &Frame) -> Saturated {
    let inputs = window.inputs().iter().map(|i| window.ty(i.value).clone()).collect();
    let mut egraph = EGraph::new(Facts::new(inputs, frame.clone()));
    let needed = needed_as_a_whole(window);
    let mut originals = Vec::with_capacity(window.nodes().len());
    for id in window.node_ids() {
        (egraph.analysis.place, egraph.analysis.needed) = (id.0, needed[id.index()]);
        let node = window.node(id);
        let e_node = match &node.def {
            Def::Input(input) => Node::Input(*input),
            Def::Op(op) => {
                Node::Op(op.clone(), node.operands.iter().map(|&v| value(&mut egraph, window, &originals, v)).collect())
            }
        };
        originals.push(egraph.add_uncanonical(e_node));
    }
    let outputs = window.outputs().iter().map(|o| value(&mut egraph, window, &originals, o.value)).collect();
    let root = egraph.add_uncanonical(Node::Roots(outputs));
    (egraph.analysis.place, egraph.analysis.needed) = (NOWHERE, false);
    let made = vec![0; window.nodes().len()];
    Saturated { egraph, root, originals, applications: vec![], iterations: 0, stop: StopReason::Saturated, made }
}

/// For each node of a window whether all of its results are needed, and not only what slices take of them or of what is
/// computed from them.
fn needed_as_a_whole(window: &Graph) -> Vec<bool> {
    let mut needed = vec![false; window.nodes().len()];
    window.outputs().iter().for_each(|output| needed[output.value.node.index()] = true);
    for id in window.node_ids().rev() {
        if needed[id.index()] && !window.op(id).is_some_and(is_selection) {
            window.node(id).operands.iter().for_each(|v| needed[v.node.index()] = true);
        }
    }
    needed
}

fn value(egraph: &mut EGraph, window: &Graph, originals: &[Id], value: Value) -> Id {
    let NodeId(node) = value.node;
    let of = originals[node as usize];
    if window.node(value.node).types.len() == 1 { of } else { egraph.add_uncanonical(Node::Project(value.result, of)) }
}

/// One sweep over all nodes, those it adds included, so that motion through a chain of ops is one sweep's work.
///
/// `None`: nothing was added. `Some(Some(reason))`: stop after this sweep.
fn sweep(state: &mut Saturated, rules: &RuleIndex, limits: &Limits) -> Option<Option<StopReason>> {
    let before = state.applications.len();
    let mut left = vec![limits.matches; rules.len()];
    let mut next = 0;
    let is_full = |state: &Saturated| state.egraph.nodes().len() >= limits.nodes;
    while next < state.egraph.nodes().len() && !is_full(state) && state.egraph.analysis.poison.is_none() {
        for found in search(&state.egraph, Id::from(next), rules, &mut left) {
            if state.may_grow_by(&found, limits) {
                apply(state, found);
            } else {
                state.stop = StopReason::NodeLimit;
            }
        }
        next += 1;
    }
    state.egraph.analysis.place = NOWHERE;
    state.egraph.rebuild();
    if is_full(state) {
        return Some(Some(StopReason::NodeLimit));
    }
    let out_of_sweeps = state.iterations + 1 >= limits.iterations;
    let added = state.applications.len() > before;
    added.then(|| out_of_sweeps.then_some(StopReason::IterationLimit))
}

/// A rule found to apply.
pub struct Match {
    /// Position in the rule list.
    pub rule: usize,
    /// Class of the node it was found at.
    pub class: Id,
    /// That node.
    pub from: Node,
    /// What it is equal to.
    pub term: Term,
}

/// What the rules add or merge at one node.
pub fn search(egraph: &EGraph, id: Id, rules: &RuleIndex, left: &mut [usize]) -> Vec<Match> {
    let (class, from) = (egraph.find(id), canonical(egraph, egraph.id_to_node(id)));
    let Some(site) = Site::at(egraph, class, &from) else { return vec![] };
    let mut found = Vec::new();
    for (rule, terms) in rules.rewrites(&site) {
        for term in terms.into_iter().filter(|term| lookup(egraph, term) != Some(class)).take(left[rule]) {
            left[rule] -= 1;
            found.push(Match { rule, class, from: from.clone(), term });
        }
    }
    found
}

/// Class of a term that is already there.
pub fn lookup(egraph: &EGraph, term: &Term) -> Option<Id> {
    match term {
        Term::Value(id) => Some(egraph.find(*id)),
        Term::Op(op, args) => {
            let args: Option<Box<[Id]>> = args.iter().map(|a| lookup(egraph, a)).collect();
            egraph.lookup(Node::Op(op.clone(), args?))
        }
        Term::Sum(terms) => {
            let terms: Option<Box<[Id]>> = terms.iter().map(|t| lookup(egraph, t)).collect();
            egraph.lookup(Node::sum(terms?))
        }
    }
}

/// Adds the replacement and merges it with what it replaces.
pub fn apply(state: &mut Saturated, m: Match) {
    let egraph = &mut state.egraph;
    let (place, nodes) = (egraph[m.class].data.place, egraph.nodes().len());
    egraph.analysis.place = place;
    let mut made = Vec::new();
    let added = add(egraph, &m.term, &mut made);
    state.made[place as usize] += egraph.nodes().len() - nodes;
    match added {
        Ok(to) => {
            egraph.union(m.class, to);
            state.applications.push(Application { rule: m.rule, from: m.from, to, made, term: m.term, place });
        }
        Err(reason) => {
            egraph.analysis.poison.get_or_insert(reason);
        }
    }
}

/// Adds a term bottom-up, refusing ill-typed nodes.
fn add(egraph: &mut EGraph, term: &Term, made: &mut Vec<Id>) -> Result<Id, String> {
    let args = term.args().iter().map(|a| add(egraph, a, made)).collect::<Result<Box<[Id]>, String>>()?;
    let node = match term {
        Term::Value(id) => return Ok(*id),
        Term::Op(op, _) => {
            infer(egraph, op, &args)?;
            Node::Op(op.clone(), args)
        }
        Term::Sum(_) => {
            common_type(egraph, &args)?;
            Node::sum(args.iter().map(|&t| egraph.find(t)).collect())
        }
    };
    let id = egraph.add_uncanonical(node);
    made.push(id);
    Ok(id)
}

/// The node with every child replaced by its class.
pub fn canonical(egraph: &EGraph, node: &Node) -> Node {
    node.clone().map_children(|id| egraph.find(id))
}
