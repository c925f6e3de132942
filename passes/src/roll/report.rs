//! What was rolled, what was not, and why.

use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, NodeId};
use serde::Serialize;
use std::fmt;

/// Why two copies are not steps of one loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// They read different tensors of the model.
    Tensors(NodeId, NodeId),
    /// One op with different attributes.
    Attributes(NodeId, NodeId),
    /// Values of different types.
    Types(NodeId, NodeId),
    /// Something else: the node is made differently, or from elsewhere.
    Structure(NodeId),
    /// A value from outside differs from step to step and is neither a constant nor a slice.
    Outside(NodeId),
    /// Slices of a tensor are not evenly spaced, or overlap.
    Slices(NodeId),
    /// What the loop reads depends on what it computes.
    Leak(NodeId),
}

/// What rolling did to a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RollReport {
    /// Loops that were rolled.
    pub rolled: Vec<RolledLoop>,
    /// What looks like a loop and was left as it is.
    pub refused: Vec<RefusedLoop>,
    /// Whether a limit ended the search, so that loops may be left.
    pub cut_short: bool,
}

/// A loop that was rolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RolledLoop {
    /// Where its first step ends.
    pub place: String,
    /// The op it became: `iterate` or `scan`.
    pub into: &'static str,
    /// Number of steps.
    pub steps: usize,
    /// Nodes of one step.
    pub nodes: usize,
    /// Values handed from step to step.
    pub carries: usize,
    /// Their size, bytes.
    pub carried_bytes: usize,
    /// Values of which each step reads its own: constants that differ, slices of a tensor.
    pub scanned: usize,
    /// Values of single steps that are used outside the loop.
    pub stacked: usize,
    /// Values that all steps read.
    pub invariants: usize,
}

/// Repeated nodes that are no loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedLoop {
    /// Where the first of the repeated nodes stands.
    pub place: String,
    /// How often they repeat.
    pub steps: usize,
    /// Why they were not rolled.
    pub reason: String,
}

impl RollReport {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.rolled.is_empty() && self.refused.is_empty() && !self.cut_short
    }
}

impl fmt::Display for RollReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rolled.iter().try_for_each(|rolled| writeln!(f, "  {rolled}"))?;
        self.refused.iter().try_for_each(|refused| writeln!(f, "  {refused}"))?;
        if self.cut_short { writeln!(f, "  a limit ended the search: there may be more loops") } else { Ok(()) }
    }
}

impl fmt::Display for RolledLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RolledLoop { place, into, steps, nodes, carries, carried_bytes, scanned, stacked, invariants } = self;
        write!(f, "rolled: {steps} × {nodes} nodes at {place} into {into}: {carries} carries ({carried_bytes} bytes)")?;
        write!(f, ", {scanned} scanned, {stacked} stacked, {invariants} invariants")
    }
}

impl fmt::Display for RefusedLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {} repetitions at {}, because {}", self.steps, self.place, self.reason)
    }
}

/// Where a node is, for people; its op where nothing else is known.
pub(super) fn place(graph: &Graph, id: NodeId) -> String {
    match (graph.loc(id), graph.op(id)) {
        (loc, Some(op)) if *loc == Loc::default() => format!("%{} ({})", id.0, op.name()),
        (loc, _) => loc.to_string(),
    }
}

fn tensor_name(graph: &Graph, id: NodeId) -> &str {
    let mut inputs = graph.inputs().iter();
    inputs.find(|i| i.value.node == id).map_or("", |i| i.name.as_str())
}

fn op_name(graph: &Graph, id: NodeId) -> &'static str {
    graph.op(id).map_or("input", |op| op.name())
}

/// Name of the first attribute in which two nodes of one op differ.
fn attribute(graph: &Graph, a: NodeId, b: NodeId) -> &'static str {
    let attrs = |id| graph.op(id).map(|op| op.attrs()).unwrap_or_default();
    let mut pairs = attrs(a).into_iter().zip(attrs(b));
    pairs.find(|(x, y)| x != y).map_or("", |(x, _)| x.0)
}

/// The reason in words.
pub(super) fn reason(graph: &Graph, mismatch: Mismatch) -> String {
    match mismatch {
        Mismatch::Tensors(a, b) => format!(
            "they have tensors of their own (`{}`, `{}`), and stacking those would copy them in every call",
            tensor_name(graph, a),
            tensor_name(graph, b)
        ),
        Mismatch::Attributes(a, b) => {
            format!("attribute `{}` of {} differs at {}", attribute(graph, a, b), op_name(graph, b), place(graph, b))
        }
        Mismatch::Types(a, b) => {
            let first = |id| &graph.node(id).types[0];
            format!("types differ at {}: {} and {}", place(graph, b), first(a), first(b))
        }
        Mismatch::Structure(id) => format!("{} at {} is made differently", op_name(graph, id), place(graph, id)),
        Mismatch::Outside(id) => format!(
            "each reads a value of its own that is neither a constant nor a slice of one tensor: {} at {}",
            op_name(graph, id),
            place(graph, id)
        ),
        Mismatch::Slices(id) => {
            format!("the slices at {} are not evenly spaced along one axis, or overlap", place(graph, id))
        }
        Mismatch::Leak(id) => format!("what all steps read depends on an earlier step, at {}", place(graph, id)),
    }
}
