//! Elements in other places: rolled, interleaved, cut into windows, on diagonals.

use super::super::call::{Call, invalid, normal_axis, unsupported};
use super::super::fault::Fault;
use super::shape::{MOST_PIECES, repeat_to};
use crate::layers::patches::{Patches, strided};
use crate::layers::{indexing, shape as layers};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};

/// Moves elements along axes; what leaves an end comes in at the other. Without axes along all elements in order.
pub fn roll(call: &mut Call) -> Result<Value, Fault> {
    let (x, shifts, axes) = (call.tensor("self")?, call.ints("shifts")?, call.ints("dims")?);
    let shape = call.b.shape(x).to_vec();
    if axes.is_empty() {
        let [shift] = shifts[..] else { return Err(invalid("shifts", "one shift", format!("{shifts:?}"))) };
        let flat = call.b.reshape(x, &[shape.iter().product()])?;
        let rolled = rolled(call.b, flat, 0, shift)?;
        return Ok(call.b.reshape(rolled, &shape)?);
    }
    if axes.len() != shifts.len() {
        return Err(invalid("shifts", "one shift per axis", format!("{shifts:?}")));
    }
    let mut y = x;
    for (&axis, &shift) in axes.iter().zip(&shifts) {
        let axis = normal_axis("dims", axis, shape.len())?;
        y = rolled(call.b, y, axis, shift)?;
    }
    Ok(y)
}

fn rolled(b: &mut Builder, x: Value, axis: usize, shift: i64) -> Result<Value, TypeError> {
    let extent = b.shape(x).get(axis).copied().unwrap_or(0);
    let shift = if extent == 0 { 0 } else { shift.rem_euclid(extent as i64) as usize };
    if shift == 0 {
        return Ok(x);
    }
    let (end, start) = (b.slice_axis(x, axis, extent - shift, extent)?, b.slice_axis(x, axis, 0, extent - shift)?);
    b.concat(&[end, start], axis)
}

/// A rotation by quarter turns from the first axis of `dims` towards the second.
pub fn rot90(call: &mut Call) -> Result<Value, Fault> {
    let (x, turns) = (call.tensor("self")?, call.int("k")?.rem_euclid(4));
    let rank = call.b.shape(x).len();
    let axes = call.ints("dims")?.into_iter().map(|d| normal_axis("dims", d, rank)).collect::<Result<Vec<_>, _>>()?;
    let [from, to] = axes[..] else { return Err(invalid("dims", "two axes", format!("{axes:?}"))) };
    let mut both = [from, to];
    both.sort_unstable();
    let b = &mut *call.b;
    Ok(match turns {
        0 => x,
        1 => {
            let reversed = b.reverse(x, &[to])?;
            b.swap_axes(reversed, from, to)?
        }
        2 => b.reverse(x, &both)?,
        _ => {
            let reversed = b.reverse(x, &[from])?;
            b.swap_axes(reversed, from, to)?
        }
    })
}

/// `[…, C·s², H, W]` as `[…, C, H·s, W·s]`.
pub fn pixel_shuffle(call: &mut Call) -> Result<Value, Fault> {
    let (x, s) = (call.tensor("self")?, call.count("upscale_factor")?);
    let (lead, [c, h, w]) = image(call, x)?;
    if s == 0 || s > MOST_PIECES || !c.is_multiple_of(s * s) {
        return Err(invalid("upscale_factor", &format!("a number whose square divides {c}"), s));
    }
    let n = lead.len();
    let split = call.b.reshape(x, &[&lead[..], &[c / s / s, s, s, h, w]].concat())?;
    let perm: Vec<usize> = (0..n).chain([0, 3, 1, 4, 2].map(|d| n + d)).collect();
    let moved = call.b.transpose(split, &perm)?;
    Ok(call.b.reshape(moved, &[&lead[..], &[c / s / s, h * s, w * s]].concat())?)
}

/// `[…, C, H·s, W·s]` as `[…, C·s², H, W]`.
pub fn pixel_unshuffle(call: &mut Call) -> Result<Value, Fault> {
    let (x, s) = (call.tensor("self")?, call.count("downscale_factor")?);
    let (lead, [c, h, w]) = image(call, x)?;
    if s == 0 || !h.is_multiple_of(s) || !w.is_multiple_of(s) {
        return Err(invalid("downscale_factor", &format!("a divisor of {h} and {w}"), s));
    }
    let n = lead.len();
    let split = call.b.reshape(x, &[&lead[..], &[c, h / s, s, w / s, s]].concat())?;
    let perm: Vec<usize> = (0..n).chain([0, 2, 4, 1, 3].map(|d| n + d)).collect();
    let moved = call.b.transpose(split, &perm)?;
    Ok(call.b.reshape(moved, &[&lead[..], &[c * s * s, h / s, w / s]].concat())?)
}

