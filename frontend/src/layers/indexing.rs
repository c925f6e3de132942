//! Picking and writing at computed indices of one axis.
//!
//! Indices must lie within the axis: sessions check those that are handed in, others are clamped.

use super::reduce;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// Swaps an axis with the last one; twice is the identity.
fn axis_last(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let last = b.shape(x).len().saturating_sub(1);
    b.swap_axes(x, axis, last)
}

/// The first elements of every axis but `axis`, as many as `extents` says.
fn corner(b: &mut Builder, x: Value, extents: &[usize], but: Option<usize>) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    let whole = |d: usize| Some(d) == but;
    let fits = shape.len() == extents.len() && (0..shape.len()).all(|d| whole(d) || extents[d] <= shape[d]);
    if !fits {
        return Err(TypeError::new("the indices reach over the operand")
            .expected(format!("at most {shape:?}"))
            .found(format!("{extents:?}")));
    }
    let limits: Vec<usize> = (0..shape.len()).map(|d| if whole(d) { shape[d] } else { extents[d] }).collect();
    b.slice(x, &vec![0; shape.len()], &limits, &vec![1; shape.len()])
}

/// `x` at the beginning of zeros of another shape.
fn in_corner(b: &mut Builder, x: Value, shape: &[usize]) -> Result<Value, TypeError> {
    let high: Vec<usize> = shape.iter().zip(b.shape(x)).map(|(to, from)| to - from).collect();
    let none = vec![0; shape.len()];
    b.pad(x, &none, &high, &none, 0.0)
}

/// Indices themselves, known to be indices of an axis of `extent`.
fn as_indices(b: &mut Builder, indices: Value, extent: usize) -> Result<Value, TypeError> {
    let places = b.iota(DType::I64, &[extent], 0)?;
    b.gather(places, indices, 0)
}

/// `y[…, k, …] = x[…, indices[…, k, …], …]` along `axis` (PyTorch `gather`, ONNX `GatherElements`).
///
/// `indices` has as many axes as `x` and is no longer outside of `axis`.
pub fn gather_along(b: &mut Builder, x: Value, axis: usize, indices: Value) -> Result<Value, TypeError> {
    let picked = b.shape(indices).to_vec();
    let x = corner(b, x, &picked, Some(axis))?;
    if picked.is_empty() {
        return Ok(x);
    }
    let (x, indices) = (axis_last(b, x, axis)?, axis_last(b, indices, axis)?);
    let y = b.gather(x, indices, picked.len() - 1)?;
    axis_last(b, y, axis)
}

/// As [`gather_along`] of one index for each line. Along an axis that is not the last, where a gather would want `x`
/// transposed, sums of what is at the index and zeros elsewhere: of a zero, the sign may be lost.
pub fn pick_along(b: &mut Builder, x: Value, axis: usize, index: Value) -> Result<Value, TypeError> {
    let (shape, dtype) = (b.shape(x).to_vec(), b.ty(x).dtype);
    if axis + 1 == shape.len() || !dtype.is_float() {
        return gather_along(b, x, axis, index);
    }
    let index_dtype = DType::index_of(shape[axis]);
    let (index, place) = (b.cast(index, index_dtype)?, b.iota(index_dtype, &shape, axis)?);
    let index = b.broadcast_to(index, &shape)?;
    let (hit, zeros) = (b.compare(CompareFn::Eq, place, index)?, b.full_like(x, 0.0)?);
    let picked = b.select(hit, x, zeros)?;
    reduce::sum(b, picked, &[axis], true)
}

/// `base` with `updates[…, k, …]` added at `indices[…, k, …]` of `axis` (PyTorch `scatter_add`).
///
/// All have as many axes; `indices` may be shorter than both.
pub fn scatter_add_along(
    b: &mut Builder,
    base: Value,
    axis: usize,
    indices: Value,
    updates: Value,
) -> Result<Value, TypeError> {
    let (shape, picked) = (b.shape(base).to_vec(), b.shape(indices).to_vec());
    let updates = corner(b, updates, &picked, None)?;
    let part = corner(b, base, &picked, Some(axis))?;
    if picked.is_empty() {
        return b.add(base, updates);
    }
    let whole = b.shape(part) == shape;
    let start = if whole { part } else { b.full_like(part, 0.0)? };
    let [start, indices, updates] = [start, indices, updates].map(|v| axis_last(b, v, axis));
    let sums = b.scatter_add(start?, indices?, updates?, picked.len() - 1)?;
    let sums = axis_last(b, sums, axis)?;
    if whole {
        return Ok(sums);
    }
    let sums = in_corner(b, sums, &shape)?;
    b.add(base, sums)
}

