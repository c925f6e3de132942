//! Views, cuts and joins.

use super::super::call::{Call, invalid, normal_axis};
use super::super::fault::Fault;
use super::super::memory::View;
use super::super::resize::infer_missing;
use crate::layers::shape as layers;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType};

/// Most pieces that an op may be put together from.
pub const MOST_PIECES: usize = 1 << 12;

/// `self` under a literal shape, which follows the batch of this import.
fn reshape_to(call: &mut Call, literal: &[i64], current: bool) -> Result<Value, Fault> {
    let operand = call.operand("self")?.clone();
    let new = call.b.shape(operand.value).to_vec();
    let target = if current { infer_missing(literal, &new)? } else { call.resize.view(&operand.old, &new, literal)? };
    Ok(call.b.reshape(operand.value, &target)?)
}

pub fn view(call: &mut Call) -> Result<Value, Fault> {
    let (size, current) = (call.ints("size")?, call.is_current("size"));
    reshape_to(call, &size, current)
}

pub fn reshape(call: &mut Call) -> Result<Value, Fault> {
    let (shape, current) = (call.ints("shape")?, call.is_current("shape"));
    reshape_to(call, &shape, current)
}

pub fn view_as(call: &mut Call) -> Result<Value, Fault> {
    let (x, shape) = (call.tensor("self")?, call.b.shape(call.tensor("other")?).to_vec());
    Ok(call.b.reshape(x, &shape)?)
}

/// Joins the axes from `start_dim` to `end_dim`.
pub fn flatten(call: &mut Call) -> Result<Value, Fault> {
    let old = call.operand("self")?.old.clone();
    let (start, end) = (call.axis("start_dim", old.len())?, call.axis("end_dim", old.len())?);
    if start > end {
        return Err(invalid("end_dim", &format!("an axis from {start}"), end));
    }
    let end = (end + 1).min(old.len());
    let joined = old[start.min(end)..end].iter().product();
    let literal: Vec<i64> =
        [&old[..start.min(end)], &[joined], &old[end..]].concat().into_iter().map(|d| d as i64).collect();
    reshape_to(call, &literal, false)
}

pub fn unflatten(call: &mut Call) -> Result<Value, Fault> {
    let (operand, current) = (call.operand("self")?.clone(), call.is_current("sizes"));
    let shape = if current { call.b.shape(operand.value).to_vec() } else { operand.old };
    let axis = call.axis("dim", shape.len())?;
    let extent = shape.get(axis..=axis).ok_or_else(|| invalid("dim", "an axis; the operand is a scalar", axis))?;
    let sizes = infer_missing(&call.ints("sizes")?, extent)?;
    let target = [&shape[..axis], &sizes, &shape[axis + 1..]].concat();
    let literal: Vec<i64> = target.into_iter().map(|d| d as i64).collect();
    reshape_to(call, &literal, current)
}

/// Drops axes of extent 1: those of `dim` that have it, or all.
pub fn squeeze(call: &mut Call) -> Result<Value, Fault> {
    let operand = call.operand("self")?.clone();
    let axes = call.axes("dim", operand.old.len())?;
    let units: Vec<usize> = axes.into_iter().filter(|&d| operand.old[d] == 1).collect();
    for &d in &units {
        call.resize.unchanged(1, call.b.shape(operand.value)[d])?;
    }
    Ok(layers::squeeze(call.b, operand.value, &units)?)
}

pub fn unsqueeze(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let axis = call.axis("dim", call.b.shape(x).len() + 1)?;
    Ok(layers::unsqueeze(call.b, x, &[axis])?)
}

pub fn reverse_axes(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let perm: Vec<usize> = (0..call.b.shape(x).len()).rev().collect();
    Ok(call.b.transpose(x, &perm)?)
}

pub fn matrix_transpose(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let rank = call.b.shape(x).len();
    Ok(call.b.swap_axes(x, normal_axis("self", -2, rank)?, normal_axis("self", -1, rank)?)?)
}

pub fn transpose(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let rank = call.b.shape(x).len();
    let (a, b) = (call.axis("dim0", rank)?, call.axis("dim1", rank)?);
    if rank == 0 { Ok(x) } else { Ok(call.b.swap_axes(x, a, b)?) }
}

pub fn swapaxes(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let rank = call.b.shape(x).len();
    let (a, b) = (call.axis("axis0", rank)?, call.axis("axis1", rank)?);
    if rank == 0 { Ok(x) } else { Ok(call.b.swap_axes(x, a, b)?) }
}

/// All elements in order.
pub fn ravel(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let elements = call.b.ty(x).elements();
    Ok(call.b.reshape(x, &[elements])?)
}

