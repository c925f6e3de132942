//! Order of elements along an axis, and what depends on it.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use super::reduce::{extent, keep};
use crate::layers::{cumulative, indexing, reduce as layers};
use gradc_ir::graph::Value;

/// (elements in order, their indices before)
pub fn sort(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, descending) = (call.tensor("self")?, call.bool("descending")?);
    let axis = call.axis("dim", call.b.shape(x).len())?;
    if call.b.shape(x).is_empty() {
        return Err(Fault::new("invalid-operands", "a scalar is in order").expected("a tensor with axes"));
    }
    Ok(call.b.sort(x, axis, descending)?.to_vec())
}

pub fn argsort(call: &mut Call) -> Result<Value, Fault> {
    Ok(sort(call)?[1])
}

/// (the k largest or smallest elements in order, their indices); in order whether asked to be or not.
pub fn topk(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, k, largest) = (call.tensor("self")?, call.count("k")?, call.bool("largest")?);
    let axis = call.axis("dim", call.b.shape(x).len())?;
    let count = call.b.shape(x).get(axis).copied().unwrap_or(0);
    if k > count {
        return Err(invalid("k", &format!("at most {count}"), k));
    }
    Ok(call.b.sort_first(x, axis, largest, k)?.to_vec())
}

/// The elements at one index per line, whose axis stays with extent 1 or goes, and the indices.
fn at_index(call: &mut Call, x: Value, axis: usize, index: Value) -> Result<Vec<Value>, Fault> {
    let mut kept = call.b.shape(x).to_vec();
    kept[axis] = 1;
    let wide = call.b.reshape(index, &kept)?;
    let values = indexing::pick_along(call.b, x, axis, wide)?;
    let keepdim = call.bool("keepdim")?;
    [values, wide].into_iter().map(|v| keep(call, v, axis, keepdim)).collect()
}

/// The operand and the axis of a line.
fn line(call: &Call) -> Result<(Value, usize), Fault> {
    let x = call.tensor("self")?;
    if call.b.shape(x).is_empty() {
        return Err(Fault::new("invalid-operands", "the op needs a tensor with axes").found("a scalar"));
    }
    Ok((x, call.axis("dim", call.b.shape(x).len())?))
}

/// (largest element of every line, its index); of equal ones the first, which has the gradient.
pub fn max_dim(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, axis) = line(call)?;
    let index = call.b.arg_max(x, axis)?;
    at_index(call, x, axis, index)
}

/// (smallest element of every line, its index); of equal ones the first, which has the gradient.
pub fn min_dim(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, axis) = line(call)?;
    let index = layers::arg_min(call.b, x, axis)?;
    at_index(call, x, axis, index)
}

/// (smallest, largest) of every line, or of all.
pub fn aminmax(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let x = call.tensor("self")?;
    let (axes, keepdim) = extent(call, x)?;
    Ok(vec![layers::min(call.b, x, &axes, keepdim)?, layers::max(call.b, x, &axes, keepdim)?])
}

/// The k-th smallest element of every line (from 1), and its index.
fn kth(call: &mut Call, k: usize) -> Result<Vec<Value>, Fault> {
    let (x, axis) = line(call)?;
    let count = call.b.shape(x)[axis];
    if k == 0 || k > count {
        return Err(invalid("k", &format!("1 to {count}"), k));
    }
    let [values, indices] = call.b.sort_first(x, axis, false, k)?;
    let keepdim = call.bool("keepdim")?;
    let mut at = |v| -> Result<Value, Fault> {
        let part = call.b.slice_axis(v, axis, k - 1, k)?;
        keep(call, part, axis, keepdim)
    };
    Ok(vec![at(values)?, at(indices)?])
}

pub fn kthvalue(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let k = call.count("k")?;
    kth(call, k)
}

/// The lower of the two in the middle, as PyTorch's.
pub fn median(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, axis) = line(call)?;
    let count = call.b.shape(x)[axis];
    kth(call, count.div_ceil(2))
}

pub fn cumsum(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis) = accumulated(call)?;
    if call.b.shape(x).is_empty() { Ok(x) } else { Ok(cumulative::cumulative_sum(call.b, x, axis, false, false)?) }
}

pub fn cumprod(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis) = accumulated(call)?;
    if call.b.shape(x).is_empty() { Ok(x) } else { Ok(cumulative::cumulative_product(call.b, x, axis)?) }
}

pub fn logcumsumexp(call: &mut Call) -> Result<Value, Fault> {
    let (x, axis) = accumulated(call)?;
    if call.b.shape(x).is_empty() { Ok(x) } else { Ok(cumulative::cumulative_log_sum_exp(call.b, x, axis)?) }
}

/// (largest element so far, its index)
pub fn cummax(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, axis) = line(call)?;
    Ok(cumulative::cumulative_extreme(call.b, x, axis, false)?.to_vec())
}

/// (smallest element so far, its index)
pub fn cummin(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let (x, axis) = line(call)?;
    Ok(cumulative::cumulative_extreme(call.b, x, axis, true)?.to_vec())
}

/// The operand in the recorded dtype, and an axis.
fn accumulated(call: &mut Call) -> Result<(Value, usize), Fault> {
    let (x, dtype) = (call.tensor("self")?, call.dtype()?);
    let axis = call.axis("dim", call.b.shape(x).len())?;
    Ok((call.b.cast(x, dtype)?, axis))
}

/// Differences of neighbours along an axis, n times.
pub fn diff(call: &mut Call) -> Result<Value, Fault> {
    call.require_none("prepend")?;
    call.require_none("append")?;
    let ((mut x, axis), times) = (line(call)?, call.count("n")?);
    if times > 64 {
        return Err(unsupported("n", "at most 64"));
    }
    for _ in 0..times {
        let count = call.b.shape(x)[axis];
        let (after, before) =
            (call.b.slice_axis(x, axis, 1.min(count), count)?, call.b.slice_axis(x, axis, 0, count.max(1) - 1)?);
        x = call.b.sub(after, before)?;
    }
    Ok(x)
}
