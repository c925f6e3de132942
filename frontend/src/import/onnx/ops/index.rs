//! Operators with computed indices.

use super::Rule::{self, One};
use super::{Fault, Node, Walk, axis, require};
use gradc_ir::graph::{Role, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::Reverse;
use gradc_ir::types::{DType, TypeError, row_major_strides};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("ArgMax", One(|cx, node| arg_extreme(cx, node, false))),
    ("ArgMin", One(|cx, node| arg_extreme(cx, node, true))),
    ("Gather", One(gather)),
    ("GatherElements", One(gather_elements)),
    ("OneHot", One(one_hot)),
];

/// Indices in range of an axis of `extent`, negative ones counted from the back.
///
/// Known indices are checked. Those that a host hands in are left as they are: it is the session that refuses
/// negative ones.
fn indices(cx: &mut Walk, given: Value, extent: usize) -> Result<Value, Fault> {
    let ty = cx.b.ty(given).clone();
    let integer = matches!(ty.dtype, DType::I64 | DType::I32);
    require(integer, "indices must be integers", "i64 or i32", &ty)?;
    if let Some(known) = cx.known(given) {
        known.ints().iter().try_for_each(|&at| axis(extent, at).map(|_| ()))?;
        if known.ints().iter().all(|&at| at >= 0) {
            return Ok(given);
        }
    } else if cx.b.graph().input_of(given).is_some_and(|i| i.role == Role::Input) {
        return Ok(given);
    }
    let b = &mut cx.b;
    let (zero, extent) = (b.full_like(given, 0.0)?, b.full_like(given, extent as f64)?);
    let negative = b.compare(CompareFn::Lt, given, zero)?;
    let from_front = b.add(given, extent)?;
    Ok(b.select(negative, from_front, given)?)
}

/// `[A…, N, R…]` at `[I…]` along an axis: `[A…, I…, R…]`.
fn gather(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, given) = (node.input(0)?, node.input(1)?);
    let shape = cx.b.shape(x).to_vec();
    let along = axis(shape.len(), node.int("axis", 0)?)?;
    let picked = cx.b.shape(given).to_vec();
    if let Some(at) = single(cx, given) {
        let at = axis(shape[along], at)?;
        let part = cx.b.slice_axis(x, along, at, at + 1)?;
        return Ok(cx.b.reshape(part, &[&shape[..along], &picked, &shape[along + 1..]].concat())?);
    }
    let at = indices(cx, given, shape[along])?;
    let b = &mut cx.b;
    let to_front: Vec<usize> = std::iter::once(along).chain((0..shape.len()).filter(|&d| d != along)).collect();
    let moved = b.transpose(x, &to_front)?;
    let rows = b.gather(moved, at, 0)?;
    // [I…, A…, R…] back to [A…, I…, R…]
    let (count, rank) = (picked.len(), picked.len() + shape.len() - 1);
    let back: Vec<usize> = (count..count + along).chain(0..count).chain(count + along..rank).collect();
    Ok(b.transpose(rows, &back)?)
}

/// The index, when there is only one and it is known.
fn single(cx: &mut Walk, given: Value) -> Option<i64> {
    let ty = cx.b.ty(given);
    let one = ty.elements() == 1 && !ty.dtype.is_float();
    if one { cx.known(given).map(|t| t.ints()[0]) } else { None }
}

/// `y[i, j, …] = x[…, indices[i, j, …], …]` along an axis, by flat indices.
fn gather_elements(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, given) = (node.input(0)?, node.input(1)?);
    let along = axis(cx.b.shape(x).len(), node.int("axis", 0)?)?;
    elements(cx, x, given, along)
}

/// See [`gather_elements`].
pub fn elements(cx: &mut Walk, x: Value, given: Value, along: usize) -> Result<Value, Fault> {
    let (shape, picked) = (cx.b.shape(x).to_vec(), cx.b.shape(given).to_vec());
    let fits = picked.len() == shape.len() && (0..shape.len()).all(|d| d == along || picked[d] <= shape[d]);
    require(fits, "indices must fit the operand outside the axis", format!("{shape:?}"), format!("{picked:?}"))?;
    let at = indices(cx, given, shape[along])?;
    let b = &mut cx.b;
    let mut at = b.cast(at, DType::I64)?;
    let strides = row_major_strides(&shape);
    at = b.scale(at, strides[along] as f64)?;
    for d in (0..shape.len()).filter(|&d| d != along) {
        let place = b.iota(DType::I64, &picked, d)?;
        let place = b.scale(place, strides[d] as f64)?;
        at = b.add(at, place)?;
    }
    let flat = b.reshape(x, &[shape.iter().product()])?;
    Ok(b.gather(flat, at, 0)?)
}

/// `on` where the new axis has the index, else `off`; indices out of range give `off` everywhere.
fn one_hot(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let given = node.input(0)?;
    let depth = cx.optional_number(node, 1)?.filter(|d| *d >= 1.0 && *d <= 1e9);
    let depth = depth.ok_or_else(|| TypeError::new("the depth must be a positive number"))? as usize;
    let values = node.input(2)?;
    require(cx.b.shape(values) == [2], "`values` must be [off, on]", "[2]", cx.b.ty(values))?;
    let picked = cx.b.shape(given).to_vec();
    let along = axis(picked.len() + 1, node.int("axis", -1)?)?;
    let integers = cx.b.cast(given, DType::I64)?;
    let b = &mut cx.b;
    let (zero, extent) = (b.full_like(integers, 0.0)?, b.full_like(integers, depth as f64)?);
    let (negative, from_front) = (b.compare(CompareFn::Lt, integers, zero)?, b.add(integers, extent)?);
    let at = b.select(negative, from_front, integers)?;
    let mut shape = picked;
    shape.insert(along, depth);
    let others: Vec<usize> = (0..shape.len()).filter(|&d| d != along).collect();
    let (at, place) = (b.broadcast(at, &shape, &others)?, b.iota(DType::I64, &shape, along)?);
    let hit = b.compare(CompareFn::Eq, at, place)?;
    let (off, on) = (b.slice_axis(values, 0, 0, 1)?, b.slice_axis(values, 0, 1, 2)?);
    Ok(b.select(hit, on, off)?)
}

fn arg_extreme(cx: &mut Walk, node: &Node, least: bool) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let shape = cx.b.shape(x).to_vec();
    let along = axis(shape.len(), node.int("axis", 0)?)?;
    let b = &mut cx.b;
    let x = if least { b.neg(x)? } else { x };
    let found = if node.flag("select_last_index", false)? {
        let reversed = b.op(Reverse { axes: vec![along] }, &[x])?;
        let from_back = b.arg_max(reversed, along)?;
        let last = b.full_like(from_back, shape[along] as f64 - 1.0)?;
        b.sub(last, from_back)?
    } else {
        b.arg_max(x, along)?
    };
    if !node.flag("keepdims", true)? {
        return Ok(found);
    }
    let mut kept = shape;
    kept[along] = 1;
    Ok(cx.b.reshape(found, &kept)?)
}
