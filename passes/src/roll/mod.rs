//! Unrolled loops found in a flat graph and rolled into `iterate` or `scan`.
//!
//! A traced solver or recurrence is one long chain of copies of its step. Rolling gives the loop back, for whoever wants
//! to know that it is one: derivatives that need not keep every step, loops in native code. Results stay the same, bit
//! for bit.
//!
//! 1. Nodes get [colours](colour); chains of nodes of one colour are guesses at loops.
//! 2. Two neighbouring copies are compared in lock-step, which gives a [step](step): what is computed, what is the same
//!    for all copies, what comes from an earlier copy, what each copy has of its own.
//! 3. Every copy is matched against the step, and what it reads against the copies before it. What passes is a
//!    [loop](unrolled), proven; it is then extended to its first step.
//! 4. Each node of a step could be where it ends: the rotation is [chosen](search) that carries and keeps least.
//! 5. The graph is [rebuilt](rebuild) with `iterate` where steps differ in nothing but their carries, else with `scan`.
//! 6. All of this again, for loops around the loops found.

mod colour;
mod leaves;
mod rebuild;
mod report;
mod search;
mod step;
mod unrolled;

pub use report::{RefusedLoop, RollReport, RolledLoop};

use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::Graph;
use gradc_ir::types::TypeError;
use rebuild::{Bodies, rebuild};
use search::search;
use unrolled::Unrolled;

/// How deep loops in loops are looked for.
const MAX_DEPTH: usize = 8;

/// The graph with unrolled loops rolled, and what was rolled and refused.
///
/// Inputs and outputs stay; a graph without such loops comes back equal. Nodes of a body have the places of the first
/// step's. An error is a bug in gradc, never the user's.
pub fn roll(graph: &Graph) -> Result<(Graph, RollReport), Diagnostic> {
    roll_all(graph).map_err(|e| Diagnostic::from_type_error("internal-roll", e, Loc::default()))
}

fn roll_all(graph: &Graph) -> Result<(Graph, RollReport), TypeError> {
    let (mut report, mut bodies) = (RollReport::default(), Bodies::default());
    let mut rolled = graph.without_dead_nodes();
    for depth in 0..MAX_DEPTH {
        let mut found = search(&rolled);
        report.refused = found.refused;
        report.cut_short |= found.cut_short;
        let next = match rebuild(&rolled, &found.loops, &mut bodies)? {
            // Loops that need each other's results: the first on its own, the others in the next round.
            None => {
                found.loops.truncate(1);
                rebuild(&rolled, &found.loops, &mut bodies)?
            }
            next => next,
        };
        let Some(next) = next.filter(|_| !found.loops.is_empty()) else { break };
        report.rolled.extend(found.loops.iter().map(|l| l.report(&rolled)));
        rolled = next;
        report.cut_short |= depth + 1 == MAX_DEPTH;
    }
    Ok((if report.rolled.is_empty() { graph.clone() } else { rolled }, report))
}

impl Unrolled {
    fn report(&self, graph: &Graph) -> RolledLoop {
        RolledLoop {
            place: report::place(graph, self.copies[0].nodes[self.step.root()]),
            into: if self.is_iterate() { "iterate" } else { "scan" },
            steps: self.count(),
            nodes: self.step.nodes.len(),
            carries: self.registers.len() + self.last.len(),
            carried_bytes: self.carried_bytes(graph),
            scanned: self.scanned_count(),
            stacked: self.stacked.len(),
            invariants: self.invariants().len(),
        }
    }
}