/// `base` with `updates[…, k, …]` at `indices[…, k, …]` of `axis` (PyTorch `scatter`, ONNX `ScatterElements`).
///
/// Of several updates of one element the last counts. All have as many axes; `indices` may be shorter than both.
pub fn scatter_along(
    b: &mut Builder,
    base: Value,
    axis: usize,
    indices: Value,
    updates: Value,
) -> Result<Value, TypeError> {
    let (shape, picked) = (b.shape(base).to_vec(), b.shape(indices).to_vec());
    let updates = corner(b, updates, &picked, None)?;
    corner(b, base, &picked, Some(axis))?;
    if picked.is_empty() {
        return Ok(updates);
    }
    let (indices, updates) = (axis_last(b, indices, axis)?, axis_last(b, updates, axis)?);
    let (written, last) = last_writers(b, indices, shape[axis])?;
    let new = b.gather(updates, last, picked.len() - 1)?;
    let new = axis_last(b, new, axis)?;
    let new = in_corner(b, new, &shape)?;
    let written = b.cast(written, DType::I32)?;
    let written = axis_last(b, written, axis)?;
    let written = in_corner(b, written, &shape)?;
    let zero = b.full_like(written, 0.0)?;
    let written = b.compare(CompareFn::Ne, written, zero)?;
    b.select(written, new, base)
}

/// `base` `[N, R…]` with rows `updates` `[K, R…]` at `indices` `[K]`; of several for one row the last counts.
pub fn write_rows(b: &mut Builder, base: Value, indices: Value, updates: Value) -> Result<Value, TypeError> {
    let shape = b.shape(base).to_vec();
    let Some(&rows) = shape.first() else {
        return Err(TypeError::new("a scalar has no rows").expected("[N, R…]").found(b.ty(base)));
    };
    if b.shape(indices) == [0] {
        return Ok(base);
    }
    let (written, last) = last_writers(b, indices, rows)?;
    let new = b.gather(updates, last, 0)?;
    let written = b.broadcast(written, &shape, &[0])?;
    b.select(written, new, base)
}

/// Of indices `[L…, K]` into an axis of `extent`: which elements `[L…, extent]` have any, and the last k that has each.
fn last_writers(b: &mut Builder, indices: Value, extent: usize) -> Result<(Value, Value), TypeError> {
    let picked = b.shape(indices).to_vec();
    let rank = picked.len();
    let hits = hits(b, indices, extent)?;
    let order = b.iota(DType::I32, &[&picked[..], &[extent]].concat(), rank - 1)?;
    let none = b.full_like(order, -1.0)?;
    let order = b.select(hits, order, none)?;
    let last = reduce::max(b, order, &[rank - 1], false)?;
    let zero = b.full_like(last, 0.0)?;
    let written = b.compare(CompareFn::Ge, last, zero)?;
    Ok((written, b.maximum(last, zero)?))
}

/// `hits[I…, n]`: whether the index at `I…` is n.
pub fn hits(b: &mut Builder, indices: Value, extent: usize) -> Result<Value, TypeError> {
    let indices = as_indices(b, indices, extent)?;
    let picked = b.shape(indices).to_vec();
    let shape = [&picked[..], &[extent]].concat();
    let wide = b.broadcast(indices, &shape, &(0..picked.len()).collect::<Vec<_>>())?;
    let place = b.iota(DType::I64, &shape, picked.len())?;
    b.compare(CompareFn::Eq, wide, place)
}

/// `base` with `source` at ascending `indices` of `axis`; booleans too.
pub fn write_part(
    b: &mut Builder,
    base: Value,
    source: Value,
    axis: usize,
    indices: &[usize],
) -> Result<Value, TypeError> {
    let dtype = b.ty(base).dtype;
    let source = b.cast(source, dtype)?;
    if dtype != DType::Bool {
        return b.index_copy(base, source, axis, indices);
    }
    let (base, source) = (b.cast(base, DType::U8)?, b.cast(source, DType::U8)?);
    let written = b.index_copy(base, source, axis, indices)?;
    b.cast(written, dtype)
}

/// The elements whose indices along two axes of one extent are equal; the second axis disappears.
pub fn diagonal(b: &mut Builder, x: Value, first: usize, second: usize) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    if shape[first] != shape[second] {
        return Err(TypeError::new("axes of a diagonal differ").expected(shape[first]).found(shape[second]));
    }
    let (row, column) = (b.iota(DType::I32, &shape, first)?, b.iota(DType::I32, &shape, second)?);
    let on = b.compare(CompareFn::Eq, row, column)?;
    let zero = b.full_like(x, 0.0)?;
    let kept = b.select(on, x, zero)?;
    reduce::sum(b, kept, &[second], false)
}

