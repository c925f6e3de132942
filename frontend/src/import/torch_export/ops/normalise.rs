//! Softmax and normalisations.

use super::super::call::{Call, unsupported};
use super::super::fault::Fault;
use crate::layers::activation::clamp;
use crate::layers::{normalise as layers, reduce};
use gradc_ir::graph::Value;
use gradc_ir::types::TensorType;

/// The operand in the recorded dtype, and its axis.
fn along(call: &mut Call) -> Result<(Value, usize), Fault> {
    if call.args.contains_key("half_to_float") {
        call.require_bool("half_to_float", false)?;
    }
    let (x, dtype) = (call.tensor("self")?, call.dtype()?);
    let axis = call.axis("dim", call.b.shape(x).len())?;
    Ok((call.b.cast(x, dtype)?, axis))
}

pub fn softmax(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis) = along(call)?;
    Ok(layers::softmax(call.b, x, axis)?)
}

/// As softmax, and 0 where all elements are −∞.
pub fn safe_softmax(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis) = along(call)?;
    Ok(layers::safe_softmax(call.b, x, axis)?)
}

pub fn log_softmax(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis) = along(call)?;
    Ok(layers::log_softmax(call.b, x, axis)?)
}

/// Number of trailing axes that `normalized_shape` names.
fn normalised_axes(call: &Call, x: Value) -> Result<usize, Fault> {
    let normalised = call.ints("normalized_shape")?;
    let shape = call.b.shape(x);
    let trailing = shape.len().checked_sub(normalised.len()).map(|start| &shape[start..]);
    let fits = trailing.is_some_and(|t| t.iter().zip(&normalised).all(|(&t, &n)| usize::try_from(n) == Ok(t)));
    if fits && !normalised.is_empty() {
        return Ok(normalised.len());
    }
    Err(Fault::new("invalid-argument", "`normalized_shape` is not how the operand's shape ends")
        .expected(format!("{shape:?}"))
        .found(format!("{normalised:?}")))
}

pub fn layer_norm(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("input")?;
    let (gamma, beta) = (call.optional_tensor("weight")?, call.optional_tensor("bias")?);
    let (axes, eps) = (normalised_axes(call, x)?, call.float("eps")?);
    Ok(layers::layer_norm(call.b, x, gamma, beta, axes, eps)?)
}

/// (y, mean, 1/σ)
pub fn native_layer_norm(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let y = layer_norm(call)?;
    let x = call.tensor("input")?;
    let rank = call.b.shape(x).len();
    let axes: Vec<usize> = (rank - normalised_axes(call, x)?..rank).collect();
    let mean = reduce::mean(call.b, x, &axes, true)?;
    let var = reduce::variance(call.b, x, &axes, 0, true)?;
    let eps = call.float("eps")?;
    Ok(vec![y, mean, inverse_deviation(call, var, eps)?])
}

fn inverse_deviation(call: &mut Call, var: Value, eps: f64) -> Result<Value, Fault> {
    let eps = call.b.full_like(var, eps)?;
    let sum = call.b.add(var, eps)?;
    Ok(call.b.rsqrt(sum)?)
}

pub fn rms_norm(call: &mut Call) -> Result<Value, Fault> {
    let (x, gamma) = (call.tensor("input")?, call.optional_tensor("weight")?);
    let axes = normalised_axes(call, x)?;
    // PyTorch's default is the machine epsilon of the operand's dtype.
    let eps = match (call.optional_float("eps")?, call.b.ty(x).dtype) {
        (Some(eps), _) => eps,
        (None, gradc_ir::types::DType::F32) => f64::from(f32::EPSILON),
        (None, _) => return Err(unsupported("eps", "a number, for operands that are not f32")),
    };
    Ok(layers::rms_norm(call.b, x, gamma, axes, eps)?)
}

pub fn group_norm(call: &mut Call) -> Result<Value, Fault> {
    let (x, groups, eps) = (call.tensor("input")?, call.count("num_groups")?, call.float("eps")?);
    let (gamma, beta) = (call.optional_tensor("weight")?, call.optional_tensor("bias")?);
    Ok(layers::group_norm(call.b, x, gamma, beta, groups, eps)?)
}

/// (y, mean, 1/σ) of every example and group.
pub fn native_group_norm(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, groups, eps) = (call.tensor("input")?, call.count("group")?, call.float("eps")?);
    let (gamma, beta) = (call.optional_tensor("weight")?, call.optional_tensor("bias")?);
    let y = layers::group_norm(call.b, x, gamma, beta, groups, eps)?;
    let (examples, elements) = (call.b.shape(x)[0], call.b.ty(x).elements());
    let grouped = call.b.reshape(x, &[examples, groups, elements / (examples * groups).max(1)])?;
    let (mean, var) = (reduce::mean(call.b, grouped, &[2], false)?, reduce::variance(call.b, grouped, &[2], 0, false)?);
    Ok(vec![y, mean, inverse_deviation(call, var, eps)?])
}

