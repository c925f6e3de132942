//! Inverses of trigonometric and hyperbolic functions, as compositions of primitives.
//!
//! All angles come from one: a polynomial finds the angle of a slope of at most 1 to 1e-5, and one step of the
//! addition theorem, with the sine and cosine of that angle, the rest. The polynomial is a constant to the gradient, so
//! that the derivative is that of the theorem, exact as the value is.

use super::math::log1p;
use super::offset;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;
use std::f64::consts::{FRAC_PI_2, LN_2, PI};

/// Coefficients of t, t³, t⁵, … in the angle of a slope t (Abramowitz and Stegun, 4.4.49, cut).
const ANGLE: [f64; 5] = [0.999_866_0, -0.330_299_5, 0.180_141_0, -0.085_133_0, 0.020_835_1];

/// arctan t for |t| ≤ 1.
fn angle_of_slope(b: &mut Builder, t: Value) -> Result<Value, TypeError> {
    let start = b.stop_gradient(t)?;
    let square = b.mul(start, start)?;
    let mut sum = b.full_like(start, ANGLE[ANGLE.len() - 1])?;
    for &coefficient in ANGLE.iter().rev().skip(1) {
        sum = b.mul(sum, square)?;
        sum = offset(b, sum, coefficient)?;
    }
    let near = b.mul(start, sum)?;
    // tan(a − c) = (t cos c − sin c) / (cos c + t sin c)
    let (sin, cos) = (b.sin(near)?, b.cos(near)?);
    let (above, below) = (b.mul(t, cos)?, b.mul(t, sin)?);
    let (above, below) = (b.sub(above, sin)?, b.add(cos, below)?);
    let rest = b.div(above, below)?;
    // Its arctangent but for a fifth power of 1e-5.
    let square = b.mul(rest, rest)?;
    let third = b.scale(square, -1.0 / 3.0)?;
    let factor = offset(b, third, 1.0)?;
    let rest = b.mul(rest, factor)?;
    b.add(near, rest)
}

