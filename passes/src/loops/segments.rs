//! Checkpoints: a loop of K steps as a loop over √K segments of √K steps each (Chen et al., "Training Deep Nets with
//! Sublinear Memory Cost", 2016).
//!
//! The derivative of the outer loop keeps the states that segments start from and makes a segment's steps again when it
//! gets to them. So √K states and what √K steps keep are live at a time.

use super::rebuild::rebuild;
use super::{Backward, LoopPolicies, as_scan};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, NodeId, Value};
use gradc_ir::ops::Scan;
use gradc_ir::types::{TensorType, TypeError};

/// The graph with loops that are to be checkpointed written as loops over segments, and the policies of the new graph.
pub fn segment_loops(graph: &Graph, policies: &LoopPolicies) -> Result<(Graph, LoopPolicies), TypeError> {
    let mut renamed = LoopPolicies::new();
    let segmented = rebuild(graph, |b, id, op, operands| {
        let results = match (policies.get(&id), as_scan(op)) {
            (Some(Backward::Checkpoint), Some(scan)) => {
                let (results, outer) = segmented(b, &scan, operands)?;
                renamed.insert(outer, Backward::Checkpoint);
                return Ok(results);
            }
            _ => b.apply(op.clone(), operands)?,
        };
        renamed.extend(policies.get(&id).map(|&policy| (results[0].node, policy)));
        Ok(results)
    })?;
    Ok((segmented, renamed))
}

/// The results of a loop made segment by segment, and the loop over segments.
pub(super) fn segmented(b: &mut Builder, scan: &Scan, operands: &[Value]) -> Result<(Vec<Value>, NodeId), TypeError> {
    let steps = segment_length(scan.length);
    let segments = scan.length / steps;
    // The steps that fill no segment are the last ones made.
    let (last, first) = if scan.reverse {
        (0..scan.length % steps, scan.length % steps..scan.length)
    } else {
        (steps * segments..scan.length, 0..steps * segments)
    };
    let xs = scan.carries..scan.carries + scan.scanned;
    let mut outer = operands.to_vec();
    for k in xs.clone() {
        let part = part(b, operands[k], first.clone())?;
        outer[k] = b.reshape(part, &[&[segments, steps], &b.shape(part)[1..].to_vec()[..]].concat())?;
    }
    let body = segment(b, scan, steps, operands)?;
    let mut results = b.apply(Scan { body, length: segments, ..scan.clone() }, &outer)?;
    let node = results[0].node;
    for y in &mut results[scan.carries..] {
        *y = b.reshape(*y, &[&[first.len()], &b.shape(*y)[2..].to_vec()[..]].concat())?;
    }
    if last.is_empty() {
        return Ok((results, node));
    }
    let mut rest = [&results[..scan.carries], &operands[scan.carries..]].concat();
    for k in xs {
        rest[k] = part(b, operands[k], last.clone())?;
    }
    let mut ended = b.apply(Scan { length: last.len(), ..scan.clone() }, &rest)?;
    for k in scan.carries..ended.len() {
        let parts = if scan.reverse { [ended[k], results[k]] } else { [results[k], ended[k]] };
        ended[k] = b.concat(&parts, 0)?;
    }
    Ok((ended, node))
}

/// Steps of a segment: a divisor of the number of steps near its root, if there is one.
fn segment_length(steps: usize) -> usize {
    let root = (steps as f64).sqrt();
    let distance = |length: usize| ((length as f64 / root).ln().abs() * 1e6) as u64;
    let near = (1..=steps).take_while(|&l| l as f64 <= 2.0 * root).filter(|&l| 2.0 * l as f64 >= root);
    let divisor = near.filter(|l| steps.is_multiple_of(*l)).min_by_key(|&l| distance(l));
    divisor.unwrap_or(root.ceil() as usize)
}

/// Steps `range` of a scanned operand.
fn part(b: &mut Builder, x: Value, range: std::ops::Range<usize>) -> Result<Value, TypeError> {
    if range.len() == b.shape(x)[0] { Ok(x) } else { b.slice_axis(x, 0, range.start, range.end) }
}

/// The steps of one segment as a body.
fn segment(b: &Builder, scan: &Scan, steps: usize, operands: &[Value]) -> Result<Function, TypeError> {
    let mut types: Vec<TensorType> = operands.iter().map(|&v| b.ty(v).clone()).collect();
    types[scan.carries..scan.carries + scan.scanned].iter_mut().for_each(|ty| ty.shape[0] = steps);
    let inner = Scan { length: steps, ..scan.clone() };
    Builder::function(&format!("{} segment", scan.body.name), &types, |b, x| b.apply(inner, x))
}

#[cfg(test)]
mod tests {
    use super::segment_length;

    #[test]
    fn segments_have_about_as_many_steps_as_there_are_segments() {
        for (steps, length) in [(1, 1), (2, 1), (3, 1), (7, 3), (12, 3), (100, 10), (1000, 25), (97, 10)] {
            assert_eq!(segment_length(steps), length, "{steps} steps");
        }
    }
}
