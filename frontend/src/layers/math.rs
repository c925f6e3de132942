//! Elementwise functions as compositions of primitives, exact where the plain formula cancels.

use super::offset;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;
use std::f64::consts::{LN_2, LN_10};

/// 2ˣ
pub fn exp2(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let scaled = b.scale(x, LN_2)?;
    b.exp(scaled)
}

/// Logarithm to base 2.
pub fn log2(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let log = b.log(x)?;
    b.scale(log, 1.0 / LN_2)
}

/// Logarithm to base 10.
pub fn log10(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let log = b.log(x)?;
    b.scale(log, 1.0 / LN_10)
}

/// ln(1 + x), exact near 0 too: with u = 1 + x as it is rounded, ln u · x / (u − 1) (Higham, 2002, §1.14).
pub fn log1p(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let u = offset(b, x, 1.0)?;
    let log = b.log(u)?;
    let difference = offset(b, u, -1.0)?;
    let ratio = b.div(x, difference)?;
    let product = b.mul(log, ratio)?;
    // Where nothing was rounded, which infinity is too, and where all of x was.
    let (one, whole) = (b.full_like(u, 1.0)?, b.compare(CompareFn::Eq, difference, x)?);
    let exact = b.select(whole, log, product)?;
    let lost = b.compare(CompareFn::Eq, u, one)?;
    let exact = b.select(lost, x, exact)?;
    with_value(b, log, exact)
}

/// eˣ − 1, exact near 0 too: with u = eˣ as it is rounded, (u − 1) · x / ln u (Higham, 2002, §1.14).
pub fn expm1(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let u = b.exp(x)?;
    let plain = offset(b, u, -1.0)?;
    let log = b.log(u)?;
    let ratio = b.div(x, log)?;
    let product = b.mul(plain, ratio)?;
    let (size, one) = (b.abs(x)?, b.full_like(x, 1.0)?);
    let near = b.compare(CompareFn::Lt, size, one)?;
    let exact = b.select(near, product, plain)?;
    let lost = b.compare(CompareFn::Eq, u, one)?;
    let exact = b.select(lost, x, exact)?;
    with_value(b, plain, exact)
}

/// `exact` with the derivatives of `plain`, which differs by rounding only.
fn with_value(b: &mut Builder, plain: Value, exact: Value) -> Result<Value, TypeError> {
    let correction = b.sub(exact, plain)?;
    let zero = b.full_like(plain, 0.0)?;
    // Infinities cancel to NaN.
    let same = b.compare(CompareFn::Eq, exact, plain)?;
    let correction = b.select(same, zero, correction)?;
    let correction = b.stop_gradient(correction)?;
    b.add(plain, correction)
}

/// (eˣ − e⁻ˣ) / 2, as half the difference of eˣ − 1 and e⁻ˣ − 1, which does not cancel near 0.
pub fn sinh(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    let (up, down) = (expm1(b, x)?, expm1(b, negative)?);
    let difference = b.sub(up, down)?;
    b.scale(difference, 0.5)
}

/// (eˣ + e⁻ˣ) / 2
pub fn cosh(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let negative = b.neg(x)?;
    let (up, down) = (b.exp(x)?, b.exp(negative)?);
    let sum = b.add(up, down)?;
    b.scale(sum, 0.5)
}

/// sin x / cos x
pub fn tan(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (sin, cos) = (b.sin(x)?, b.cos(x)?);
    b.div(sin, cos)
}

/// ln(eˣ + eʸ), with no exponent above 0.
pub fn logaddexp(b: &mut Builder, x: Value, y: Value) -> Result<Value, TypeError> {
    let m = b.maximum(x, y)?;
    let m = b.stop_gradient(m)?;
    let (left, right) = (b.sub(x, m)?, b.sub(y, m)?);
    let (left, right) = (b.exp(left)?, b.exp(right)?);
    let sum = b.add(left, right)?;
    let log = b.log(sum)?;
    b.add(m, log)
}

/// x without its fraction; no gradient flows.
pub fn trunc(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (sign, size) = (b.sign(x)?, b.abs(x)?);
    let whole = b.floor(size)?;
    b.mul(sign, whole)
}

