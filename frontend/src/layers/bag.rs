//! Bags of rows of a table.

use super::scatter::{Combine, scatter_combine};
use super::search::search_sorted;
use super::{linear, offset, reduce};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};

/// What a bag's rows are combined to, element by element; an empty bag is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
}

/// Which bag each of `N` indices is in.
#[derive(Clone, Copy, Debug)]
pub enum Bags {
    /// The same number in each of so many bags, one after the other.
    Even(usize),
    /// Where each of so many bags begins: ascending `[B]` or more, the first at 0.
    At(Value, usize),
}

impl Bags {
    fn count(self) -> usize {
        match self {
            Bags::Even(count) | Bags::At(_, count) => count,
        }
    }
}

/// Rows of `table` `[V, D]` at `indices` `[N]`, each times its element of `weights` `[N]`, pooled by bags: `[B, D]`
/// (`torch.nn.functional.embedding_bag`). Rows at `padding` are in no bag.
pub fn embedding_bag(
    b: &mut Builder,
    table: Value,
    indices: Value,
    bags: Bags,
    pooling: Pooling,
    weights: Option<Value>,
    padding: Option<usize>,
) -> Result<Value, TypeError> {
    let (&[_, width], &[count]) = (b.shape(table), b.shape(indices)) else {
        let error = TypeError::new("bags are of rows of a table, at a vector of indices");
        return Err(error.expected("[V, D] and [N]").found(format!("{} and {}", b.ty(table), b.ty(indices))));
    };
    let whole = bags.count();
    if matches!(bags, Bags::Even(_)) && (whole == 0 || !count.is_multiple_of(whole)) {
        return Err(TypeError::new("bags of one size must share the indices").expected(whole).found(count));
    }
    let dtype = b.ty(table).dtype;
    let mut rows = linear::embedding(b, table, indices)?;
    if let Some(weights) = weights {
        let weights = b.broadcast(weights, &[count, width], &[0])?;
        rows = b.mul(rows, weights)?;
    }
    let counted = counted(b, indices, dtype, padding)?;
    let bag = bag_of_each(b, bags, count)?;
    let sizes = pooled(b, counted, bags, bag, Pooling::Sum)?;
    let zero = b.full_like(sizes, 0.0)?;
    let is_empty = b.compare(CompareFn::Eq, sizes, zero)?;
    let rows = match padding {
        Some(_) => without(b, rows, counted, if pooling == Pooling::Max { f64::NEG_INFINITY } else { 0.0 })?,
        None => rows,
    };
    let sums = pooled(b, rows, bags, bag, pooling)?;
    let one = b.full_like(sizes, 1.0)?;
    let divisor = b.maximum(sizes, one)?;
    let [divisor, is_empty] = [divisor, is_empty].map(|v| b.broadcast_to(v, &[whole, width]));
    match pooling {
        Pooling::Sum => Ok(sums),
        Pooling::Mean => b.div(sums, divisor?),
        Pooling::Max => {
            let zero = b.full_like(sums, 0.0)?;
            b.select(is_empty?, zero, sums)
        }
    }
}

/// `[N, 1]`: 1 for each index, 0 at `padding`.
fn counted(b: &mut Builder, indices: Value, dtype: DType, padding: Option<usize>) -> Result<Value, TypeError> {
    let count = b.ty(indices).elements();
    let Some(padding) = padding else { return b.splat(&TensorType::new(dtype, [count, 1]), 1.0) };
    let padding = b.full_like(indices, padding as f64)?;
    let counts = b.compare(CompareFn::Ne, indices, padding)?;
    let counts = b.cast(counts, dtype)?;
    b.reshape(counts, &[count, 1])
}

/// `fill` in place of the rows that do not count.
fn without(b: &mut Builder, rows: Value, counted: Value, fill: f64) -> Result<Value, TypeError> {
    let shape = b.shape(rows).to_vec();
    let (zero, fill) = (b.full_like(counted, 0.0)?, b.full_like(rows, fill)?);
    let counts = b.compare(CompareFn::Ne, counted, zero)?;
    let counts = b.reshape(counts, &shape[..1])?;
    let counts = b.broadcast(counts, &shape, &[0])?;
    b.select(counts, rows, fill)
}

