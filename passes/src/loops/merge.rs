//! Loops that make the same steps become one loop.

use super::extract::extract;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Function, Graph, Node, NodeId, Value};
use gradc_ir::ops::{Op, Scan};
use gradc_ir::types::TypeError;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The graph with loops over the same operands that carry the same values merged, their stacked results side by side.
///
/// That two bodies carry the same values is proven by building both in one graph that makes equal nodes once. What is
/// computed keeps every bit; inputs, outputs and places stay.
pub fn merge_loops(graph: &Graph) -> Result<Graph, TypeError> {
    let merged = merged_loops(graph)?;
    if merged.is_empty() {
        return Ok(graph.clone());
    }
    let mut b = Builder::new(&graph.name);
    let mut made: BTreeMap<Value, Value> = BTreeMap::new();
    for id in graph.node_ids().filter(|id| !merged.get(id).is_some_and(|loops| loops.first != *id)) {
        b.set_loc(graph.loc(id).clone());
        let node = graph.node(id);
        let operands: Vec<Value> = node.operands.iter().map(|v| made[v]).collect();
        match (&node.def, merged.get(&id)) {
            (Def::Input(input), _) => {
                let input = &graph.inputs()[input.index()];
                let default = input.default.map(|d| d.get());
                made.insert(input.value, b.declare(&input.name, input.role, graph.ty(input.value).clone(), default)?);
            }
            (Def::Op(_), Some(loops)) => {
                let results = b.apply(loops.scan.clone(), &operands)?;
                made.extend(loops.results.iter().map(|(&value, &k)| (value, results[k])));
            }
            (Def::Op(op), None) => made.extend(graph.results(id).zip(b.apply(op.clone(), &operands)?)),
        }
    }
    graph.outputs().iter().for_each(|output| b.output(&output.name, made[&output.value], output.kind));
    Ok(b.finish())
}

/// Several loops as one.
struct Merged {
    /// The node that it stands for first.
    first: NodeId,
    /// The loop.
    scan: Scan,
    /// Every result of the loops it stands for, and which result of the one loop it is.
    results: BTreeMap<Value, usize>,
}

/// The loop of a node.
fn as_scan(node: &Node) -> Option<Scan> {
    match &node.def {
        Def::Op(Op::Scan(scan)) => Some(scan.clone()),
        Def::Op(Op::Iterate(iterate)) => Some(iterate.scan()),
        _ => None,
    }
}

/// The merged loop of every node that is part of one.
fn merged_loops(graph: &Graph) -> Result<BTreeMap<NodeId, Rc<Merged>>, TypeError> {
    let mut groups: BTreeMap<(Vec<Value>, usize, usize, usize, bool), Vec<(NodeId, Scan)>> = BTreeMap::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        if let Some(scan) = as_scan(node) {
            let key = (node.operands.clone(), scan.carries, scan.scanned, scan.length, scan.reverse);
            groups.entry(key).or_default().push((id, scan));
        }
    }
    let mut merged = BTreeMap::new();
    for loops in groups.into_values().filter(|loops| loops.len() > 1) {
        for (members, one) in merge(graph, &loops)? {
            let one = Rc::new(one);
            merged.extend(members.into_iter().map(|id| (id, one.clone())));
        }
    }
    Ok(merged)
}

/// Merges those among loops over the same operands that carry the same values.
fn merge(graph: &Graph, loops: &[(NodeId, Scan)]) -> Result<Vec<(Vec<NodeId>, Merged)>, TypeError> {
    let carries = loops[0].1.carries;
    let (mut b, arguments) = arguments(&loops[0].1.body)?;
    let mut families: BTreeMap<Vec<Value>, Vec<(NodeId, Vec<Value>)>> = BTreeMap::new();
    for (id, scan) in loops {
        let results = b.inline(&scan.body, &arguments)?;
        families.entry(results[..carries].to_vec()).or_default().push((*id, results));
    }
    let body = b.finish();
    let several = families.into_iter().filter(|(_, members)| members.len() > 1);
    let merge = several.map(|(carried, members)| {
        let mut returned = carried;
        let mut results = BTreeMap::new();
        for (id, values) in &members {
            for (value, k) in graph.results(*id).zip(0..) {
                results.insert(value, if k < carries { k } else { position(&mut returned, carries, values[k]) });
            }
        }
        let ids: Vec<NodeId> = members.iter().map(|(id, _)| *id).collect();
        let body = extract(&loops[0].1.body.name, &body, &arguments, &returned)?;
        let scan = Scan { body, ..loops[0].1.clone() };
        Ok((ids.clone(), Merged { first: ids[0], scan, results }))
    });
    merge.collect()
}

/// A builder with the arguments of a body.
fn arguments(body: &Function) -> Result<(Builder, Vec<Value>), TypeError> {
    let mut b = Builder::new(&body.name);
    let inputs = body.inputs().iter().enumerate();
    let declared = inputs.map(|(k, i)| b.input(&format!("x{k}"), body.ty(i.value).clone()));
    let declared = declared.collect::<Result<Vec<_>, _>>()?;
    Ok((b, declared))
}

/// Where a value stands among the stacked results, appended if it does not.
fn position(returned: &mut Vec<Value>, carries: usize, value: Value) -> usize {
    match returned[carries..].iter().position(|&v| v == value) {
        Some(at) => carries + at,
        None => {
            returned.push(value);
            returned.len() - 1
        }
    }
}
