//! The layers that a model file can name, one row each.

use super::call::Call;
use crate::layers::activation::*;
use crate::layers::attention::scaled_dot_product_attention;
use crate::layers::linear::{ConvSpec, conv, embedding, linear, matmul};
use crate::layers::normalise::*;
use crate::layers::pool::{PoolSpec, adaptive_avg_pool, avg_pool, max_pool};
use crate::layers::recurrent::{GruSpec, LstmSpec, gru, lstm};
use crate::layers::reduce::{self, variance};
use crate::layers::shape::{expand, flatten, split, squeeze, unsqueeze};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

pub(super) type Results = Result<Vec<Value>, TypeError>;
/// Builds a node and returns its results.
pub(super) type Layer = fn(&mut Call) -> Results;
type Unary = fn(&mut Builder, Value) -> Result<Value, TypeError>;
type Binary = fn(&mut Builder, Value, Value) -> Result<Value, TypeError>;
type Reduction = fn(&mut Builder, Value, &[usize], bool) -> Result<Value, TypeError>;
type Norm = fn(&mut Builder, Value, Option<Value>, Option<Value>, usize, f64) -> Result<Value, TypeError>;

/// Name in the file, and how the node is built.
pub(super) const LAYERS: &[(&str, Layer)] = &[
    ("adaptive_avg_pool", adaptive_avg_pool_node),
    ("add", |c| binary(c, Builder::add)),
    ("attention", attention_node),
    ("avg_pool", avg_pool_node),
    ("batch_norm", batch_norm_node),
    ("clamp", clamp_node),
    ("conv", conv_node),
    ("conv1d", conv_node),
    ("conv2d", conv_node),
    ("div", |c| binary(c, Builder::div)),
    ("elu", |c| with_number(c, "alpha", 1.0, elu)),
    ("embedding", |c| binary(c, embedding)),
    ("expand", expand_node),
    ("flatten", flatten_node),
    ("gelu", gelu_node),
    ("group_norm", |c| norm(c, "groups", None, group_norm)),
    ("gru", gru_node),
    ("hardsigmoid", |c| unary(c, hardsigmoid)),
    ("hardswish", |c| unary(c, hardswish)),
    ("layer_norm", |c| norm(c, "axes", Some(1), layer_norm)),
    ("leaky_relu", |c| with_number(c, "slope", 0.01, leaky_relu)),
    ("linear", linear_node),
    ("log_softmax", |c| along_axis(c, log_softmax)),
    ("lstm", lstm_node),
    ("matmul", |c| binary(c, matmul)),
    ("max", |c| reduction(c, reduce::max)),
    ("max_pool", max_pool_node),
    ("maximum", |c| binary(c, Builder::maximum)),
    ("mean", |c| reduction(c, reduce::mean)),
    ("min", |c| reduction(c, reduce::min)),
    ("minimum", |c| binary(c, Builder::minimum)),
    ("mul", |c| binary(c, Builder::mul)),
    ("pow", |c| binary(c, Builder::pow)),
    ("prod", |c| reduction(c, reduce::prod)),
    ("relu", |c| unary(c, relu)),
    ("relu6", |c| unary(c, relu6)),
    ("reshape", reshape_node),
    ("rms_norm", rms_norm_node),
    ("scale", scale_node),
    ("sigmoid", |c| unary(c, Builder::logistic)),
    ("silu", |c| unary(c, silu)),
    ("softmax", |c| along_axis(c, softmax)),
    ("softplus", |c| unary(c, softplus)),
    ("split", split_node),
    ("squeeze", squeeze_node),
    ("sub", |c| binary(c, Builder::sub)),
    ("sum", |c| reduction(c, reduce::sum)),
    ("unsqueeze", unsqueeze_node),
    ("variance", variance_node),
];

fn one(value: Result<Value, TypeError>) -> Results {
    value.map(|v| vec![v])
}

fn rank(c: &Call, x: Value) -> usize {
    c.b.shape(x).len()
}

fn unary(c: &mut Call, f: Unary) -> Results {
    let [x] = c.take()?;
    one(f(c.b, x))
}

