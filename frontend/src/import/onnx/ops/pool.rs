//! Pooling.

use super::Rule::{self, Many, One};
use super::window::Window;
use super::{Fault, Node, Walk, require};
use crate::import::onnx::node::Slot;
use crate::layers::pool::{PoolSpec, avg_pool};
use crate::layers::reduce;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::ops::MaxPool;
use gradc_ir::types::{DType, TypeError};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("AveragePool", One(average_pool)),
    ("GlobalAveragePool", Rule::Unary(|b, x| global(b, x, reduce::mean))),
    ("GlobalMaxPool", Rule::Unary(|b, x| global(b, x, reduce::max))),
    ("MaxPool", Many(max_pool)),
];

type Reduction = fn(&mut Builder, Value, &[usize], bool) -> Result<Value, TypeError>;

/// Reduces every plane of `[N, C, S…]` to one element.
fn global(b: &mut Builder, x: Value, reduction: Reduction) -> Result<Value, TypeError> {
    let spatial: Vec<usize> = (2..b.shape(x).len()).collect();
    reduction(b, x, &spatial, true)
}

/// The operand `[N, C, S…]` and its windows.
fn windows(cx: &Walk, node: &Node) -> Result<(Value, Vec<usize>, Window), Fault> {
    let x = node.input(0)?;
    let spatial = cx.b.shape(x).get(2..).unwrap_or_default().to_vec();
    require(!spatial.is_empty(), "pooling needs spatial axes", "[N, C, S…]", cx.b.ty(x))?;
    let window = Window::read(node, &spatial, None)?;
    Ok((x, spatial, window))
}

fn max_pool(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    node.only_int("storage_order", 0)?;
    let (x, spatial, mut window) = windows(cx, node)?;
    if node.flag("ceil_mode", false)? {
        window.round_up(&spatial);
    }
    let Window { kernel, stride, dilation, pad_low, pad_high } = window;
    let [y, indices] = cx.b.max_pool(x, MaxPool { window: kernel, stride, pad_low, pad_high, dilation })?;
    if node.output(1).is_empty() {
        return Ok(vec![y.into()]);
    }
    // ONNX counts indices through the whole tensor, the op within one plane
    let b = &mut cx.b;
    let shape = b.shape(indices).to_vec();
    let plane = spatial.iter().product::<usize>() as f64;
    let (n, c) = (b.iota(DType::I64, &shape, 0)?, b.iota(DType::I64, &shape, 1)?);
    let image = b.scale(n, shape[1] as f64)?;
    let image = b.add(image, c)?;
    let first = b.scale(image, plane)?;
    Ok(vec![y.into(), b.add(indices, first)?.into()])
}

fn average_pool(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, spatial, mut window) = windows(cx, node)?;
    let include_pad = node.flag("count_include_pad", false)?;
    if node.flag("ceil_mode", false)? {
        let added = window.round_up(&spatial);
        let exact = !include_pad || added.iter().all(|&n| n == 0);
        require(
            exact,
            "`ceil_mode` with `count_include_pad` is not supported here",
            "windows that fit",
            "a partial window",
        )?;
    }
    let Window { kernel, stride, dilation, pad_low, pad_high } = window;
    let spec = PoolSpec { window: kernel, stride, pad_low, pad_high, dilation };
    Ok(avg_pool(&mut cx.b, x, &spec, include_pad)?)
}
