//! Reductions with NumPy's options: axes in any order, kept with extent 1 or dropped.

use super::offset;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

type Primitive = fn(&mut Builder, Value, &[usize]) -> Result<Value, TypeError>;

fn reduce(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool, op: Primitive) -> Result<Value, TypeError> {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    let mut shape = b.shape(x).to_vec();
    if let Some(&axis) = sorted.iter().find(|&&d| d >= shape.len()) {
        return Err(TypeError::new("axis out of range").expected(format!("axes below {}", shape.len())).found(axis));
    }
    let y = op(b, x, &sorted)?;
    sorted.iter().for_each(|&d| shape[d] = 1);
    if keepdim { b.reshape(y, &shape) } else { Ok(y) }
}

/// Sum over `axes`.
pub fn sum(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    reduce(b, x, axes, keepdim, Builder::reduce_sum)
}

/// Largest element over `axes`.
pub fn max(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    reduce(b, x, axes, keepdim, Builder::reduce_max)
}

/// Smallest element over `axes`.
pub fn min(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    reduce(b, x, axes, keepdim, Builder::reduce_min)
}

/// Product over `axes`.
pub fn prod(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    reduce(b, x, axes, keepdim, Builder::reduce_prod)
}

/// Whether any of booleans over `axes`.
pub fn any(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    let numbers = b.cast(x, DType::I32)?;
    let most = max(b, numbers, axes, keepdim)?;
    let zero = b.full_like(most, 0.0)?;
    b.compare(CompareFn::Gt, most, zero)
}

/// Whether all of booleans over `axes`.
pub fn all(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    let not = b.not(x)?;
    let some_not = any(b, not, axes, keepdim)?;
    b.not(some_not)
}

/// Index (i64) of the first minimum along `axis`, which disappears; of the first NaN if there is one.
pub fn arg_min(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let negative = if b.ty(x).dtype.is_float() { b.neg(x)? } else { b.scale(x, -1.0)? };
    b.arg_max(negative, axis)
}

