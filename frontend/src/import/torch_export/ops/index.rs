//! Picking and writing at computed indices.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use super::shape::step_indices;
use crate::layers::cumulative::cumulative_sum;
use crate::layers::scatter::{Combine, scatter_combine};
use crate::layers::search::search_sorted;
use crate::layers::{indexing as layers, reduce, shape};
use gradc_ir::builder::{Builder, broadcast_shape};
use gradc_ir::graph::{Role, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// The operand, an axis of it, and indices of that axis.
fn along(call: &Call) -> Result<(Value, usize, Value), Fault> {
    let (x, index) = (call.tensor("self")?, call.tensor("index")?);
    Ok((x, call.axis("dim", call.b.shape(x).len())?, index))
}

pub fn gather(call: &mut Call) -> Result<Value, Fault> {
    call.require_bool("sparse_grad", false)?;
    let (x, axis, index) = along(call)?;
    Ok(layers::gather_along(call.b, x, axis, index)?)
}

/// As `gather`, of operands that broadcast outside of the axis; without `dim` both are flat.
pub fn take_along_dim(call: &mut Call) -> Result<Value, Fault> {
    let (x, index) = (call.tensor("self")?, call.tensor("indices")?);
    if call.is_none("dim") {
        let (x, index) = (flat(call.b, x)?, flat(call.b, index)?);
        let extent = call.b.shape(x)[0];
        let index = from_front(call.b, index, extent)?;
        return Ok(layers::gather_along(call.b, x, 0, index)?);
    }
    let (of_x, of_index) = (call.b.shape(x).to_vec(), call.b.shape(index).to_vec());
    let axis = call.axis("dim", of_x.len())?;
    if of_x.is_empty() || of_x.len() != of_index.len() {
        let fault = Fault::new("invalid-operands", "operand and indices need the same axes");
        return Err(fault.expected(format!("{of_x:?}")).found(format!("{of_index:?}")));
    }
    let others =
        |shape: &[usize]| shape.iter().enumerate().map(|(d, &n)| if d == axis { 1 } else { n }).collect::<Vec<_>>();
    let mut common = broadcast_shape(&others(&of_x), &others(&of_index))?;
    common[axis] = of_x[axis];
    let x = call.b.broadcast_to(x, &common)?;
    common[axis] = of_index[axis];
    let index = from_front(call.b, index, of_x[axis])?;
    let index = call.b.broadcast_to(index, &common)?;
    Ok(layers::gather_along(call.b, x, axis, index)?)
}

fn flat(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let elements = b.ty(x).elements();
    b.reshape(x, &[elements])
}

/// Slices of `self` along an axis, picked by a vector of indices.
pub fn index_select(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis, index) = along(call)?;
    if call.b.shape(x).is_empty() || call.b.shape(index).len() != 1 {
        return Err(Fault::new("invalid-operands", "index_select needs a tensor with axes and a vector of indices"));
    }
    let front = call.b.swap_axes(x, 0, axis)?;
    let picked = call.b.gather(front, index, 0)?;
    Ok(call.b.swap_axes(picked, 0, axis)?)
}

/// Indices counted from the front, where negative ones count from the end.
///
/// Those that a host hands in are left as they are: it is the session that refuses negative ones.
fn from_front(b: &mut Builder, index: Value, extent: usize) -> Result<Value, TypeError> {
    if b.graph().input_of(index).is_some_and(|i| i.role == Role::Input) {
        return Ok(index);
    }
    let (zero, extent) = (b.full_like(index, 0.0)?, b.full_like(index, extent as f64)?);
    let negative = b.compare(CompareFn::Lt, index, zero)?;
    let shifted = b.add(index, extent)?;
    b.select(negative, shifted, index)
}

/// Axes that a list of indices picks from, the indices broadcast to each other, and where their axes go in the result.
struct Picks {
    axes: Vec<usize>,
    indices: Vec<Value>,
    /// Common shape of the indices.
    shape: Vec<usize>,
    /// Axis of the result that the axes of the indices begin at.
    at: usize,
}

