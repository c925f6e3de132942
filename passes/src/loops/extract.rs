//! A part of a graph between given values, as a closed function.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Function, Graph, OutputKind, Value};
use gradc_ir::types::TypeError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The function from `arguments` to `results`, both values of `graph`; nodes keep their places.
///
/// Everything the results need has to follow from the arguments.
pub(super) fn extract(
    name: &str,
    graph: &Graph,
    arguments: &[Value],
    results: &[Value],
) -> Result<Function, TypeError> {
    let needed = needed(graph, &arguments.iter().copied().collect(), results);
    let mut b = Builder::new(name);
    let mut made: BTreeMap<Value, Value> = BTreeMap::new();
    for (k, &argument) in arguments.iter().enumerate() {
        made.insert(argument, b.input(&format!("x{k}"), graph.ty(argument).clone())?);
    }
    for id in graph.node_ids().filter(|id| needed[id.index()]) {
        let node = graph.node(id);
        let Def::Op(op) = &node.def else { return Err(TypeError::new("a result follows from no argument")) };
        b.set_loc(graph.loc(id).clone());
        let operands: Vec<Value> = node.operands.iter().map(|v| made[v]).collect();
        for (value, result) in graph.results(id).zip(b.apply(op.clone(), &operands)?) {
            made.entry(value).or_insert(result);
        }
    }
    for (k, result) in results.iter().enumerate() {
        b.output(&format!("y{k}"), made[result], OutputKind::Result);
    }
    Ok(Arc::new(b.finish()))
}

/// The nodes that make `results` where the values of `given` are there already.
pub(super) fn needed(graph: &Graph, given: &BTreeSet<Value>, results: &[Value]) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    let missing = |v: &&Value| !given.contains(v);
    results.iter().filter(missing).for_each(|v| needed[v.node.index()] = true);
    for id in graph.node_ids().rev() {
        if needed[id.index()] {
            graph.node(id).operands.iter().filter(missing).for_each(|v| needed[v.node.index()] = true);
        }
    }
    needed
}