/// Extents before the last three axes, and these.
fn image(call: &Call, x: Value) -> Result<(Vec<usize>, [usize; 3]), Fault> {
    match call.b.shape(x) {
        [lead @ .., c, h, w] => Ok((lead.to_vec(), [*c, *h, *w])),
        other => Err(Fault::new("invalid-operands", "the op needs images")
            .expected("[…, C, H, W]")
            .found(format!("{other:?}"))),
    }
}

/// Channels as a matrix of groups, transposed.
pub fn channel_shuffle(call: &mut Call) -> Result<Value, Fault> {
    let (x, groups) = (call.tensor("self")?, call.count("groups")?);
    let shape = call.b.shape(x).to_vec();
    let channels = shape.get(1).copied().unwrap_or(0);
    if shape.len() < 2 || groups == 0 || !channels.is_multiple_of(groups) {
        return Err(invalid("groups", &format!("a divisor of {channels}"), groups));
    }
    let split = call.b.reshape(x, &[&shape[..1], &[groups, channels / groups], &shape[2..]].concat())?;
    let moved = call.b.swap_axes(split, 1, 2)?;
    Ok(call.b.reshape(moved, &shape)?)
}

/// Every element of an axis several times, one copy beside the other.
pub fn repeat_interleave(call: &mut Call) -> Result<Value, Fault> {
    let (mut x, times) = (call.tensor("self")?, call.count("repeats")?);
    if call.is_none("dim") {
        let elements = call.b.ty(x).elements();
        x = call.b.reshape(x, &[elements])?;
    }
    let axis = if call.is_none("dim") { 0 } else { call.axis("dim", call.b.shape(x).len())? };
    let shape = call.b.shape(x).to_vec();
    let extent = shape.get(axis).and_then(|n| n.checked_mul(times));
    let extent = extent.ok_or_else(|| invalid("repeats", "an axis that can be held", times))?;
    let kept: Vec<usize> = (0..=shape.len()).filter(|&d| d != axis + 1).collect();
    let wide = [&shape[..=axis], &[times], &shape[axis + 1..]].concat();
    TensorType::checked(call.b.ty(x).dtype, &wide[..])?;
    let repeated = call.b.broadcast(x, &wide, &kept)?;
    Ok(call.b.reshape(repeated, &[&shape[..axis], &[extent], &shape[axis + 1..]].concat())?)
}

/// Tiles, where axes that `dims` lacks at the front are not repeated.
pub fn tile(call: &mut Call) -> Result<Value, Fault> {
    let (x, dims) = (call.tensor("self")?, call.new_shape("dims")?);
    let lead = call.b.shape(x).len().saturating_sub(dims.len());
    repeat_to(call, x, &[&vec![1; lead][..], &dims].concat())
}

pub fn movedim(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let rank = call.b.shape(x).len();
    let axes =
        |name: &str| call.ints(name)?.into_iter().map(|d| normal_axis(name, d, rank)).collect::<Result<Vec<_>, _>>();
    let (from, to) = (axes("source")?, axes("destination")?);
    if from.len() != to.len() {
        return Err(invalid("destination", "as many axes as `source` has", to.len()));
    }
    let mut rest = (0..rank).filter(|d| !from.contains(d));
    let perm = (0..rank).map(|d| to.iter().position(|&t| t == d).map_or_else(|| rest.next(), |k| Some(from[k])));
    let perm =
        perm.collect::<Option<Vec<_>>>().ok_or_else(|| invalid("source", "distinct axes", format!("{from:?}")))?;
    Ok(call.b.transpose(x, &perm)?)
}

/// As many axes as the name says, those missing with extent 1, PyTorch's way: a vector is a row, a matrix has depth 1.
fn at_least(call: &mut Call, rank: usize) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let shape = call.b.shape(x).to_vec();
    let target = match (shape.len(), rank) {
        (0, rank) => vec![1; rank],
        (1, 2) => vec![1, shape[0]],
        (1, 3) => vec![1, shape[0], 1],
        (2, 3) => [&shape[..], &[1]].concat(),
        _ => shape,
    };
    Ok(call.b.reshape(x, &target)?)
}

pub fn atleast_1d(call: &mut Call) -> Result<Value, Fault> {
    at_least(call, 1)
}

pub fn atleast_2d(call: &mut Call) -> Result<Value, Fault> {
    at_least(call, 2)
}

pub fn atleast_3d(call: &mut Call) -> Result<Value, Fault> {
    at_least(call, 3)
}

