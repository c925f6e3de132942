//! Softmax and the normalisations: statistics over some axes, then scale and shift.

use super::reduce::{inverse_deviation, max, mean, sum};
use super::{add_per_channel, mul_per_channel};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;

/// `x` minus its maximum along `axis`, through which no gradient flows: softmax does not depend on it.
fn shifted_by_max(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let m = max(b, x, &[axis], true)?;
    let m = b.stop_gradient(m)?;
    b.sub(x, m)
}

/// eˣ / Σ eˣ along `axis`.
pub fn softmax(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let shifted = shifted_by_max(b, x, axis)?;
    let exp = b.exp(shifted)?;
    let total = sum(b, exp, &[axis], true)?;
    let inverse = b.recip(total)?;
    b.mul(exp, inverse)
}

/// Softmax along `axis`, but 0 with gradient 0 where all elements are −∞ (PyTorch's `_safe_softmax`): attention that may
/// look at nothing.
pub fn safe_softmax(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let m = max(b, x, &[axis], true)?;
    let m = b.stop_gradient(m)?;
    let m = replaced(b, m, f64::NEG_INFINITY, 0.0)?;
    let shifted = b.sub(x, m)?;
    let exp = b.exp(shifted)?;
    let total = sum(b, exp, &[axis], true)?;
    // The largest element of any other row contributes 1.
    let total = replaced(b, total, 0.0, 1.0)?;
    let inverse = b.recip(total)?;
    b.mul(exp, inverse)
}

/// `x` with `new` in place of every `old`.
fn replaced(b: &mut Builder, x: Value, old: f64, new: f64) -> Result<Value, TypeError> {
    let (old, new) = (b.full_like(x, old)?, b.full_like(x, new)?);
    let is_old = b.compare(CompareFn::Eq, x, old)?;
    b.select(is_old, new, x)
}

/// x − ln Σ eˣ along `axis`.
pub fn log_softmax(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let shifted = shifted_by_max(b, x, axis)?;
    let exp = b.exp(shifted)?;
    let total = sum(b, exp, &[axis], true)?;
    let log = b.log(total)?;
    b.sub(shifted, log)
}

/// (x − mean) / √(variance + eps) over `axes`, with the biased variance.
fn standardise(b: &mut Builder, x: Value, axes: &[usize], eps: f64) -> Result<Value, TypeError> {
    let mean_x = mean(b, x, axes, true)?;
    let centred = b.sub(x, mean_x)?;
    let squares = b.mul(centred, centred)?;
    let variance = mean(b, squares, axes, true)?;
    let inverse = inverse_deviation(b, variance, eps)?;
    b.mul(centred, inverse)
}

/// `x · scale + shift`, each aligned with the last axes of `x`.
fn scale_and_shift(b: &mut Builder, x: Value, scale: Option<Value>, shift: Option<Value>) -> Result<Value, TypeError> {
    let x = scale.map_or(Ok(x), |g| b.mul(x, g))?;
    shift.map_or(Ok(x), |s| b.add(x, s))
}

/// The last `count` axes of `x`.
fn trailing_axes(b: &Builder, x: Value, count: usize) -> Result<Vec<usize>, TypeError> {
    let rank = b.shape(x).len();
    let first = rank.checked_sub(count).filter(|_| count > 0).ok_or_else(|| {
        TypeError::new("the normalised axes must be the last axes of the operand")
            .expected(format!("1 to {rank} axes"))
            .found(count)
    })?;
    Ok((first..rank).collect())
}

/// Layer normalisation over the last `axes` axes; `gamma` and `beta` have their shape (Ba et al., 2016).
pub fn layer_norm(
    b: &mut Builder,
    x: Value,
    gamma: Option<Value>,
    beta: Option<Value>,
    axes: usize,
    eps: f64,
) -> Result<Value, TypeError> {
    let axes = trailing_axes(b, x, axes)?;
    let y = standardise(b, x, &axes, eps)?;
    scale_and_shift(b, y, gamma, beta)
}