/// √x with gradient 0 at 0: of sums of squares, whose own gradient is 0 there (PyTorch's norms).
pub fn root_of_squares(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (zero, one) = (b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
    let none = b.compare(CompareFn::Eq, x, zero)?;
    let inside = b.select(none, one, x)?;
    let root = b.sqrt(inside)?;
    b.select(none, zero, root)
}

/// (Σ |x|ᵖ)^(1/p) over `axes`, for p = ±∞ the largest or smallest |x|, for 0 the number of elements that are not 0.
/// Where it is 0 no gradient flows.
pub fn norm(b: &mut Builder, x: Value, p: f64, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    if p == 2.0 {
        let square = b.mul(x, x)?;
        let total = sum(b, square, axes, keepdim)?;
        return root_of_squares(b, total);
    }
    let size = b.abs(x)?;
    match p {
        f64::INFINITY => return max(b, size, axes, keepdim),
        f64::NEG_INFINITY => return min(b, size, axes, keepdim),
        1.0 => return sum(b, size, axes, keepdim),
        _ => {}
    }
    let (zero, one) = (b.full_like(size, 0.0)?, b.full_like(size, 1.0)?);
    let none = b.compare(CompareFn::Eq, size, zero)?;
    let inside = b.select(none, one, size)?;
    let power = b.full_like(size, p)?;
    let power = b.pow(inside, power)?;
    let power = b.select(none, zero, power)?;
    let total = sum(b, power, axes, keepdim)?;
    if p == 0.0 {
        return Ok(total);
    }
    let (zero, one) = (b.full_like(total, 0.0)?, b.full_like(total, 1.0)?);
    let none = b.compare(CompareFn::Eq, total, zero)?;
    let inside = b.select(none, one, total)?;
    let inverse = b.full_like(total, 1.0 / p)?;
    let root = b.pow(inside, inverse)?;
    b.select(none, zero, root)
}

/// Number of elements that a reduction over `axes` combines; the axes must exist.
fn combined(b: &Builder, x: Value, axes: &[usize]) -> usize {
    axes.iter().map(|&d| b.shape(x)[d]).product()
}

/// Arithmetic mean over `axes`.
pub fn mean(b: &mut Builder, x: Value, axes: &[usize], keepdim: bool) -> Result<Value, TypeError> {
    let total = sum(b, x, axes, keepdim)?;
    let count = combined(b, x, axes);
    b.scale(total, 1.0 / count as f64)
}

/// Σ (x − mean)² / (n − correction) over `axes`; `correction` 1 is the unbiased estimate, 0 the biased one.
///
/// No gradient flows through the mean: the sum of squares is least there, so its first derivative by the centre is zero.
pub fn variance(
    b: &mut Builder,
    x: Value,
    axes: &[usize],
    correction: usize,
    keepdim: bool,
) -> Result<Value, TypeError> {
    let mean = mean(b, x, axes, true)?;
    let count = combined(b, x, axes);
    if count <= correction {
        return Err(TypeError::new("a variance needs more elements")
            .expected(format!("more than {correction}"))
            .found(count));
    }
    let centre = b.stop_gradient(mean)?;
    let centred = b.sub(x, centre)?;
    let squares = b.mul(centred, centred)?;
    let total = sum(b, squares, axes, keepdim)?;
    b.scale(total, 1.0 / (count - correction) as f64)
}

/// √(x + eps), inverted.
pub(super) fn inverse_deviation(b: &mut Builder, variance: Value, eps: f64) -> Result<Value, TypeError> {
    let shifted = offset(b, variance, eps)?;
    b.rsqrt(shifted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build};

    const X: [f64; 6] = [1.0, 5.0, -2.0, 4.0, 0.5, 3.0];

    #[test]
    fn reductions_drop_or_keep_their_axes() {
        type Layer = fn(&mut Builder, Value) -> Result<Value, TypeError>;
        let cases: [(&str, Layer, &[usize], &[f64]); 8] = [
            ("sum rows", |b, x| sum(b, x, &[1], false), &[2], &[4.0, 7.5]),
            ("sum all, any order", |b, x| sum(b, x, &[1, 0], true), &[1, 1], &[11.5]),
            ("max columns", |b, x| max(b, x, &[0], true), &[1, 3], &[4.0, 5.0, 3.0]),
            ("min rows", |b, x| min(b, x, &[1], true), &[2, 1], &[-2.0, 0.5]),
            ("prod rows", |b, x| prod(b, x, &[1], false), &[2], &[-10.0, 6.0]),
            ("mean rows", |b, x| mean(b, x, &[1], false), &[2], &[4.0 / 3.0, 2.5]),
            ("biased variance", |b, x| variance(b, x, &[1], 0, false), &[2], &[74.0 / 9.0, 6.5 / 3.0]),
            ("unbiased variance", |b, x| variance(b, x, &[1], 1, true), &[2, 1], &[37.0 / 3.0, 3.25]),
        ];
        for (name, layer, shape, expected) in cases {
            let y = build(&[(&[2, 3], &X)], |b, x| layer(b, x[0]));
            assert_eq!(y.ty.shape, shape, "{name}");
            assert_close(name, y.floats(), expected, 1e-12);
        }
    }

    #[test]
    fn impossible_reductions_are_refused() {
        let mut b = Builder::new("test");
        let x = b.input("x", gradc_ir::types::TensorType::f32([2, 3])).unwrap();
        assert!(mean(&mut b, x, &[2], false).is_err(), "axis out of range");
        assert!(sum(&mut b, x, &[1, 1], false).is_err(), "repeated axis");
        let one = b.input("one", gradc_ir::types::TensorType::f32([1])).unwrap();
        assert!(variance(&mut b, one, &[0], 1, false).is_err(), "unbiased variance of one element");
    }
}