pub fn permute(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let rank = call.b.shape(x).len();
    let perm = call.ints("dims")?.into_iter().map(|d| normal_axis("dims", d, rank)).collect::<Result<Vec<_>, _>>()?;
    Ok(call.b.transpose(x, &perm)?)
}

/// Repeats axes of extent 1; −1 keeps an axis. An axis that is new or was repeated may be the batch.
pub fn expand(call: &mut Call) -> Result<Value, Fault> {
    let (operand, size, current) = (call.operand("self")?.clone(), call.ints("size")?, call.is_current("size"));
    let new = call.b.shape(operand.value).to_vec();
    let lead = size.len().checked_sub(new.len()).ok_or_else(|| invalid("size", "at least as many axes", size.len()))?;
    let mut target = Vec::with_capacity(size.len());
    let mut repeated = Vec::new();
    for (k, &literal) in size.iter().enumerate() {
        let own = k.checked_sub(lead).map(|d| (operand.old[d], new[d]));
        target.push(match own {
            Some((_, now)) if literal == -1 => now,
            Some((old, now)) if old != 1 && usize::try_from(literal) == Ok(old) => now,
            _ => {
                repeated.push(k);
                usize::try_from(literal).map_err(|_| invalid("size", "non-negative sizes", literal))?
            }
        });
    }
    if !current {
        let literal: Vec<usize> = repeated.iter().map(|&k| target[k]).collect();
        let resized = call.resize.literal(&literal)?;
        repeated.iter().zip(resized).for_each(|(&k, extent)| target[k] = extent);
    }
    Ok(layers::expand(call.b, operand.value, &target)?)
}

pub fn expand_as(call: &mut Call) -> Result<Value, Fault> {
    let (x, shape) = (call.tensor("self")?, call.b.shape(call.tensor("other")?).to_vec());
    Ok(layers::expand(call.b, x, &shape)?)
}

/// Tiles: axis k becomes `repeats[k]` copies one after the other.
pub fn repeat(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let repeats = call.new_shape("repeats")?;
    repeat_to(call, x, &repeats)
}

/// See [`repeat`].
pub fn repeat_to(call: &mut Call, x: Value, repeats: &[usize]) -> Result<Value, Fault> {
    let shape = call.b.shape(x).to_vec();
    let lead =
        repeats.len().checked_sub(shape.len()).ok_or_else(|| invalid("repeats", "one per axis", repeats.len()))?;
    let padded = [vec![1; lead], shape].concat();
    let (mut tiled, mut joined) = (Vec::new(), Vec::new());
    for (&copies, &extent) in repeats.iter().zip(&padded) {
        tiled.extend([copies, extent]);
        joined.push(copies.checked_mul(extent).ok_or_else(|| invalid("repeats", "sizes that can be held", copies))?);
    }
    let kept: Vec<usize> = (0..padded.len()).map(|k| 2 * k + 1).collect();
    let x = call.b.reshape(x, &padded)?;
    let x = call.b.broadcast(x, &tiled, &kept)?;
    Ok(call.b.reshape(x, &joined)?)
}

/// Tensors of one dtype, that of the result. PyTorch skips empty vectors here, whatever the others' rank.
pub fn cat(call: &mut Call) -> Result<Value, Fault> {
    let mut values = call.tensors("tensors")?;
    values.retain(|&v| call.b.shape(v) != [0]);
    let (Some(&first), dtype) = (values.first(), call.dtype()?) else {
        return Err(invalid("tensors", "at least one tensor that is not empty", 0));
    };
    let axis = call.axis("dim", call.b.shape(first).len())?;
    let values = values.into_iter().map(|v| call.b.cast(v, dtype)).collect::<Result<Vec<_>, _>>()?;
    Ok(call.b.concat(&values, axis)?)
}

pub fn stack(call: &mut Call) -> Result<Value, Fault> {
    let values = call.tensors("tensors")?;
    let first = *values.first().ok_or_else(|| invalid("tensors", "at least one tensor", 0))?;
    let axis = call.axis("dim", call.b.shape(first).len() + 1)?;
    let values = values.into_iter().map(|v| layers::unsqueeze(call.b, v, &[axis])).collect::<Result<Vec<_>, _>>()?;
    Ok(call.b.concat(&values, axis)?)
}

/// The operand, an axis that is cut at literal places, and its extent.
fn cut_axis(call: &Call) -> Result<(Value, usize, usize), Fault> {
    let operand = call.operand("self")?;
    let shape = call.b.shape(operand.value);
    let axis = call.axis("dim", shape.len())?;
    let extent = *shape.get(axis).ok_or_else(|| invalid("dim", "an axis; the operand is a scalar", axis))?;
    call.resize.unchanged(operand.old[axis], extent)?;
    Ok((operand.value, axis, extent))
}

