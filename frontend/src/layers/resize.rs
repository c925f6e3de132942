//! Resampling along an axis.

use super::indexing::pick;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{TensorType, TypeError};

/// Which elements of the operand a sample is made of (`torch.nn.functional.interpolate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// The one at or before the beginning of the sample.
    Nearest,
    /// The one that the middle of the sample lies in.
    NearestExact,
    /// The two around the middle of the sample, by distance.
    Linear,
    /// As `Linear`, first and last samples on first and last elements.
    LinearCorners,
    /// The four around the middle of the sample (Keys, 1981, with a = −3/4).
    Cubic,
    /// As `Cubic`, first and last samples on first and last elements.
    CubicCorners,
}

/// Largest extent of an axis that is resized.
const LARGEST: usize = 1 << 16;

/// `x` with `extent` samples along `axis`.
///
/// Samples are `scale` elements of the operand apart; without one, as far that all of it is covered.
pub fn resize_axis(
    b: &mut Builder,
    x: Value,
    axis: usize,
    extent: usize,
    scale: Option<f64>,
    sampling: Sampling,
) -> Result<Value, TypeError> {
    let from = *b.shape(x).get(axis).ok_or_else(|| TypeError::new("axis out of range").found(axis))?;
    if from == 0 || extent == 0 || from.max(extent) > LARGEST {
        let error = TypeError::new("an image cannot be resized from or to this extent");
        return Err(error.expected(format!("1 to {LARGEST}")).found(format!("{from} to {extent}")));
    }
    match sampling {
        Sampling::Nearest | Sampling::NearestExact => nearest(b, x, axis, &sources(from, extent, scale, sampling)),
        _ if from == extent && scale.is_none_or(|s| s == 1.0) => Ok(x),
        _ => {
            let weights = weights(b, x, [from, extent], scale, sampling)?;
            weighted(b, x, axis, weights)
        }
    }
}

/// The element of every sample. In f32, as PyTorch computes it, for what is rounded down may hang on the last bit.
fn sources(from: usize, extent: usize, scale: Option<f64>, sampling: Sampling) -> Vec<usize> {
    let scale = scale.map_or(from as f32 / extent as f32, |s| s as f32);
    let middle = if sampling == Sampling::NearestExact { 0.5 } else { 0.0 };
    let source = |k: usize| (((k as f32 + middle) * scale).floor().max(0.0) as usize).min(from - 1);
    (0..extent).map(source).collect()
}

/// The elements at ascending indices, in runs of equal ones.
fn nearest(b: &mut Builder, x: Value, axis: usize, sources: &[usize]) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    let from = shape[axis];
    let times = sources.len() / from;
    let evenly = times > 0 && sources.len() == from * times && (0..sources.len()).all(|k| sources[k] == k / times);
    if !evenly {
        return pick(b, x, axis, sources);
    }
    let kept: Vec<usize> = (0..=shape.len()).filter(|&d| d != axis + 1).collect();
    let wide = [&shape[..=axis], &[times], &shape[axis + 1..]].concat();
    let repeated = b.broadcast(x, &wide, &kept)?;
    let joined = [&shape[..axis], &[from * times], &shape[axis + 1..]].concat();
    b.reshape(repeated, &joined)
}

/// Σ over the axis of x times the column of weights of each sample.
fn weighted(b: &mut Builder, x: Value, axis: usize, weights: Value) -> Result<Value, TypeError> {
    let last = b.shape(x).len() - 1;
    let y = b.dot_general(x, weights, [&[], &[]], [&[axis], &[1]])?;
    // The samples are the last axis now.
    let perm: Vec<usize> = (0..axis).chain([last]).chain(axis..last).collect();
    b.transpose(y, &perm)
}

/// Weights `[extent, from]` of the elements in the samples, made of their distances.
fn weights(
    b: &mut Builder,
    x: Value,
    [from, extent]: [usize; 2],
    scale: Option<f64>,
    sampling: Sampling,
) -> Result<Value, TypeError> {
    let corners = matches!(sampling, Sampling::LinearCorners | Sampling::CubicCorners);
    let (scale, offset) = match corners {
        true => (if extent > 1 { (from - 1) as f64 / (extent - 1) as f64 } else { 0.0 }, 0.0),
        false => {
            let scale = scale.unwrap_or(from as f64 / extent as f64);
            (scale, 0.5 * scale - 0.5)
        }
    };
    let ty = TensorType::new(b.ty(x).dtype, [extent, from]);
    let at = b.iota(ty.dtype, &ty.shape, 0)?;
    let at = b.scale(at, scale)?;
    let at = super::offset(b, at, offset)?;
    match sampling {
        Sampling::Linear | Sampling::LinearCorners => {
            let at = super::activation::clamp(b, at, Some(0.0), Some((from - 1) as f64))?;
            let place = b.iota(ty.dtype, &ty.shape, 1)?;
            tent(b, at, place)
        }
        _ => cubic_weights(b, at, &ty),
    }
}

