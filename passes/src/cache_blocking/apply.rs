//! A graph with a region made in parts.

use super::Sharing;
use super::parts::Parts;
use super::region::Region;
use crate::loops::reordered;
use crate::micro_batch::{Flow, in_blocks, put_together};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, InputId, NodeId, Value};
use gradc_ir::ops::ScanBlocks;
use gradc_ir::types::TypeError;
use std::collections::BTreeMap;

/// Parts that threads share, at least; they share what is done in each of fewer.
const LEAST_SHARED_PARTS: usize = 4;

/// The graph with a region made by a loop over its parts.
///
/// Inputs, outputs and places stay.
pub(super) fn in_parts(graph: &Graph, region: &Region, parts: &Parts, sharing: Sharing) -> Result<Graph, TypeError> {
    let mut rebuild = Rebuild { graph, region, parts, sharing, b: Builder::new(&graph.name), made: BTreeMap::new() };
    // In their order, whatever needs them first.
    rebuild.inputs()?;
    for id in graph.node_ids().filter(|id| !region.members.contains(id)) {
        rebuild.with_all_it_needs(id)?;
    }
    graph.outputs().iter().try_for_each(|output| rebuild.with_all_it_needs(output.value.node))?;
    let Rebuild { mut b, made, .. } = rebuild;
    graph.outputs().iter().for_each(|output| b.output(&output.name, made[&output.value], output.kind));
    Ok(b.finish().without_dead_nodes())
}

struct Rebuild<'a> {
    graph: &'a Graph,
    region: &'a Region,
    parts: &'a Parts,
    sharing: Sharing,
    b: Builder,
    made: BTreeMap<Value, Value>,
}

impl Rebuild<'_> {
    /// Makes a node after all that it reads; the region when the first of its results is read.
    fn with_all_it_needs(&mut self, id: NodeId) -> Result<(), TypeError> {
        let mut waiting = vec![id];
        while let Some(&id) = waiting.last() {
            let in_region = self.region.members.contains(&id);
            let operands = if in_region {
                self.region.inputs.iter().copied().collect()
            } else {
                self.graph.node(id).operands.clone()
            };
            let missing: Vec<NodeId> = operands.iter().filter(|v| !self.made.contains_key(v)).map(|v| v.node).collect();
            if missing.is_empty() {
                waiting.pop();
                if in_region { self.region(id)? } else { self.node(id)? }
            }
            waiting.extend(missing);
        }
        Ok(())
    }

    fn inputs(&mut self) -> Result<(), TypeError> {
        for (k, input) in self.graph.inputs().iter().enumerate() {
            self.b.set_loc(self.graph.loc(input.value.node).clone());
            let declared = self.b.declare_again(self.graph, InputId(k as u32))?;
            self.made.insert(input.value, declared);
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Result<(), TypeError> {
        let value = Value { node: id, result: 0 };
        let Some(op) = self.graph.op(id).filter(|_| !self.made.contains_key(&value)) else { return Ok(()) };
        self.b.set_loc(self.graph.loc(id).clone());
        let operands: Vec<Value> = self.graph.node(id).operands.iter().map(|v| self.made[v]).collect();
        let results = self.b.apply(op.clone(), &operands)?;
        self.made.extend(self.graph.results(id).zip(results));
        Ok(())
    }

    fn region(&mut self, of: NodeId) -> Result<(), TypeError> {
        if self.region.outputs.first().is_none_or(|first| self.made.contains_key(first)) {
            return Ok(());
        }
        self.b.set_loc(self.graph.loc(of).clone());
        let inputs: Vec<Value> = self.region.inputs.iter().map(|v| self.made[v]).collect();
        let results = over_parts(&mut self.b, self.parts, &inputs, self.sharing)?;
        self.made.extend(self.region.outputs.iter().copied().zip(results));
        Ok(())
    }
}

/// What a region makes of its inputs.
fn over_parts(b: &mut Builder, parts: &Parts, inputs: &[Value], sharing: Sharing) -> Result<Vec<Value>, TypeError> {
    let (cut, whole): (Vec<usize>, Vec<usize>) =
        (0..inputs.len()).partition(|&k| matches!(parts.arguments[k], Flow::Block(_)));
    let blocks = cut.iter().map(|&k| match parts.arguments[k] {
        Flow::Block(axis) => in_blocks(b, inputs[k], axis, parts.count),
        _ => Ok(inputs[k]),
    });
    let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
    let shared: Vec<Value> = whole.iter().map(|&k| inputs[k]).collect();
    let body = reordered(&parts.body, &[cut, whole].concat())?;
    let stacks = if sharing == Sharing::OfParts && parts.count >= LEAST_SHARED_PARTS {
        shared_scan(b, &body, &blocks, &shared)?
    } else {
        b.scan(&body, &[], &blocks, &shared, false)?.1
    };
    stacks.into_iter().zip(&parts.results).map(|(stack, &axis)| put_together(b, stack, axis)).collect()
}

/// The stacked results of a scan without carries whose steps threads share: one step, of blocks of one row.
fn shared_scan(b: &mut Builder, body: &Graph, xs: &[Value], consts: &[Value]) -> Result<Vec<Value>, TypeError> {
    let blocks = b.shape(xs[0])[0];
    let rows = xs.iter().map(|&x| with_row(b, x)).collect::<Result<Vec<_>, _>>()?;
    let types = body.inputs().iter().enumerate().map(|(k, input)| match body.ty(input.value) {
        ty if k < xs.len() => ty.with_shape([&[1], &ty.shape[..]].concat()),
        ty => ty.clone(),
    });
    let of_row = Builder::function(&body.name, &types.collect::<Vec<_>>(), |b, x| {
        let (rows, consts) = x.split_at(xs.len());
        let rows = rows.iter().map(|&row| without_row(b, row)).collect::<Result<Vec<_>, _>>()?;
        let made = b.inline(body, &[&rows, consts].concat())?;
        made.into_iter().map(|value| with_row(b, value)).collect()
    })?;
    let op = ScanBlocks { body: of_row, carries: 0, scanned: xs.len(), blocked: 0, length: 1, reverse: false, blocks };
    let stacks = b.apply(op, &[&rows, consts].concat())?;
    stacks.into_iter().map(|stack| without_row(b, stack)).collect()
}

fn with_row(b: &mut Builder, value: Value) -> Result<Value, TypeError> {
    b.reshape(value, &[&[1], b.shape(value)].concat())
}

fn without_row(b: &mut Builder, value: Value) -> Result<Value, TypeError> {
    let shape = b.shape(value)[1..].to_vec();
    b.reshape(value, &shape)
}
