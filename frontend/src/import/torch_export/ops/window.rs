//! Convolutions and poolings of `[N, C, S…]`.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use crate::layers::linear::{self, ConvSpec};
use crate::layers::pool::{self, PoolSpec};
use crate::layers::shape::{squeeze, unsqueeze};
use gradc_ir::graph::Value;
use gradc_ir::ops::{ConvolutionInputGrad, MaxPool};

/// Number of spatial axes of a tensor with batch and channels.
fn spatial_axes(call: &Call, x: Value) -> Result<usize, Fault> {
    let shape = call.b.shape(x);
    shape.len().checked_sub(2).filter(|&axes| axes > 0).ok_or_else(|| {
        Fault::new("invalid-operands", "the operand needs a batch, channels and spatial axes")
            .expected("[N, C, S…]")
            .found(format!("{shape:?}"))
    })
}

/// Operands of a convolution: x, weight, bias.
fn conv_operands(call: &Call) -> Result<(Value, Value, Option<Value>), Fault> {
    Ok((call.tensor("input")?, call.tensor("weight")?, call.optional_tensor("bias")?))
}

/// A convolution; an operand without a batch is a batch of one.
pub fn conv(call: &mut Call) -> Result<Value, Fault> {
    let (x, w, bias) = conv_operands(call)?;
    let single = call.b.shape(x).len() + 1 == call.b.shape(w).len();
    let x = if single { unsqueeze(call.b, x, &[0])? } else { x };
    let y = batch_conv(call, x, w, bias)?;
    Ok(if single { squeeze(call.b, y, &[0])? } else { y })
}

fn batch_conv(call: &mut Call, x: Value, w: Value, bias: Option<Value>) -> Result<Value, Fault> {
    let axes = spatial_axes(call, x)?;
    let padding = call.per_axis("padding", axes)?;
    let spec = ConvSpec {
        stride: call.per_axis("stride", axes)?,
        pad_low: padding.clone(),
        pad_high: padding,
        dilation: call.per_axis("dilation", axes)?,
        groups: call.count("groups")?,
    };
    Ok(linear::conv(call.b, x, w, bias, &spec)?)
}

/// A convolution whose padding is a word: `valid` has none, `same` keeps the extents (the odd one goes behind).
pub fn conv_padding(call: &mut Call) -> Result<Value, Fault> {
    let (x, w, bias) = conv_operands(call)?;
    let axes = spatial_axes(call, x)?;
    let (stride, dilation) = (call.per_axis("stride", axes)?, call.per_axis("dilation", axes)?);
    let kernel = call.b.shape(w).get(2..).unwrap_or_default();
    let total: Vec<usize> = match call.text("padding")? {
        "valid" => vec![0; axes],
        "same" if stride.iter().all(|&s| s == 1) => {
            dilation.iter().zip(kernel).map(|(&d, &k)| d.saturating_mul(k.saturating_sub(1))).collect()
        }
        _ => return Err(unsupported("padding", "valid, or same with stride 1")),
    };
    let pad_low: Vec<usize> = total.iter().map(|t| t / 2).collect();
    let pad_high = total.iter().map(|t| t - t / 2).collect();
    let spec = ConvSpec { stride, pad_low, pad_high, dilation, groups: call.count("groups")? };
    Ok(linear::conv(call.b, x, w, bias, &spec)?)
}

/// The general form, which is either of the two.
pub fn convolution(call: &mut Call) -> Result<Value, Fault> {
    if call.bool("transposed")? { conv_transpose(call) } else { conv(call) }
}

/// The adjoint of the convolution with the same weight `[C, O/groups, K…]`.
pub fn conv_transpose(call: &mut Call) -> Result<Value, Fault> {
    let (x, w, bias) = conv_operands(call)?;
    let axes = spatial_axes(call, x)?;
    let [stride, padding, dilation, extra] =
        ["stride", "padding", "dilation", "output_padding"].map(|name| call.per_axis(name, axes));
    let (stride, padding, dilation, extra) = (stride?, padding?, dilation?, extra?);
    let (extents, kernel) = (&call.b.shape(x)[2..], call.b.shape(w).get(2..).unwrap_or_default());
    let output = |k: usize| {
        let first = extents[k].checked_sub(1)?.checked_mul(stride[k])?;
        let window = dilation[k].checked_mul(kernel.get(k)?.checked_sub(1)?)?;
        first.checked_add(window)?.checked_add(extra[k])?.checked_add(1)?.checked_sub(padding[k].checked_mul(2)?)
    };
    let input: Option<Vec<usize>> = (0..axes).map(output).collect();
    let input = input.ok_or_else(|| invalid("padding", "less than the output is wide", format!("{padding:?}")))?;
    let groups = call.count("groups")?;
    let op = ConvolutionInputGrad { stride, pad_low: padding.clone(), pad_high: padding, dilation, groups, input };
    let y = call.b.convolution_input_grad(x, w, op)?;
    let Some(bias) = bias else { return Ok(y) };
    let shape = call.b.shape(y).to_vec();
    let bias = call.b.broadcast(bias, &shape, &[1])?;
    Ok(call.b.add(y, bias)?)
}

