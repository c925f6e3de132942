//! Loops on a part of the batch.

use super::cut::Flow;
use super::fit::Fitted;
use super::split::split_function;
use gradc_ir::graph::Graph;
use gradc_ir::ops::Op;
use gradc_ir::region::{Argument, BodyResult, Loop, RegionForm};
use std::sync::Arc;

/// A loop whose steps keep the examples of different parts apart, given what its operands are.
pub(super) fn fit_loop(op: &Op, form: &RegionForm, flows: &[Flow], parts: usize) -> Option<Fitted> {
    let RegionForm::Loop(looped @ Loop { blocks: 1, .. }) = form else { return None };
    let arguments = flows.iter().enumerate().map(|(k, &flow)| argument(form, k, flow)).collect::<Option<Vec<_>>>()?;
    let (body, arguments, made) = settled(&looped.body, looped.carries, arguments, parts)?;
    let operand = |(k, &flow): (usize, &Flow)| if form.argument(k) == Argument::Slice { stacked(flow) } else { flow };
    let mut results = vec![];
    for (k, &flow) in made.iter().enumerate() {
        match form.result(k) {
            BodyResult::Slice => results.push(stacked(flow)),
            // The number of steps, one for all examples.
            BodyResult::Done if flow == Flow::Whole => results.push(flow),
            BodyResult::Done => return None,
            BodyResult::Carry | BodyResult::Whole => results.push(flow),
        }
    }
    let operands = arguments.iter().enumerate().map(operand).collect();
    Some(Fitted { op: op.with_functions([Arc::new(body)]), operands, results })
}

/// The body of a loop on one of `blocks` blocks of rows, the leading axis of carries and slices, and of which constants
/// it takes its block, too; `None` where rows of different blocks meet, or a result does not consist of rows.
pub(crate) fn body_of_block(looped: &Loop, blocks: usize) -> Option<(Graph, Vec<bool>)> {
    let rows = Flow::Block(0);
    let (first, inputs) = (looped.carries + looped.scanned, looped.body.inputs().len());
    let given = (0..inputs).map(|k| if k < first { rows } else { Flow::Whole }).collect();
    let (body, arguments, made) = settled(&looped.body, looped.carries, given, blocks)?;
    let takes_block: Vec<bool> = arguments[first..].iter().map(|&flow| flow == rows).collect();
    let known = arguments[first..].iter().all(|flow| [rows, Flow::Whole].contains(flow));
    (known && made.iter().all(|&flow| flow == rows)).then_some((body, takes_block))
}

/// A closed function on one of `parts` parts, given what some of its arguments are at least; what all of them are, and its
/// results.
pub(crate) fn body_of_part(body: &Graph, given: Vec<Flow>, parts: usize) -> Option<(Graph, Vec<Flow>, Vec<Flow>)> {
    settled(body, 0, given, parts)
}

/// What an argument of the body is; `None` where steps go from part to part, or over sums.
fn argument(form: &RegionForm, k: usize, flow: Flow) -> Option<Flow> {
    match (form.argument(k), flow) {
        (_, Flow::Sum) => None,
        (Argument::Slice, Flow::Block(axis)) => Some(Flow::Block(axis.checked_sub(1)?)),
        _ => Some(flow),
    }
}

/// What slices along a new leading axis are together.
fn stacked(flow: Flow) -> Flow {
    if let Flow::Block(axis) = flow { Flow::Block(axis + 1) } else { flow }
}

/// The body on a part, what its arguments are in every step, and what its results are. What starts alike in all parts
/// goes with the part from the first step on where the body asks for its block.
fn settled(
    body: &Graph,
    carries: usize,
    mut arguments: Vec<Flow>,
    parts: usize,
) -> Option<(Graph, Vec<Flow>, Vec<Flow>)> {
    loop {
        let changes: Vec<(usize, Flow)> = match split_function(body, &arguments, parts) {
            Err(wanted) => wanted.into_iter().map(|(input, axis)| (input.index(), Flow::Block(axis))).collect(),
            Ok((body, made)) => {
                let changed: Vec<usize> = (0..carries).filter(|&k| made[k] != arguments[k]).collect();
                if changed.is_empty() {
                    return Some((body, arguments, made));
                }
                changed.into_iter().map(|k| (k, made[k])).collect()
            }
        };
        let (k, flow) = *changes.first()?;
        let becomes_block = arguments[k] == Flow::Whole && matches!(flow, Flow::Block(_));
        arguments[k] = becomes_block.then_some(flow)?;
    }
}
