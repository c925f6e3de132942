//! Losses inside the model.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use super::reduce::distance;
use crate::layers::activation::{clamp, relu, softplus};
use crate::layers::normalise::log_softmax;
use crate::layers::reduce::sum;
use crate::layers::{offset, per_channel};
use crate::losses::{self, LossKind, LossOutput, TargetKind};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// `reduction` as ATen numbers it.
const NONE: i64 = 0;

/// `reduction` as ATen numbers it.
const MEAN: i64 = 1;

/// `reduction` as ATen numbers it.
const SUM: i64 = 2;

fn built(call: &mut Call, kind: &LossKind) -> Result<LossOutput, Fault> {
    let (prediction, target) = (call.tensor("self")?, call.tensor("target")?);
    Ok(losses::build(call.b, kind, prediction, Some(target))?)
}

/// Terms as they are, their mean or their sum.
fn reduced(call: &mut Call, terms: Value) -> Result<Value, Fault> {
    let ty = call.b.ty(terms).clone();
    let axes: Vec<usize> = (0..ty.rank()).collect();
    match call.int("reduction")? {
        NONE => Ok(terms),
        SUM => Ok(sum(call.b, terms, &axes, false)?),
        MEAN => {
            let total = sum(call.b, terms, &axes, false)?;
            Ok(call.b.scale(total, 1.0 / ty.elements() as f64)?)
        }
        other => Err(invalid("reduction", "0, 1 or 2", other)),
    }
}

/// A loss averaged over all elements, their sum, or its terms.
fn elementwise(call: &mut Call, kind: LossKind) -> Result<Value, Fault> {
    let (prediction, target) = (call.tensor("self")?, call.tensor("target")?);
    match call.int("reduction")? {
        MEAN => Ok(built(call, &kind)?.loss),
        _ => {
            let terms = losses::terms(call.b, &kind, prediction, target)?;
            reduced(call, terms)
        }
    }
}

pub fn mse(call: &mut Call) -> Result<Value, Fault> {
    elementwise(call, LossKind::Mse {})
}

pub fn l1(call: &mut Call) -> Result<Value, Fault> {
    elementwise(call, LossKind::L1 {})
}

pub fn huber(call: &mut Call) -> Result<Value, Fault> {
    let delta = call.float("delta")?;
    elementwise(call, LossKind::Huber { delta })
}

/// Huber's loss divided by its delta.
pub fn smooth_l1(call: &mut Call) -> Result<Value, Fault> {
    let beta = call.float("beta")?;
    if beta <= 0.0 {
        return elementwise(call, LossKind::L1 {});
    }
    let huber = elementwise(call, LossKind::Huber { delta: beta })?;
    Ok(call.b.scale(huber, 1.0 / beta)?)
}

/// (1 − t) x + (1 + (pos_weight − 1) t) ln(1 + e⁻ˣ), weighted.
pub fn bce_with_logits(call: &mut Call) -> Result<Value, Fault> {
    let (weight, positive) = (call.optional_tensor("weight")?, call.optional_tensor("pos_weight")?);
    if weight.is_none() && positive.is_none() {
        return elementwise(call, LossKind::BceWithLogits {});
    }
    let (x, t) = (call.tensor("self")?, call.tensor("target")?);
    let b = &mut *call.b;
    let negative = b.neg(x)?;
    let mut log = softplus(b, negative)?;
    if let Some(positive) = positive {
        let excess = offset(b, positive, -1.0)?;
        let share = b.mul(t, excess)?;
        let factor = offset(b, share, 1.0)?;
        log = b.mul(factor, log)?;
    }
    let product = b.mul(t, x)?;
    let rest = b.sub(x, product)?;
    let terms = b.add(rest, log)?;
    let terms = weight.map_or(Ok(terms), |weight| b.mul(terms, weight))?;
    reduced(call, terms)
}

/// −t ln p − (1 − t) ln(1 − p), logarithms at least −100, weighted.
pub fn bce(call: &mut Call) -> Result<Value, Fault> {
    let (p, t, weight) = (call.tensor("self")?, call.tensor("target")?, call.optional_tensor("weight")?);
    let b = &mut *call.b;
    let (yes, rest) = (bounded_log(b, p)?, one_minus(b, p)?);
    let (no, untrue) = (bounded_log(b, rest)?, one_minus(b, t)?);
    let (hit, miss) = (b.mul(t, yes)?, b.mul(untrue, no)?);
    let sum = b.add(hit, miss)?;
    let terms = b.neg(sum)?;
    let terms = weight.map_or(Ok(terms), |weight| b.mul(terms, weight))?;
    reduced(call, terms)
}