fn binary(c: &mut Call, f: Binary) -> Results {
    let [x, y] = c.take()?;
    one(f(c.b, x, y))
}

fn with_number(
    c: &mut Call,
    name: &str,
    default: f64,
    f: fn(&mut Builder, Value, f64) -> Result<Value, TypeError>,
) -> Results {
    let [x] = c.take()?;
    let number = c.attr_or(name, default)?;
    one(f(c.b, x, number))
}

fn along_axis(c: &mut Call, f: fn(&mut Builder, Value, usize) -> Result<Value, TypeError>) -> Results {
    let [x] = c.take()?;
    let axis = c.axis("axis", -1, rank(c, x))?;
    one(f(c.b, x, axis))
}

fn reduction(c: &mut Call, f: Reduction) -> Results {
    let [x] = c.take()?;
    let (axes, keepdim) = (c.axes("axes", rank(c, x))?, c.attr_or("keepdim", false)?);
    one(f(c.b, x, &axes, keepdim))
}

fn variance_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let (axes, keepdim) = (c.axes("axes", rank(c, x))?, c.attr_or("keepdim", false)?);
    let correction = c.attr_or("correction", 1)?;
    one(variance(c.b, x, &axes, correction, keepdim))
}

/// A normalisation with optional scale and shift, a count of its own, and `eps`.
fn norm(c: &mut Call, count: &str, default: Option<usize>, f: Norm) -> Results {
    let ([x], [gamma, beta]) = c.take_with()?;
    let count = match default {
        Some(default) => c.attr_or(count, default)?,
        None => c.attr(count)?,
    };
    let eps = c.attr_or("eps", 1e-5)?;
    one(f(c.b, x, gamma, beta, count, eps))
}

fn rms_norm_node(c: &mut Call) -> Results {
    let ([x], [gamma]) = c.take_with()?;
    let (axes, eps) = (c.attr_or("axes", 1)?, c.attr_or("eps", 1e-6)?);
    one(rms_norm(c.b, x, gamma, axes, eps))
}

fn batch_norm_node(c: &mut Call) -> Results {
    let [x, gamma, beta, mean, var] = c.take()?;
    let (momentum, eps) = (c.attr_or("momentum", 0.1)?, c.attr_or("eps", 1e-5)?);
    if !c.training {
        return one(batch_norm_infer(c.b, x, gamma, beta, mean, var, eps));
    }
    let out = batch_norm_train(c.b, x, gamma, beta, mean, var, momentum, eps)?;
    c.update(mean, out.running_mean)?;
    c.update(var, out.running_var)?;
    Ok(vec![out.y])
}

fn linear_node(c: &mut Call) -> Results {
    let ([x, w], [bias]) = c.take_with()?;
    one(linear(c.b, x, w, bias))
}

/// `padding` on both sides, or `pad_low` and `pad_high`.
fn padding(c: &mut Call, axes: usize) -> Result<[Vec<usize>; 2], TypeError> {
    if c.attrs.contains_key("padding") {
        let both = c.spatial("padding", None, axes)?;
        return Ok([both.clone(), both]);
    }
    Ok([c.spatial("pad_low", Some(0), axes)?, c.spatial("pad_high", Some(0), axes)?])
}

fn conv_node(c: &mut Call) -> Results {
    let ([x, w], [bias]) = c.take_with()?;
    let axes = c.spatial_axes(x);
    let [pad_low, pad_high] = padding(c, axes)?;
    let (stride, dilation) = (c.spatial("stride", Some(1), axes)?, c.spatial("dilation", Some(1), axes)?);
    let spec = ConvSpec { stride, pad_low, pad_high, dilation, groups: c.attr_or("groups", 1)? };
    one(conv(c.b, x, w, bias, &spec))
}

fn pool_spec(c: &mut Call, x: Value) -> Result<PoolSpec, TypeError> {
    let axes = c.spatial_axes(x);
    let window = c.spatial("window", None, axes)?;
    let [pad_low, pad_high] = padding(c, axes)?;
    let stride = if c.attrs.contains_key("stride") { c.spatial("stride", None, axes)? } else { window.clone() };
    Ok(PoolSpec { window, stride, pad_low, pad_high, dilation: c.spatial("dilation", Some(1), axes)? })
}

