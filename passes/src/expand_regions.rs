//! Region ops replaced by the ops they stand for: bodies inlined, loops unrolled, branches selected; all of them, or
//! only those that are better off without control flow.

use crate::cost::graph_cost;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::lower::{Expansion, Lowering};
use gradc_ir::ops::Op;
use gradc_ir::region::{Region, RegionForm};
use gradc_ir::target::Target;
use gradc_ir::types::TensorType;
use std::sync::Arc;

/// The largest graph that expansion may make, in nodes.
const MAX_NODES: usize = 1 << 22;

/// Nodes of a loop that is expanded whatever the number of its steps: it would be little beside what surrounds it.
const FEW_NODES: usize = 40;

/// Up to what size a region is better off expanded: its kernels fuse with what is around it and across steps, while
/// compiling takes long in proportion to its nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpandLimits {
    /// Nodes of a loop's body, as often as it is applied.
    pub loop_nodes: usize,
    /// Steps of a loop, unless it has few nodes.
    pub loop_steps: usize,
    /// Estimated time of the dearer body of a branch on the target, nanoseconds: it may be computed in vain.
    pub branch_ns: f64,
}

impl ExpandLimits {
    /// Nothing is better off expanded.
    pub const NONE: ExpandLimits = ExpandLimits { loop_nodes: 0, loop_steps: 0, branch_ns: -1.0 };

    /// Whether a region is within the limits.
    pub fn hold(&self, form: &RegionForm, target: &Target) -> bool {
        match form {
            RegionForm::Loop(_) => {
                let nodes = expanded_nodes(form);
                nodes <= self.loop_nodes && (form.steps() <= self.loop_steps || nodes <= FEW_NODES)
            }
            RegionForm::Branch(bodies) => bodies.iter().all(|body| graph_cost(body, target).time_ns <= self.branch_ns),
        }
    }
}

impl Default for ExpandLimits {
    /// Of eight steps, loops take about as long either way; of twelve and more, recurrences train faster as loops, whose
    /// gradients of weights are one product of all steps: docs/solvers.md. A kernel of its own takes 100 ns whatever
    /// it does.
    fn default() -> Self {
        ExpandLimits { loop_nodes: 320, loop_steps: 8, branch_ns: 200.0 }
    }
}

/// The graph with every region op replaced by its expansion, innermost bodies first.
///
/// Inputs and outputs stay; what an expansion makes gets the place of the node it replaces where it has none of its own;
/// nodes that no output needs any more are gone. A graph without such nodes comes back equal. Fails where a loop is too
/// long to unroll.
pub fn expand_regions(graph: &Graph) -> Result<Graph, Diagnostic> {
    expand_where(graph, &|_, _| true)
}

/// The graph with calls inlined, and with loops and branches within the limits expanded; the others stay, their own
/// bodies treated alike. See [`expand_regions`].
pub fn expand_small_regions(graph: &Graph, limits: &ExpandLimits, target: &Target) -> Result<Graph, Diagnostic> {
    expand_where(graph, &|_, form| limits.hold(form, target))
}

/// Nodes of the bodies, as often as they are applied.
fn expanded_nodes(form: &RegionForm) -> usize {
    let ops = |body: &Graph| body.nodes().len() - body.inputs().len();
    form.bodies().iter().map(|body| ops(body)).sum::<usize>().saturating_mul(form.steps())
}

/// Which regions to expand, by place and form.
type Choice<'a> = &'a dyn Fn(&Loc, &RegionForm) -> bool;

/// The graph with calls inlined and the regions expanded that `chosen` holds of, their bodies having been treated alike
/// before. See [`expand_regions`].
pub fn expand_where(graph: &Graph, chosen: Choice) -> Result<Graph, Diagnostic> {
    let expands = |id| graph.op(id).is_some_and(|op| expansion(graph, id, op, &|_, _| true).is_some());
    if !graph.node_ids().any(expands) {
        return Ok(graph.clone());
    }
    let mut b = Builder::new(&graph.name);
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(graph.nodes().len());
    for id in graph.node_ids() {
        b.set_loc(graph.loc(id).clone());
        let operands: Vec<Value> = graph.node(id).operands.iter().map(|&v| renamed(&values, v)).collect();
        let results = match &graph.node(id).def {
            &Def::Input(input) => b.declare_again(graph, input).map(|value| vec![value]),
            Def::Op(op) => {
                let op = with_expanded_bodies(op, chosen)?;
                match expansion(graph, id, &op, chosen) {
                    Some(expand) => expand(&op, &mut b, &operands),
                    None => b.apply(op, &operands),
                }
            }
        };
        let at = |e| Diagnostic::from_type_error("region-expansion", e, graph.loc(id).clone());
        values.push(results.map_err(at)?);
        if b.graph().nodes().len() > MAX_NODES {
            return Err(graph
                .diagnostic_at(id, "region-expansion", "the expanded graph is too large")
                .expected(format!("at most {MAX_NODES} nodes"))
                .help("nested loops multiply: make them shorter"));
        }
    }
    for output in graph.outputs() {
        b.output(&output.name, renamed(&values, output.value), output.kind);
    }
    Ok(b.finish().without_dead_nodes())
}

fn with_expanded_bodies(op: &Op, chosen: Choice) -> Result<Op, Diagnostic> {
    let bodies = op.functions();
    let expanded = bodies.iter().map(|body| expand_where(body, chosen).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    Ok(if bodies.is_empty() { op.clone() } else { op.with_functions(expanded) })
}

/// How the op of a node expands, if it is to.
fn expansion(graph: &Graph, id: NodeId, op: &Op, chosen: Choice) -> Option<Expansion> {
    let node = graph.node(id);
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    match op.lower(&operands, &node.types) {
        Lowering::Expand(expand) => Some(expand),
        Lowering::Region(Region { form, expand }) if chosen(graph.loc(id), &form) => Some(expand),
        _ => None,
    }
}

fn renamed(values: &[Vec<Value>], value: Value) -> Value {
    values[value.node.index()][value.result as usize]
}
