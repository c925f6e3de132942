//! Pooling over windows of `[N, C, S…]`.

use super::reduce::mean;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::ops::{MaxPool, SumPool};
use gradc_ir::types::{TensorType, TypeError};

/// Windows of a pooling; one entry per spatial axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Extent of a window.
    pub window: Vec<usize>,
    /// Distance between windows.
    pub stride: Vec<usize>,
    /// Padding before each axis.
    pub pad_low: Vec<usize>,
    /// Padding after each axis.
    pub pad_high: Vec<usize>,
    /// Distance between the elements of a window.
    pub dilation: Vec<usize>,
}

impl PoolSpec {
    /// Windows side by side, without padding.
    pub fn new(window: &[usize]) -> Self {
        let [zeros, ones] = [vec![0; window.len()], vec![1; window.len()]];
        PoolSpec {
            window: window.to_vec(),
            stride: window.to_vec(),
            pad_low: zeros.clone(),
            pad_high: zeros,
            dilation: ones,
        }
    }
}

/// Largest element of every window; padding never wins.
pub fn max_pool(b: &mut Builder, x: Value, spec: &PoolSpec) -> Result<Value, TypeError> {
    let PoolSpec { window, stride, pad_low, pad_high, dilation } = spec.clone();
    let [values, _] = b.max_pool(x, MaxPool { window, stride, pad_low, pad_high, dilation })?;
    Ok(values)
}

/// Mean of every window: over the window's extent when `count_include_pad`, else over its elements that are not padding.
pub fn avg_pool(b: &mut Builder, x: Value, spec: &PoolSpec, count_include_pad: bool) -> Result<Value, TypeError> {
    let PoolSpec { window, stride, pad_low, pad_high, dilation } = spec.clone();
    if dilation.iter().any(|&d| d != 1) {
        return Err(TypeError::new("average pooling cannot be dilated")
            .expected("dilation 1")
            .found(format!("{dilation:?}")));
    }
    let padded = pad_low.iter().chain(&pad_high).any(|&p| p > 0);
    let volume: usize = window.iter().product();
    let op = SumPool { window, stride, pad_low, pad_high };
    let sums = b.sum_pool(x, op.clone())?;
    if count_include_pad || !padded {
        return b.scale(sums, 1.0 / volume as f64);
    }
    let ones = one_image(b, x)?;
    let counts = b.sum_pool(ones, op)?;
    let inverse = b.recip(counts)?;
    b.mul(sums, inverse)
}

/// Ones of the dtype and spatial shape of `x`, one example with one channel.
fn one_image(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let ty = b.ty(x).clone();
    let shape = [&[1, 1], &ty.shape[2..]].concat();
    b.splat(&TensorType::new(ty.dtype, shape), 1.0)
}

/// Sum of every window.
pub fn sum_pool(b: &mut Builder, x: Value, spec: &PoolSpec) -> Result<Value, TypeError> {
    let PoolSpec { window, stride, pad_low, pad_high, .. } = spec.clone();
    b.sum_pool(x, SumPool { window, stride, pad_low, pad_high })
}

/// Sums of windows divided by their numbers of elements, where padding at the end exceeds that at the beginning only
/// for a last window to fit, and that excess never counts; other padding does where `count_include_pad` says so.
pub fn divided_by_counts(
    b: &mut Builder,
    sums: Value,
    x: Value,
    spec: &PoolSpec,
    count_include_pad: bool,
) -> Result<Value, TypeError> {
    let mut spec = spec.clone();
    let mut ones = one_image(b, x)?;
    if count_include_pad {
        let pad = [&[0, 0], &spec.pad_low[..]].concat();
        ones = b.pad(ones, &pad, &pad, &vec![0; pad.len()], 1.0)?;
        let excess = spec.pad_high.iter().zip(&spec.pad_low).map(|(high, low)| high - low);
        (spec.pad_high, spec.pad_low) = (excess.collect(), vec![0; spec.pad_low.len()]);
    }
    let counts = sum_pool(b, ones, &spec)?;
    let inverse = b.recip(counts)?;
    b.mul(sums, inverse)
}