fn one_minus(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    offset(b, negative, 1.0)
}

/// ln p, and −100 without a gradient where p is not a normal positive number.
fn bounded_log(b: &mut Builder, p: Value) -> Result<Value, TypeError> {
    let (least, one) = (b.full_like(p, f64::from(f32::MIN_POSITIVE))?, b.full_like(p, 1.0)?);
    let none = b.compare(CompareFn::Lt, p, least)?;
    // The gradient of a logarithm that is not taken must be finite.
    let inside = b.select(none, one, p)?;
    let (log, floor) = (b.log(inside)?, b.full_like(p, -100.0)?);
    b.select(none, floor, log)
}

/// t (ln t − x), and 0 where t is; or eᵗ (t − x).
pub fn kl_div(call: &mut Call) -> Result<Value, Fault> {
    let (x, t, is_log) = (call.tensor("self")?, call.tensor("target")?, call.bool("log_target")?);
    let b = &mut *call.b;
    let terms = if is_log {
        let (share, difference) = (b.exp(t)?, b.sub(t, x)?);
        b.mul(share, difference)?
    } else {
        let entropy = x_log_x(b, t)?;
        let product = b.mul(t, x)?;
        b.sub(entropy, product)?
    };
    reduced(call, terms)
}

fn x_log_x(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (zero, one) = (b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
    let is_zero = b.compare(CompareFn::Eq, x, zero)?;
    let inside = b.select(is_zero, one, x)?;
    let log = b.log(inside)?;
    b.mul(x, log)
}

/// What cross entropy and likelihood are made of: terms shaped as labels, and what each counts in the mean.
struct Likelihood {
    terms: Value,
    counts: Value,
}

/// −w ln p of the labels, of logarithms `[N, C, …]` or `[C]`; with label smoothing a part of it for every class.
fn likelihood(call: &mut Call, logs: Value, axis: usize, smoothing: f64) -> Result<Likelihood, Fault> {
    let (labels, weight) = (call.tensor("target")?, call.optional_tensor("weight")?);
    let ignored = call.int("ignore_index")?;
    let b = &mut *call.b;
    let ty = b.ty(logs).clone();
    let expected: Vec<usize> = (0..ty.rank()).filter(|&d| d != axis).map(|d| ty.shape[d]).collect();
    if b.shape(labels) != expected || b.ty(labels).dtype.is_float() {
        let error = TypeError::new("the target does not fit the logits");
        return Err(error.expected(format!("labels {expected:?}")).found(b.ty(labels)).into());
    }
    let weights = match weight {
        Some(weight) => b.broadcast(weight, &ty.shape, &[axis])?,
        None => b.full_like(logs, 1.0)?,
    };
    let class = b.iota(DType::I64, &ty.shape, axis)?;
    let wide = b.cast(labels, DType::I64)?;
    let kept: Vec<usize> = (0..ty.rank()).filter(|&d| d != axis).collect();
    let spread = b.broadcast(wide, &ty.shape, &kept)?;
    let hit = b.compare(CompareFn::Eq, class, spread)?;
    let zero = b.full_like(logs, 0.0)?;
    let weighted = b.mul(weights, logs)?;
    let (picked, count) = (b.select(hit, weighted, zero)?, b.select(hit, weights, zero)?);
    let (mut log, count) = (sum(b, picked, &[axis], false)?, sum(b, count, &[axis], false)?);
    if smoothing != 0.0 {
        let all = sum(b, weighted, &[axis], false)?;
        let (own, all) = (b.scale(log, 1.0 - smoothing)?, b.scale(all, smoothing / ty.shape[axis] as f64)?);
        log = b.add(own, all)?;
    }
    let ignored = b.full_like(wide, ignored as f64)?;
    let counts = b.compare(CompareFn::Ne, wide, ignored)?;
    let (negative, none) = (b.neg(log)?, b.full_like(log, 0.0)?);
    Ok(Likelihood { terms: b.select(counts, negative, none)?, counts: b.select(counts, count, none)? })
}

/// Terms, their sum, or that divided by what they count.
fn reduced_likelihood(call: &mut Call, of: Likelihood) -> Result<[Value; 2], Fault> {
    let axes: Vec<usize> = (0..call.b.shape(of.terms).len()).collect();
    let total = sum(call.b, of.terms, &axes, false)?;
    let count = sum(call.b, of.counts, &axes, false)?;
    let loss = match call.int("reduction")? {
        NONE => of.terms,
        SUM => total,
        _ => call.b.div(total, count)?,
    };
    Ok([loss, count])
}

/// The axis of classes: the second, or the only one.
fn class_axis(call: &Call, x: Value) -> Result<usize, Fault> {
    match call.b.shape(x) {
        [] => Err(TypeError::new("a loss over classes needs their axis").found("a scalar").into()),
        [_] => Ok(0),
        _ => Ok(1),
    }
}

pub fn nll(call: &mut Call) -> Result<Value, Fault> {
    Ok(nll_forward(call)?[0])
}

/// (loss, total weight)
pub fn nll_forward(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let logs = call.tensor("self")?;
    let axis = class_axis(call, logs)?;
    let likelihood = likelihood(call, logs, axis, 0.0)?;
    Ok(reduced_likelihood(call, likelihood)?.to_vec())
}

pub fn cross_entropy(call: &mut Call) -> Result<Value, Fault> {
    let (x, target, smoothing) = (call.tensor("self")?, call.tensor("target")?, call.float("label_smoothing")?);
    let axis = class_axis(call, x)?;
    let is_plain = smoothing == 0.0 && call.is_none("weight") && axis == 1;
    if call.b.ty(target).dtype.is_float() {
        return against_probabilities(call, x, axis, smoothing);
    }
    let reduction = call.int("reduction")?;
    if !is_plain || reduction == NONE {
        let logs = log_softmax(call.b, x, axis)?;
        let likelihood = likelihood(call, logs, axis, smoothing)?;
        return Ok(reduced_likelihood(call, likelihood)?[0]);
    }
    let ignore_index = call.int("ignore_index")?;
    let loss = built(call, &LossKind::SoftmaxCrossEntropy { ignore_index, target_kind: TargetKind::Labels })?;
    if reduction == SUM { Ok(sum(call.b, loss.per_example, &[0], false)?) } else { Ok(loss.loss) }
}

/// −Σ w t' ln p over the classes, with t' = (1 − smoothing) t + smoothing / C; the mean counts every position alike.
fn against_probabilities(call: &mut Call, x: Value, axis: usize, smoothing: f64) -> Result<Value, Fault> {
    let (target, weight) = (call.tensor("target")?, call.optional_tensor("weight")?);
    let shape = call.b.shape(x).to_vec();
    let logs = log_softmax(call.b, x, axis)?;
    let b = &mut *call.b;
    let mut share = target;
    if smoothing != 0.0 {
        let scaled = b.scale(share, 1.0 - smoothing)?;
        share = offset(b, scaled, smoothing / shape[axis] as f64)?;
    }
    if let Some(weight) = weight {
        let weight = b.broadcast(weight, &shape, &[axis])?;
        share = b.mul(share, weight)?;
    }
    let product = b.mul(share, logs)?;
    let sums = sum(b, product, &[axis], false)?;
    let terms = b.neg(sums)?;
    reduced(call, terms)
}

/// max(0, margin − t (x₁ − x₂))
pub fn margin_ranking(call: &mut Call) -> Result<Value, Fault> {
    let (first, second, t) = (call.tensor("input1")?, call.tensor("input2")?, call.tensor("target")?);
    let margin = call.float("margin")?;
    let difference = call.b.sub(first, second)?;
    let product = call.b.mul(t, difference)?;
    let hinge = hinge(call.b, product, margin)?;
    reduced(call, hinge)
}

/// max(0, margin − x), with gradient where it is 0, as `clamp_min`.
fn hinge(b: &mut Builder, x: Value, margin: f64) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    let short = offset(b, negative, margin)?;
    clamp(b, short, Some(0.0), None)
}

