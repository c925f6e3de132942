//! Activation functions.

use super::Rule::{self, One, Unary};
use super::{Fault, Node, Walk};
use crate::layers::activation;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("Celu", One(celu)),
    ("Elu", One(elu)),
    ("Gelu", One(gelu)),
    ("HardSigmoid", One(hard_sigmoid)),
    ("HardSwish", Unary(activation::hardswish)),
    ("LeakyRelu", One(leaky_relu)),
    ("Mish", Unary(mish)),
    ("PRelu", One(prelu)),
    ("Relu", Unary(activation::relu)),
    ("Selu", One(selu)),
    ("Sigmoid", Unary(Builder::logistic)),
    ("Softplus", Unary(activation::softplus)),
    ("Softsign", Unary(softsign)),
    ("Swish", One(swish)),
    ("ThresholdedRelu", One(thresholded_relu)),
];

fn elu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    Ok(activation::elu(&mut cx.b, node.input(0)?, node.float("alpha", 1.0)?)?)
}

/// α · elu(x / α) with slope 1.
fn celu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, alpha) = (node.input(0)?, node.float("alpha", 1.0)?);
    let scaled = cx.b.scale(x, 1.0 / alpha)?;
    let y = activation::elu(&mut cx.b, scaled, 1.0)?;
    Ok(cx.b.scale(y, alpha)?)
}

fn selu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let y = activation::elu(&mut cx.b, node.input(0)?, node.float("alpha", 1.673_263_2)?)?;
    Ok(cx.b.scale(y, node.float("gamma", 1.050_701)?)?)
}

fn gelu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    match node.string("approximate", "none")? {
        "none" => Ok(activation::gelu_erf(&mut cx.b, x)?),
        "tanh" => Ok(activation::gelu_tanh(&mut cx.b, x)?),
        other => Err(Fault::unsupported("unknown approximation of `Gelu`").expected("none or tanh").found(other)),
    }
}

/// max(0, min(1, α · x + β))
fn hard_sigmoid(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let scaled = cx.b.scale(node.input(0)?, node.float("alpha", 0.2)?)?;
    let beta = cx.b.full_like(scaled, node.float("beta", 0.5)?)?;
    let line = cx.b.add(scaled, beta)?;
    Ok(activation::clamp(&mut cx.b, line, Some(0.0), Some(1.0))?)
}

fn leaky_relu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    Ok(activation::leaky_relu(&mut cx.b, node.input(0)?, node.float("alpha", 0.01)?)?)
}

/// x · tanh(softplus(x))
fn mish(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let soft = activation::softplus(b, x)?;
    let gate = b.tanh(soft)?;
    b.mul(x, gate)
}

/// x where positive, else slope · x; the slope broadcasts to x.
fn prelu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, slope) = (node.input(0)?, node.input(1)?);
    let b = &mut cx.b;
    let shape = b.shape(x).to_vec();
    let slope = b.broadcast_to(slope, &shape)?;
    let (zero, scaled) = (b.full_like(x, 0.0)?, b.mul(x, slope)?);
    let positive = b.compare(CompareFn::Gt, x, zero)?;
    Ok(b.select(positive, x, scaled)?)
}

/// x / (1 + |x|)
fn softsign(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (one, size) = (b.full_like(x, 1.0)?, b.abs(x)?);
    let denominator = b.add(one, size)?;
    b.div(x, denominator)
}

/// x · sigmoid(α · x)
fn swish(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, alpha) = (node.input(0)?, node.float("alpha", 1.0)?);
    let scaled = if alpha == 1.0 { x } else { cx.b.scale(x, alpha)? };
    let gate = cx.b.logistic(scaled)?;
    Ok(cx.b.mul(x, gate)?)
}

/// x where above α, else 0.
fn thresholded_relu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, alpha) = (node.input(0)?, node.float("alpha", 1.0)?);
    let (threshold, zero) = (cx.b.full_like(x, alpha)?, cx.b.full_like(x, 0.0)?);
    let above = cx.b.compare(CompareFn::Gt, x, threshold)?;
    Ok(cx.b.select(above, x, zero)?)
}