/// Matrices of the axes `dim1` and `dim2`, cut so that the diagonal begins in the corner, as the last two axes.
fn on_diagonal(call: &mut Call) -> Result<Value, Fault> {
    let (x, offset) = (call.tensor("self")?, call.int("offset")?);
    let rank = call.b.shape(x).len();
    let (first, second) = (call.axis("dim1", rank)?, call.axis("dim2", rank)?);
    if rank < 2 || first == second {
        return Err(invalid("dim2", "two axes of a matrix", second));
    }
    let perm: Vec<usize> = (0..rank).filter(|d| ![first, second].contains(d)).chain([first, second]).collect();
    let moved = call.b.transpose(x, &perm)?;
    let (rows, columns) = (call.b.shape(x)[first], call.b.shape(x)[second]);
    let skip = |n: i64, of: usize| usize::try_from(n).unwrap_or(0).min(of);
    let (row, column) = (skip(offset.saturating_neg(), rows), skip(offset, columns));
    let length = (rows - row).min(columns - column);
    let cut = call.b.slice_axis(moved, rank - 2, row, row + length)?;
    Ok(call.b.slice_axis(cut, rank - 1, column, column + length)?)
}

pub fn diagonal(call: &mut Call) -> Result<Value, Fault> {
    let square = on_diagonal(call)?;
    let rank = call.b.shape(square).len();
    Ok(indexing::diagonal(call.b, square, rank - 2, rank - 1)?)
}

/// Sum of the diagonal.
pub fn trace(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let &[rows, columns] = call.b.shape(x) else {
        return Err(Fault::new("invalid-operands", "a trace needs a matrix").found(call.b.ty(x)));
    };
    let length = rows.min(columns);
    let square = call.b.slice(x, &[0, 0], &[length, length], &[1, 1])?;
    let diagonal = indexing::diagonal(call.b, square, 0, 1)?;
    Ok(call.b.reduce_sum(diagonal, &[0])?)
}

/// Matrices with the last axis of the operand on a diagonal.
pub fn diag_embed(call: &mut Call) -> Result<Value, Fault> {
    let (x, offset) = (call.tensor("self")?, call.int("offset")?);
    let shape = call.b.shape(x).to_vec();
    let (first, second) = (call.axis("dim1", shape.len() + 1)?, call.axis("dim2", shape.len() + 1)?);
    let Some((&length, lead)) = shape.split_last() else {
        return Err(Fault::new("invalid-operands", "a diagonal needs an axis").found("a scalar"));
    };
    let (row, column) = (offset.saturating_neg().max(0) as usize, offset.max(0) as usize);
    let side =
        length.checked_add(row + column).ok_or_else(|| invalid("offset", "a matrix that can be held", offset))?;
    let ty = TensorType::checked(call.b.ty(x).dtype, [lead, &[side, side]].concat())?;
    // Every column has its element; which row it belongs to decides.
    let (none, mut low, mut high) = (vec![0; shape.len()], vec![0; shape.len()], vec![0; shape.len()]);
    (low[lead.len()], high[lead.len()]) = (column, row);
    let padded = call.b.pad(x, &low, &high, &none, 0.0)?;
    let columns: Vec<usize> = (0..lead.len()).chain([lead.len() + 1]).collect();
    let wide = call.b.broadcast(padded, &ty.shape, &columns)?;
    let hit = band(call.b, &ty.shape, offset)?;
    let zero = call.b.full_like(wide, 0.0)?;
    let matrices = call.b.select(hit, wide, zero)?;
    let mut rest = 0..lead.len();
    let from = |d: usize| match d {
        _ if d == first => Some(lead.len()),
        _ if d == second => Some(lead.len() + 1),
        _ => None,
    };
    let perm: Option<Vec<usize>> = (0..=shape.len()).map(|d| from(d).or_else(|| rest.next())).collect();
    Ok(call.b.transpose(matrices, &perm.ok_or_else(|| invalid("dim2", "two axes", second))?)?)
}

/// Where column − row, of the last two axes, is `offset`.
fn band(b: &mut Builder, shape: &[usize], offset: i64) -> Result<Value, TypeError> {
    let rank = shape.len();
    let (row, column) = (b.iota(DType::I64, shape, rank - 2)?, b.iota(DType::I64, shape, rank - 1)?);
    let difference = b.sub(column, row)?;
    let offset = b.full_like(difference, offset as f64)?;
    b.compare(CompareFn::Eq, difference, offset)
}

/// Ones on the diagonal of a matrix.
pub fn eye(call: &mut Call) -> Result<Value, Fault> {
    let rows = call.count("n")?;
    let columns = if call.is_none("m") { rows } else { call.count("m")? };
    let ty = TensorType::checked(call.dtype()?, [rows, columns])?;
    let hit = band(call.b, &ty.shape, 0)?;
    Ok(call.b.cast(hit, ty.dtype)?)
}