/// Most windows along an axis that do not divide it.
const MOST_WINDOWS: usize = 1 << 12;

/// Average pooling to the spatial extents `output`: along every axis the k-th window reaches from ⌊k n / m⌋ to
/// ⌈(k + 1) n / m⌉.
pub fn adaptive_avg_pool(b: &mut Builder, x: Value, output: &[usize]) -> Result<Value, TypeError> {
    let spatial = b.shape(x).get(2..).unwrap_or_default().to_vec();
    if spatial.len() != output.len() || output.contains(&0) || spatial.contains(&0) {
        return Err(TypeError::new("adaptive pooling needs an extent per axis")
            .expected(format!("{} positive extents", spatial.len()))
            .found(format!("{output:?}")));
    }
    if output.iter().all(|&o| o == 1) {
        let axes: Vec<usize> = (2..2 + spatial.len()).collect();
        return mean(b, x, &axes, true);
    }
    if spatial.iter().zip(output).all(|(s, o)| s.is_multiple_of(*o)) {
        let window: Vec<usize> = spatial.iter().zip(output).map(|(s, o)| s / o).collect();
        return avg_pool(b, x, &PoolSpec::new(&window), true);
    }
    if let Some(&windows) = output.iter().find(|&&to| to > MOST_WINDOWS) {
        let error = TypeError::new("adaptive pooling has too many windows");
        return Err(error.expected(format!("at most {MOST_WINDOWS} along an axis")).found(windows));
    }
    let mut y = x;
    for (k, (&from, &to)) in spatial.iter().zip(output).enumerate() {
        y = means_along(b, y, 2 + k, from, to)?;
    }
    Ok(y)
}