/// x where t is 1, max(0, margin − x) where it is −1, else their sum.
pub fn hinge_embedding(call: &mut Call) -> Result<Value, Fault> {
    let (x, t, margin) = (call.tensor("self")?, call.tensor("target")?, call.float("margin")?);
    let far = hinge(call.b, x, margin)?;
    let (far, near) = (unless(call.b, t, 1.0, far)?, unless(call.b, t, -1.0, x)?);
    let terms = call.b.add(far, near)?;
    reduced(call, terms)
}

/// 0 where `t` is `value`, else x.
fn unless(b: &mut Builder, t: Value, value: f64, x: Value) -> Result<Value, TypeError> {
    let (value, zero) = (b.full_like(t, value)?, b.full_like(x, 0.0)?);
    let is = b.compare(CompareFn::Eq, t, value)?;
    b.select(is, zero, x)
}

/// 1 − cos of pairs whose t is 1, max(0, cos − margin) of those whose t is −1.
pub fn cosine_embedding(call: &mut Call) -> Result<Value, Fault> {
    let (x, y, t) = (call.tensor("input1")?, call.tensor("input2")?, call.tensor("target")?);
    let margin = call.float("margin")?;
    let b = &mut *call.b;
    let last = b.shape(x).len().saturating_sub(1);
    let mut along = |u: Value, v: Value| -> Result<Value, TypeError> {
        let product = b.mul(u, v)?;
        sum(b, product, &[last], false)
    };
    let (dot, xx, yy) = (along(x, y)?, along(x, x)?, along(y, y)?);
    const EPS: f64 = 1e-12;
    let (xx, yy) = (offset(b, xx, EPS)?, offset(b, yy, EPS)?);
    let squares = b.mul(xx, yy)?;
    let inverse = b.rsqrt(squares)?;
    let cos = b.mul(dot, inverse)?;
    let alike = one_minus(b, cos)?;
    let shifted = offset(b, cos, -margin)?;
    let apart = clamp(b, shifted, Some(0.0), None)?;
    let zero = b.full_like(cos, 0.0)?;
    let mut where_ = |value: f64, x: Value| -> Result<Value, TypeError> {
        let value = b.full_like(t, value)?;
        let is = b.compare(CompareFn::Eq, t, value)?;
        b.select(is, x, zero)
    };
    let (alike, apart) = (where_(1.0, alike)?, where_(-1.0, apart)?);
    let terms = call.b.add(alike, apart)?;
    reduced(call, terms)
}