/// x / √(mean(x²) + eps) · gamma over the last `axes` axes (Zhang and Sennrich, 2019).
pub fn rms_norm(b: &mut Builder, x: Value, gamma: Option<Value>, axes: usize, eps: f64) -> Result<Value, TypeError> {
    let axes = trailing_axes(b, x, axes)?;
    let squares = b.mul(x, x)?;
    let mean_square = mean(b, squares, &axes, true)?;
    let inverse = inverse_deviation(b, mean_square, eps)?;
    let y = b.mul(x, inverse)?;
    scale_and_shift(b, y, gamma, None)
}

/// Group normalisation of `x` `[N, C, …]`: statistics per example and group of C/groups channels (Wu and He, 2018).
///
/// `gamma` and `beta` are `[C]`.
pub fn group_norm(
    b: &mut Builder,
    x: Value,
    gamma: Option<Value>,
    beta: Option<Value>,
    groups: usize,
    eps: f64,
) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    let channels = channel_count(&shape)?;
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(TypeError::new("the groups must divide the channels")
            .expected(format!("a divisor of {channels}"))
            .found(groups));
    }
    let per_group = shape[1..].iter().product::<usize>() / groups;
    let grouped = b.reshape(x, &[shape[0], groups, per_group])?;
    let y = standardise(b, grouped, &[2], eps)?;
    let y = b.reshape(y, &shape)?;
    let y = mul_per_channel(b, y, gamma)?;
    add_per_channel(b, y, beta)
}

/// Extent of axis 1 of an `[N, C, …]` shape.
fn channel_count(shape: &[usize]) -> Result<usize, TypeError> {
    let found = || TypeError::new("the operand has no channel axis").expected("[N, C, …]").found(format!("{shape:?}"));
    shape.get(1).copied().ok_or_else(found)
}

/// What batch normalisation in training mode computes.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormOutput {
    /// The normalised operand.
    pub y: Value,
    /// Next running mean, `[C]`.
    pub running_mean: Value,
    /// Next running variance, `[C]`.
    pub running_var: Value,
}

/// Batch normalisation of `x` `[N, C, …]` with the batch's own statistics (Ioffe and Szegedy, 2015).
///
/// `gamma`, `beta` and the running statistics are `[C]`. `momentum` is PyTorch's, the weight of the new
/// statistic: running ← (1 − momentum) · running + momentum · batch, where the batch's variance is the
/// unbiased one. Normalisation uses the biased one.
#[expect(clippy::too_many_arguments, reason = "the operands and numbers of the definition")]
pub fn batch_norm_train(
    b: &mut Builder,
    x: Value,
    gamma: impl Into<Option<Value>>,
    beta: impl Into<Option<Value>>,
    running_mean: Value,
    running_var: Value,
    momentum: f64,
    eps: f64,
) -> Result<BatchNormOutput, TypeError> {
    channel_count(b.shape(x))?;
    let shape = b.shape(x);
    let count: usize = shape[..1].iter().chain(&shape[2..]).product();
    if count < 2 {
        let found = format!("{count} in {shape:?}");
        let too_few = TypeError::new("statistics of a batch need more elements per channel");
        return Err(too_few.expected("at least 2").found(found));
    }
    let (batch_mean, squares) = batch_moments(b, x, count)?;
    let unbiased = b.scale(squares, 1.0 / (count - 1) as f64)?;
    let biased = b.scale(squares, 1.0 / count as f64)?;
    let y = standardise_per_channel(b, x, [batch_mean, biased], gamma.into(), beta.into(), eps)?;
    let mut blend = |running: Value, batch: Value| {
        let (old, new) = (b.scale(running, 1.0 - momentum)?, b.scale(batch, momentum)?);
        b.add(old, new)
    };
    let (running_mean, running_var) = (blend(running_mean, batch_mean)?, blend(running_var, unbiased)?);
    Ok(BatchNormOutput { y, running_mean, running_var })
}