/// The bag of each index, `[N]` of i64, where bags are not of one size.
fn bag_of_each(b: &mut Builder, bags: Bags, count: usize) -> Result<Option<Value>, TypeError> {
    let Bags::At(begins, whole) = bags else { return Ok(None) };
    let begins = b.slice_axis(begins, 0, 0, whole)?;
    let begins = b.cast(begins, DType::I64)?;
    let place = b.iota(DType::I64, &[count], 0)?;
    let begun = search_sorted(b, begins, place, true)?;
    offset(b, begun, -1.0).map(Some)
}

/// Rows `[N, R]` pooled to `[B, R]`; means are sums here.
fn pooled(b: &mut Builder, rows: Value, bags: Bags, bag: Option<Value>, pooling: Pooling) -> Result<Value, TypeError> {
    let &[count, width] = b.shape(rows) else { return Err(TypeError::new("rows have two axes").found(b.ty(rows))) };
    let whole = bags.count();
    let Some(bag) = bag else {
        let apart = b.reshape(rows, &[whole, count / whole.max(1), width])?;
        let fold = if pooling == Pooling::Max { reduce::max } else { reduce::sum };
        return fold(b, apart, &[1], false);
    };
    let zeros = b.splat(&TensorType::new(b.ty(rows).dtype, [whole, width]), 0.0)?;
    if pooling != Pooling::Max {
        return b.scatter_add(zeros, bag, rows, 0);
    }
    let wide = b.broadcast(bag, &[count, width], &[0])?;
    scatter_combine(b, zeros, 0, [wide, rows], Combine::Max, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::evaluate;
    use gradc_ir::tensor::Tensor;

    fn run(bags: impl Fn(Value) -> Bags, pooling: Pooling, weights: bool, padding: Option<usize>) -> Vec<f64> {
        let integers = |values: &[i64]| Tensor::int(TensorType::new(DType::I64, [values.len()]), values.to_vec());
        let table = Tensor::float(TensorType::f32([3, 2]), vec![1.0, 10.0, -2.0, 20.0, 3.0, -30.0]);
        let weight = Tensor::float(TensorType::f32([4]), vec![1.0, 2.0, 3.0, 4.0]);
        let pooled = evaluate(&[table, integers(&[0, 1, 2, 1]), integers(&[0, 1, 1]), weight], |b, x| {
            Ok(vec![embedding_bag(b, x[0], x[1], bags(x[2]), pooling, weights.then_some(x[3]), padding)?])
        });
        pooled[0].floats().to_vec()
    }

    #[test]
    fn bags_of_one_size_are_one_after_the_other() {
        let even = |_| Bags::Even(2);
        assert_eq!(run(even, Pooling::Sum, false, None), [-1.0, 30.0, 1.0, -10.0]);
        assert_eq!(run(even, Pooling::Mean, false, None), [-0.5, 15.0, 0.5, -5.0]);
        assert_eq!(run(even, Pooling::Max, false, None), [1.0, 20.0, 3.0, 20.0]);
        assert_eq!(run(even, Pooling::Sum, true, None), [-3.0, 50.0, 1.0, -10.0]);
        assert_eq!(run(even, Pooling::Mean, false, Some(1)), [1.0, 10.0, 3.0, -30.0]);
    }

    #[test]
    fn bags_may_be_empty() {
        let at = |begins| Bags::At(begins, 3);
        assert_eq!(run(at, Pooling::Sum, false, None), [1.0, 10.0, 0.0, 0.0, -1.0, 10.0]);
        assert_eq!(run(at, Pooling::Mean, false, None), [1.0, 10.0, 0.0, 0.0, -1.0 / 3.0, 10.0 / 3.0]);
        assert_eq!(run(at, Pooling::Max, false, None), [1.0, 10.0, 0.0, 0.0, 3.0, 20.0]);
        assert_eq!(run(at, Pooling::Max, false, Some(0)), [0.0, 0.0, 0.0, 0.0, 3.0, 20.0]);
        assert_eq!(run(at, Pooling::Mean, false, Some(1)), [1.0, 10.0, 0.0, 0.0, 3.0, -30.0]);
    }
}
