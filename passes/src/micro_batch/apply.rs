//! A function of a part applied to one part of the batch after the other.

use super::body::PART;
use super::cut::Flow;
use super::split::Taken;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, Value};
use gradc_ir::types::{TensorType, TypeError};

/// What the whole batch makes of what `part` makes of each part: the sum of its results, or its blocks put together.
pub(super) fn over_parts(
    b: &mut Builder,
    part: &Graph,
    flows: &[Flow],
    taken: &[Taken],
    parts: usize,
) -> Result<Vec<Value>, TypeError> {
    b.set_loc(part.loc(part.outputs()[0].value.node).clone());
    let (blocks, shared) = used(part, taken);
    let xs = blocks
        .iter()
        .map(|&k| in_blocks(b, taken[k].value, taken[k].axis.expect("a block is taken of an axis"), parts))
        .collect::<Result<Vec<_>, _>>()?;
    let shares: Vec<Value> = shared.iter().map(|&k| taken[k].value).collect();
    let sums = part.outputs().iter().zip(flows).filter(|(_, flow)| **flow == Flow::Sum);
    let zeros = sums.map(|(o, _)| b.splat(part.ty(o.value), 0.0)).collect::<Result<Vec<_>, _>>()?;
    let body = body(part, flows, &[&blocks[..], &shared].concat())?;
    let (sums, stacks) = b.scan(&body, &zeros, &xs, &shares, false)?;
    let (mut sums, mut stacks) = (sums.into_iter(), stacks.into_iter());
    let made = flows.iter().map(|flow| match flow {
        Flow::Block(axis) => put_together(b, stacks.next().expect("blocks are stacked"), *axis),
        _ => Ok(sums.next().expect("sums are carried")),
    });
    made.collect()
}

/// The inputs of a part that it reads: those it takes a block of, then those it shares.
fn used(part: &Graph, taken: &[Taken]) -> (Vec<usize>, Vec<usize>) {
    let live = part.live();
    let read = (0..taken.len()).filter(|&k| live[part.inputs()[k].value.node.index()]);
    read.partition(|&k| taken[k].axis.is_some())
}

/// The blocks of a value, one after the other along a new leading axis.
pub(crate) fn in_blocks(b: &mut Builder, value: Value, axis: usize, parts: usize) -> Result<Value, TypeError> {
    let mut shape = b.shape(value).to_vec();
    shape[axis] /= parts;
    shape.insert(axis, parts);
    let blocks = b.reshape(value, &shape)?;
    let order: Vec<usize> = [axis].into_iter().chain((0..shape.len()).filter(|&d| d != axis)).collect();
    if axis == 0 { Ok(blocks) } else { b.transpose(blocks, &order) }
}

/// The value whose blocks along an axis are stacked.
pub(crate) fn put_together(b: &mut Builder, stack: Value, axis: usize) -> Result<Value, TypeError> {
    let mut order: Vec<usize> = (1..b.shape(stack).len()).collect();
    order.insert(axis, 0);
    let blocks = if axis == 0 { stack } else { b.transpose(stack, &order)? };
    let mut shape = b.shape(blocks).to_vec();
    let parts = shape.remove(axis);
    shape[axis] *= parts;
    b.reshape(blocks, &shape)
}

/// `(sums…, inputs…) → (sums + a part's…, a part's blocks…)`, the inputs of the part in the order of `arguments`.
fn body(part: &Graph, flows: &[Flow], arguments: &[usize]) -> Result<Function, TypeError> {
    let outputs = part.outputs().iter().zip(flows);
    let summed = outputs.clone().filter(|(_, flow)| **flow == Flow::Sum).map(|(o, _)| part.ty(o.value).clone());
    let inputs: Vec<TensorType> = part.inputs().iter().map(|i| part.ty(i.value).clone()).collect();
    let carries = summed.clone().count();
    let types: Vec<TensorType> = summed.chain(arguments.iter().map(|&k| inputs[k].clone())).collect();
    Builder::function(PART, &types, |b, x| {
        let (sums, given) = x.split_at(carries);
        let bound = |k: usize| arguments.iter().position(|&a| a == k).map(|at| given[at]);
        // What a part does not read is left out.
        let bound = (0..inputs.len()).map(|k| bound(k).map_or_else(|| b.splat(&inputs[k], 0.0), Ok));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let made = b.inline(part, &bound)?;
        let (mut added, mut blocks, mut sums) = (vec![], vec![], sums.iter());
        for (&value, (output, flow)) in made.iter().zip(outputs) {
            if *flow != Flow::Sum {
                blocks.push(value);
                continue;
            }
            b.set_loc(part.loc(output.value.node).clone());
            added.push(b.add(*sums.next().expect("every sum is carried"), value)?);
        }
        Ok([added, blocks].concat())
    })
}