/// What `x[indices]` picks, for integers.
fn picks(call: &mut Call, x: Value) -> Result<Picks, Fault> {
    let given = call.optional_tensors("indices")?;
    let rank = call.b.shape(x).len();
    let named: Vec<(usize, Value)> = given.iter().enumerate().filter_map(|(axis, v)| Some((axis, (*v)?))).collect();
    let numeric = |v: Value| !matches!(call.b.ty(v).dtype, DType::Bool | DType::U8) && !call.b.ty(v).dtype.is_float();
    if given.len() > rank || named.is_empty() {
        return Err(invalid("indices", &format!("1 to {rank} indices"), given.len()));
    }
    if !named.iter().all(|(_, v)| numeric(*v)) {
        return Err(unsupported("indices", "integers: what a mask picks has another shape for every mask")
            .help("multiply by the mask, or use torch.where"));
    }
    let axes: Vec<usize> = named.iter().map(|(axis, _)| *axis).collect();
    let mut shape = vec![];
    for (_, v) in &named {
        shape = broadcast_shape(&shape, call.b.shape(*v))?;
    }
    let mut indices = Vec::new();
    for (axis, v) in named {
        let extent = call.b.shape(x)[axis];
        let index = from_front(call.b, v, extent)?;
        indices.push(call.b.broadcast_to(index, &shape)?);
    }
    let together = axes.windows(2).all(|w| w[1] == w[0] + 1);
    let at = if together { axes[0] } else { 0 };
    Ok(Picks { axes, indices, shape, at })
}

impl Picks {
    /// The axes picked from, then the others.
    fn front_first(&self, rank: usize) -> Vec<usize> {
        self.axes.iter().copied().chain((0..rank).filter(|d| !self.axes.contains(d))).collect()
    }

    /// From `[I…, R…]`, the axes of the indices first, to the axes of the result.
    fn to_result(&self, rank: usize) -> Vec<usize> {
        let (picked, others) = (self.shape.len(), rank - self.axes.len());
        let other = |k: usize| picked + k;
        (0..self.at).map(other).chain(0..picked).chain((self.at..others).map(other)).collect()
    }
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    inverse
}

/// `self[indices]`, one index per axis or None: one axis after the other, so that each index is known to be one.
pub fn index(call: &mut Call) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let picks = picks(call, x)?;
    let rank = call.b.shape(x).len();
    let mut y = call.b.transpose(x, &picks.front_first(rank))?;
    for (k, &index) in picks.indices.iter().enumerate() {
        y = call.b.gather(y, index, if k == 0 { 0 } else { picks.shape.len() })?;
    }
    Ok(call.b.transpose(y, &picks.to_result(rank))?)
}

/// `self[indices] = values`, or `+=`. Of several values for one element the last counts.
pub fn index_put(call: &mut Call) -> Result<Value, Fault> {
    let (x, values, accumulate) = (call.tensor("self")?, call.tensor("values")?, call.bool("accumulate")?);
    if let Some(masked) = masked_put(call, x, values, accumulate)? {
        return Ok(masked);
    }
    let picks = picks(call, x)?;
    let (shape, to_result) = (call.b.shape(x).to_vec(), picks.to_result(call.b.shape(x).len()));
    let front = picks.front_first(shape.len());
    let rest: Vec<usize> = front[picks.axes.len()..].iter().map(|&d| shape[d]).collect();
    let updates = [&picks.shape[..], &rest].concat();
    let of_result: Vec<usize> = to_result.iter().map(|&d| updates[d]).collect();
    let values = call.b.broadcast_to(values, &of_result)?;
    let values = call.b.transpose(values, &inverse(&to_result))?;
    let count = picks.shape.iter().product();
    let values = call.b.reshape(values, &[&[count], &rest[..]].concat())?;
    let (at, extent) = flat_indices(call, &picks, &shape)?;
    let moved = call.b.transpose(x, &front)?;
    let moved_shape = call.b.shape(moved).to_vec();
    let rows = call.b.reshape(moved, &[&[extent], &rest[..]].concat())?;
    let rows = match accumulate {
        true => call.b.scatter_add(rows, at, values, 0)?,
        false => layers::write_rows(call.b, rows, at, values)?,
    };
    let moved = call.b.reshape(rows, &moved_shape)?;
    Ok(call.b.transpose(moved, &inverse(&front))?)
}