/// Means of `to` windows that cover an axis.
fn means_along(b: &mut Builder, x: Value, axis: usize, from: usize, to: usize) -> Result<Value, TypeError> {
    let mut means = Vec::with_capacity(to);
    for k in 0..to {
        let part = b.slice_axis(x, axis, k * from / to, ((k + 1) * from).div_ceil(to))?;
        means.push(mean(b, part, &[axis], true)?);
    }
    b.concat(&means, axis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build, noise};

    /// Window elements of output position `(i, j)` that are not padding.
    fn window_elements(spec: &PoolSpec, extent: usize, x: &[f64], at: [usize; 2]) -> Vec<f64> {
        let along = |axis: usize, k: usize| {
            (at[axis] * spec.stride[axis] + k * spec.dilation[axis])
                .checked_sub(spec.pad_low[axis])
                .filter(|&p| p < extent)
        };
        let mut found = Vec::new();
        for i in 0..spec.window[0] {
            for j in 0..spec.window[1] {
                if let (Some(r), Some(c)) = (along(0, i), along(1, j)) {
                    found.push(x[r * extent + c]);
                }
            }
        }
        found
    }

    fn reference(spec: &PoolSpec, extent: usize, x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let out = |axis: usize| {
            let reach = (spec.window[axis] - 1) * spec.dilation[axis] + 1;
            (extent + spec.pad_low[axis] + spec.pad_high[axis] - reach) / spec.stride[axis] + 1
        };
        let positions = (0..out(0)).flat_map(|i| (0..out(1)).map(move |j| [i, j]));
        positions.map(|at| f(&window_elements(spec, extent, x, at))).collect()
    }

    fn specs() -> Vec<PoolSpec> {
        let plain = PoolSpec::new(&[2, 2]);
        let overlapping = PoolSpec { stride: vec![1, 2], ..PoolSpec::new(&[3, 2]) };
        let padded =
            PoolSpec { stride: vec![2, 2], pad_low: vec![1, 1], pad_high: vec![1, 0], ..PoolSpec::new(&[3, 3]) };
        vec![plain, overlapping, padded]
    }

    #[test]
    fn pools_follow_their_loops() {
        let (extent, x) = (6, noise(36, 3));
        let mean = |w: &[f64]| w.iter().sum::<f64>() / w.len() as f64;
        for spec in specs() {
            let volume = spec.window.iter().product::<usize>() as f64;
            let input: (&[usize], &[f64]) = (&[1, 1, extent, extent], &x);
            let y = build(&[input], |b, v| max_pool(b, v[0], &spec));
            let largest = |w: &[f64]| w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_close("max_pool", y.floats(), &reference(&spec, extent, &x, largest), 0.0);
            let y = build(&[input], |b, v| avg_pool(b, v[0], &spec, false));
            assert_close("avg_pool", y.floats(), &reference(&spec, extent, &x, mean), 1e-12);
            let y = build(&[input], |b, v| avg_pool(b, v[0], &spec, true));
            let padded_mean = |w: &[f64]| w.iter().sum::<f64>() / volume;
            assert_close("avg_pool with padding", y.floats(), &reference(&spec, extent, &x, padded_mean), 1e-12);
        }
    }

    #[test]
    fn max_pool_windows_may_be_dilated() {
        let (extent, x) = (6, noise(36, 4));
        let spec = PoolSpec { stride: vec![1, 1], dilation: vec![2, 2], ..PoolSpec::new(&[2, 3]) };
        let y = build(&[(&[1, 1, extent, extent], &x)], |b, v| max_pool(b, v[0], &spec));
        let largest = |w: &[f64]| w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_close("max_pool", y.floats(), &reference(&spec, extent, &x, largest), 0.0);
        let mut b = Builder::new("test");
        let v = b.input("x", TensorType::f32([1, 1, extent, extent])).unwrap();
        assert!(avg_pool(&mut b, v, &spec, true).is_err(), "dilated average");
    }

    #[test]
    fn adaptive_windows_cover_the_axis() {
        let x = noise(2 * 16, 5);
        let y = build(&[(&[1, 2, 4, 4], &x)], |b, v| adaptive_avg_pool(b, v[0], &[1, 1]));
        let means: Vec<f64> = x.chunks(16).map(|c| c.iter().sum::<f64>() / 16.0).collect();
        assert_close("global", y.floats(), &means, 1e-12);
        let y = build(&[(&[1, 2, 4, 4], &x)], |b, v| adaptive_avg_pool(b, v[0], &[2, 2]));
        assert_eq!(y.ty.shape, [1, 2, 2, 2]);
        assert_close("quarters", &y.floats()[..1], &[(x[0] + x[1] + x[4] + x[5]) / 4.0], 1e-12);
        // 0..2, 1..3, 2..4 of 4; 0..1, 0..1, 1..2, 1..2 of 2
        let y = build(&[(&[1, 1, 4], &[1.0, 2.0, 4.0, 8.0])], |b, v| adaptive_avg_pool(b, v[0], &[3]));
        assert_close("overlapping", y.floats(), &[1.5, 3.0, 6.0], 1e-12);
        let y = build(&[(&[1, 1, 2], &[1.0, 2.0])], |b, v| adaptive_avg_pool(b, v[0], &[4]));
        assert_close("more than there are", y.floats(), &[1.0, 1.0, 2.0, 2.0], 1e-12);
        let mut b = Builder::new("test");
        let v = b.input("x", TensorType::f32([1, 2, 4, 4])).unwrap();
        for output in [&[0, 1][..], &[1]] {
            assert!(adaptive_avg_pool(&mut b, v, output).is_err(), "{output:?}");
        }
    }

    #[test]
    fn excess_padding_never_counts() {
        // windows of 3, 2 apart, over 1 2 3 4 5 6 with one zero on each side and another at the end
        let spec = PoolSpec { stride: vec![2], pad_low: vec![1], pad_high: vec![2], ..PoolSpec::new(&[3]) };
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for (include, expected) in [(true, [1.0, 3.0, 5.0, 3.0]), (false, [1.5, 3.0, 5.0, 6.0])] {
            let y = build(&[(&[1, 1, 6], &x)], |b, v| {
                let sums = sum_pool(b, v[0], &spec)?;
                divided_by_counts(b, sums, v[0], &spec, include)
            });
            assert_close("average", y.floats(), &expected, 1e-12);
        }
    }
}