/// Statistics of every example and channel; running ones, where they are kept, are the mean over the examples.
pub fn instance_norm(call: &mut Call) -> Result<Value, Fault> {
    let (x, eps, momentum) = (call.tensor("input")?, call.float("eps")?, call.float("momentum")?);
    let (gamma, beta) = (call.optional_tensor("weight")?, call.optional_tensor("bias")?);
    let Running { tracked, mean, var } = running(call, x)?;
    if tracked && !(call.mode.training && call.bool("use_input_stats")?) {
        return Ok(layers::batch_norm_infer(call.b, x, gamma, beta, mean, var, eps)?);
    }
    let shape = call.b.shape(x).to_vec();
    let channels = shape.get(1).copied().unwrap_or_default();
    let y = layers::group_norm(call.b, x, gamma, beta, channels, eps)?;
    if tracked {
        let axes: Vec<usize> = (2..shape.len()).collect();
        let own = [reduce::mean(call.b, x, &axes, false)?, reduce::variance(call.b, x, &axes, 1, false)?];
        for (name, old, own) in [("running_mean", mean, own[0]), ("running_var", var, own[1])] {
            let new = reduce::mean(call.b, own, &[0], false)?;
            let (old, new) = (call.b.scale(old, 1.0 - momentum)?, call.b.scale(new, momentum)?);
            let next = call.b.add(old, new)?;
            call.overwritten.push((name, next));
        }
    }
    Ok(y)
}

/// g · v / ‖v‖, norms of all axes but one (Salimans and Kingma, 2016).
pub fn weight_norm(call: &mut Call) -> Result<Value, Fault> {
    let (v, g) = (call.tensor("v")?, call.tensor("g")?);
    let rank = call.b.shape(v).len();
    let kept = if call.int("dim")? == -1 { None } else { Some(call.axis("dim", rank)?) };
    let axes: Vec<usize> = (0..rank).filter(|&d| Some(d) != kept).collect();
    let norm = reduce::norm(call.b, v, 2.0, &axes, true)?;
    let factor = call.b.div(g, norm)?;
    Ok(call.b.mul(v, factor)?)
}

/// x · y / (max(‖x‖, eps) · max(‖y‖, eps)) along an axis.
pub fn cosine_similarity(call: &mut Call) -> Result<Value, Fault> {
    let (x, y, eps) = (call.tensor("x1")?, call.tensor("x2")?, call.float("eps")?);
    let (x, y) = call.b.broadcast_pair(x, y)?;
    let axis = call.axis("dim", call.b.shape(x).len())?;
    let b = &mut *call.b;
    let mut unit = |v: Value| -> Result<Value, Fault> {
        let norm = reduce::norm(b, v, 2.0, &[axis], true)?;
        let norm = clamp(b, norm, Some(eps), None)?;
        Ok(b.div(v, norm)?)
    };
    let (x, y) = (unit(x)?, unit(y)?);
    let product = b.mul(x, y)?;
    Ok(reduce::sum(b, product, &[axis], false)?)
}

/// Running statistics of a batch norm; without any, zeros and ones that nobody reads.
struct Running {
    tracked: bool,
    mean: Value,
    var: Value,
}

fn running(call: &mut Call, x: Value) -> Result<Running, Fault> {
    if let (Some(mean), Some(var)) = (call.optional_tensor("running_mean")?, call.optional_tensor("running_var")?) {
        return Ok(Running { tracked: true, mean, var });
    }
    let ty = call.b.ty(x);
    let channels = ty.shape.get(1).copied().unwrap_or_default();
    let ty = TensorType::new(ty.dtype, [channels]);
    Ok(Running { tracked: false, mean: call.b.splat(&ty, 0.0)?, var: call.b.splat(&ty, 1.0)? })
}

/// (y, next running mean, next running variance)
fn batch_norm_all(call: &mut Call) -> Result<(Value, [Value; 2], bool), Fault> {
    let x = call.tensor("input")?;
    let (gamma, beta) = (call.optional_tensor("weight")?, call.optional_tensor("bias")?);
    let (momentum, eps) = (call.float("momentum")?, call.float("eps")?);
    let running = running(call, x)?;
    let training = call.mode.training && (call.bool("training")? || call.mode.force_batch_norm);
    if training || !running.tracked {
        let out = layers::batch_norm_train(call.b, x, gamma, beta, running.mean, running.var, momentum, eps)?;
        return Ok((out.y, [out.running_mean, out.running_var], running.tracked));
    }
    let y = layers::batch_norm_infer(call.b, x, gamma, beta, running.mean, running.var, eps)?;
    Ok((y, [running.mean, running.var], false))
}

/// Overwrites the running statistics when it computes batch statistics.
pub fn batch_norm(call: &mut Call) -> Result<Value, Fault> {
    let (y, [mean, var], updates) = batch_norm_all(call)?;
    if updates {
        call.overwritten.extend([("running_mean", mean), ("running_var", var)]);
    }
    Ok(y)
}

/// (y, batch mean, batch 1/σ, next running mean, next running variance)
pub fn batch_norm_functional(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (y, [mean, var], _) = batch_norm_all(call)?;
    let x = call.tensor("input")?;
    let axes: Vec<usize> = (0..call.b.shape(x).len()).filter(|&d| d != 1).collect();
    let batch_mean = reduce::mean(call.b, x, &axes, false)?;
    let batch_var = reduce::variance(call.b, x, &axes, 0, false)?;
    let eps = call.float("eps")?;
    Ok(vec![y, batch_mean, inverse_deviation(call, batch_var, eps)?, mean, var])
}

/// (y, batch mean, batch 1/σ) of a batch norm without running statistics.
pub fn batch_norm_no_stats(call: &mut Call) -> Result<Vec<Value>, Fault> {
    call.require_bool("training", true)?;
    let mut all = batch_norm_functional(call)?;
    all.truncate(3);
    Ok(all)
}
