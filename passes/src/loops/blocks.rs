//! Loops whose rows do not meet, cut into blocks of rows: each block makes all steps by itself, so that threads that
//! share them meet once for the loop instead of once for each kernel of each step.

use super::rebuild::rebuild;
use crate::cost::graph_cost;
use crate::micro_batch::body_of_block;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Function, Graph, NodeId, Value};
use gradc_ir::ops::{Op, ScanBlocks};
use gradc_ir::region::{Loop, RegionForm};
use gradc_ir::target::Target;
use gradc_ir::types::TypeError;
use std::sync::Arc;

/// Rows of a block at least: two tiles of a product of few rows, which read a weight that all blocks share.
const LEAST_ROWS: usize = 8;

/// Most blocks of a loop.
const MOST_BLOCKS: usize = 4;

/// Time that a block takes at least, nanoseconds: what it gains must make up for products of fewer rows on one thread.
const LEAST_BLOCK_NS: f64 = 100_000.0;

/// The graph with its loops cut into blocks of rows where these do not meet and enough work is in them, the outermost
/// loop first. Blocks depend on shapes and estimated costs alone.
///
/// Inputs, outputs and places stay.
pub fn cut_loops(graph: &Graph, target: &Target) -> Result<Graph, Diagnostic> {
    of_graph(graph, target).map_err(|e| Diagnostic::from_type_error("internal-blocks", e, Loc::default()))
}

fn of_graph(graph: &Graph, target: &Target) -> Result<Graph, TypeError> {
    rebuild(graph, |b, id, op, operands| {
        let form = RegionForm::of_node(graph, id);
        if form.is_some_and(|form| form.blocks() > 1) {
            return b.apply(op.clone(), operands);
        }
        if let Some((cut, order)) = in_blocks(graph, id, target)? {
            let operands: Vec<Value> = order.into_iter().map(|k| operands[k]).collect();
            return b.apply(cut, &operands);
        }
        let bodies = op.functions();
        if bodies.is_empty() {
            return b.apply(op.clone(), operands);
        }
        let bodies: Vec<Function> =
            bodies.iter().map(|body| Ok(Arc::new(of_graph(body, target)?))).collect::<Result<_, TypeError>>()?;
        b.apply(op.with_functions(bodies), operands)
    })
}

/// A loop in blocks, and the order in which it takes the operands.
fn in_blocks(graph: &Graph, id: NodeId, target: &Target) -> Result<Option<(Op, Vec<usize>)>, TypeError> {
    let Some(RegionForm::Loop(looped)) = RegionForm::of_node(graph, id) else { return Ok(None) };
    if looped.until_done || looped.blocks > 1 {
        return Ok(None);
    }
    let ns = graph_cost(&looped.body, target).time_ns * looped.steps as f64;
    let Some(blocks) = rows(&looped).and_then(|rows| number_of_blocks(rows, ns)) else { return Ok(None) };
    let Some((body, takes_block)) = body_of_block(&looped, blocks) else { return Ok(None) };
    let first = looped.carries + looped.scanned;
    let (blocked, shared): (Vec<usize>, Vec<usize>) =
        (0..takes_block.len()).map(|k| first + k).partition(|k| takes_block[k - first]);
    let order: Vec<usize> = (0..first).chain(blocked.iter().copied()).chain(shared).collect();
    let Loop { carries, scanned, steps: length, reverse, .. } = looped;
    let body = reordered(&body, &order)?;
    let cut = ScanBlocks { body, carries, scanned, blocked: blocked.len(), length, reverse, blocks };
    Ok(Some((cut.into(), order)))
}

/// Extent of the leading axis that all carries and slices have.
fn rows(looped: &Loop) -> Option<usize> {
    let inputs = &looped.body.inputs()[..looped.carries + looped.scanned];
    let mut extents = inputs.iter().map(|i| looped.body.ty(i.value).shape.first().copied());
    let first = extents.next()??;
    extents.all(|rows| rows == Some(first)).then_some(first)
}

/// As many blocks as keep enough rows and take long enough; `None` if that is one.
fn number_of_blocks(rows: usize, ns: f64) -> Option<usize> {
    let pays = |blocks: usize| rows / blocks >= LEAST_ROWS && ns / blocks as f64 >= LEAST_BLOCK_NS;
    (2..=MOST_BLOCKS).rev().find(|&blocks| rows.is_multiple_of(blocks) && pays(blocks))
}

/// A function that takes its arguments in another order.
pub(crate) fn reordered(body: &Graph, order: &[usize]) -> Result<Function, TypeError> {
    let types: Vec<_> = order.iter().map(|&k| body.ty(body.inputs()[k].value).clone()).collect();
    Builder::function(&body.name, &types, |b, x| {
        let mut arguments = vec![x[0]; x.len()];
        order.iter().zip(x).for_each(|(&k, &value)| arguments[k] = value);
        b.inline(body, &arguments)
    })
}