/// Windows of an axis, `step` apart, as a new last axis.
pub fn unfold(call: &mut Call) -> Result<Value, Fault> {
    let (x, size, step) = (call.tensor("self")?, call.count("size")?, call.count("step")?);
    let shape = call.b.shape(x).to_vec();
    let axis = call.axis("dimension", shape.len())?;
    let extent = shape.get(axis).copied().unwrap_or(1);
    if size == 0 || step == 0 || size > extent.min(MOST_PIECES) || shape.is_empty() {
        return Err(invalid("size", &format!("windows of 1 to {}", extent.min(MOST_PIECES)), size));
    }
    let windows = (extent - size) / step + 1;
    let each = (0..size).map(|k| {
        let part = strided(call.b, x, axis, [k, windows, step])?;
        layers::unsqueeze(call.b, part, &[shape.len()])
    });
    let each = each.collect::<Result<Vec<_>, _>>()?;
    Ok(call.b.concat(&each, shape.len())?)
}

/// Windows over planes.
fn patches(call: &Call, plane: [usize; 2]) -> Result<Patches, Fault> {
    let pair = |name: &str| call.per_axis(name, 2).map(|list| [list[0], list[1]]);
    let (kernel, dilation) = (pair("kernel_size")?, pair("dilation")?);
    Ok(Patches::new(plane, kernel, dilation, pair("padding")?, pair("stride")?)?)
}

/// Patches of images `[N, C, H, W]` as columns `[N, C · kernel, windows]`.
pub fn im2col(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let &[_, _, h, w] = call.b.shape(x) else {
        return Err(Fault::new("invalid-operands", "unfolding needs images")
            .expected("[N, C, H, W]")
            .found(call.b.ty(x)));
    };
    Ok(patches(call, [h, w])?.unfold(call.b, x)?)
}

/// Columns `[N, C · kernel, windows]` added up into images: the adjoint of [`im2col`].
pub fn col2im(call: &mut Call) -> Result<Value, Fault> {
    let (x, plane) = (call.tensor("self")?, call.per_axis("output_size", 2)?);
    Ok(patches(call, [plane[0], plane[1]])?.fold(call.b, x)?)
}

/// Vectors as axes of a grid; `indexing` says whether the first is that of rows.
pub fn meshgrid(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let vectors = call.tensors("tensors")?;
    let swaps = match call.args.contains_key("indexing").then(|| call.text("indexing")).transpose()? {
        None | Some("ij") => false,
        Some("xy") => vectors.len() >= 2,
        Some(_) => return Err(unsupported("indexing", "ij or xy")),
    };
    let mut axes: Vec<usize> = (0..vectors.len()).collect();
    if swaps {
        axes.swap(0, 1);
    }
    let mut shape = vec![1; vectors.len()];
    for (&axis, &v) in axes.iter().zip(&vectors) {
        shape[axis] = call.b.ty(v).elements();
    }
    let grid = axes.iter().zip(&vectors).map(|(&axis, &v)| {
        let v = call.b.reshape(v, &[shape[axis]])?;
        call.b.broadcast(v, &shape, &[axis])
    });
    Ok(grid.collect::<Result<_, _>>()?)
}

/// Tensors under their common broadcast shape.
pub fn broadcast_tensors(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let values = call.tensors("tensors")?;
    let mut shape = vec![];
    for &v in &values {
        shape = gradc_ir::builder::broadcast_shape(&shape, call.b.shape(v))?;
    }
    Ok(values.into_iter().map(|v| call.b.broadcast_to(v, &shape)).collect::<Result<_, _>>()?)
}

/// Matrices one after the other along the diagonal.
pub fn block_diag(call: &mut Call) -> Result<Value, Fault> {
    let mut blocks = Vec::new();
    for v in call.tensors("tensors")? {
        let shape = match *call.b.shape(v) {
            [] => [1, 1],
            [n] => [1, n],
            [m, n] => [m, n],
            _ => return Err(invalid("tensors", "matrices", call.b.ty(v))),
        };
        blocks.push((call.b.reshape(v, &shape)?, shape));
    }
    let total = |axis: usize| blocks.iter().map(|(_, s)| s[axis]).sum::<usize>();
    let (width, mut at, mut rows) = (total(1), 0, Vec::new());
    for (block, [_, n]) in &blocks {
        rows.push(call.b.pad(*block, &[0, at], &[0, width - at - n], &[0, 0], 0.0)?);
        at += n;
    }
    Ok(call.b.concat(&rows, 0)?)
}
