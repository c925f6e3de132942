//! Products and convolutions.

use super::Rule::{self, Binary, One};
use super::window::Window;
use super::{Fault, Node, Walk, require, sizes};
use crate::layers::linear::{ConvSpec, conv, matmul};
use gradc_ir::graph::Value;
use gradc_ir::ops::ConvolutionInputGrad;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] =
    &[("Conv", One(convolution)), ("ConvTranspose", One(transposed)), ("Gemm", One(gemm)), ("MatMul", Binary(matmul))];

/// α · A′ · B′ + β · C, where A′ and B′ may be transposed and C broadcasts.
fn gemm(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (a, w) = (node.input(0)?, node.input(1)?);
    let matrices = cx.b.shape(a).len() == 2 && cx.b.shape(w).len() == 2;
    let found = format!("{} and {}", cx.b.ty(a), cx.b.ty(w));
    require(matrices, "`Gemm` multiplies matrices", "two axes each", found)?;
    let contracted = [usize::from(!node.flag("transA", false)?), usize::from(node.flag("transB", false)?)];
    let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
    let b = &mut cx.b;
    let mut y = b.dot_general(a, w, [&[], &[]], [&contracted[..1], &contracted[1..]])?;
    if alpha != 1.0 {
        y = b.scale(y, alpha)?;
    }
    let Some(c) = node.optional(2)? else { return Ok(y) };
    let c = if beta == 1.0 { c } else { b.scale(c, beta)? };
    let shape = b.shape(y).to_vec();
    let c = b.broadcast_to(c, &shape)?;
    Ok(b.add(y, c)?)
}

/// Operand, weight, and bias unless it is left out or known to be zero (the dynamo exporter writes zeros for none).
fn operands(cx: &mut Walk, node: &Node) -> Result<(Value, Value, Option<Value>), Fault> {
    let (x, w) = (node.input(0)?, node.input(1)?);
    let (x_rank, w_rank) = (cx.b.shape(x).len(), cx.b.shape(w).len());
    let fits = x_rank >= 3 && x_rank == w_rank;
    let found = format!("{} and {}", cx.b.ty(x), cx.b.ty(w));
    require(fits, "a convolution needs an operand and a weight of one rank", "[N, C, S…] and [O, C, K…]", found)?;
    let bias = node.optional(2)?.filter(|&bias| !is_zero(cx, bias));
    Ok((x, w, bias))
}

fn is_zero(cx: &mut Walk, value: Value) -> bool {
    let float = cx.b.ty(value).dtype.is_float();
    float && cx.known(value).is_some_and(|t| t.floats().iter().all(|&v| v == 0.0))
}

fn groups(node: &Node) -> Result<usize, Fault> {
    Ok(sizes(&[node.int("group", 1)?])?[0])
}

fn convolution(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, w, bias) = operands(cx, node)?;
    let Window { stride, dilation, pad_low, pad_high, .. } =
        Window::read(node, &cx.b.shape(x)[2..], Some(&cx.b.shape(w)[2..]))?;
    let spec = ConvSpec { stride, pad_low, pad_high, dilation, groups: groups(node)? };
    Ok(conv(&mut cx.b, x, w, bias, &spec)?)
}

/// The adjoint of a convolution in its input: `x` is `[N, O, S…]`, `w` is `[O, C/groups, K…]`, the result `[N, C, …]`.
fn transposed(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    node.only("auto_pad", "NOTSET")?;
    let (x, w, bias) = operands(cx, node)?;
    let spatial = cx.b.shape(x)[2..].to_vec();
    let window = Window::read(node, &spatial, Some(&cx.b.shape(w)[2..]))?;
    let more = node.optional_ints("output_padding")?.map_or(Ok(vec![0; spatial.len()]), sizes)?;
    require(more.len() == spatial.len(), "`output_padding` does not fit the operand", spatial.len(), more.len())?;
    let extent = |d: usize| {
        let travelled = spatial[d].checked_sub(1)?.checked_mul(window.stride[d])?;
        let covered = travelled.checked_add(window.reach(d))?.checked_add(more[d])?;
        covered.checked_sub(window.pad_low[d])?.checked_sub(window.pad_high[d])
    };
    let input = (0..spatial.len()).map(extent).collect::<Option<Vec<_>>>();
    let input = input.ok_or_else(|| TypeError::new("the result of the convolution would be empty"))?;
    if let Some(stated) = node.optional_ints("output_shape")? {
        require(
            sizes(stated)? == input,
            "`output_shape` must follow from the pads",
            format!("{input:?}"),
            format!("{stated:?}"),
        )?;
    }
    let Window { stride, dilation, pad_low, pad_high, .. } = window;
    let op = ConvolutionInputGrad { stride, pad_low, pad_high, dilation, groups: groups(node)?, input };
    let y = cx.b.convolution_input_grad(x, w, op)?;
    let Some(bias) = bias else { return Ok(y) };
    let shape = cx.b.shape(y).to_vec();
    let bias = cx.b.broadcast(bias, &shape, &[1])?;
    Ok(cx.b.add(y, bias)?)
}
