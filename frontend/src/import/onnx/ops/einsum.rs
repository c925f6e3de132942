//! `Einsum`.

use super::Rule::{self, One};
use super::{Fault, Node, Walk};
use crate::layers::einsum as layers;
use gradc_ir::graph::Value;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[("Einsum", One(einsum))];

/// Sums products over the labels that the result does not have, as `numpy.einsum` does.
fn einsum(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (equation, values) = (node.string("equation", "")?.to_string(), node.inputs()?);
    Ok(layers::einsum(&mut cx.b, &equation, &values)?)
}
