//! Operators that move elements without computing with them.

use super::Rule::{self, Many, One};
use super::{Fault, Node, Walk, axes, axis, require, reshape, sizes};
use crate::import::onnx::node::Slot;
use crate::layers::pad::{Border, pad_with, reflected, replicated, wrapped};
use crate::layers::patches::Patches;
use crate::layers::shape::{split_sizes, squeeze, unsqueeze};
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("Col2Im", One(col2im)),
    ("Concat", One(concat)),
    ("DepthToSpace", One(depth_to_space)),
    ("Expand", One(expand)),
    ("Flatten", One(flatten)),
    ("Pad", One(pad)),
    ("Reshape", One(reshape::reshape)),
    ("Slice", One(slice)),
    ("SpaceToDepth", One(space_to_depth)),
    ("Split", Many(split)),
    ("Squeeze", One(squeeze_axes)),
    ("Tile", One(tile)),
    ("Transpose", One(transpose)),
    ("Trilu", One(trilu)),
    ("Unsqueeze", One(unsqueeze_axes)),
];

fn concat(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let parts = node.inputs()?;
    let first = node.input(0)?;
    let along = axis(cx.b.shape(first).len(), node.int("axis", 1)?)?;
    Ok(cx.b.concat(&parts, along)?)
}

/// Columns `[N, C · block, windows]` added up into images, of planes.
fn col2im(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, image, block) = (node.input(0)?, sizes(&cx.ints(node, 1)?)?, sizes(&cx.ints(node, 2)?)?);
    let list = |name: &str, count: usize, default: usize| -> Result<Vec<usize>, Fault> {
        node.optional_ints(name)?.map_or_else(|| Ok(vec![default; count]), sizes)
    };
    let (dilations, pads, strides) = (list("dilations", 2, 1)?, list("pads", 4, 0)?, list("strides", 2, 1)?);
    let lists = [&image, &block, &dilations, &strides].map(|list| <[usize; 2]>::try_from(list.as_slice()));
    let ([Ok(image), Ok(block), Ok(dilations), Ok(strides)], &[top, left, bottom, right]) = (lists, &pads[..]) else {
        return Err(Fault::unsupported("only planes are supported").expected("[H, W]").found(format!("{image:?}")));
    };
    require([top, left] == [bottom, right], "pads must be the same on both sides", top, bottom)?;
    Ok(Patches::new(image, block, dilations, [top, left], strides)?.fold(&mut cx.b, x)?)
}

fn expand(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, target) = (node.input(0)?, sizes(&cx.ints(node, 1)?)?);
    let shape = gradc_ir::builder::broadcast_shape(cx.b.shape(x), &target)?;
    Ok(cx.b.broadcast_to(x, &shape)?)
}

/// Two axes: those before `axis` as one, the others as one.
fn flatten(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let shape = cx.b.shape(x).to_vec();
    let given = node.int("axis", 1)?;
    let at = if given == shape.len() as i64 { shape.len() } else { axis(shape.len(), given)? };
    let extents = [shape[..at].iter().product(), shape[at..].iter().product()];
    Ok(cx.b.reshape(x, &extents)?)
}

/// Attributes before version 11, operands since; before 18 every axis is given.
fn pad(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let border: Option<Border> = match node.string("mode", "constant")? {
        "constant" => None,
        "edge" => Some(replicated),
        "reflect" => Some(reflected),
        "wrap" => Some(wrapped),
        other => {
            return Err(Fault::unsupported("unknown `mode`").expected("constant, edge, reflect or wrap").found(other));
        }
    };
    let x = node.input(0)?;
    let rank = cx.b.shape(x).len();
    let (amounts, value) = if node.opset() < 11 {
        (node.optional_ints("pads")?.unwrap_or_default().to_vec(), node.float("value", 0.0)?)
    } else {
        (cx.ints(node, 1)?, cx.optional_number(node, 2)?.unwrap_or(0.0))
    };
    let all: Vec<i64> = (0..rank as i64).collect();
    let padded = cx.optional_ints(node, 3)?.unwrap_or(all);
    require(amounts.len() == 2 * padded.len(), "wrong number of pads", 2 * padded.len(), amounts.len())?;
    let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
    for (k, &at) in padded.iter().enumerate() {
        let at = axis(rank, at)?;
        (low[at], high[at]) = (amounts[k], amounts[padded.len() + k]);
    }
    if let Some(border) = border {
        let mut padded = (0..rank).filter(|&at| (low[at], high[at]) != (0, 0));
        return Ok(padded.try_fold(x, |x, at| pad_with(&mut cx.b, x, at, [low[at], high[at]], border))?);
    }
    let cropped = crop(cx, x, &low, &high)?;
    let grow = |amounts: &[i64]| amounts.iter().map(|&n| n.max(0) as usize).collect::<Vec<_>>();
    Ok(cx.b.pad(cropped, &grow(&low), &grow(&high), &vec![0; rank], value)?)
}

