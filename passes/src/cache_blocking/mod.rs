//! Cache blocking: what a few products make and take of large intermediate values, in parts that stay in the cache.
//!
//! The scores of attention between n positions are n² numbers for every head. They are made by one product and taken by
//! another, once in the forward pass and several times in the backward pass, and from a few hundred positions on each of
//! these reads or writes main memory. Here the nodes between which such values pass become the body of a loop over
//! parts (heads, examples) that have nothing in common: memory is needed for a part, and the cache holds it. What the
//! backward pass would read of the forward pass's large values is made again in it.
//!
//! Found by sizes and accesses, so any op will do: a region is what large values connect ([`region`]), and it is cut where
//! each of its products multiplies blocks of one operand by blocks of the other ([`parts`]). Nothing else is computed
//! and no sum is taken in another order: the interpreter computes the same bits.

mod apply;
mod parts;
mod region;

use crate::loops::rebuild;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Function, Graph, NodeId};
use gradc_ir::region::RegionForm;
use gradc_ir::types::TypeError;
use parts::Parts;
use region::{Region, regions};
use std::sync::Arc;

/// Whether threads may share the parts: not in loops whose blocks they share already.
#[derive(Clone, Copy, PartialEq)]
enum Sharing {
    OfParts,
    OfBlocksAround,
}

/// The graph with regions of large intermediate values made in parts, also in the bodies of its loops and branches; and
/// how many there are.
///
/// Inputs, outputs and places stay.
pub fn block_for_cache(graph: &Graph) -> Result<(Graph, usize), Diagnostic> {
    let mut regions = 0;
    let blocked = of_graph(graph, Sharing::OfParts, &mut regions);
    let blocked = blocked.map_err(|e| Diagnostic::from_type_error("internal-cache-blocking", e, Loc::default()))?;
    Ok((blocked, regions))
}

fn of_graph(graph: &Graph, sharing: Sharing, regions: &mut usize) -> Result<Graph, TypeError> {
    let mut graph = graph.clone();
    while let Some((region, parts)) = first_that_pays(&graph)? {
        graph = apply::in_parts(&graph, &region, &parts, sharing)?;
        *regions += 1;
    }
    let has_bodies = |id: NodeId| graph.op(id).is_some_and(|op| !op.functions().is_empty());
    if !graph.node_ids().any(has_bodies) {
        return Ok(graph);
    }
    rebuild(&graph, |b, id, op, operands| {
        let bodies = op.functions();
        if bodies.is_empty() {
            return b.apply(op.clone(), operands);
        }
        let in_blocks = RegionForm::of_node(&graph, id).is_some_and(|form| form.blocks() > 1);
        let sharing = if in_blocks { Sharing::OfBlocksAround } else { sharing };
        let bodies = bodies.iter().map(|body| Ok(Arc::new(of_graph(body, sharing, regions)?)));
        let bodies = bodies.collect::<Result<Vec<Function>, TypeError>>()?;
        b.apply(op.with_functions(bodies), operands)
    })
}

/// A region to be made in parts, the last in the order of dependence first: what it makes again, others need not keep.
fn first_that_pays(graph: &Graph) -> Result<Option<(Region, Parts)>, TypeError> {
    for region in regions(graph).into_iter().filter(|region| region.pays(graph)) {
        if let Some(parts) = Parts::of(&*region.function(graph)?) {
            return Ok(Some((region, parts)));
        }
    }
    Ok(None)
}