/// The fraction of x, with its sign.
pub fn frac(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let whole = trunc(b, x)?;
    b.sub(x, whole)
}

/// Remainder of division rounded down: it has the sign of `y`.
pub fn remainder(b: &mut Builder, x: Value, y: Value) -> Result<Value, TypeError> {
    let rest = b.rem(x, y)?;
    let zero = b.full_like(rest, 0.0)?;
    let (below, negative) = (b.compare(CompareFn::Lt, rest, zero)?, b.compare(CompareFn::Lt, y, zero)?);
    let other_sign = b.xor(below, negative)?;
    let some = b.compare(CompareFn::Ne, rest, zero)?;
    let moves = b.and(other_sign, some)?;
    let moved = b.add(rest, y)?;
    b.select(moves, moved, rest)
}

/// Whether x is NaN.
pub fn is_nan(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    b.compare(CompareFn::Ne, x, x)
}

/// Whether x is infinite.
pub fn is_inf(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (size, infinity) = (b.abs(x)?, b.full_like(x, f64::INFINITY)?);
    b.compare(CompareFn::Eq, size, infinity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build};

    type Function = fn(&mut Builder, Value) -> Result<Value, TypeError>;

    type Formula = fn(f64) -> f64;

    /// f(|x| + 1)
    fn above_one(b: &mut Builder, x: Value, f: Function) -> Result<Value, TypeError> {
        let size = b.abs(x)?;
        let shifted = offset(b, size, 1.0)?;
        f(b, shifted)
    }

    const POINTS: [f64; 9] = [-2.5, -0.75, -1e-9, 0.0, 1e-12, 0.3, 1.0, 4.0, 30.0];

    #[test]
    fn functions_follow_their_formulas() {
        let cases: [(&str, Function, Formula); 10] = [
            ("exp2", exp2, f64::exp2),
            ("expm1", expm1, f64::exp_m1),
            ("sinh", sinh, f64::sinh),
            ("cosh", cosh, f64::cosh),
            ("tan", tan, f64::tan),
            ("trunc", trunc, f64::trunc),
            ("frac", frac, f64::fract),
            (
                "log1p",
                |b, x| {
                    let x = b.abs(x)?;
                    log1p(b, x)
                },
                |x| x.abs().ln_1p(),
            ),
            ("log2", |b, x| above_one(b, x, log2), |x| (x.abs() + 1.0).log2()),
            ("log10", |b, x| above_one(b, x, log10), |x| (x.abs() + 1.0).log10()),
        ];
        for (name, function, formula) in cases {
            let found = build(&[(&[POINTS.len()], &POINTS)], |b, x| function(b, x[0]));
            for (&x, &y) in POINTS.iter().zip(found.floats()) {
                let expected = formula(x);
                assert!((y - expected).abs() <= 1e-14 * expected.abs(), "{name}({x}): {y} instead of {expected}");
            }
        }
    }

    #[test]
    fn infinities_stay() {
        let at = |f: Function, x: f64| build(&[(&[1], &[x])], |b, v| f(b, v[0])).floats()[0];
        assert_eq!(at(log1p, f64::INFINITY), f64::INFINITY);
        assert_eq!(at(log1p, -1.0), f64::NEG_INFINITY);
        assert_eq!(at(expm1, f64::INFINITY), f64::INFINITY);
        assert_eq!(at(expm1, f64::NEG_INFINITY), -1.0);
    }

    #[test]
    fn a_remainder_has_the_sign_of_the_divisor() {
        let (x, y) = ([5.0, -5.0, 5.0, -5.0, 6.0, -6.0], [3.0, 3.0, -3.0, -3.0, 3.0, 3.0]);
        let found = build(&[(&[6], &x), (&[6], &y)], |b, v| remainder(b, v[0], v[1]));
        assert_close("remainder", found.floats(), &[2.0, 1.0, -1.0, -2.0, 0.0, 0.0], 0.0);
        let found = build(&[(&[6], &x), (&[6], &y)], |b, v| logaddexp(b, v[0], v[1]));
        let expected: Vec<f64> = x.iter().zip(&y).map(|(x, y)| (x.exp() + y.exp()).ln()).collect();
        assert_close("logaddexp", found.floats(), &expected, 1e-12);
    }
}
