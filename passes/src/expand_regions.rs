//! Region ops replaced by the ops they stand for: bodies inlined, loops unrolled, branches selected.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, InputId, Node, Value};
use gradc_ir::lower::{Expansion, Lowering};
use gradc_ir::ops::Op;
use gradc_ir::types::{TensorType, TypeError};

/// The largest graph that expansion may make, in nodes.
const MAX_NODES: usize = 1 << 22;

/// The graph with every node whose lowering is [`Lowering::Expand`] replaced by its expansion, innermost bodies too.
///
/// Inputs and outputs stay; what an expansion makes gets the place of the node it replaces where it has none of its own;
/// nodes that no output needs any more are gone. A graph without such nodes comes back equal. Fails where a loop is too
/// long to unroll.
pub fn expand_regions(graph: &Graph) -> Result<Graph, Diagnostic> {
    let mut expanded = graph.clone();
    while expanded.nodes().iter().any(|node| expansion(&expanded, node).is_some()) {
        expanded = expand_outermost(&expanded)?;
    }
    Ok(expanded)
}

/// The op of a node and how it expands, if it does.
fn expansion<'a>(graph: &Graph, node: &'a Node) -> Option<(&'a Op, Expansion)> {
    let Def::Op(op) = &node.def else { return None };
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    match op.lower(&operands, &node.types) {
        Lowering::Expand(expand) => Some((op, expand)),
        _ => None,
    }
}

/// Expands the region ops of the graph itself, leaving those inside their bodies.
fn expand_outermost(graph: &Graph) -> Result<Graph, Diagnostic> {
    let mut b = Builder::new(&graph.name);
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(graph.nodes().len());
    for id in graph.node_ids() {
        let node = graph.node(id);
        b.set_loc(graph.loc(id).clone());
        let operands: Vec<Value> = node.operands.iter().map(|&v| renamed(&values, v)).collect();
        let results = match (expansion(graph, node), &node.def) {
            (Some((op, expand)), _) => expand(op, &mut b, &operands),
            (None, Def::Op(op)) => b.apply(op.clone(), &operands),
            (None, &Def::Input(input)) => declare(&mut b, graph, input).map(|value| vec![value]),
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

fn renamed(values: &[Vec<Value>], value: Value) -> Value {
    values[value.node.index()][value.result as usize]
}

/// Declares the input again; inputs keep their ids because they come in the order of their declaration.
fn declare(b: &mut Builder, graph: &Graph, id: InputId) -> Result<Value, TypeError> {
    let input = &graph.inputs()[id.index()];
    let default = input.default.map(|d| d.get());
    b.declare(&input.name, input.role, graph.ty(input.value).clone(), default)
}
