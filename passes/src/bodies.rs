//! Passes over the bodies of regions.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, Value};
use std::sync::Arc;

/// The graph with the body of every region replaced by what `pass` makes of it, innermost first.
///
/// What `pass` makes has the arguments and results of the body.
pub fn map_bodies<E: From<Diagnostic>>(
    graph: &Graph,
    pass: &mut dyn FnMut(&Graph) -> Result<Graph, E>,
) -> Result<Graph, E> {
    let has_bodies = |def: &Def| matches!(def, Def::Op(op) if !op.functions().is_empty());
    if !graph.nodes().iter().any(|node| has_bodies(&node.def)) {
        return Ok(graph.clone());
    }
    let mut b = Builder::new(&graph.name);
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(graph.nodes().len());
    for id in graph.node_ids() {
        let node = graph.node(id);
        b.set_loc(graph.loc(id).clone());
        let made = match &node.def {
            Def::Input(input) => b.declare_again(graph, *input).map(|value| vec![value]),
            Def::Op(op) => {
                let mut bodies = Vec::new();
                for body in op.functions() {
                    let body = map_bodies(&body, pass)?;
                    bodies.push(Arc::new(pass(&body)?));
                }
                let operands: Vec<Value> =
                    node.operands.iter().map(|v| values[v.node.index()][v.result as usize]).collect();
                b.apply(if bodies.is_empty() { op.clone() } else { op.with_functions(bodies) }, &operands)
            }
        };
        values.push(made.map_err(|e| Diagnostic::from_type_error("internal-body", e, graph.loc(id).clone()))?);
    }
    for output in graph.outputs() {
        b.output(&output.name, values[output.value.node.index()][output.value.result as usize], output.kind);
    }
    Ok(b.finish())
}