/// Negative pads take elements away.
fn crop(cx: &mut Walk, x: Value, low: &[i64], high: &[i64]) -> Result<Value, Fault> {
    let shape = cx.b.shape(x).to_vec();
    let start: Vec<usize> = low.iter().map(|n| n.min(&0).unsigned_abs() as usize).collect();
    let limit: Vec<usize> =
        shape.iter().zip(high).map(|(&d, n)| d.saturating_sub(n.min(&0).unsigned_abs() as usize)).collect();
    let fits = start.iter().zip(&limit).all(|(s, l)| s <= l);
    require(fits, "negative pads take away more than there is", format!("{shape:?}"), format!("{low:?} {high:?}"))?;
    Ok(cx.b.slice(x, &start, &limit, &vec![1; shape.len()])?)
}

/// Attributes before version 10, operands since. Negative steps reverse first.
fn slice(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let (starts, ends, given_axes, steps) = if node.opset() < 10 {
        let ints = |name| Ok::<_, Fault>(node.optional_ints(name)?.map(<[i64]>::to_vec));
        (ints("starts")?.unwrap_or_default(), ints("ends")?.unwrap_or_default(), ints("axes")?, None)
    } else {
        (cx.ints(node, 1)?, cx.ints(node, 2)?, cx.optional_ints(node, 3)?, cx.optional_ints(node, 4)?)
    };
    let count = starts.len();
    let along = given_axes.unwrap_or_else(|| (0..count as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; count]);
    let equal = ends.len() == count && along.len() == count && steps.len() == count;
    require(equal, "starts, ends, axes and steps must be equally many", count, ends.len())?;
    let mut y = x;
    for k in 0..count {
        let at = axis(cx.b.shape(x).len(), along[k])?;
        y = slice_axis(cx, y, at, starts[k], ends[k], steps[k])?;
    }
    Ok(y)
}

/// Elements `start`, `start` + `step`, … before `end` of one axis, with NumPy's clamping.
fn slice_axis(cx: &mut Walk, x: Value, at: usize, start: i64, end: i64, step: i64) -> Result<Value, Fault> {
    require(step != 0, "the step of a slice must not be 0", "a step", step)?;
    let shape = cx.b.shape(x).to_vec();
    let extent = shape[at] as i64;
    let from_front = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
    let (x, first, limit) = if step > 0 {
        (x, from_front(start).clamp(0, extent), from_front(end).clamp(0, extent))
    } else {
        let reversed = cx.b.op(gradc_ir::ops::Reverse { axes: vec![at] }, &[x])?;
        let mirrored = |v: i64| extent - 1 - from_front(v).clamp(-1, extent - 1);
        (reversed, mirrored(start), mirrored(end))
    };
    let (mut starts, mut limits, mut strides) = (vec![0; shape.len()], shape.clone(), vec![1; shape.len()]);
    starts[at] = first as usize;
    limits[at] = limit.max(first) as usize;
    strides[at] = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX).min(shape[at].max(1));
    Ok(cx.b.slice(x, &starts, &limits, &strides)?)
}

/// Sizes as attribute before version 13 and as operand since; without them equal parts, the last one smaller.
fn split(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let x = node.input(0)?;
    let along = axis(cx.b.shape(x).len(), node.int("axis", 0)?)?;
    let extent = cx.b.shape(x)[along];
    let given =
        if node.opset() < 13 { node.optional_ints("split")?.map(<[i64]>::to_vec) } else { cx.optional_ints(node, 1)? };
    let parts = node.optional_int("num_outputs")?.map_or(Ok(node.output_count()), |n| sizes(&[n]).map(|s| s[0]))?;
    let parts_sizes = match given {
        Some(given) => sizes(&given)?,
        None => equal_parts(extent, parts)?,
    };
    Ok(split_sizes(&mut cx.b, x, along, &parts_sizes)?.into_iter().map(Slot::from).collect())
}

/// `count` parts of an extent, all but the last equal.
fn equal_parts(extent: usize, count: usize) -> Result<Vec<usize>, Fault> {
    let possible = count > 0 && count <= extent && extent.div_ceil(count) * (count - 1) < extent;
    require(possible, "the axis cannot be split into so many parts", format!("at most {extent}"), count)?;
    let size = extent.div_ceil(count);
    Ok((0..count).map(|k| size.min(extent - k * size)).collect())
}

/// The axes of `Squeeze` and `Unsqueeze`: an attribute before version 13, an operand since.
fn given_axes(cx: &mut Walk, node: &Node) -> Result<Option<Vec<i64>>, Fault> {
    if node.opset() < 13 { Ok(node.optional_ints("axes")?.map(<[i64]>::to_vec)) } else { cx.optional_ints(node, 1) }
}

fn squeeze_axes(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let shape = cx.b.shape(x).to_vec();
    let dropped = match given_axes(cx, node)? {
        Some(given) => axes(shape.len(), &given)?,
        None => (0..shape.len()).filter(|&d| shape[d] == 1).collect(),
    };
    Ok(squeeze(&mut cx.b, x, &dropped)?)
}

