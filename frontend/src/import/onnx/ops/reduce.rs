//! Reductions over axes.

use super::Rule::{self, One};
use super::{Fault, Node, Walk, axes};
use crate::layers::reduce;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("ReduceL1", One(|cx, node| reduce_node(cx, node, 18, l1))),
    ("ReduceL2", One(|cx, node| reduce_node(cx, node, 18, l2))),
    ("ReduceLogSum", One(|cx, node| reduce_node(cx, node, 18, log_sum))),
    ("ReduceLogSumExp", One(|cx, node| reduce_node(cx, node, 18, log_sum_exp))),
    ("ReduceMax", One(|cx, node| reduce_node(cx, node, 18, reduce::max))),
    ("ReduceMean", One(|cx, node| reduce_node(cx, node, 18, reduce::mean))),
    ("ReduceMin", One(|cx, node| reduce_node(cx, node, 18, reduce::min))),
    ("ReduceProd", One(|cx, node| reduce_node(cx, node, 18, reduce::prod))),
    ("ReduceSum", One(|cx, node| reduce_node(cx, node, 13, reduce::sum))),
    ("ReduceSumSquare", One(|cx, node| reduce_node(cx, node, 18, sum_square))),
];

type Reduction = fn(&mut Builder, Value, &[usize], bool) -> Result<Value, TypeError>;

/// The axes are an attribute before version `operand_since`, an operand from then on; none means all of them.
fn reduce_node(cx: &mut Walk, node: &Node, operand_since: i64, build: Reduction) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let given = if node.opset() < operand_since {
        node.optional_ints("axes")?.map(<[i64]>::to_vec)
    } else {
        cx.optional_ints(node, 1)?
    };
    let keep = node.flag("keepdims", true)?;
    let noop = node.opset() >= operand_since && node.flag("noop_with_empty_axes", false)?;
    let rank = cx.b.shape(x).len();
    let over = match given.filter(|a| !a.is_empty()) {
        Some(given) => axes(rank, &given)?,
        None if noop => return Ok(x),
        None => (0..rank).collect(),
    };
    Ok(build(&mut cx.b, x, &over, keep)?)
}

fn l1(b: &mut Builder, x: Value, axes: &[usize], keep: bool) -> Result<Value, TypeError> {
    let sizes = b.abs(x)?;
    reduce::sum(b, sizes, axes, keep)
}

fn l2(b: &mut Builder, x: Value, axes: &[usize], keep: bool) -> Result<Value, TypeError> {
    let total = sum_square(b, x, axes, keep)?;
    b.sqrt(total)
}

fn log_sum(b: &mut Builder, x: Value, axes: &[usize], keep: bool) -> Result<Value, TypeError> {
    let total = reduce::sum(b, x, axes, keep)?;
    b.log(total)
}

/// log Σ exp(x − m) + m with the largest element m, which does not overflow.
fn log_sum_exp(b: &mut Builder, x: Value, axes: &[usize], keep: bool) -> Result<Value, TypeError> {
    let largest = reduce::max(b, x, axes, true)?;
    let largest = b.stop_gradient(largest)?;
    let shifted = b.sub(x, largest)?;
    let powers = b.exp(shifted)?;
    let total = log_sum(b, powers, axes, keep)?;
    let shape = b.shape(total).to_vec();
    let largest = b.reshape(largest, &shape)?;
    b.add(total, largest)
}

fn sum_square(b: &mut Builder, x: Value, axes: &[usize], keep: bool) -> Result<Value, TypeError> {
    let squares = b.mul(x, x)?;
    reduce::sum(b, squares, axes, keep)
}
