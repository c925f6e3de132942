//! Operators with computed indices.

use super::Rule::{self, Many, One};
use super::{Fault, Node, Walk, axis, require};
use crate::import::onnx::node::Slot;
use crate::layers::scatter::{Combine, scatter_combine};
use crate::layers::{cumulative, indexing, shape};
use gradc_ir::graph::{Role, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::Reverse;
use gradc_ir::types::{DType, TypeError, row_major_strides};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("ArgMax", One(|cx, node| arg_extreme(cx, node, false))),
    ("ArgMin", One(|cx, node| arg_extreme(cx, node, true))),
    ("CumSum", One(cum_sum)),
    ("Gather", One(gather)),
    ("GatherElements", One(gather_elements)),
    ("GatherND", One(gather_nd)),
    ("OneHot", One(one_hot)),
    ("Scatter", One(scatter_elements)),
    ("ScatterElements", One(scatter_elements)),
    ("ScatterND", One(scatter_nd)),
    ("TopK", Many(top_k)),
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

/// Sums of what comes before along an axis, which is known.
fn cum_sum(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let &[along] = &cx.ints(node, 1)?[..] else {
        return Err(TypeError::new("the axis must be one number").found(cx.b.ty(node.input(1)?)).into());
    };
    let along = axis(cx.b.shape(x).len(), along)?;
    let (exclusive, reverse) = (node.flag("exclusive", false)?, node.flag("reverse", false)?);
    Ok(cumulative::cumulative_sum(&mut cx.b, x, along, exclusive, reverse)?)
}

/// (the k largest or smallest elements in order, their indices); in order whether asked to be or not.
fn top_k(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let x = node.input(0)?;
    let shape = cx.b.shape(x).to_vec();
    let along = axis(shape.len(), node.int("axis", -1)?)?;
    let (largest, _) = (node.flag("largest", true)?, node.flag("sorted", true)?);
    let given = cx.ints(node, 1)?;
    let k = given.first().and_then(|&k| usize::try_from(k).ok()).filter(|&k| k <= shape[along] && given.len() == 1);
    let expected = || TypeError::new("K must be one number of elements").expected(format!("at most {}", shape[along]));
    let k = k.ok_or_else(|| expected().found(format!("{given:?}")))?;
    let [values, places] = cx.b.sort_first(x, along, largest, k)?;
    Ok(vec![values.into(), places.into()])
}

/// Indices `[I…, count]` as `count` tensors `[I…]`, the k-th in range of axis `first + k` of a shape.
fn each_index(cx: &mut Walk, given: Value, of: &[usize], first: usize) -> Result<Vec<Value>, Fault> {
    let picked = cx.b.shape(given).to_vec();
    let (last, count) = match picked.split_last() {
        Some((&count, lead)) if count > 0 && first + count <= of.len() => (lead.len(), count),
        _ => {
            let error = TypeError::new("the indices do not fit the operand");
            return Err(error.expected(format!("[I…, at most {}]", of.len())).found(cx.b.ty(given)).into());
        }
    };
    let mut all = Vec::with_capacity(count);
    for k in 0..count {
        let part = cx.b.slice_axis(given, last, k, k + 1)?;
        let part = shape::squeeze(&mut cx.b, part, &[last])?;
        all.push(indices(cx, part, of[first + k])?);
    }
    Ok(all)
}

/// `y[b…, i…, r…] = x[b…, indices[b…, i…, :], r…]`: one axis after the other.
fn gather_nd(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, given) = (node.input(0)?, node.input(1)?);
    let batch = usize::try_from(node.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let of = cx.b.shape(x).to_vec();
    require(batch < of.len().max(1), "`batch_dims` must be less than the axes", of.len(), batch)?;
    let picked = cx.b.shape(given).len().saturating_sub(1);
    let mut y = x;
    for (k, index) in each_index(cx, given, &of, batch)?.into_iter().enumerate() {
        y = cx.b.gather(y, index, if k == 0 { batch } else { picked })?;
    }
    Ok(y)
}

/// How updates are combined with the data; `None` where they replace it.
fn reduction(node: &Node) -> Result<Option<Combine>, Fault> {
    match node.string("reduction", "none")? {
        "none" => Ok(None),
        "add" => Ok(Some(Combine::Sum)),
        "mul" => Ok(Some(Combine::Product)),
        "max" => Ok(Some(Combine::Max)),
        "min" => Ok(Some(Combine::Min)),
        other => Err(Fault::unsupported("unknown `reduction`").expected("none, add, mul, max or min").found(other)),
    }
}

/// `data` with `updates` at, or combined with what is at, `indices` of an axis; of several for one element the last
/// counts.
fn scatter_elements(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, given, updates) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let of = cx.b.shape(x).to_vec();
    let along = axis(of.len(), node.int("axis", 0)?)?;
    let at = indices(cx, given, of[along])?;
    match reduction(node)? {
        None => Ok(indexing::scatter_along(&mut cx.b, x, along, at, updates)?),
        Some(Combine::Sum) => Ok(indexing::scatter_add_along(&mut cx.b, x, along, at, updates)?),
        Some(combine) => Ok(scatter_combine(&mut cx.b, x, along, [at, updates], combine, true)?),
    }
}

/// `data` with slices `updates` at, or combined with what is at, `indices` `[I…, count]` of its first axes.
fn scatter_nd(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, given, updates) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let of = cx.b.shape(x).to_vec();
    let each = each_index(cx, given, &of, 0)?;
    let (first, rest) = of.split_at(each.len());
    let (rows, reduction) = (first.iter().product(), reduction(node)?);
    let b = &mut cx.b;
    let mut flat: Option<Value> = None;
    for (&index, &extent) in each.iter().zip(first) {
        let index = b.cast(index, DType::I64)?;
        let places = b.iota(DType::I64, &[extent], 0)?;
        // As an index of its own axis, so that its range is known.
        let index = b.gather(places, index, 0)?;
        flat = Some(match flat {
            None => index,
            Some(so_far) => {
                let scaled = b.scale(so_far, extent as f64)?;
                b.add(scaled, index)?
            }
        });
    }
    let flat = flat.ok_or_else(|| TypeError::new("indices are missing"))?;
    let count = b.ty(flat).elements();
    let flat = b.reshape(flat, &[count])?;
    let (base, updates) = (b.reshape(x, &[&[rows], rest].concat())?, b.reshape(updates, &[&[count], rest].concat())?);
    let written = match reduction {
        None => indexing::write_rows(b, base, flat, updates)?,
        Some(Combine::Sum) => b.scatter_add(base, flat, updates, 0)?,
        Some(combine) => {
            let whole = b.shape(updates).to_vec();
            let wide = b.broadcast(flat, &whole, &[0])?;
            scatter_combine(b, base, 0, [wide, updates], combine, true)?
        }
    };
    Ok(b.reshape(written, &of)?)
}