/// Parts of equal size, the last one possibly smaller; as many as the node has outputs.
fn equal_parts(call: &mut Call, size: usize) -> Result<Vec<Value>, Fault> {
    let (x, axis, extent) = cut_axis(call)?;
    if size == 0 || extent.div_ceil(size) != call.recorded.len() {
        return Err(Fault::new("output-count", "the parts and the node's outputs differ in number")
            .expected(call.recorded.len())
            .found(format!("{extent} cut into parts of {size}")));
    }
    Ok(layers::split(call.b, x, axis, size)?)
}

pub fn split(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let size = call.count("split_size")?;
    equal_parts(call, size)
}

pub fn chunk(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (chunks, (_, _, extent)) = (call.count("chunks")?, cut_axis(call)?);
    if chunks == 0 {
        return Err(invalid("chunks", "a positive integer", 0));
    }
    equal_parts(call, extent.div_ceil(chunks))
}

pub fn split_with_sizes(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let name = if call.args.contains_key("split_sizes") { "split_sizes" } else { "split_size" };
    let sizes = call.per_axis(name, call.ints(name)?.len())?;
    let (x, axis, _) = cut_axis(call)?;
    Ok(layers::split_sizes(call.b, x, axis, &sizes)?)
}

pub fn unbind(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (_, axis, _) = cut_axis(call)?;
    let parts = equal_parts(call, 1)?;
    Ok(parts.into_iter().map(|part| layers::squeeze(call.b, part, &[axis])).collect::<Result<_, _>>()?)
}

pub fn select(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis, extent) = cut_axis(call)?;
    let index = normal_index("index", call.int("index")?, extent)?;
    call.view = Some(View::Part { axis, start: index, end: index + 1, step: 1, dropped: true });
    let slice = call.b.slice_axis(x, axis, index, index + 1)?;
    Ok(layers::squeeze(call.b, slice, &[axis])?)
}

/// A negative index counts from the end.
pub fn normal_index(name: &str, index: i64, extent: usize) -> Result<usize, Fault> {
    let from_start = if index < 0 { index.checked_add_unsigned(extent as u64) } else { Some(index) };
    from_start
        .and_then(|i| usize::try_from(i).ok())
        .filter(|&i| i < extent)
        .ok_or_else(|| invalid(name, &format!("an index into {extent} elements"), index))
}

/// What `start..end` by `step` is of an axis; bounds outside of it are moved to its ends, as in Python.
struct Steps {
    axis: usize,
    start: usize,
    end: usize,
    step: usize,
}

/// `None` where all of the axis is meant.
fn steps(call: &Call) -> Result<Option<Steps>, Fault> {
    let operand = call.operand("self")?.clone();
    let shape = call.b.shape(operand.value).to_vec();
    let axis = call.axis("dim", shape.len())?;
    let extent = *shape.get(axis).ok_or_else(|| invalid("dim", "an axis; the operand is a scalar", axis))?;
    let step = call.count("step")?;
    let bound = |name: &str, absent: i64| if call.is_none(name) { Ok(absent) } else { call.int(name) };
    let (start, end) = (bound("start", 0)?, bound("end", i64::MAX)?);
    let whole = start == 0 && usize::try_from(end).is_ok_and(|end| end >= operand.old[axis]) && step == 1;
    if whole {
        return Ok(None);
    }
    call.resize.unchanged(operand.old[axis], extent)?;
    let clamped = |i: i64| {
        let from_start = if i < 0 { i.saturating_add_unsigned(extent as u64) } else { i };
        usize::try_from(from_start.max(0)).unwrap_or(extent).min(extent)
    };
    let start = clamped(start);
    Ok(Some(Steps { axis, start, end: clamped(end).max(start), step }))
}

/// `start..end` by `step`.
pub fn slice(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let Some(part) = steps(call)? else {
        call.view = Some(View::Whole);
        return Ok(x);
    };
    if part.step > 0 {
        let Steps { axis, start, end, step } = part;
        call.view = Some(View::Part { axis, start, end, step, dropped: false });
    }
    let shape = call.b.shape(x).to_vec();
    let (mut starts, mut limits, mut strides) = (vec![0; shape.len()], shape.clone(), vec![1; shape.len()]);
    (starts[part.axis], limits[part.axis], strides[part.axis]) = (part.start, part.end, part.step);
    Ok(call.b.slice(x, &starts, &limits, &strides)?)
}