/// max(0, 1 − |x − y|)
fn tent(b: &mut Builder, x: Value, y: Value) -> Result<Value, TypeError> {
    let difference = b.sub(x, y)?;
    let distance = b.abs(difference)?;
    let closeness = b.neg(distance)?;
    let closeness = super::offset(b, closeness, 1.0)?;
    super::activation::relu(b, closeness)
}

/// The cubic of the distance to each element; what lies outside counts for the element at the border.
fn cubic_weights(b: &mut Builder, at: Value, ty: &TensorType) -> Result<Value, TypeError> {
    let first = b.floor(at)?;
    let last = (ty.shape[1] - 1) as f64;
    let place = b.iota(ty.dtype, &ty.shape, 1)?;
    let mut sum: Option<Value> = None;
    for tap in [-1.0, 0.0, 1.0, 2.0] {
        let element = super::offset(b, first, tap)?;
        let difference = b.sub(at, element)?;
        let distance = b.abs(difference)?;
        let weight = keys_cubic(b, distance)?;
        let element = super::activation::clamp(b, element, Some(0.0), Some(last))?;
        let here = b.compare(CompareFn::Eq, element, place)?;
        let zero = b.full_like(weight, 0.0)?;
        let weight = b.select(here, weight, zero)?;
        sum = Some(sum.map_or(Ok(weight), |sum| b.add(sum, weight))?);
    }
    Ok(sum.expect("there are four taps"))
}

/// (a + 2) d³ − (a + 3) d² + 1 up to 1, a d³ − 5a d² + 8a d − 4a up to 2, with a = −3/4.
fn keys_cubic(b: &mut Builder, d: Value) -> Result<Value, TypeError> {
    const A: f64 = -0.75;
    let near = polynomial(b, d, [A + 2.0, -(A + 3.0), 0.0, 1.0])?;
    let far = polynomial(b, d, [A, -5.0 * A, 8.0 * A, -4.0 * A])?;
    let one = b.full_like(d, 1.0)?;
    let is_near = b.compare(CompareFn::Le, d, one)?;
    b.select(is_near, near, far)
}

/// By Horner's rule, highest power first.
fn polynomial(b: &mut Builder, x: Value, coefficients: [f64; 4]) -> Result<Value, TypeError> {
    let mut y = b.full_like(x, coefficients[0])?;
    for c in &coefficients[1..] {
        let product = b.mul(y, x)?;
        y = super::offset(b, product, *c)?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build};

    /// Samples of 1, 2, 4, 8 along an axis between two others.
    fn samples(extent: usize, scale: Option<f64>, sampling: Sampling) -> Vec<f64> {
        let x = [1.0, 2.0, 4.0, 8.0];
        let y = build(&[(&[1, 4, 1], &x)], |b, v| resize_axis(b, v[0], 1, extent, scale, sampling));
        assert_eq!(y.ty.shape, [1, extent, 1]);
        y.floats().to_vec()
    }

    #[test]
    fn samples_are_pytorchs() {
        // torch.nn.functional.interpolate(torch.tensor([[[1., 2., 4., 8.]]]), …)
        let cases: [(usize, Option<f64>, Sampling, &[f64]); 8] = [
            (8, Some(0.5), Sampling::Nearest, &[1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0]),
            (6, None, Sampling::Nearest, &[1.0, 1.0, 2.0, 4.0, 4.0, 8.0]),
            (3, None, Sampling::Nearest, &[1.0, 2.0, 4.0]),
            (6, None, Sampling::NearestExact, &[1.0, 2.0, 2.0, 4.0, 8.0, 8.0]),
            (8, Some(0.5), Sampling::Linear, &[1.0, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, 8.0]),
            (2, None, Sampling::Linear, &[1.5, 6.0]),
            (7, None, Sampling::LinearCorners, &[1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]),
            (1, None, Sampling::LinearCorners, &[1.0]),
        ];
        for (extent, scale, sampling, expected) in cases {
            let found = samples(extent, scale, sampling);
            assert_close(&format!("{sampling:?} to {extent}"), &found, expected, 1e-12);
        }
    }

    #[test]
    fn cubic_weights_add_up_to_one() {
        for sampling in [Sampling::Cubic, Sampling::CubicCorners] {
            let y = build(&[(&[5, 1], &[3.0; 5])], |b, v| resize_axis(b, v[0], 0, 9, None, sampling));
            assert_close("constant", y.floats(), &[3.0; 9], 1e-12);
        }
    }
}
