//! A graph built anew with some nodes replaced.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::ops::Op;
use gradc_ir::types::TypeError;

/// The graph with what `results` makes in place of each op, given the operation and its new operands.
///
/// Inputs, outputs and places stay.
pub(crate) fn rebuild(
    graph: &Graph,
    mut results: impl FnMut(&mut Builder, NodeId, &Op, &[Value]) -> Result<Vec<Value>, TypeError>,
) -> Result<Graph, TypeError> {
    let mut b = Builder::new(&graph.name);
    let mut made: Vec<Vec<Value>> = Vec::with_capacity(graph.nodes().len());
    for id in graph.node_ids() {
        let node = graph.node(id);
        b.set_loc(graph.loc(id).clone());
        let operands: Vec<Value> = node.operands.iter().map(|&v| renamed(&made, v)).collect();
        made.push(match &node.def {
            Def::Input(input) => vec![b.declare_again(graph, *input)?],
            Def::Op(op) => results(&mut b, id, op, &operands)?,
        });
    }
    graph.outputs().iter().for_each(|output| b.output(&output.name, renamed(&made, output.value), output.kind));
    Ok(b.finish())
}

fn renamed(made: &[Vec<Value>], value: Value) -> Value {
    made[value.node.index()][value.result as usize]
}