/// Indices into the picked axes joined to one, flat, and the extent of that.
fn flat_indices(call: &mut Call, picks: &Picks, shape: &[usize]) -> Result<(Value, usize), Fault> {
    let count = picks.shape.iter().product();
    let (mut flat, mut extent): (Option<Value>, usize) = (None, 1);
    for (&axis, &index) in picks.axes.iter().zip(&picks.indices) {
        let places = call.b.iota(DType::I64, &[shape[axis]], 0)?;
        // As an index of its own axis, so that its range is known.
        let index = call.b.gather(places, index, 0)?;
        flat = Some(match flat {
            None => index,
            Some(so_far) => {
                let scaled = call.b.scale(so_far, shape[axis] as f64)?;
                call.b.add(scaled, index)?
            }
        });
        extent *= shape[axis];
    }
    let flat = flat.ok_or_else(|| invalid("indices", "at least one index", 0))?;
    Ok((call.b.reshape(flat, &[count])?, extent))
}

/// `self[mask] = value` for one value.
fn masked_put(call: &mut Call, x: Value, values: Value, accumulate: bool) -> Result<Option<Value>, Fault> {
    let given = call.optional_tensors("indices")?;
    let [Some(mask)] = given[..] else { return Ok(None) };
    if call.b.ty(mask).dtype != DType::Bool || accumulate || call.b.ty(values).elements() != 1 {
        return Ok(None);
    }
    let shape = call.b.shape(x).to_vec();
    let leading: Vec<usize> = (0..call.b.shape(mask).len()).collect();
    let mask = call.b.broadcast(mask, &shape, &leading)?;
    let value = call.b.reshape(values, &[])?;
    Ok(Some(call.b.select(mask, value, x)?))
}

pub fn scatter(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis, index) = along(call)?;
    let dtype = call.dtype()?;
    let source = if call.args.contains_key("src") { "src" } else { "value" };
    let source = call.number_or_tensor(source, dtype, index)?;
    Ok(layers::scatter_along(call.b, x, axis, index, source)?)
}

pub fn scatter_add(call: &mut Call) -> Result<Value, Fault> {
    let ((x, axis, index), source) = (along(call)?, call.tensor("src")?);
    Ok(layers::scatter_add_along(call.b, x, axis, index, source)?)
}

/// Combined with `self`, or in its place.
pub fn scatter_reduce(call: &mut Call) -> Result<Value, Fault> {
    let ((x, axis, index), source) = (along(call)?, call.tensor("src")?);
    let (kind, with_self) = (call.text("reduce")?, call.bool("include_self")?);
    if kind == "sum" && with_self {
        return Ok(layers::scatter_add_along(call.b, x, axis, index, source)?);
    }
    let combine = match kind {
        "sum" => Combine::Sum,
        "prod" => Combine::Product,
        "mean" => Combine::Mean,
        "amax" => Combine::Max,
        "amin" => Combine::Min,
        other => return Err(invalid("reduce", "sum, prod, mean, amax or amin", other)),
    };
    Ok(scatter_combine(call.b, x, axis, [index, source], combine, with_self)?)
}

/// `self` with the elements of `source` in order where `mask` is true.
pub fn masked_scatter(call: &mut Call) -> Result<Value, Fault> {
    let (x, mask, source) = (call.tensor("self")?, call.tensor("mask")?, call.tensor("source")?);
    let shape = call.b.shape(x).to_vec();
    let mask = call.b.broadcast_to(mask, &shape)?;
    let (mask, source) = (flat(call.b, mask)?, flat(call.b, source)?);
    if call.b.ty(source).elements() == 0 {
        return Err(Fault::new("invalid-operands", "there are no elements to scatter"));
    }
    let ones = call.b.cast(mask, DType::I64)?;
    let before = cumulative_sum(call.b, ones, 0, true, false)?;
    let picked = call.b.gather(source, before, 0)?;
    let old = flat(call.b, x)?;
    let written = call.b.select(mask, picked, old)?;
    Ok(call.b.reshape(written, &shape)?)
}

pub fn bucketize(call: &mut Call) -> Result<Value, Fault> {
    let (x, boundaries, right) = (call.tensor("self")?, call.tensor("boundaries")?, call.bool("right")?);
    places(call, boundaries, x, right)
}