/// The elements at fixed indices of an axis, in any order and any number of times: a slice for each run.
pub fn pick(b: &mut Builder, x: Value, axis: usize, indices: &[usize]) -> Result<Value, TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| TypeError::new("axis out of range").found(axis))?;
    if let Some(&at) = indices.iter().find(|&&at| at >= extent) {
        return Err(TypeError::new("index out of range").expected(format!("below {extent}")).found(at));
    }
    if indices.windows(2).all(|w| w[0] < w[1]) {
        return b.index_select(x, axis, indices);
    }
    let mut parts = Vec::new();
    for run in indices.chunk_by(|&a, &b| b == a + 1) {
        parts.push(b.slice_axis(x, axis, run[0], run[0] + run.len())?);
    }
    b.concat(&parts, axis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::evaluate;
    use gradc_ir::tensor::Tensor;
    use gradc_ir::types::TensorType;

    fn floats(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::float(TensorType::f32(shape), values.to_vec())
    }

    fn indices(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::int(TensorType::new(DType::I64, shape), values.to_vec())
    }

    fn run(tensors: &[Tensor], f: impl FnOnce(&mut Builder, &[Value]) -> Result<Value, TypeError>) -> Vec<f64> {
        evaluate(tensors, |b, x| Ok(vec![f(b, x)?]))[0].floats().to_vec()
    }

    #[test]
    fn one_index_of_each_line_is_picked_along_any_axis() {
        let x = floats(&[2, 3], &[1.0, f64::INFINITY, 3.0, -4.0, 5.0, f64::NAN]);
        let picked = |shape: &[usize], at: &[i64], axis| {
            run(&[x.clone(), indices(shape, at)], |b, v| pick_along(b, v[0], axis, v[1]))
        };
        assert_eq!(picked(&[1, 3], &[1, 0, 0], 0), [-4.0, f64::INFINITY, 3.0]);
        assert!(picked(&[1, 3], &[1, 0, 1], 0)[2].is_nan());
        assert_eq!(picked(&[2, 1], &[0, 1], 1), [1.0, 5.0]);
        let numbers = [indices(&[2, 2], &[7, 8, 9, 10]), indices(&[1, 2], &[1, 0])];
        assert_eq!(evaluate(&numbers, |b, v| Ok(vec![pick_along(b, v[0], 0, v[1])?]))[0].ints(), [9, 8]);
    }

    #[test]
    fn indices_may_be_shorter_than_the_operand() {
        let x = floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let at = indices(&[1, 2], &[2, 0]);
        assert_eq!(run(&[x.clone(), at.clone()], |b, v| gather_along(b, v[0], 1, v[1])), [3.0, 1.0]);
        let new = floats(&[2, 2], &[10.0, 20.0, 30.0, 40.0]);
        let tensors = [x, at, new];
        let added = run(&tensors, |b, v| scatter_add_along(b, v[0], 1, v[1], v[2]));
        assert_eq!(added, [21.0, 2.0, 13.0, 4.0, 5.0, 6.0]);
        let written = run(&tensors, |b, v| scatter_along(b, v[0], 1, v[1], v[2]));
        assert_eq!(written, [20.0, 2.0, 10.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn the_last_of_several_writers_counts() {
        let tensors = [floats(&[3], &[1.0, 2.0, 3.0]), indices(&[3], &[2, 0, 2]), floats(&[3], &[10.0, 20.0, 30.0])];
        assert_eq!(run(&tensors, |b, v| scatter_along(b, v[0], 0, v[1], v[2])), [20.0, 2.0, 30.0]);
        assert_eq!(run(&tensors, |b, v| write_rows(b, v[0], v[1], v[2])), [20.0, 2.0, 30.0]);
        assert_eq!(run(&tensors, |b, v| scatter_add_along(b, v[0], 0, v[1], v[2])), [21.0, 2.0, 43.0]);
    }

    #[test]
    fn fixed_indices_may_repeat_and_run_backwards() {
        let x = floats(&[4], &[1.0, 2.0, 3.0, 4.0]);
        for at in [&[0, 2, 3][..], &[3, 2, 1], &[0, 0, 1, 2, 2], &[]] {
            let expected: Vec<f64> = at.iter().map(|&k| k as f64 + 1.0).collect();
            assert_eq!(run(std::slice::from_ref(&x), |b, v| pick(b, v[0], 0, at)), expected);
        }
    }

    #[test]
    fn indices_that_reach_over_the_operand_are_refused() {
        let mut b = Builder::new("test");
        let x = b.input("x", TensorType::f32([2, 3])).unwrap();
        let at = b.input("at", TensorType::new(DType::I64, [3, 2])).unwrap();
        assert!(gather_along(&mut b, x, 1, at).is_err());
        assert!(scatter_along(&mut b, x, 1, at, x).is_err());
        assert!(scatter_add_along(&mut b, x, 1, at, x).is_err());
        assert!(pick(&mut b, x, 1, &[3]).is_err());
    }
}