/// max(0, d(anchor, positive) − d(anchor, negative) + margin)
pub fn triplet_margin(call: &mut Call) -> Result<Value, Fault> {
    let [a, p, n] = [call.tensor("anchor")?, call.tensor("positive")?, call.tensor("negative")?];
    let (margin, order, eps) = (call.float("margin")?, call.float("p")?, call.float("eps")?);
    let near = distance(call.b, a, p, order, eps, false)?;
    let mut far = distance(call.b, a, n, order, eps, false)?;
    if call.bool("swap")? {
        let other = distance(call.b, p, n, order, eps, false)?;
        far = call.b.minimum(far, other)?;
    }
    let ahead = call.b.sub(far, near)?;
    let terms = hinge(call.b, ahead, margin)?;
    reduced(call, terms)
}

/// ln(1 + e⁻ᵗˣ)
pub fn soft_margin(call: &mut Call) -> Result<Value, Fault> {
    let (x, t) = (call.tensor("self")?, call.tensor("target")?);
    let product = call.b.mul(t, x)?;
    let negative = call.b.neg(product)?;
    let terms = softplus(call.b, negative)?;
    reduced(call, terms)
}

/// eˣ − t x, or x − t ln(x + eps).
pub fn poisson_nll(call: &mut Call) -> Result<Value, Fault> {
    call.require_bool("full", false)?;
    let (x, t, eps) = (call.tensor("input")?, call.tensor("target")?, call.float("eps")?);
    let is_log = call.bool("log_input")?;
    let b = &mut *call.b;
    let (rate, log) = if is_log {
        (b.exp(x)?, x)
    } else {
        let shifted = offset(b, x, eps)?;
        (x, b.log(shifted)?)
    };
    let product = b.mul(t, log)?;
    let terms = b.sub(rate, product)?;
    reduced(call, terms)
}

/// Σ max(0, margin − x_label + x_c)ᵖ / C over the other classes c.
pub fn multi_margin(call: &mut Call) -> Result<Value, Fault> {
    let (x, labels, weight) = (call.tensor("self")?, call.tensor("target")?, call.optional_tensor("weight")?);
    let (power, margin) = (call.float("p")?, call.float("margin")?);
    let &[_, classes] = call.b.shape(x) else { return Err(unsupported("self", "[N, C]")) };
    if power != 1.0 && power != 2.0 {
        return Err(unsupported("p", "1 or 2"));
    }
    let b = &mut *call.b;
    let hit = crate::layers::indexing::hits(b, labels, classes)?;
    let zero = b.full_like(x, 0.0)?;
    let own = b.select(hit, x, zero)?;
    let own = sum(b, own, &[1], true)?;
    let ahead = b.sub(x, own)?;
    let short = offset(b, ahead, margin)?;
    let mut terms = relu(b, short)?;
    if power == 2.0 {
        terms = b.mul(terms, terms)?;
    }
    if let Some(weight) = weight {
        let weight = per_channel(b, weight, x)?;
        let own = b.select(hit, weight, zero)?;
        let own = sum(b, own, &[1], true)?;
        terms = b.mul(terms, own)?;
    }
    let others = b.select(hit, zero, terms)?;
    let sums = sum(b, others, &[1], false)?;
    let terms = b.scale(sums, 1.0 / classes as f64)?;
    reduced(call, terms)
}
