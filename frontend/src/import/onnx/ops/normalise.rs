//! Normalisations, softmax and dropout.

use super::Rule::{self, Many, One};
use super::{Fault, Node, Walk, axes, axis, require, sizes};
use crate::import::onnx::node::Slot;
use crate::layers::{normalise, reduce};
use crate::model::BatchNorm;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("BatchNormalization", Many(batch_norm)),
    ("Dropout", Many(dropout)),
    ("GroupNormalization", One(group_norm)),
    ("InstanceNormalization", One(instance_norm)),
    ("LayerNormalization", Many(layer_norm)),
    ("LogSoftmax", One(|cx, node| softmax(cx, node, normalise::log_softmax))),
    ("LpNormalization", One(lp_norm)),
    ("RMSNormalization", One(rms_norm)),
    ("Softmax", One(|cx, node| softmax(cx, node, normalise::softmax))),
];

const FROZEN_NOTE: &str = "batch normalisation uses the running statistics in training too, as the file says \
                           (PyTorch's dynamo exporter writes it so even in training mode); \
                           `\"batch_norm\": \"train\"` in the recipe trains with the batch's own statistics";

/// Batch statistics when the file says so (results beyond the first or, since version 14, `training_mode`) or the
/// recipe does; inference always uses the running statistics.
fn batch_norm(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    if node.opset() < 9 {
        node.only_int("spatial", 1)?;
    }
    let eps = node.float("epsilon", 1e-5)?;
    // the operator's momentum is the weight of the old statistic, PyTorch's that of the new one
    let momentum = 1.0 - node.float("momentum", 0.9)?;
    let file_trains = if node.opset() < 14 { node.output_count() > 1 } else { node.flag("training_mode", false)? };
    let forced = cx.options.batch_norm == BatchNorm::Train;
    let [x, gamma, beta, mean, var] = [0, 1, 2, 3, 4].map(|at| node.input(at));
    let (x, gamma, beta, mean, var) = (x?, gamma?, beta?, mean?, var?);
    if !cx.training() || !(file_trains || forced) {
        if cx.training() {
            cx.note(FROZEN_NOTE);
        }
        let y = normalise::batch_norm_infer(&mut cx.b, x, gamma, beta, mean, var, eps)?;
        return Ok([y, mean, var, mean, var].map(Slot::from).to_vec());
    }
    let (old_mean, old_var) = (cx.latest(mean)?, cx.latest(var)?);
    let y = normalise::batch_norm_train(&mut cx.b, x, gamma, beta, old_mean, old_var, momentum, eps)?;
    let new_var = if forced { y.running_var } else { biased_running_variance(&mut cx.b, x, old_var, momentum)? };
    cx.update(mean, y.running_mean)?;
    cx.update(var, new_var)?;
    Ok([y.y, y.running_mean, new_var].map(Slot::from).to_vec())
}

/// ONNX's definition takes the batch's population variance where PyTorch's takes the unbiased estimate.
fn biased_running_variance(b: &mut Builder, x: Value, old: Value, momentum: f64) -> Result<Value, TypeError> {
    let over: Vec<usize> = (0..b.shape(x).len()).filter(|&d| d != 1).collect();
    let batch = reduce::variance(b, x, &over, 0, false)?;
    let (old, new) = (b.scale(old, 1.0 - momentum)?, b.scale(batch, momentum)?);
    b.add(old, new)
}

/// The identity in inference mode and with ratio 0; training with another ratio is refused.
fn dropout(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let x = node.input(0)?;
    let (ratio, file_trains) = if node.opset() < 12 {
        (node.float("ratio", 0.5)?, true)
    } else {
        node.optional_int("seed")?;
        let ratio = cx.optional_number(node, 1)?.unwrap_or(0.5);
        (ratio, cx.optional_number(node, 2)?.unwrap_or(0.0) != 0.0)
    };
    // before version 12 the file does not say which mode it was written for: without a mask it is inference
    let file_trains = file_trains && (node.opset() >= 12 || !node.output(1).is_empty());
    if cx.training() && file_trains && ratio != 0.0 {
        return Err(Fault::unsupported("dropout in training mode is not supported")
            .expected("ratio 0, or inference mode")
            .found(format!("ratio {}", ratio as f32))
            .help("export the model with `p=0`"));
    }
    let mask = TensorType::new(DType::Bool, cx.b.shape(x).to_vec());
    Ok(vec![x.into(), cx.b.splat(&mask, 1.0)?.into()])
}

type AxisFunction = fn(&mut Builder, Value, usize) -> Result<Value, TypeError>;