pub fn searchsorted(call: &mut Call) -> Result<Value, Fault> {
    call.require_none("sorter")?;
    let (x, sorted, mut right) = (call.tensor("self")?, call.tensor("sorted_sequence")?, call.bool("right")?);
    if !call.is_none("side") {
        right = call.text("side")? == "right";
    }
    places(call, sorted, x, right)
}

fn places(call: &mut Call, sorted: Value, values: Value, right: bool) -> Result<Value, Fault> {
    let (of, by) = (call.b.ty(sorted).dtype, call.b.ty(values).dtype);
    let common = if of.is_float() { of } else { by };
    let (sorted, values) = (call.b.cast(sorted, common)?, call.b.cast(values, common)?);
    let found = search_sorted(call.b, sorted, values, right)?;
    let dtype = call.dtype()?;
    Ok(call.b.cast(found, dtype)?)
}

/// Rows of an axis moved to the front, their vector of indices, and the axis.
fn rows(call: &mut Call) -> Result<(Value, usize, Value), Fault> {
    let (x, axis, index) = along(call)?;
    if call.b.shape(x).is_empty() || call.b.shape(index).len() > 1 {
        return Err(Fault::new("invalid-operands", "the op needs a tensor with axes and a vector of indices"));
    }
    let count = call.b.ty(index).elements();
    let index = call.b.reshape(index, &[count])?;
    Ok((call.b.swap_axes(x, 0, axis)?, axis, index))
}

/// Adds `alpha · source`, slice by slice.
pub fn index_add(call: &mut Call) -> Result<Value, Fault> {
    let (base, axis, index) = rows(call)?;
    let (source, alpha) = (call.tensor("source")?, call.float("alpha")?);
    let source = if alpha == 1.0 { source } else { call.b.scale(source, alpha)? };
    let source = call.b.swap_axes(source, 0, axis)?;
    let sums = call.b.scatter_add(base, index, source, 0)?;
    Ok(call.b.swap_axes(sums, 0, axis)?)
}

pub fn index_copy(call: &mut Call) -> Result<Value, Fault> {
    let ((base, axis, index), source) = (rows(call)?, call.tensor("source")?);
    let source = call.b.swap_axes(source, 0, axis)?;
    let written = layers::write_rows(call.b, base, index, source)?;
    Ok(call.b.swap_axes(written, 0, axis)?)
}

pub fn index_fill(call: &mut Call) -> Result<Value, Fault> {
    let (base, axis, index) = rows(call)?;
    let shape = call.b.shape(base).to_vec();
    let hits = layers::hits(call.b, index, shape[0])?;
    let hit = reduce::any(call.b, hits, &[0], false)?;
    let hit = call.b.broadcast(hit, &shape, &[0])?;
    let dtype = call.dtype()?;
    let value = call.number_or_tensor("value", dtype, base)?;
    let filled = call.b.select(hit, value, base)?;
    Ok(call.b.swap_axes(filled, 0, axis)?)
}

/// Ones where a new last axis has the index, of i64.
pub fn one_hot(call: &mut Call) -> Result<Value, Fault> {
    let index = call.tensor("self")?;
    let classes = usize::try_from(call.int("num_classes")?)
        .map_err(|_| unsupported("num_classes", "a number: the largest index is not known"))?;
    let hits = layers::hits(call.b, index, classes)?;
    Ok(call.b.cast(hits, DType::I64)?)
}

/// `self` with `src` in place of one slice.
pub fn select_scatter(call: &mut Call) -> Result<Value, Fault> {
    let (x, source) = (call.tensor("self")?, call.tensor("src")?);
    let axis = call.axis("dim", call.b.shape(x).len())?;
    let extent = *call.b.shape(x).get(axis).ok_or_else(|| invalid("dim", "an axis", axis))?;
    let at = super::shape::normal_index("index", call.int("index")?, extent)?;
    let source = shape::unsqueeze(call.b, source, &[axis])?;
    Ok(layers::write_part(call.b, x, source, axis, &[at])?)
}

/// `self` with `src` in place of `start..end` by `step`.
pub fn slice_scatter(call: &mut Call) -> Result<Value, Fault> {
    let (x, source) = (call.tensor("self")?, call.tensor("src")?);
    let (axis, indices) = step_indices(call)?;
    Ok(layers::write_part(call.b, x, source, axis, &indices)?)
}
