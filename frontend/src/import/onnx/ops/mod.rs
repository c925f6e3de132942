//! Rules: what each ONNX operator becomes. One table per family of operators.
//!
//! Definitions: <https://onnx.ai/onnx/operators/>. Where an operator changed between versions of the operator set,
//! its rule asks [`Node::opset`](super::node::Node::opset).

mod activation;
mod constant;
mod einsum;
mod elementwise;
mod index;
mod linear;
mod loss;
mod normalise;
mod pool;
mod recurrent;
mod reduce;
mod reshape;
mod resize;
mod sequence;
mod shape;
mod window;

use super::fault::Fault;
use super::node::{Node, Slot};
use super::proto::NodeProto;
use super::walk::Walk;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// How an operator is built.
#[derive(Clone, Copy)]
pub enum Rule {
    /// From one operand, without attributes.
    Unary(fn(&mut Builder, Value) -> Result<Value, TypeError>),
    /// From two operands, which broadcast, without attributes.
    Binary(fn(&mut Builder, Value, Value) -> Result<Value, TypeError>),
    /// From a whole node, with one result.
    One(fn(&mut Walk, &Node) -> Result<Value, Fault>),
    /// From a whole node, with any results.
    Many(fn(&mut Walk, &Node) -> Result<Vec<Slot>, Fault>),
}

/// Operators of one family, by name.
type Table = &'static [(&'static str, Rule)];

const TABLES: [Table; 14] = [
    activation::OPS,
    constant::OPS,
    einsum::OPS,
    elementwise::OPS,
    index::OPS,
    linear::OPS,
    loss::OPS,
    normalise::OPS,
    pool::OPS,
    recurrent::OPS,
    reduce::OPS,
    resize::OPS,
    sequence::OPS,
    shape::OPS,
];

/// The rule of a node's operator, or `None` when it is not supported.
pub fn rule(node: &NodeProto) -> Option<Rule> {
    let standard = super::is_standard(&node.domain);
    let named = || TABLES.into_iter().flatten().find(|(name, _)| *name == node.op_type);
    if standard { named().map(|(_, rule)| *rule) } else { None }
}

/// Names of all operators that have a rule.
pub fn names() -> Vec<&'static str> {
    TABLES.into_iter().flatten().map(|(name, _)| *name).collect()
}

/// An axis counted from the front, where negative ones count from the back.
fn axis(rank: usize, axis: i64) -> Result<usize, Fault> {
    let from_front = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = from_front.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
    found.ok_or_else(|| {
        TypeError::new("axis out of range").expected(format!("-{rank} to {rank} - 1")).found(axis).into()
    })
}

/// Distinct axes in ascending order, where negative ones count from the back.
fn axes(rank: usize, given: &[i64]) -> Result<Vec<usize>, Fault> {
    let mut found = given.iter().map(|&a| axis(rank, a)).collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    if found.windows(2).any(|w| w[0] == w[1]) {
        return Err(TypeError::new("an axis is named twice").found(format!("{given:?}")).into());
    }
    Ok(found)
}

/// Sizes that must not be negative.
fn sizes(given: &[i64]) -> Result<Vec<usize>, Fault> {
    let size = |&v: &i64| usize::try_from(v).map_err(|_| TypeError::new("a size is negative").found(v).into());
    given.iter().map(size).collect()
}

/// Fails unless `ok`.
fn require(
    ok: bool,
    message: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Result<(), Fault> {
    Ok(gradc_ir::op::require(ok, message, expected, found)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operator_has_one_rule() {
        let names = names();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(TABLES.into_iter().all(|t| t.is_sorted_by_key(|(name, _)| *name)), "tables are sorted by name");
    }
}