/// One of so many examples of a batch is among those its statistics are first estimated from.
const PILOT_SHARE: usize = 16;

/// Mean and Σ (x − mean)² per channel of `x` `[N, C, …]`, `count` elements each, from two sums that need not wait for
/// each other.
///
/// With d = x − pilot they are pilot + Σd / n and Σd² − (Σd)² / n, whatever the pilot (Chan, Golub and LeVeque, 1983).
/// As pilot serves the mean of the first examples. If these are one in `PILOT_SHARE` and lie far from the others, the
/// variance is large itself: rounding errors grow at most by that factor over those of deviations from the mean.
fn batch_moments(b: &mut Builder, x: Value, count: usize) -> Result<(Value, Value), TypeError> {
    let shape = b.shape(x).to_vec();
    let axes: Vec<usize> = (0..shape.len()).filter(|&d| d != 1).collect();
    let mut limit = shape.clone();
    limit[0] = shape[0].div_ceil(PILOT_SHARE);
    let first = b.slice(x, &vec![0; shape.len()], &limit, &vec![1; shape.len()])?;
    let pilot = mean(b, first, &axes, false)?;
    let pilot = b.stop_gradient(pilot)?;
    let minus_pilot = b.neg(pilot)?;
    let d = add_per_channel(b, x, Some(minus_pilot))?;
    let squares = b.mul(d, d)?;
    let (sum, squares) = (b.reduce_sum(d, &axes)?, b.reduce_sum(squares, &axes)?);
    let excess = b.scale(sum, 1.0 / count as f64)?;
    let excess_squares = b.mul(sum, excess)?;
    let squares = b.sub(squares, excess_squares)?;
    let zero = b.splat(&b.ty(squares).clone(), 0.0)?;
    Ok((b.add(pilot, excess)?, b.maximum(squares, zero)?))
}

/// (x − mean) · (gamma / √(var + eps)) + beta: one factor per channel, so that few operations touch every element.
fn standardise_per_channel(
    b: &mut Builder,
    x: Value,
    [mean, var]: [Value; 2],
    gamma: Option<Value>,
    beta: Option<Value>,
    eps: f64,
) -> Result<Value, TypeError> {
    let inverse = inverse_deviation(b, var, eps)?;
    let scale = gamma.map_or(Ok(inverse), |gamma| b.mul(inverse, gamma))?;
    let minus_mean = b.neg(mean)?;
    let centred = add_per_channel(b, x, Some(minus_mean))?;
    let y = mul_per_channel(b, centred, Some(scale))?;
    add_per_channel(b, y, beta)
}