fn unsqueeze_axes(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let given = given_axes(cx, node)?.ok_or_else(|| TypeError::new("the axes to insert are missing"))?;
    let inserted = axes(cx.b.shape(x).len() + given.len(), &given)?;
    Ok(unsqueeze(&mut cx.b, x, &inserted)?)
}

/// Repeats the whole tensor along each axis: a repeated axis before each one, then merged.
fn tile(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, repeats) = (node.input(0)?, sizes(&cx.ints(node, 1)?)?);
    let shape = cx.b.shape(x).to_vec();
    require(repeats.len() == shape.len(), "one repeat per axis is needed", shape.len(), repeats.len())?;
    let kept: Vec<usize> = (0..shape.len()).map(|d| 2 * d + 1).collect();
    let spread: Vec<usize> = repeats.iter().zip(&shape).flat_map(|(&r, &d)| [r, d]).collect();
    let merged = repeats.iter().zip(&shape).map(|(r, d)| r.checked_mul(*d)).collect::<Option<Vec<_>>>();
    let merged = merged.ok_or_else(|| TypeError::new("the repeated tensor is too large"))?;
    if merged == shape {
        return Ok(x);
    }
    // axes that are not repeated need no axis of their own, which keeps the rank low
    let all = || spread.iter().enumerate();
    let wanted: Vec<usize> = all().filter(|(k, n)| k % 2 == 1 || **n != 1).map(|(k, _)| k).collect();
    let extents: Vec<usize> = wanted.iter().map(|&k| spread[k]).collect();
    let dims: Vec<usize> = (0..wanted.len()).filter(|&k| kept.contains(&wanted[k])).collect();
    let repeated = cx.b.broadcast(x, &extents, &dims)?;
    Ok(cx.b.reshape(repeated, &merged)?)
}

/// Without `perm` the axes are reversed.
fn transpose(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let reversed = (0..cx.b.shape(x).len()).rev().collect();
    let perm = node.optional_ints("perm")?.map_or(Ok(reversed), sizes)?;
    Ok(cx.b.transpose(x, &perm)?)
}

/// The upper or lower triangle of matrices, zero elsewhere; `k` moves the diagonal.
fn trilu(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let k = cx.optional_number(node, 1)?.unwrap_or(0.0);
    let shape = cx.b.shape(x).to_vec();
    require(shape.len() >= 2, "triangles need matrices", "rank of at least 2", cx.b.ty(x))?;
    let kind = if node.flag("upper", true)? { CompareFn::Ge } else { CompareFn::Le };
    let b = &mut cx.b;
    let square = &shape[shape.len() - 2..];
    let (row, column) = (b.iota(DType::I64, square, 0)?, b.iota(DType::I64, square, 1)?);
    let offset = b.full_like(row, k)?;
    let diagonal = b.add(row, offset)?;
    let kept = b.compare(kind, column, diagonal)?;
    let zero = b.full_like(x, 0.0)?;
    Ok(b.select(kept, x, zero)?)
}

/// `[N, C, H, W]` as sizes, and the block size that must divide the given axes.
fn blocks(cx: &Walk, node: &Node) -> Result<([usize; 4], usize), Fault> {
    let x = node.input(0)?;
    let shape: [usize; 4] =
        cx.b.shape(x).try_into().map_err(|_| TypeError::new("blocks need [N, C, H, W]").found(cx.b.ty(x)))?;
    let block = sizes(&[node.int("blocksize", 0)?])?[0];
    require(block > 0 && block <= 1 << 16, "the block size must be positive", "1 to 65536", block)?;
    Ok((shape, block))
}

fn depth_to_space(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let ([n, c, h, w], s) = blocks(cx, node)?;
    require(c.is_multiple_of(s * s), "blocks must divide the channels", s * s, c)?;
    let depth = c / (s * s);
    let (split, perm) = match node.string("mode", "DCR")? {
        "DCR" => ([n, s, s, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, s, s, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(Fault::unsupported("unknown mode").expected("DCR or CRD").found(other)),
    };
    let split = cx.b.reshape(node.input(0)?, &split)?;
    let moved = cx.b.transpose(split, &perm)?;
    Ok(cx.b.reshape(moved, &[n, depth, h * s, w * s])?)
}

fn space_to_depth(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let ([n, c, h, w], s) = blocks(cx, node)?;
    require(h.is_multiple_of(s) && w.is_multiple_of(s), "blocks must divide the plane", s, format!("{h}, {w}"))?;
    let split = cx.b.reshape(node.input(0)?, &[n, c, h / s, s, w / s, s])?;
    let moved = cx.b.transpose(split, &[0, 3, 5, 1, 2, 4])?;
    Ok(cx.b.reshape(moved, &[n, c * s * s, h / s, w / s])?)
}
