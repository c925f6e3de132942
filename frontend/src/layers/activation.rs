//! Activation functions: elementwise, any float dtype.

use super::offset;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// `bound` where `x` compares with it as `kind` says, else `x`; a NaN stays.
///
/// No gradient flows where the bound is taken, so the comparison also decides the gradient at the kink.
fn cut(b: &mut Builder, x: Value, kind: CompareFn, bound: f64) -> Result<Value, TypeError> {
    let bound = b.full_like(x, bound)?;
    let outside = b.compare(kind, x, bound)?;
    b.select(outside, bound, x)
}

/// max(x, 0), with gradient 0 at 0.
pub fn relu(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    cut(b, x, CompareFn::Le, 0.0)
}

/// min(max(x, 0), 6), with gradient 0 at both bounds (`torch.nn.Hardtanh`).
pub fn relu6(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let x = cut(b, x, CompareFn::Le, 0.0)?;
    cut(b, x, CompareFn::Ge, 6.0)
}

/// min(max(x, lo), hi), with gradient 1 at both bounds; a missing bound does not bound (`torch.clamp`).
pub fn clamp(b: &mut Builder, x: Value, lo: Option<f64>, hi: Option<f64>) -> Result<Value, TypeError> {
    let x = lo.map_or(Ok(x), |lo| cut(b, x, CompareFn::Lt, lo))?;
    hi.map_or(Ok(x), |hi| cut(b, x, CompareFn::Gt, hi))
}

/// x where x > 0, else slope · x.
pub fn leaky_relu(b: &mut Builder, x: Value, slope: f64) -> Result<Value, TypeError> {
    let scaled = b.scale(x, slope)?;
    select_positive(b, x, x, scaled)
}

/// x where x > 0, else alpha · (eˣ − 1).
pub fn elu(b: &mut Builder, x: Value, alpha: f64) -> Result<Value, TypeError> {
    let zero = b.full_like(x, 0.0)?;
    // The exponential of a large x would be infinite, and its zero share of the gradient then NaN.
    let negative = select_positive(b, x, zero, x)?;
    let exp = b.exp(negative)?;
    let shifted = offset(b, exp, -1.0)?;
    let scaled = b.scale(shifted, alpha)?;
    select_positive(b, x, x, scaled)
}

/// `yes` where `x` > 0, else `no`.
fn select_positive(b: &mut Builder, x: Value, yes: Value, no: Value) -> Result<Value, TypeError> {
    let zero = b.full_like(x, 0.0)?;
    let positive = b.compare(CompareFn::Gt, x, zero)?;
    b.select(positive, yes, no)
}

/// x / (1 + e⁻ˣ), also called swish.
pub fn silu(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let gate = b.logistic(x)?;
    b.mul(x, gate)
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), the tanh approximation of GELU (Hendrycks and Gimpel, 2016).
pub fn gelu_tanh(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let square = b.mul(x, x)?;
    let cubic = b.scale(square, 0.044715)?;
    let factor = offset(b, cubic, 1.0)?;
    let inner = b.mul(x, factor)?;
    let inner = b.scale(inner, (2.0 / PI).sqrt())?;
    let tanh = b.tanh(inner)?;
    half_gated(b, x, tanh)
}

/// x/2 · (1 + erf(x/√2)), GELU (Hendrycks and Gimpel, 2016).
pub fn gelu_erf(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let inner = b.scale(x, FRAC_1_SQRT_2)?;
    let erf = b.erf(inner)?;
    half_gated(b, x, erf)
}

/// x/2 · (1 + gate)
fn half_gated(b: &mut Builder, x: Value, gate: Value) -> Result<Value, TypeError> {
    let half = b.scale(x, 0.5)?;
    let gate = offset(b, gate, 1.0)?;
    b.mul(half, gate)
}

/// ln(1 + eˣ)
pub fn softplus(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    // ln(eᵐ (e⁻ᵐ + eˣ⁻ᵐ)) with m = max(x, 0): no exponent is positive.
    let m = relu(b, x)?;
    let m = b.stop_gradient(m)?;
    let minus_m = b.neg(m)?;
    let first = b.exp(minus_m)?;
    let shifted = b.sub(x, m)?;
    let second = b.exp(shifted)?;
    let sum = b.add(first, second)?;
    let log = b.log(sum)?;
    b.add(m, log)
}

/// x · clamp(x + 3, 0, 6) / 6 (Howard et al., 2019).
pub fn hardswish(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let shifted = offset(b, x, 3.0)?;
    let gate = clamp(b, shifted, Some(0.0), Some(6.0))?;
    let gate = b.scale(gate, 1.0 / 6.0)?;
    b.mul(x, gate)
}

/// relu6(x + 3) / 6
pub fn hardsigmoid(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let shifted = offset(b, x, 3.0)?;
    let gate = relu6(b, shifted)?;
    b.scale(gate, 1.0 / 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build};

    type Activation = fn(&mut Builder, Value) -> Result<Value, TypeError>;

    type Formula = fn(f64) -> f64;

    /// The activation and its textbook formula.
    const CASES: &[(&str, Activation, Formula)] = &[
        ("relu", relu, |x| x.max(0.0)),
        ("relu6", relu6, |x| x.clamp(0.0, 6.0)),
        ("clamp", |b, x| clamp(b, x, Some(-1.0), Some(0.5)), |x| x.clamp(-1.0, 0.5)),
        ("clamp below", |b, x| clamp(b, x, Some(-1.0), None), |x| x.max(-1.0)),
        ("clamp above", |b, x| clamp(b, x, None, Some(0.5)), |x| x.min(0.5)),
        ("leaky_relu", |b, x| leaky_relu(b, x, 0.1), |x| if x > 0.0 { x } else { 0.1 * x }),
        ("elu", |b, x| elu(b, x, 1.5), |x| if x > 0.0 { x } else { 1.5 * x.exp_m1() }),
        ("sigmoid", Builder::logistic, |x| 1.0 / (1.0 + (-x).exp())),
        ("silu", silu, |x| x / (1.0 + (-x).exp())),
        ("gelu_tanh", gelu_tanh, |x| 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())),
        ("softplus", softplus, |x| if x > 30.0 { x } else { x.exp().ln_1p() }),
        ("hardswish", hardswish, |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0),
        ("hardsigmoid", hardsigmoid, |x| (x + 3.0).clamp(0.0, 6.0) / 6.0),
    ];

    const POINTS: [f64; 11] = [-100.0, -7.5, -3.0, -1.25, -0.1, 0.0, 0.3, 1.0, 3.0, 6.5, 100.0];

    #[test]
    fn activations_follow_their_formulas() {
        for (name, activation, formula) in CASES {
            let y = build(&[(&[POINTS.len()], &POINTS)], |b, x| activation(b, x[0]));
            assert_close(name, y.floats(), &POINTS.map(formula), 1e-12);
        }
    }

    #[test]
    fn gelu_erf_matches_tabulated_values() {
        // x Φ(x) with Φ(1) = 0.841344746068543, Φ(2) = 0.977249868051821.
        let y = build(&[(&[4], &[-1.0, 0.0, 1.0, 2.0])], |b, x| gelu_erf(b, x[0]));
        assert_close("gelu_erf", y.floats(), &[-0.158655253931457, 0.0, 0.841344746068543, 1.954499736103642], 1e-9);
    }

    #[test]
    fn a_nan_is_never_hidden() {
        for (name, activation, _) in CASES {
            let y = build(&[(&[1], &[f64::NAN])], |b, x| activation(b, x[0]));
            assert!(y.floats()[0].is_nan(), "{name} hides a NaN");
        }
    }
}