/// Batch normalisation of `x` `[N, C, …]` with given statistics: (x − mean) / √(var + eps) · gamma + beta.
pub fn batch_norm_infer(
    b: &mut Builder,
    x: Value,
    gamma: impl Into<Option<Value>>,
    beta: impl Into<Option<Value>>,
    mean: Value,
    var: Value,
    eps: f64,
) -> Result<Value, TypeError> {
    channel_count(b.shape(x))?;
    standardise_per_channel(b, x, [mean, var], gamma.into(), beta.into(), eps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build, build_all, noise};

    #[test]
    fn softmax_rows_are_distributions_even_at_large_values() {
        let x = [1000.0, 1001.0, 999.0, -5.0, 0.0, 5.0];
        let y = build(&[(&[2, 3], &x)], |b, v| softmax(b, v[0], 1));
        for (row, logits) in y.floats().chunks(3).zip(x.chunks(3)) {
            assert_close("sum", &[row.iter().sum()], &[1.0], 1e-12);
            assert_close("ratio", &[(row[1] / row[0]).ln()], &[logits[1] - logits[0]], 1e-9);
        }
        let logs = build(&[(&[2, 3], &x)], |b, v| log_softmax(b, v[0], 1));
        let exps: Vec<f64> = logs.floats().iter().map(|v| v.exp()).collect();
        assert_close("log", &exps, y.floats(), 1e-12);
        let columns = build(&[(&[2, 3], &x)], |b, v| softmax(b, v[0], 0));
        assert_close("axis 0", &[columns.floats()[0] + columns.floats()[3]], &[1.0], 1e-12);
    }

    /// Mean and biased variance of some values.
    fn moments(x: &[f64]) -> (f64, f64) {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
    }

    const EPS: f64 = 1e-5;

    /// `scale · (x − mean) / √(var + eps) + shift`
    fn normalised(x: f64, (mean, var): (f64, f64), scale: f64, shift: f64) -> f64 {
        scale * (x - mean) / (var + EPS).sqrt() + shift
    }

    #[test]
    fn layer_norm_follows_its_loop() {
        let (x, gamma, beta) = (noise(2 * 12, 1), noise(12, 2), noise(12, 3));
        for axes in [1, 2] {
            let row = [4, 12][axes - 1];
            let shape = &[3, 4][2 - axes..];
            let inputs: [(&[usize], &[f64]); 3] = [(&[2, 3, 4], &x), (shape, &gamma[..row]), (shape, &beta[..row])];
            let y = build(&inputs, |b, v| layer_norm(b, v[0], Some(v[1]), Some(v[2]), axes, EPS));
            let expected: Vec<f64> = x
                .chunks(row)
                .flat_map(|r| r.iter().enumerate().map(|(k, &v)| normalised(v, moments(r), gamma[k], beta[k])))
                .collect();
            assert_close("layer_norm", y.floats(), &expected, 1e-12);
        }
    }

    #[test]
    fn rms_norm_follows_its_loop() {
        let (x, gamma) = (noise(6, 1), noise(3, 2));
        let y = build(&[(&[2, 3], &x), (&[3], &gamma)], |b, v| rms_norm(b, v[0], Some(v[1]), 1, EPS));
        let scale = |r: &[f64]| (r.iter().map(|v| v * v).sum::<f64>() / 3.0 + EPS).sqrt();
        let expected: Vec<f64> =
            x.chunks(3).flat_map(|r| r.iter().zip(&gamma).map(|(v, g)| v / scale(r) * g)).collect();
        assert_close("rms_norm", y.floats(), &expected, 1e-12);
    }

    #[test]
    fn group_norm_follows_its_loop() {
        let (x, gamma, beta) = (noise(2 * 4 * 3, 1), noise(4, 2), noise(4, 3));
        let y = build(&[(&[2, 4, 3], &x), (&[4], &gamma), (&[4], &beta)], |b, v| {
            group_norm(b, v[0], Some(v[1]), Some(v[2]), 2, EPS)
        });
        let value = |(at, &v): (usize, &f64)| {
            let channel = at / 3 % 4;
            normalised(v, moments(&x[at / 6 * 6..][..6]), gamma[channel], beta[channel])
        };
        assert_close("group_norm", y.floats(), &x.iter().enumerate().map(value).collect::<Vec<_>>(), 1e-12);
    }

    /// Values of channel `c` of `[2, 3, 4]`.
    fn channel(x: &[f64], c: usize) -> Vec<f64> {
        (0..2).flat_map(|n| x[(n * 3 + c) * 4..][..4].to_vec()).collect()
    }

    #[test]
    fn batch_norm_trains_on_batch_statistics() {
        let (x, gamma, beta) = (noise(24, 1), noise(3, 2), noise(3, 3));
        let (mean, var) = (noise(3, 4), [0.5, 1.0, 2.0]);
        let inputs: [(&[usize], &[f64]); 5] =
            [(&[2, 3, 4], &x), (&[3], &gamma), (&[3], &beta), (&[3], &mean), (&[3], &var)];
        let found = build_all(&inputs, |b, v| {
            let out = batch_norm_train(b, v[0], v[1], v[2], v[3], v[4], 0.1, EPS)?;
            Ok(vec![out.y, out.running_mean, out.running_var])
        });
        let stats: Vec<(f64, f64)> = (0..3).map(|c| moments(&channel(&x, c))).collect();
        let value = |(at, &v): (usize, &f64)| normalised(v, stats[at / 4 % 3], gamma[at / 4 % 3], beta[at / 4 % 3]);
        assert_close("y", found[0].floats(), &x.iter().enumerate().map(value).collect::<Vec<_>>(), 1e-12);
        let running = |old: f64, new: f64| 0.9 * old + 0.1 * new;
        let means: Vec<f64> = (0..3).map(|c| running(mean[c], stats[c].0)).collect();
        let unbiased: Vec<f64> = (0..3).map(|c| running(var[c], stats[c].1 * 8.0 / 7.0)).collect();
        assert_close("running mean", found[1].floats(), &means, 1e-12);
        assert_close("running variance", found[2].floats(), &unbiased, 1e-12);
    }

    #[test]
    fn batch_norm_infers_with_given_statistics() {
        let (x, gamma, beta) = (noise(24, 1), noise(3, 2), noise(3, 3));
        let (mean, var) = (noise(3, 4), [0.5, 1.0, 2.0]);
        let inputs: [(&[usize], &[f64]); 5] =
            [(&[2, 3, 4], &x), (&[3], &gamma), (&[3], &beta), (&[3], &mean), (&[3], &var)];
        let y = build(&inputs, |b, v| batch_norm_infer(b, v[0], v[1], v[2], v[3], v[4], EPS));
        let value = |(at, &v): (usize, &f64)| {
            let c = at / 4 % 3;
            normalised(v, (mean[c], var[c]), gamma[c], beta[c])
        };
        assert_close("y", y.floats(), &x.iter().enumerate().map(value).collect::<Vec<_>>(), 1e-12);
        let plain = build(&inputs, |b, v| batch_norm_infer(b, v[0], None, None, v[3], v[4], EPS));
        let value = |(at, &v): (usize, &f64)| normalised(v, (mean[at / 4 % 3], var[at / 4 % 3]), 1.0, 0.0);
        assert_close(
            "without gamma and beta",
            plain.floats(),
            &x.iter().enumerate().map(value).collect::<Vec<_>>(),
            1e-12,
        );
    }

    #[test]
    fn impossible_normalisations_are_refused() {
        let mut b = Builder::new("test");
        let [row, one] =
            [("row", 1), ("one", 3)].map(|(name, n)| b.input(name, gradc_ir::types::TensorType::f32([n, 3])).unwrap());
        let c = b.input("c", gradc_ir::types::TensorType::f32([3])).unwrap();
        let none = b.input("none", gradc_ir::types::TensorType::f32([2, 0, 3])).unwrap();
        let no_channels = b.input("no channels", gradc_ir::types::TensorType::f32([0])).unwrap();
        batch_norm_train(&mut b, none, None, None, no_channels, no_channels, 0.1, EPS).expect("nothing to normalise");
        let alone = batch_norm_train(&mut b, row, None, None, c, c, 0.1, EPS);
        assert!(alone.unwrap_err().message.contains("more elements"), "one example has no variance");
        assert!(batch_norm_infer(&mut b, c, None, None, c, c, EPS).is_err(), "no channel axis");
        assert!(layer_norm(&mut b, one, None, None, 3, EPS).is_err(), "more axes than there are");
        assert!(layer_norm(&mut b, one, None, None, 0, EPS).is_err(), "no axes");
        assert!(group_norm(&mut b, one, None, None, 2, EPS).is_err(), "groups that do not divide");
        assert!(group_norm(&mut b, one, None, None, 0, EPS).is_err(), "no groups");
    }
}
