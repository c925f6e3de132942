//! Loops that make the same steps become one loop.

use super::as_scan;
use super::extract::extract;
use super::rebuild::rebuild;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, NodeId, Value};
use gradc_ir::ops::Scan;
use gradc_ir::types::TypeError;
use std::collections::BTreeMap;

/// The graph with loops over the same operands that carry the same values merged, their stacked results side by side.
///
/// That two bodies carry the same values is proven by building both in one graph that makes equal nodes once. What is
/// computed keeps every bit; inputs, outputs and places stay.
pub fn merge_loops(graph: &Graph) -> Result<Graph, TypeError> {
    let merged = Merged::new(graph)?;
    if merged.loops.is_empty() {
        return Ok(graph.clone());
    }
    let mut made: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    rebuild(graph, |b, id, op, operands| {
        let Some((which, results)) = merged.members.get(&id) else { return b.apply(op.clone(), operands) };
        let all = match made.get(which) {
            Some(all) => all.clone(),
            None => b.apply(merged.loops[*which].clone(), operands)?,
        };
        made.insert(*which, all.clone());
        Ok(results.iter().map(|&k| all[k]).collect())
    })
}

/// Loops that stand for several each.
#[derive(Default)]
struct Merged {
    loops: Vec<Scan>,
    /// For the node of a loop that is merged, the loop that stands for it, and which of its results the node's are.
    members: BTreeMap<NodeId, (usize, Vec<usize>)>,
}

/// What loops have in common that may be merged: all but the body.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    operands: Vec<Value>,
    carries: usize,
    scanned: usize,
    length: usize,
    reverse: bool,
    in_order: bool,
}

impl Merged {
    fn new(graph: &Graph) -> Result<Self, TypeError> {
        let mut groups: BTreeMap<Frame, Vec<(NodeId, Scan)>> = BTreeMap::new();
        for id in graph.node_ids() {
            if let Some(scan) = graph.op(id).and_then(as_scan) {
                let Scan { carries, scanned, length, reverse, in_order, .. } = scan;
                let operands = graph.node(id).operands.clone();
                let frame = Frame { operands, carries, scanned, length, reverse, in_order };
                groups.entry(frame).or_default().push((id, scan));
            }
        }
        let mut merged = Merged::default();
        groups.values().filter(|loops| loops.len() > 1).try_for_each(|loops| merged.add(loops))?;
        Ok(merged)
    }

    /// Merges those among loops over the same operands that carry the same values.
    fn add(&mut self, loops: &[(NodeId, Scan)]) -> Result<(), TypeError> {
        let model = &loops[0].1;
        let (mut b, arguments) = arguments(&model.body)?;
        let mut families: BTreeMap<Vec<Value>, Vec<(NodeId, Vec<Value>)>> = BTreeMap::new();
        for (id, scan) in loops {
            let results = b.inline(&scan.body, &arguments)?;
            families.entry(results[..model.carries].to_vec()).or_default().push((*id, results));
        }
        let body = b.finish();
        for (mut returned, members) in families.into_iter().filter(|(_, members)| members.len() > 1) {
            for (id, results) in members {
                let stacked = results[model.carries..].iter().map(|&v| position(&mut returned, model.carries, v));
                let which = (0..model.carries).chain(stacked).collect();
                self.members.insert(id, (self.loops.len(), which));
            }
            let body = extract(&model.body.name, &body, &arguments, &returned)?;
            self.loops.push(Scan { body, ..model.clone() });
        }
        Ok(())
    }
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
