//! Losses that a file computes itself.

use super::Rule::{self, Many, One};
use super::{Fault, Node, Walk, index, require};
use crate::import::onnx::node::Slot;
use crate::layers::normalise::log_softmax;
use crate::layers::reduce;
use crate::layers::shape::{squeeze, unsqueeze};
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::DType;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    (
        "NegativeLogLikelihoodLoss",
        One(|cx, node| {
            let log_probabilities = node.input(0)?;
            negative_log_likelihood(cx, node, log_probabilities)
        }),
    ),
    ("SoftmaxCrossEntropyLoss", Many(softmax_cross_entropy)),
];

/// The loss, and the log-probabilities it is computed from.
fn softmax_cross_entropy(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let scores = node.input(0)?;
    require(cx.b.shape(scores).len() >= 2, "scores must be [N, C, …]", "two axes or more", cx.b.ty(scores))?;
    let log_probabilities = log_softmax(&mut cx.b, scores, 1)?;
    let loss = negative_log_likelihood(cx, node, log_probabilities)?;
    Ok(vec![loss.into(), log_probabilities.into()])
}

/// −w[target] · log p[target] for log-probabilities `[N, C, …]` and targets `[N, …]`, reduced; the mean is over the
/// sum of the weights. Targets equal to `ignore_index` have weight 0.
fn negative_log_likelihood(cx: &mut Walk, node: &Node, log_probabilities: Value) -> Result<Value, Fault> {
    let target = cx.b.cast(node.input(1)?, DType::I64)?;
    let ty = cx.b.ty(log_probabilities).clone();
    require(ty.rank() >= 2, "scores must be [N, C, …]", "two axes or more", &ty)?;
    let expected = [&ty.shape[..1], &ty.shape[2..]].concat();
    require(cx.b.shape(target) == expected, "targets must be [N, …]", format!("{expected:?}"), cx.b.ty(target))?;
    let (counted, target) = counted(cx, node, target)?;
    let picked = unsqueeze(&mut cx.b, target, &[1])?;
    let picked = index::elements(cx, log_probabilities, picked, 1)?;
    let picked = squeeze(&mut cx.b, picked, &[1])?;
    let weight = weight(cx, node, target, counted, ty.dtype)?;
    let b = &mut cx.b;
    let weighted = weight.map_or(Ok(picked), |w| b.mul(picked, w))?;
    let loss = b.neg(weighted)?;
    let all: Vec<usize> = (0..expected.len()).collect();
    match node.string("reduction", "mean")? {
        "none" => Ok(loss),
        "sum" => Ok(reduce::sum(b, loss, &all, false)?),
        "mean" => match weight {
            None => Ok(reduce::mean(b, loss, &all, false)?),
            Some(weight) => {
                let (total, count) = (reduce::sum(b, loss, &all, false)?, reduce::sum(b, weight, &all, false)?);
                Ok(b.div(total, count)?)
            }
        },
        other => Err(Fault::unsupported("unknown reduction").expected("none, sum or mean").found(other)),
    }
}

/// Which targets count (`None`: all), and the targets with 0 in place of those that do not.
fn counted(cx: &mut Walk, node: &Node, target: Value) -> Result<(Option<Value>, Value), Fault> {
    let Some(ignored) = node.optional_int("ignore_index")? else { return Ok((None, target)) };
    let b = &mut cx.b;
    let (ignored, zero) = (b.full_like(target, ignored as f64)?, b.full_like(target, 0.0)?);
    let counted = b.compare(CompareFn::Ne, target, ignored)?;
    Ok((Some(counted), b.select(counted, target, zero)?))
}

/// Weight of every target, `None` when all are 1.
fn weight(
    cx: &mut Walk,
    node: &Node,
    target: Value,
    counted: Option<Value>,
    dtype: DType,
) -> Result<Option<Value>, Fault> {
    let by_class = node.optional(2)?;
    let b = &mut cx.b;
    let counted = counted.map(|c| b.cast(c, dtype)).transpose()?;
    let weight = by_class.map(|w| b.gather(w, target, 0)).transpose()?;
    Ok(match (weight, counted) {
        (Some(w), Some(c)) => Some(b.mul(w, c)?),
        (w, c) => w.or(c),
    })
}