/// The angle from −π to π of the vector (x, y); of the zero vector its value has no gradient (as PyTorch).
pub fn atan2(b: &mut Builder, y: Value, x: Value) -> Result<Value, TypeError> {
    let (y, x) = b.broadcast_pair(y, x)?;
    let (zero, one) = (b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
    let (width, height) = (b.abs(x)?, b.abs(y)?);
    let flat = b.compare(CompareFn::Ge, width, height)?;
    let (long, short) = (b.select(flat, x, y)?, b.select(flat, y, x)?);
    let none = b.compare(CompareFn::Eq, long, zero)?;
    // Where both are infinite they are as long as each other.
    let (most, even) = (b.full_like(x, f64::INFINITY)?, b.maximum(width, height)?);
    let (both, even) = (b.minimum(width, height)?, b.compare(CompareFn::Eq, even, most)?);
    let both = b.compare(CompareFn::Eq, both, most)?;
    let both = b.and(both, even)?;
    let (units_long, units_short) = (b.sign(long)?, b.sign(short)?);
    let (long, short) = (b.select(both, units_long, long)?, b.select(both, units_short, short)?);
    let (long, short) = (b.select(none, one, long)?, b.select(none, zero, short)?);
    let slope = b.div(short, long)?;
    let angle = angle_of_slope(b, slope)?;
    let (left, below) = (is_negative(b, x)?, is_negative(b, y)?);
    let (half, opposite) = (b.full_like(x, PI)?, b.full_like(x, -PI)?);
    let turned = b.select(below, opposite, half)?;
    let turned = b.select(left, turned, zero)?;
    let lying = b.add(angle, turned)?;
    let (quarter, other) = (b.full_like(x, FRAC_PI_2)?, b.full_like(x, -FRAC_PI_2)?);
    let upright = b.select(below, other, quarter)?;
    let standing = b.sub(upright, angle)?;
    b.select(flat, lying, standing)
}

/// Whether x has a minus sign, a zero too.
fn is_negative(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let zero = b.full_like(x, 0.0)?;
    let reciprocal = b.recip(x)?;
    let (below, minus) = (b.compare(CompareFn::Lt, x, zero)?, b.compare(CompareFn::Lt, reciprocal, zero)?);
    b.or(below, minus)
}

/// arctan x
pub fn atan(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let one = b.full_like(x, 1.0)?;
    atan2(b, x, one)
}

/// arcsin x = 2 arctan(x / (1 + √(1 − x²))); NaN outside of [−1, 1].
pub fn asin(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let root = root_of_rest(b, x)?;
    let below = offset(b, root, 1.0)?;
    let slope = b.div(x, below)?;
    let half = angle_of_slope(b, slope)?;
    b.scale(half, 2.0)
}

/// arccos x: the angle of the vector (x, √(1 − x²)); NaN outside of [−1, 1].
pub fn acos(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let root = root_of_rest(b, x)?;
    atan2(b, root, x)
}

/// √(1 − x²), without cancellation near 1.
fn root_of_rest(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    let (above, below) = (offset(b, x, 1.0)?, offset(b, negative, 1.0)?);
    let product = b.mul(above, below)?;
    b.sqrt(product)
}

/// Inverse of tanh: (ln(1 + x) − ln(1 − x)) / 2.
pub fn atanh(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    let (up, down) = (log1p(b, x)?, log1p(b, negative)?);
    let difference = b.sub(up, down)?;
    b.scale(difference, 0.5)
}

/// Inverse of sinh: below 1 the inverse hyperbolic tangent of x / √(1 + x²), above with its sign ln |x| + ln(1 + √(1 + 1/x²)).
pub fn asinh(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (size, zero, one) = (b.abs(x)?, b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
    let small = b.compare(CompareFn::Lt, size, one)?;
    // Each way on operands that it is for, so that no gradient of the other is not finite.
    let (near, far) = (b.select(small, x, zero)?, b.select(small, one, x)?);
    let square = b.mul(near, near)?;
    let square = offset(b, square, 1.0)?;
    let root = b.rsqrt(square)?;
    let ratio = b.mul(near, root)?;
    let near = atanh(b, ratio)?;
    let (sign, size) = (b.sign(far)?, b.abs(far)?);
    let inverse = b.recip(size)?;
    let square = b.mul(inverse, inverse)?;
    let root = offset(b, square, 1.0)?;
    let root = b.sqrt(root)?;
    let sum = offset(b, root, 1.0)?;
    let (log, rest) = (b.log(size)?, b.log(sum)?);
    let far = b.add(log, rest)?;
    let far = b.mul(sign, far)?;
    b.select(small, near, far)
}

/// Inverse of cosh: with u = √(x − 1) · √(x + 1) / x, which does not overflow, ln x + ln(1 + u); NaN below 1.
pub fn acosh(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let infinite = b.full_like(x, f64::INFINITY)?;
    let infinite = b.compare(CompareFn::Eq, x, infinite)?;
    let one = b.full_like(x, 1.0)?;
    let finite = b.select(infinite, one, x)?;
    let (down, up) = (offset(b, finite, -1.0)?, offset(b, finite, 1.0)?);
    let (down, up) = (b.sqrt(down)?, b.sqrt(up)?);
    let root = b.mul(down, up)?;
    let ratio = b.div(root, finite)?;
    let two = b.full_like(x, LN_2)?;
    let rest = log1p(b, ratio)?;
    let rest = b.select(infinite, two, rest)?;
    let above_one = offset(b, x, -1.0)?;
    let log = log1p(b, above_one)?;
    b.add(log, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build};

    type Function = fn(&mut Builder, Value) -> Result<Value, TypeError>;

    type Formula = fn(f64) -> f64;

    #[test]
    fn functions_follow_their_formulas() {
        let within = [-1.0, -0.9, -0.5, -1e-9, 0.0, 1e-12, 0.3, 0.75, 1.0];
        let all = [-1e30, -40.0, -1.0, -1e-9, 0.0, 0.3, 1.0, 1.0001, 1e12];
        let above = [1.0, 1.01, 1.5, 2.0, 40.0, 1e12, 1e30, 3.0, f64::INFINITY];
        let cases: [(&str, Function, Formula, &[f64]); 6] = [
            ("asin", asin, f64::asin, &within),
            ("acos", acos, f64::acos, &within),
            ("atan", atan, f64::atan, &all),
            ("asinh", asinh, f64::asinh, &all),
            ("acosh", acosh, f64::acosh, &above),
            ("atanh", atanh, f64::atanh, &within[1..8]),
        ];
        for (name, function, formula, points) in cases {
            let found = build(&[(&[points.len()], points)], |b, x| function(b, x[0]));
            for (x, y) in points.iter().zip(found.floats()) {
                let expected = formula(*x);
                let close = *y == expected || (y - expected).abs() <= 1e-14 * expected.abs().max(1e-3);
                assert!(close, "{name}({x}): found {y}, expected {expected}");
            }
        }
    }

    #[test]
    fn angles_are_those_of_all_directions() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let y = [0.0, -0.0, 0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 1e-9, inf, -inf, inf, 1.0, 2.0, 3.0];
        let x = [1.0, 1.0, -1.0, -1.0, 0.0, 0.0, -1.0, 2.0, -5.0, inf, -inf, 1.0, -inf, inf, -4.0];
        let found = build(&[(&[15], &y), (&[15], &x)], |b, v| atan2(b, v[0], v[1]));
        let expected: Vec<f64> = y.iter().zip(&x).map(|(y, x)| y.atan2(*x)).collect();
        assert_close("atan2", found.floats(), &expected, 1e-14);
        let found = build(&[(&[2], &[nan, 1.0]), (&[2], &[1.0, nan])], |b, v| atan2(b, v[0], v[1]));
        assert!(found.floats().iter().all(|v| v.is_nan()));
    }
}
