//! Which loops of a graph to roll: guesses by colour, each proven, the best of those that overlap.

use super::colour::{Tensors, chains, classes};
use super::report::{Mismatch, RefusedLoop, place, reason};
use super::step::Step;
use super::unrolled::{MIN_STEPS, Unrolled, loops};
use gradc_ir::graph::{Graph, NodeId};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Fewest nodes of a step: less is a formula that repeats an op, not a loop.
const MIN_NODES: usize = 2;

/// Most nodes looked at in search of loops, so that the time is bounded whatever the graph.
const MAX_VISITS: usize = 1 << 27;

/// What was found in a graph.
#[derive(Default)]
pub(super) struct Search {
    /// Loops that do not overlap.
    pub(super) loops: Vec<Unrolled>,
    /// What repeats and is no loop.
    pub(super) refused: Vec<RefusedLoop>,
    /// Whether the search ended before everything was looked at.
    pub(super) cut_short: bool,
}

/// What the chains of a graph led to.
#[derive(Default)]
struct Candidates {
    found: Vec<Candidate>,
    refusals: Vec<Refusal>,
    cut_short: bool,
}

/// Loops that one chain of nodes led to.
struct Candidate {
    loops: Vec<Unrolled>,
    /// Nodes they replace.
    nodes: usize,
    /// Bytes that one of them carries at most, and all of them stack.
    bytes: usize,
}

/// A chain of nodes that is no loop.
struct Refusal {
    chain: Vec<NodeId>,
    mismatch: Mismatch,
}

/// Looks for loops.
pub(super) fn search(graph: &Graph) -> Search {
    let users = graph.users();
    let Candidates { found, mut refusals, mut cut_short } = candidates(graph, &users, Tensors::Distinct);
    let loops = choose(found);
    if loops.is_empty() {
        // Layers that repeat with tensors of their own are never loops; they are looked for to say so.
        let alike = candidates(graph, &users, Tensors::Alike);
        refusals.extend(alike.refusals);
        cut_short |= alike.cut_short;
    }
    Search { loops, refused: refused(graph, refusals), cut_short }
}

fn candidates(graph: &Graph, users: &[Vec<NodeId>], tensors: Tensors) -> Candidates {
    let mut all = Candidates::default();
    let mut visits = 0;
    for class in classes(graph, tensors) {
        for chain in chains(graph, &class) {
            visits += graph.nodes().len();
            if visits > MAX_VISITS {
                return Candidates { cut_short: true, ..all };
            }
            match candidate(graph, users, &chain) {
                Ok(candidate) => all.found.extend(candidate),
                Err(mismatch) => all.refusals.push(Refusal { chain, mismatch }),
            }
        }
    }
    all
}

/// The loops of a chain; `None` where its steps are too small.
fn candidate(graph: &Graph, users: &[Vec<NodeId>], chain: &[NodeId]) -> Result<Option<Candidate>, Mismatch> {
    let mut why = None;
    for sample in samples(chain.len()) {
        let step = Step::between(graph, [chain[sample - 2], chain[sample - 1], chain[sample]]);
        if step.as_ref().is_ok_and(|step| step.nodes.len() < MIN_NODES) {
            return Ok(None);
        }
        match step.and_then(|step| loops(graph, users, step, chain, sample)) {
            Ok(loops) => return Ok(Some(Candidate::of(graph, loops))),
            Err(mismatch) => why = why.or(Some(mismatch)),
        }
    }
    Err(why.expect("a chain has a sample"))
}

/// Positions in a chain whose copy is taken for the step, in the order they are tried.
///
/// The middle is far from what differs at both ends; the others are for chains that run through several loops.
fn samples(length: usize) -> impl Iterator<Item = usize> {
    let mut all = vec![length / 2, length / 2 + 1, length - 1, length / 3];
    all.iter_mut().for_each(|at| *at = (*at).clamp(2, length - 1));
    let mut seen = BTreeSet::new();
    all.into_iter().filter(move |&at| seen.insert(at))
}

impl Candidate {
    fn of(graph: &Graph, loops: Vec<Unrolled>) -> Candidate {
        let nodes = loops.iter().map(|l| l.count() * l.step.nodes.len()).sum();
        let carried = loops.iter().map(|l| l.carried_bytes(graph)).max().unwrap_or_default();
        let stacked: usize = loops.iter().map(|l| l.stacked_bytes(graph)).sum();
        Candidate { loops, nodes, bytes: carried + stacked }
    }

    fn root(&self) -> NodeId {
        self.loops[0].copies[0].nodes[self.loops[0].step.root()]
    }
}

/// Candidates that do not overlap: of those that replace about as many nodes, the one that carries and keeps least.
///
/// So a loop is cut where little crosses, and an inner loop comes before the one around it.
fn choose(mut candidates: Vec<Candidate>) -> Vec<Unrolled> {
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    let mut chosen = Vec::new();
    while let Some(most) = candidates.iter().map(|c| c.nodes).max() {
        let about_as_many = candidates.iter().enumerate().filter(|(_, c)| 4 * c.nodes >= 3 * most);
        let rank = |c: &Candidate| (c.bytes, c.loops[0].step.nodes.len(), Reverse(c.nodes), c.root());
        let best = about_as_many.min_by_key(|(_, c)| rank(c)).map(|(k, _)| k);
        let best = candidates.swap_remove(best.expect("one of them has the most nodes"));
        taken.extend(best.loops.iter().flat_map(Unrolled::nodes));
        chosen.extend(best.loops);
        candidates.retain(|c| !c.loops.iter().flat_map(Unrolled::nodes).any(|id| taken.contains(&id)));
    }
    chosen
}

/// How much a reason says; the most telling of several about the same nodes is told.
fn weight(mismatch: &Mismatch) -> usize {
    match mismatch {
        Mismatch::Leak(_) => 6,
        Mismatch::Slices(_) => 5,
        Mismatch::Tensors(..) => 4,
        Mismatch::Attributes(..) => 3,
        Mismatch::Types(..) => 2,
        Mismatch::Outside(_) => 1,
        Mismatch::Structure(_) => 0,
    }
}

/// One reason for each stretch of the graph; nodes that are merely alike are not worth a word.
fn refused(graph: &Graph, mut refusals: Vec<Refusal>) -> Vec<RefusedLoop> {
    refusals.retain(|r| r.chain.len() >= MIN_STEPS && weight(&r.mismatch) > 0);
    refusals.sort_by_key(|r| (Reverse(weight(&r.mismatch)), Reverse(r.chain.len()), r.chain[0]));
    let mut told: Vec<(NodeId, NodeId)> = Vec::new();
    let mut list = Vec::new();
    for Refusal { chain, mismatch } in refusals {
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        if told.iter().all(|&(from, to)| last < from || to < first) {
            told.push((first, last));
            let reason = reason(graph, mismatch);
            list.push(RefusedLoop { place: place(graph, first), steps: chain.len(), reason });
        }
    }
    list
}