/// Along one axis since version 13 (the last by default); before, along all axes from `axis` (1 by default) as one.
fn softmax(cx: &mut Walk, node: &Node, build: AxisFunction) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let shape = cx.b.shape(x).to_vec();
    if node.opset() >= 13 {
        let along = axis(shape.len(), node.int("axis", -1)?)?;
        return Ok(build(&mut cx.b, x, along)?);
    }
    let from = axis(shape.len(), node.int("axis", 1)?)?;
    let flat = cx.b.reshape(x, &[shape[..from].iter().product(), shape[from..].iter().product()])?;
    let y = build(&mut cx.b, flat, 1)?;
    Ok(cx.b.reshape(y, &shape)?)
}

/// Number of axes from `axis` to the last.
fn trailing(cx: &Walk, node: &Node) -> Result<usize, Fault> {
    let rank = cx.b.shape(node.input(0)?).len();
    Ok(rank - axis(rank, node.int("axis", -1)?)?)
}

/// Scale and shift broadcast to the normalised axes.
fn trailing_operand(cx: &mut Walk, node: &Node, at: usize, count: usize) -> Result<Option<Value>, Fault> {
    let Some(value) = node.optional(at)? else { return Ok(None) };
    let shape = cx.b.shape(node.input(0)?).to_vec();
    Ok(Some(cx.b.broadcast_to(value, &shape[shape.len() - count..])?))
}

/// The normalised operand, its mean, and the inverse of its standard deviation.
fn layer_norm(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    node.only_int("stash_type", 1)?;
    let (x, count, eps) = (node.input(0)?, trailing(cx, node)?, node.float("epsilon", 1e-5)?);
    let gamma = trailing_operand(cx, node, 1, count)?;
    let beta = trailing_operand(cx, node, 2, count)?;
    let b = &mut cx.b;
    let y = normalise::layer_norm(b, x, gamma, beta, count, eps)?;
    if node.output_count() == 1 {
        return Ok(vec![y.into()]);
    }
    let rank = b.shape(x).len();
    let over: Vec<usize> = (rank - count..rank).collect();
    let (mean, variance) = (reduce::mean(b, x, &over, true)?, reduce::variance(b, x, &over, 0, true)?);
    let eps = b.full_like(variance, eps)?;
    let shifted = b.add(variance, eps)?;
    Ok(vec![y.into(), mean.into(), b.rsqrt(shifted)?.into()])
}

fn rms_norm(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    node.only_int("stash_type", 1)?;
    let (x, count, eps) = (node.input(0)?, trailing(cx, node)?, node.float("epsilon", 1e-5)?);
    let gamma = trailing_operand(cx, node, 1, count)?;
    Ok(normalise::rms_norm(&mut cx.b, x, gamma, count, eps)?)
}

/// Scale and shift are per group before version 21, per channel since.
fn group_norm(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    node.only_int("stash_type", 1)?;
    let (x, eps) = (node.input(0)?, node.float("epsilon", 1e-5)?);
    let groups = sizes(&[node.int("num_groups", 0)?])?[0];
    let channels = *cx.b.shape(x).get(1).ok_or_else(|| TypeError::new("groups need [N, C, …]"))?;
    let (mut gamma, mut beta) = (node.input(1)?, node.input(2)?);
    if node.opset() < 21 {
        gamma = per_channel(&mut cx.b, gamma, groups, channels)?;
        beta = per_channel(&mut cx.b, beta, groups, channels)?;
    }
    Ok(normalise::group_norm(&mut cx.b, x, Some(gamma), Some(beta), groups, eps)?)
}

/// `[groups]` repeated to `[channels]`.
fn per_channel(b: &mut Builder, value: Value, groups: usize, channels: usize) -> Result<Value, Fault> {
    let divides = groups > 0 && channels.is_multiple_of(groups);
    require(divides, "the groups must divide the channels", format!("a divisor of {channels}"), groups)?;
    let repeated = b.broadcast(value, &[groups, channels / groups], &[0])?;
    Ok(b.reshape(repeated, &[channels])?)
}

/// Group normalisation with a channel per group.
fn instance_norm(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, gamma, beta) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let channels = cx.b.shape(x).get(1).copied().unwrap_or_default();
    let eps = node.float("epsilon", 1e-5)?;
    Ok(normalise::group_norm(&mut cx.b, x, Some(gamma), Some(beta), channels, eps)?)
}

/// x over its 1- or 2-norm along an axis; zero where the norm is.
fn lp_norm(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let over = axes(cx.b.shape(x).len(), &[node.int("axis", -1)?])?;
    let p = node.int("p", 2)?;
    require(p == 1 || p == 2, "only the 1- and 2-norm are defined", "1 or 2", p)?;
    let b = &mut cx.b;
    let terms = if p == 1 { b.abs(x)? } else { b.mul(x, x)? };
    let total = reduce::sum(b, terms, &over, true)?;
    let norm = if p == 1 { total } else { b.sqrt(total)? };
    let (zero, one) = (b.full_like(norm, 0.0)?, b.full_like(norm, 1.0)?);
    let vanishes = b.compare(CompareFn::Eq, norm, zero)?;
    let divisor = b.select(vanishes, one, norm)?;
    Ok(b.div(x, divisor)?)
}
