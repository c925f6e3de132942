//! Constants, and shapes as values.

use super::Rule::{self, One};
use super::{Fault, Node, Walk, axis, require, sizes};
use crate::import::onnx::tensors::dtype;
use crate::layers::offset;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType, TypeError};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("Constant", One(constant)),
    ("ConstantOfShape", One(constant_of_shape)),
    ("EyeLike", One(eye_like)),
    ("Identity", One(|_, node| node.input(0))),
    ("Range", One(range)),
    ("Shape", One(shape)),
    ("Size", One(size)),
];

fn constant(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let tensor = if let Some(proto) = node.optional_tensor("value")? {
        cx.tensor_attribute(proto)?
    } else if let Some(value) = node.optional_int("value_int")? {
        HostTensor::from_i64([], &[value])?
    } else if let Some(values) = node.optional_ints("value_ints")? {
        HostTensor::from_i64([values.len()], values)?
    } else if let Some(value) = node.optional_float("value_float")? {
        HostTensor::from_f32([], &[value as f32])?
    } else if let Some(values) = node.optional_floats("value_floats")? {
        HostTensor::from_f32([values.len()], values)?
    } else {
        return Err(Fault::unsupported("a constant must be a dense tensor or numbers"));
    };
    cx.constant(node, tensor)
}

fn constant_of_shape(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let shape = sizes(&cx.ints(node, 0)?)?;
    let value = match node.optional_tensor("value")? {
        Some(proto) => cx.tensor_attribute(proto)?,
        None => HostTensor::from_f32([1], &[0.0])?,
    };
    require(value.ty().elements() == 1, "`value` must hold one element", "one element", value.ty())?;
    let ty = TensorType::checked(value.ty().dtype, shape)?;
    let scalar = cx.constant(node, value.reshaped([])?)?;
    Ok(cx.b.broadcast_to(scalar, &ty.shape)?)
}

/// Ones on a diagonal of a matrix shaped like the operand.
fn eye_like(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let ty = cx.b.ty(node.input(0)?).clone();
    require(ty.rank() == 2, "the operand must be a matrix", "two axes", &ty)?;
    let number = node.optional_int("dtype")?.and_then(|number| i32::try_from(number).ok());
    let to = number.map_or(Ok(ty.dtype), dtype)?;
    let diagonal = node.int("k", 0)?;
    let b = &mut cx.b;
    let (row, column) = (b.iota(DType::I64, &ty.shape, 0)?, b.iota(DType::I64, &ty.shape, 1)?);
    let shifted = offset(b, row, diagonal as f64)?;
    let hit = b.compare(CompareFn::Eq, column, shifted)?;
    Ok(b.cast(hit, to)?)
}

/// `start`, `start` + `delta`, … below `limit`; all three known.
fn range(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let dtype = cx.b.ty(node.input(0)?).dtype;
    let mut number = |at| Ok::<f64, Fault>(cx.optional_number(node, at)?.unwrap_or_default());
    let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
    node.input(2)?;
    require(delta != 0.0 && delta.is_finite(), "`delta` must not be 0", "a finite step", delta)?;
    let count = ((limit - start) / delta).ceil().max(0.0);
    let ty = TensorType::checked(dtype, [count as usize])?;
    let b = &mut cx.b;
    let index = b.iota(dtype, &ty.shape, 0)?;
    let scaled = if delta == 1.0 { index } else { b.scale(index, delta)? };
    let first = b.splat(&ty, start)?;
    Ok(if start == 0.0 { scaled } else { b.add(scaled, first)? })
}

/// Extents `start..end` of the operand; before version 15 all of them.
fn shape(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let extents = cx.b.shape(node.input(0)?).to_vec();
    let rank = extents.len();
    let place =
        |at: i64| axis(rank + 1, if at < 0 { at.saturating_add(rank as i64).max(0) } else { at.min(rank as i64) });
    let (start, end) = (place(node.int("start", 0)?)?, place(node.int("end", rank as i64)?)?);
    let picked: Vec<i64> = extents.get(start..end).unwrap_or_default().iter().map(|&d| d as i64).collect();
    cx.int_constant(node, &[picked.len()], &picked)
}

fn size(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let elements = cx.b.ty(node.input(0)?).elements();
    let elements = i64::try_from(elements).map_err(|_| TypeError::new("too many elements"))?;
    let scalar = TensorType::new(DType::I64, []);
    Ok(cx.b.splat(&scalar, elements as f64)?)
}
