//! Sequences of tensors, which exist during import only.

use super::Rule::{self, Many, One};
use super::{Fault, Node, Walk, axis, require, sizes};
use crate::import::onnx::node::Slot;
use crate::layers::shape::{split, split_sizes, squeeze, unsqueeze};
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("ConcatFromSequence", One(concat)),
    ("SequenceAt", One(at)),
    ("SequenceConstruct", Many(|_, node| Ok(vec![Slot::Sequence(node.inputs()?)]))),
    ("SplitToSequence", Many(split_to_sequence)),
];

fn concat(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let parts = node.sequence(0)?.to_vec();
    let first = *parts.first().ok_or_else(|| TypeError::new("the sequence is empty"))?;
    let rank = cx.b.shape(first).len();
    if !node.flag("new_axis", false)? {
        let along = axis(rank, node.int("axis", 0)?)?;
        return Ok(cx.b.concat(&parts, along)?);
    }
    let along = axis(rank + 1, node.int("axis", 0)?)?;
    let parts: Vec<Value> = parts.iter().map(|&p| unsqueeze(&mut cx.b, p, &[along])).collect::<Result<_, _>>()?;
    Ok(cx.b.concat(&parts, along)?)
}

fn at(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let position = cx.ints(node, 1)?;
    require(position.len() == 1, "the position must be one number", "a scalar", position.len())?;
    let parts = node.sequence(0)?;
    Ok(parts[axis(parts.len(), position[0])?])
}

/// Parts of one size (a scalar, 1 when left out) or of given sizes; parts of size 1 may lose the axis.
fn split_to_sequence(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let x = node.input(0)?;
    let along = axis(cx.b.shape(x).len(), node.int("axis", 0)?)?;
    let keep = node.flag("keepdims", true)?;
    let parts = match (cx.optional_ints(node, 1)?, node.optional(1)?) {
        (Some(given), Some(value)) => {
            let given = sizes(&given)?;
            let one_size = cx.b.shape(value).is_empty();
            if one_size { split(&mut cx.b, x, along, given[0])? } else { split_sizes(&mut cx.b, x, along, &given)? }
        }
        _ => {
            let singles = split(&mut cx.b, x, along, 1)?;
            let drop = |part: &Value| if keep { Ok(*part) } else { squeeze(&mut cx.b, *part, &[along]) };
            singles.iter().map(drop).collect::<Result<_, _>>()?
        }
    };
    Ok(vec![Slot::Sequence(parts)])
}
