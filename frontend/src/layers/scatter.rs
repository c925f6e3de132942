//! Combining at computed indices.

use super::indexing::{hits, scatter_add_along};
use super::reduce;
use super::shape::unsqueeze;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// How what falls on one element is combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Added.
    Sum,
    /// Multiplied.
    Product,
    /// The mean of all.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

impl Combine {
    /// What combines with anything to that.
    fn neutral(self) -> f64 {
        match self {
            Combine::Sum | Combine::Mean => 0.0,
            Combine::Product => 1.0,
            Combine::Max => f64::NEG_INFINITY,
            Combine::Min => f64::INFINITY,
        }
    }
}

/// `base` combined with `updates[…, k, …]` at `indices[…, k, …]` of `axis`, or without `with_base` where there are any
/// replaced by these combined (PyTorch `scatter_reduce`). Equal extremes share the gradient.
///
/// All have as many axes and, but for `axis`, the same extents. Floats; other than sums and means compare every update
/// with every element of its line.
pub fn scatter_combine(
    b: &mut Builder,
    base: Value,
    axis: usize,
    [indices, updates]: [Value; 2],
    combine: Combine,
    with_base: bool,
) -> Result<Value, TypeError> {
    let (of, picked) = (b.shape(base).to_vec(), b.shape(indices).to_vec());
    let same = |d: usize| d == axis || of[d] == picked[d];
    let fits = axis < of.len() && picked.len() == of.len() && picked == b.shape(updates) && (0..of.len()).all(same);
    if !fits || !b.ty(base).dtype.is_float() {
        let error = TypeError::new("updates must be floats and have the indices' extents, the base's outside the axis");
        return Err(error.expected(b.ty(base)).found(format!("{} at {picked:?}", b.ty(updates))));
    }
    let counts = counts(b, base, axis, indices, updates)?;
    let (zero, neutral) = (b.full_like(base, 0.0)?, b.full_like(base, combine.neutral())?);
    let some = b.compare(gradc_ir::lower::CompareFn::Gt, counts, zero)?;
    let start = if with_base { base } else { b.select(some, neutral, base)? };
    match combine {
        Combine::Sum => scatter_add_along(b, start, axis, indices, updates),
        Combine::Mean => {
            let sums = scatter_add_along(b, start, axis, indices, updates)?;
            let own = super::offset(b, counts, if with_base { 1.0 } else { 0.0 })?;
            let one = b.full_like(own, 1.0)?;
            let divisor = b.maximum(own, one)?;
            b.div(sums, divisor)
        }
        Combine::Product | Combine::Max | Combine::Min => folded(b, start, axis, [indices, updates], combine),
    }
}

/// How many updates fall on each element.
fn counts(b: &mut Builder, base: Value, axis: usize, indices: Value, updates: Value) -> Result<Value, TypeError> {
    let (zero, one) = (b.full_like(base, 0.0)?, b.full_like(updates, 1.0)?);
    scatter_add_along(b, zero, axis, indices, one)
}

/// All candidates of an element in a line, the base's own first, and the line folded.
fn folded(
    b: &mut Builder,
    base: Value,
    axis: usize,
    [indices, updates]: [Value; 2],
    combine: Combine,
) -> Result<Value, TypeError> {
    let last = b.shape(base).len() - 1;
    let extent = b.shape(base)[axis];
    let [own, indices, updates] = [base, indices, updates].map(|v| b.swap_axes(v, axis, last));
    let hits = hits(b, indices?, extent)?;
    let wide = b.shape(hits).to_vec();
    let updates = b.broadcast(updates?, &wide, &(0..=last).collect::<Vec<_>>())?;
    let neutral = b.full_like(updates, combine.neutral())?;
    let candidates = b.select(hits, updates, neutral)?;
    let own = unsqueeze(b, own?, &[last])?;
    let all = b.concat(&[own, candidates], last)?;
    let reduced = match combine {
        Combine::Max => reduce::max(b, all, &[last], false)?,
        Combine::Min => reduce::min(b, all, &[last], false)?,
        _ => reduce::prod(b, all, &[last], false)?,
    };
    b.swap_axes(reduced, axis, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::evaluate;
    use gradc_ir::tensor::Tensor;
    use gradc_ir::types::{DType, TensorType};

    fn run(combine: Combine, with_base: bool) -> Vec<f64> {
        let base = Tensor::float(TensorType::f32([2, 3]), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let at = Tensor::int(TensorType::new(DType::I64, [2, 3]), vec![2, 2, 0, 1, 1, 1]);
        let updates = Tensor::float(TensorType::f32([2, 3]), vec![8.0, -7.0, 0.5, 2.0, 3.0, 4.0]);
        let combined = evaluate(&[base, at, updates], |b, x| {
            Ok(vec![scatter_combine(b, x[0], 1, [x[1], x[2]], combine, with_base)?])
        });
        combined[0].floats().to_vec()
    }

    #[test]
    fn updates_combine_with_the_base_or_replace_it() {
        assert_eq!(run(Combine::Sum, true), [1.5, 2.0, 4.0, 4.0, 14.0, 6.0]);
        assert_eq!(run(Combine::Sum, false), [0.5, 2.0, 1.0, 4.0, 9.0, 6.0]);
        assert_eq!(run(Combine::Mean, true), [0.75, 2.0, 4.0 / 3.0, 4.0, 3.5, 6.0]);
        assert_eq!(run(Combine::Mean, false), [0.5, 2.0, 0.5, 4.0, 3.0, 6.0]);
        assert_eq!(run(Combine::Max, true), [1.0, 2.0, 8.0, 4.0, 5.0, 6.0]);
        assert_eq!(run(Combine::Max, false), [0.5, 2.0, 8.0, 4.0, 4.0, 6.0]);
        assert_eq!(run(Combine::Min, true), [0.5, 2.0, -7.0, 4.0, 2.0, 6.0]);
        assert_eq!(run(Combine::Product, true), [0.5, 2.0, -168.0, 4.0, 120.0, 6.0]);
        assert_eq!(run(Combine::Product, false), [0.5, 2.0, -56.0, 4.0, 24.0, 6.0]);
    }
}
