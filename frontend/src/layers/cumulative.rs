//! Sums, products and extremes of what comes before along an axis.
//!
//! All but sums in ⌈log₂ n⌉ rounds, each of which combines elements at twice the distance (Hillis and Steele, 1986).

use super::indexing::gather_along;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// `y[k] = x[0] + … + x[k]` along `axis`; with `exclusive` without `x[k]`, with `reverse` from the other end.
pub fn cumulative_sum(
    b: &mut Builder,
    x: Value,
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> Result<Value, TypeError> {
    if exclusive && reverse {
        let x = b.reverse(x, &[axis])?;
        let y = cumulative_sum(b, x, axis, true, false)?;
        return b.reverse(y, &[axis]);
    }
    let x = if exclusive { shifted(b, x, axis, 1, 0.0)? } else { x };
    b.cumulative_sum(x, axis, reverse)
}

/// `y[k] = x[0] · … · x[k]` along `axis`.
pub fn cumulative_product(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    cumulative(b, x, axis, Builder::mul, 1.0)
}

/// `y[k] = ln(e^x[0] + … + e^x[k])` along `axis`, with no exponent above 0.
pub fn cumulative_log_sum_exp(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    cumulative(b, x, axis, log_add_exp, f64::NEG_INFINITY)
}

/// ln(eˣ + eʸ), where both may be −∞.
fn log_add_exp(b: &mut Builder, x: Value, y: Value) -> Result<Value, TypeError> {
    let (largest, least) = (b.maximum(x, y)?, b.full_like(x, f64::NEG_INFINITY)?);
    let largest = b.stop_gradient(largest)?;
    let (nothing, zero, one) = (b.compare(CompareFn::Eq, largest, least)?, b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
    let from = b.select(nothing, zero, largest)?;
    let (x, y) = (b.sub(x, from)?, b.sub(y, from)?);
    let (x, y) = (b.exp(x)?, b.exp(y)?);
    let sum = b.add(x, y)?;
    let sum = b.select(nothing, one, sum)?;
    let log = b.log(sum)?;
    b.add(largest, log)
}

/// (largest of `x[0]` to `x[k]`, its i64 index) along `axis`, or the smallest; of equal ones the last, which has the
/// gradient, and NaN before all else (PyTorch `cummax`).
pub fn cumulative_extreme(b: &mut Builder, x: Value, axis: usize, smallest: bool) -> Result<[Value; 2], TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| TypeError::new("axis out of range").found(axis))?;
    let start = b.stop_gradient(x)?;
    let mut found = if smallest { b.neg(start)? } else { start };
    let shape = b.shape(x).to_vec();
    let mut index = b.iota(DType::index_of(extent), &shape, axis)?;
    let mut distance = 1;
    while distance < extent {
        let before = shifted(b, found, axis, distance, f64::NEG_INFINITY)?;
        let index_before = shifted(b, index, axis, distance, 0.0)?;
        let (as_large, nan) = (b.compare(CompareFn::Ge, found, before)?, b.compare(CompareFn::Ne, found, found)?);
        let stays = b.or(as_large, nan)?;
        found = b.select(stays, found, before)?;
        index = b.select(stays, index, index_before)?;
        distance *= 2;
    }
    let index = b.cast(index, DType::I64)?;
    Ok([gather_along(b, x, axis, index)?, index])
}

/// Combines each element with all before it; `neutral` leaves what it is combined with as it is.
fn cumulative(
    b: &mut Builder,
    x: Value,
    axis: usize,
    combine: fn(&mut Builder, Value, Value) -> Result<Value, TypeError>,
    neutral: f64,
) -> Result<Value, TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| TypeError::new("axis out of range").found(axis))?;
    let (mut y, mut distance) = (x, 1);
    while distance < extent {
        let before = shifted(b, y, axis, distance, neutral)?;
        y = combine(b, before, y)?;
        distance *= 2;
    }
    Ok(y)
}

/// `y[k] = x[k − distance]`, and `fill` where there is none.
fn shifted(b: &mut Builder, x: Value, axis: usize, distance: usize, fill: f64) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    let distance = distance.min(shape[axis]);
    let kept = b.slice_axis(x, axis, 0, shape[axis] - distance)?;
    let none = vec![0; shape.len()];
    let mut low = none.clone();
    low[axis] = distance;
    b.pad(kept, &low, &none, &none, fill)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::build;

    const X: [f64; 10] = [1.0, 2.0, 3.0, 4.0, 5.0, -1.0, 2.0, 0.0, 3.0, 2.0];

    #[test]
    fn sums_and_products_run_along_the_axis() {
        type Layer = fn(&mut Builder, Value) -> Result<Value, TypeError>;
        let cases: [(Layer, [f64; 10]); 6] = [
            (|b, x| cumulative_sum(b, x, 1, false, false), [1.0, 3.0, 6.0, 10.0, 15.0, -1.0, 1.0, 1.0, 4.0, 6.0]),
            (|b, x| cumulative_sum(b, x, 1, true, false), [0.0, 1.0, 3.0, 6.0, 10.0, 0.0, -1.0, 1.0, 1.0, 4.0]),
            (|b, x| cumulative_sum(b, x, 1, false, true), [15.0, 14.0, 12.0, 9.0, 5.0, 6.0, 7.0, 5.0, 5.0, 2.0]),
            (|b, x| cumulative_sum(b, x, 1, true, true), [14.0, 12.0, 9.0, 5.0, 0.0, 7.0, 5.0, 5.0, 2.0, 0.0]),
            (|b, x| cumulative_sum(b, x, 0, false, false), [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 4.0, 3.0, 7.0, 7.0]),
            (|b, x| cumulative_product(b, x, 1), [1.0, 2.0, 6.0, 24.0, 120.0, -1.0, -2.0, 0.0, 0.0, 0.0]),
        ];
        for (layer, expected) in cases {
            assert_eq!(build(&[(&[2, 5], &X)], |b, x| layer(b, x[0])).floats(), expected);
        }
    }

    #[test]
    fn the_last_of_equal_extremes_counts_and_nan_stays() {
        let x: (&[usize], &[f64]) = (&[8], &[1.0, 3.0, 3.0, 2.0, f64::NEG_INFINITY, f64::NAN, 9.0, f64::NAN]);
        let run = |smallest| {
            crate::layers::testing::build_all(&[x], |b, v| Ok(cumulative_extreme(b, v[0], 0, smallest)?.to_vec()))
        };
        assert_eq!(run(false)[1].ints(), [0, 1, 2, 2, 2, 5, 5, 7]);
        assert_eq!(run(true)[1].ints(), [0, 0, 0, 0, 4, 5, 5, 7]);
        let y = run(false)[0].floats().to_vec();
        assert!(y[..5] == [1.0, 3.0, 3.0, 3.0, 3.0] && y[5..].iter().all(|v| v.is_nan()));
    }

    #[test]
    fn logarithms_of_sums_do_not_overflow() {
        let x: (&[usize], &[f64]) = (&[5], &[f64::NEG_INFINITY, f64::NEG_INFINITY, 1000.0, 1000.0, -1000.0]);
        let y = build(&[x], |b, v| cumulative_log_sum_exp(b, v[0], 0));
        let ln_2 = std::f64::consts::LN_2;
        assert_eq!(y.floats(), [f64::NEG_INFINITY, f64::NEG_INFINITY, 1000.0, 1000.0 + ln_2, 1000.0 + ln_2]);
    }
}
