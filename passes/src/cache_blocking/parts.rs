//! A region on one of several parts.

use super::region::{contraction, repetitions};
use crate::micro_batch::{Flow, body_of_part};
use gradc_ir::graph::{Graph, Value};
use std::collections::BTreeSet;

/// Bytes of the largest value of a part, unless parts cannot be as small.
const PART_BYTES: usize = 256 << 10;

/// How a region is made in parts.
pub(super) struct Parts {
    /// What is made of a part.
    pub body: Graph,
    /// What the arguments of the body are to the inputs of the region.
    pub arguments: Vec<Flow>,
    /// The axis of each result along which the results of the body follow each other.
    pub results: Vec<usize>,
    /// Number of parts.
    pub count: usize,
}

impl Parts {
    /// The best way to make a region in parts that share no factor of a product, if there is one: what is stored as it is
    /// first, then the largest parts that are small enough, then the smallest.
    pub fn of(region: &Graph) -> Option<Parts> {
        let bytes = largest_bytes(region);
        let products = region.node_ids().filter_map(|id| contraction(region, id));
        let extents: BTreeSet<usize> = products.flat_map(|of| repetitions(&of).collect::<Vec<_>>()).collect();
        let mut ways: Vec<Parts> = vec![];
        for (k, input) in region.inputs().iter().enumerate() {
            for (axis, &extent) in region.ty(input.value).shape.iter().enumerate() {
                if extents.contains(&extent) && ways.iter().all(|way| way.arguments[k] != Flow::Block(axis)) {
                    ways.extend(Parts::along(region, (k, axis), number_of_parts(extent, bytes)));
                }
            }
        }
        ways.into_iter().min_by_key(|way| {
            let part_bytes = bytes / way.count;
            (way.moved_bytes(region), part_bytes.max(PART_BYTES), PART_BYTES.saturating_sub(part_bytes))
        })
    }

    /// So many parts along an axis of an input.
    fn along(region: &Graph, (input, axis): (usize, usize), count: usize) -> Option<Parts> {
        let mut given = vec![Flow::Whole; region.inputs().len()];
        given[input] = Flow::Block(axis);
        let (body, arguments, results) = body_of_part(region, given, count)?;
        let results = results.into_iter().map(|flow| if let Flow::Block(axis) = flow { Some(axis) } else { None });
        let results = results.collect::<Option<Vec<_>>>()?;
        share_no_factor(&body, &arguments).then_some(Parts { body, arguments, results, count })
    }

    /// Bytes of what has to be stored in another order so that the parts of it follow each other.
    fn moved_bytes(&self, region: &Graph) -> usize {
        let inputs = region.inputs().iter().zip(&self.arguments).filter_map(|(input, flow)| match flow {
            Flow::Block(axis) => Some((input.value, *axis)),
            _ => None,
        });
        let outputs = region.outputs().iter().map(|output| output.value).zip(self.results.iter().copied());
        let moved = inputs.chain(outputs).map(|(value, axis)| (region.ty(value), axis));
        moved.filter(|(ty, axis)| ty.shape[..*axis].iter().any(|&n| n > 1)).map(|(ty, _)| ty.size_bytes()).sum()
    }
}

fn largest_bytes(region: &Graph) -> usize {
    let values = region.node_ids().flat_map(|id| region.results(id));
    values.map(|value| region.ty(value).size_bytes()).max().unwrap_or(0)
}

/// As few parts of an axis as make values of so many bytes small enough, or else as many as there can be.
fn number_of_parts(extent: usize, bytes: usize) -> usize {
    let is_small = |parts: &usize| extent.is_multiple_of(*parts) && bytes / parts <= PART_BYTES;
    (2..extent).find(is_small).unwrap_or(extent)
}

/// Whether both factors of each product are of the part.
fn share_no_factor(body: &Graph, arguments: &[Flow]) -> bool {
    let mut of_part = vec![false; body.nodes().len()];
    for (input, flow) in body.inputs().iter().zip(arguments) {
        of_part[input.value.node.index()] = *flow != Flow::Whole;
    }
    body.node_ids().all(|id| {
        let reads_part = |v: &Value| of_part[v.node.index()];
        let operands = &body.node(id).operands;
        let shares = contraction(body, id).is_some() && !operands.iter().all(reads_part);
        of_part[id.index()] |= operands.iter().any(reads_part);
        !shares
    })
}