/// The windows of a pooling; `ceil_mode` pads behind so that a last, partial window counts.
fn windows(call: &Call, x: Value) -> Result<PoolSpec, Fault> {
    let axes = spatial_axes(call, x)?;
    let window = call.per_axis("kernel_size", axes)?;
    let stride = if call.ints("stride")?.is_empty() { window.clone() } else { call.per_axis("stride", axes)? };
    let padding = call.per_axis("padding", axes)?;
    let has_dilation = call.args.contains_key("dilation");
    let dilation = if has_dilation { call.per_axis("dilation", axes)? } else { vec![1; axes] };
    let mut spec = PoolSpec { window, stride, pad_low: padding.clone(), pad_high: padding, dilation };
    if call.bool("ceil_mode")? {
        let extents = call.b.shape(x)[2..].to_vec();
        for k in 0..axes {
            let extra = partial_window(&spec, k, extents[k]);
            let extra =
                extra.ok_or_else(|| invalid("kernel_size", "a window inside the operand", format!("{extents:?}")))?;
            spec.pad_high[k] += extra;
        }
    }
    Ok(spec)
}

/// Padding that a last window needs behind an axis: 0 where it would begin in the padding.
fn partial_window(spec: &PoolSpec, axis: usize, extent: usize) -> Option<usize> {
    let (stride, pad) = (spec.stride[axis], spec.pad_low[axis]);
    let reach = spec.dilation[axis].checked_mul(spec.window[axis].checked_sub(1)?)?.checked_add(1)?;
    let room = pad.checked_mul(2)?.checked_add(extent)?.checked_sub(reach)?;
    let rest = room.checked_rem(stride)?;
    let begins = (room / stride + 1).checked_mul(stride)?;
    Some(if rest == 0 || begins >= extent + pad { 0 } else { stride - rest })
}

pub fn max_pool(call: &mut Call) -> Result<Value, Fault> {
    Ok(max_pool_with_indices(call)?[0])
}

/// (maxima, their indices in the plane)
pub fn max_pool_with_indices(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let x = call.tensor("self")?;
    let PoolSpec { window, stride, pad_low, pad_high, dilation } = windows(call, x)?;
    Ok(call.b.max_pool(x, MaxPool { window, stride, pad_low, pad_high, dilation })?.to_vec())
}

/// Means of windows. With `ceil_mode` a window counts no elements behind the padding.
pub fn avg_pool(call: &mut Call) -> Result<Value, Fault> {
    let (x, include) = (call.tensor("self")?, call.bool("count_include_pad")?);
    let spec = windows(call, x)?;
    let divisor = call.optional_float("divisor_override")?;
    if divisor == Some(0.0) {
        return Err(invalid("divisor_override", "a number other than 0", 0));
    }
    if divisor.is_none() && !(call.bool("ceil_mode")? && spec.pad_low != spec.pad_high) {
        return Ok(pool::avg_pool(call.b, x, &spec, include)?);
    }
    let sums = pool::sum_pool(call.b, x, &spec)?;
    match divisor {
        Some(divisor) => Ok(call.b.scale(sums, 1.0 / divisor)?),
        None => Ok(pool::divided_by_counts(call.b, sums, x, &spec, include)?),
    }
}

pub fn adaptive_avg_pool(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let output = call.per_axis("output_size", spatial_axes(call, x)?)?;
    Ok(pool::adaptive_avg_pool(call.b, x, &output)?)
}

/// (maxima of as many windows as asked for, their indices in the plane)
pub fn adaptive_max_pool(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let x = call.tensor("self")?;
    let axes = spatial_axes(call, x)?;
    let (extents, output) = (call.b.shape(x)[2..].to_vec(), call.per_axis("output_size", axes)?);
    if !extents.iter().zip(&output).all(|(e, &o)| o > 0 && e.is_multiple_of(o)) {
        return Err(unsupported("output_size", format!("divisors of {extents:?}")));
    }
    let window: Vec<usize> = extents.iter().zip(&output).map(|(e, o)| e / o).collect();
    let PoolSpec { window, stride, pad_low, pad_high, dilation } = PoolSpec::new(&window);
    Ok(call.b.max_pool(x, MaxPool { window, stride, pad_low, pad_high, dilation })?.to_vec())
}