fn max_pool_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let spec = pool_spec(c, x)?;
    one(max_pool(c.b, x, &spec))
}

fn avg_pool_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let (spec, count_include_pad) = (pool_spec(c, x)?, c.attr_or("count_include_pad", true)?);
    one(avg_pool(c.b, x, &spec, count_include_pad))
}

fn adaptive_avg_pool_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let output = c.spatial("output", None, c.spatial_axes(x))?;
    one(adaptive_avg_pool(c.b, x, &output))
}

fn gelu_node(c: &mut Call) -> Results {
    let approximate: String = c.attr_or("approximate", "none".into())?;
    match approximate.as_str() {
        "none" => unary(c, gelu_erf),
        "tanh" => unary(c, gelu_tanh),
        other => Err(TypeError::new("unknown approximation of GELU").expected("`none` or `tanh`").found(other)),
    }
}

fn clamp_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let (lo, hi) = (c.optional("min")?, c.optional("max")?);
    one(clamp(c.b, x, lo, hi))
}

fn scale_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let factor = c.attr("factor")?;
    one(c.b.scale(x, factor))
}

fn reshape_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let shape: Vec<i64> = c.attr("shape")?;
    let shape = inferred_shape(c.b.ty(x).elements(), &shape)?;
    one(c.b.reshape(x, &shape))
}

/// A shape in which at most one −1 stands for what is left of `elements`.
fn inferred_shape(elements: usize, shape: &[i64]) -> Result<Vec<usize>, TypeError> {
    let error = || {
        TypeError::new("the shape does not fit")
            .expected(format!("{elements} elements, at most one -1"))
            .found(format!("{shape:?}"))
    };
    let mut known = shape.iter().filter(|&&d| d != -1).map(|&d| usize::try_from(d).ok());
    let known = known.try_fold(1usize, |n, d| n.checked_mul(d?)).ok_or_else(error)?;
    let free = shape.iter().filter(|&&d| d == -1).count();
    if free > 1 || (free == 1 && (known == 0 || !elements.is_multiple_of(known))) {
        return Err(error());
    }
    Ok(shape.iter().map(|&d| if d == -1 { elements / known } else { d as usize }).collect())
}

fn flatten_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let rank = rank(c, x);
    let (start, end) = (c.axis("start", 1, rank)?, c.axis("end", -1, rank)?);
    one(flatten(c.b, x, start, end))
}

fn squeeze_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let axes = c.axes("axes", rank(c, x))?;
    one(squeeze(c.b, x, &axes))
}

fn unsqueeze_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let axes: Vec<usize> = c.attr("axes")?;
    one(unsqueeze(c.b, x, &axes))
}

fn expand_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let shape: Vec<usize> = c.attr("shape")?;
    one(expand(c.b, x, &shape))
}

fn split_node(c: &mut Call) -> Results {
    let [x] = c.take()?;
    let (axis, size) = (c.axis("axis", -1, rank(c, x))?, c.attr("size")?);
    split(c.b, x, axis, size)
}

fn attention_node(c: &mut Call) -> Results {
    let ([q, k, v], [mask]) = c.take_with()?;
    let (is_causal, scale) = (c.attr_or("is_causal", false)?, c.optional("scale")?);
    one(scaled_dot_product_attention(c.b, q, k, v, mask, is_causal, scale))
}

fn lstm_node(c: &mut Call) -> Results {
    let ([x, h0, c0, w_ih, w_hh], [b_ih, b_hh]) = c.take_with()?;
    let reverse = c.attr_or("reverse", false)?;
    let (y, h, cell) = lstm(c.b, &LstmSpec { x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse })?;
    Ok(vec![y, h, cell])
}

fn gru_node(c: &mut Call) -> Results {
    let ([x, h0, w_ih, w_hh], [b_ih, b_hh]) = c.take_with()?;
    let reverse = c.attr_or("reverse", false)?;
    let (y, h) = gru(c.b, &GruSpec { x, h0, w_ih, w_hh, b_ih, b_hh, reverse })?;
    Ok(vec![y, h])
}
