//! Losses inside the model.

use super::super::call::{Call, unsupported};
use super::super::fault::Fault;
use crate::layers::reduce::sum;
use crate::losses::{self, LossKind, LossOutput, TargetKind};
use gradc_ir::graph::Value;

/// `reduction` as ATen numbers it.
const MEAN: i64 = 1;

/// `reduction` as ATen numbers it.
const SUM: i64 = 2;

fn built(call: &mut Call, kind: &LossKind) -> Result<LossOutput, Fault> {
    let (prediction, target) = (call.tensor("self")?, call.tensor("target")?);
    Ok(losses::build(call.b, kind, prediction, Some(target))?)
}

/// A loss averaged over all elements, or their sum.
fn elementwise(call: &mut Call, kind: LossKind) -> Result<Value, Fault> {
    let mean = built(call, &kind)?.loss;
    let elements = call.b.ty(call.tensor("self")?).elements();
    match call.int("reduction")? {
        MEAN => Ok(mean),
        SUM => Ok(call.b.scale(mean, elements as f64)?),
        _ => Err(unsupported("reduction", "mean or sum")),
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

pub fn bce_with_logits(call: &mut Call) -> Result<Value, Fault> {
    call.require_none("weight")?;
    call.require_none("pos_weight")?;
    elementwise(call, LossKind::BceWithLogits {})
}

pub fn cross_entropy(call: &mut Call) -> Result<Value, Fault> {
    call.require_none("weight")?;
    if call.float("label_smoothing")? != 0.0 {
        return Err(unsupported("label_smoothing", 0));
    }
    let ignore_index = call.int("ignore_index")?;
    let loss = built(call, &LossKind::SoftmaxCrossEntropy { ignore_index, target_kind: TargetKind::Labels })?;
    match call.int("reduction")? {
        MEAN => Ok(loss.loss),
        SUM => Ok(sum(call.b, loss.per_example, &[0], false)?),
        _ => Err(unsupported("reduction", "mean or sum")),
    }
}