/// The axis that a slice is of, and its indices.
pub fn step_indices(call: &Call) -> Result<(usize, Vec<usize>), Fault> {
    let part = match steps(call)? {
        Some(part) => part,
        None => {
            let shape = call.b.shape(call.tensor("self")?);
            let axis = call.axis("dim", shape.len())?;
            Steps { axis, start: 0, end: shape[axis], step: 1 }
        }
    };
    if part.step == 0 {
        return Err(invalid("step", "a positive integer", 0));
    }
    if part.end - part.start > MOST_PIECES << 12 {
        return Err(invalid("end", "a part of fewer elements", part.end - part.start));
    }
    Ok((part.axis, (part.start..part.end).step_by(part.step).collect()))
}

pub fn narrow(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis, extent) = cut_axis(call)?;
    let (start, length) = (normal_index("start", call.int("start")?, extent)?, call.count("length")?);
    let end = start.checked_add(length).ok_or_else(|| invalid("length", "a part of the axis", length))?;
    call.view = Some(View::Part { axis, start, end: end.min(extent), step: 1, dropped: false });
    Ok(call.b.slice_axis(x, axis, start, end)?)
}

pub fn flip(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let rank = call.b.shape(x).len();
    let given = call.ints("dims")?;
    let mut axes = given.iter().map(|&d| normal_axis("dims", d, rank)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    Ok(if axes.is_empty() { x } else { call.b.reverse(x, &axes)? })
}

pub fn tril(call: &mut Call) -> Result<Value, Fault> {
    triangle(call, CompareFn::Le)
}

pub fn triu(call: &mut Call) -> Result<Value, Fault> {
    triangle(call, CompareFn::Ge)
}

/// Matrices with zeros where column − row is not on the given side of `diagonal`.
fn triangle(call: &mut Call, side: CompareFn) -> Result<Value, Fault> {
    let (x, diagonal) = (call.tensor("self")?, call.int("diagonal")?);
    let shape = call.b.shape(x).to_vec();
    let Some(matrix) = shape.len().checked_sub(2).map(|k| &shape[k..]) else {
        return Err(Fault::new("invalid-operands", "a triangle needs matrices").expected("[…, M, N]"));
    };
    let (row, column) = (call.b.iota(DType::I64, matrix, 0)?, call.b.iota(DType::I64, matrix, 1)?);
    let offset = call.b.sub(column, row)?;
    let diagonal = call.b.splat(&TensorType::new(DType::I64, matrix), diagonal as f64)?;
    let kept = call.b.compare(side, offset, diagonal)?;
    let zero = call.b.scalar(call.b.ty(x).dtype, 0.0)?;
    Ok(call.b.select(kept, x, zero)?)
}

/// Tensors one after the other along the second axis; vectors along the only one.
pub fn hstack(call: &mut Call) -> Result<Value, Fault> {
    let values = call.tensors("tensors")?;
    let axis = usize::from(values.first().is_some_and(|&v| call.b.shape(v).len() > 1));
    joined(call, values, axis)
}

/// Tensors one after the other along the first axis; vectors as rows.
pub fn vstack(call: &mut Call) -> Result<Value, Fault> {
    let values = call.tensors("tensors")?;
    joined(call, values, 0)
}

fn joined(call: &mut Call, values: Vec<Value>, axis: usize) -> Result<Value, Fault> {
    let dtype = call.dtype()?;
    let mut each = Vec::new();
    for v in values {
        let shape = call.b.shape(v).to_vec();
        let v = call.b.cast(v, dtype)?;
        let missing = if axis == 0 { 2usize.saturating_sub(shape.len()) } else { 0 };
        each.push(call.b.reshape(v, &[&vec![1; missing][..], &shape].concat())?);
    }
    Ok(call.b.concat(&each, axis)?)
}

/// Parts as equal as can be, the first ones larger.
pub fn tensor_split(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let ((x, axis, extent), sections) = (cut_axis(call)?, call.recorded.len());
    if sections == 0 {
        return Err(invalid("sections", "a positive integer", 0));
    }
    let sizes: Vec<usize> = if call.args.contains_key("indices") {
        let cuts = call.ints("indices")?;
        let cuts: Vec<usize> = cuts.iter().map(|&c| usize::try_from(c).unwrap_or(0).min(extent)).collect();
        let ends = cuts.iter().copied().chain([extent]);
        std::iter::once(0).chain(cuts.iter().copied()).zip(ends).map(|(from, to)| to.saturating_sub(from)).collect()
    } else {
        (0..sections).map(|k| extent / sections + usize::from(k < extent % sections)).collect()
    };
    Ok(layers::split_sizes(call.b, x, axis, &sizes)?)
}
