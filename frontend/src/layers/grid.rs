//! Images sampled at computed places.

use super::offset;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};

/// What a sample between elements is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// The four around it, by distance.
    Bilinear,
    /// The nearest; of two as near the one with the even index.
    Nearest,
}

/// What is outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The nearest element of the border.
    Border,
    /// The image again, reflected.
    Reflection,
}

/// How images are sampled (`torch.nn.functional.grid_sample`).
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Between elements.
    pub between: Between,
    /// Outside of the image.
    pub outside: Outside,
    /// Whether −1 and 1 are the middles of the first and last elements, or their outer edges.
    pub align_corners: bool,
}

/// `x` `[N, C, H, W]` at the places `grid` `[N, P, Q, 2]`, column before row, each from −1 to 1: `[N, C, P, Q]`.
pub fn grid_sample(b: &mut Builder, x: Value, grid: Value, sampler: Sampler) -> Result<Value, TypeError> {
    let (image, places) = (b.shape(x).to_vec(), b.shape(grid).to_vec());
    let (&[n, c, h, w], &[of, p, q, 2]) = (&image[..], &places[..]) else {
        return Err(fit(b, x, grid));
    };
    if n != of || h * w == 0 {
        return Err(fit(b, x, grid));
    }
    let rows = b.transpose(x, &[0, 2, 3, 1])?;
    let rows = b.reshape(rows, &[n, h * w, c])?;
    let grid = b.reshape(grid, &[n, p * q, 2])?;
    let column = place(b, grid, 0, w, sampler)?;
    let row = place(b, grid, 1, h, sampler)?;
    let mut sum: Option<Value> = None;
    for row in corners(b, row, h, sampler.between)? {
        for column in corners(b, column, w, sampler.between)? {
            let scaled = b.scale(row.index, w as f64)?;
            let at = b.add(scaled, column.index)?;
            let picked = b.gather(rows, at, 1)?;
            let weight = b.mul(row.weight, column.weight)?;
            let weight = b.broadcast(weight, &[n, p * q, c], &[0, 1])?;
            let term = b.mul(picked, weight)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => b.add(sum, term)?,
            });
        }
    }
    let sum = sum.ok_or_else(|| TypeError::new("an image has two axes"))?;
    let sum = b.reshape(sum, &[n, p, q, c])?;
    b.transpose(sum, &[0, 3, 1, 2])
}

fn fit(b: &Builder, x: Value, grid: Value) -> TypeError {
    let error = TypeError::new("the grid does not fit the images");
    error.expected("[N, C, H, W] and [N, P, Q, 2]").found(format!("{} and {}", b.ty(x), b.ty(grid)))
}

/// Places along one axis of the image, in elements.
fn place(b: &mut Builder, grid: Value, which: usize, extent: usize, sampler: Sampler) -> Result<Value, TypeError> {
    let shape = b.shape(grid)[..2].to_vec();
    let at = b.slice_axis(grid, 2, which, which + 1)?;
    let at = b.reshape(at, &shape)?;
    let at = offset(b, at, 1.0)?;
    let (last, whole) = ((extent - 1) as f64, extent as f64);
    let at = match sampler.align_corners {
        true => b.scale(at, last / 2.0)?,
        false => {
            let scaled = b.scale(at, whole / 2.0)?;
            offset(b, scaled, -0.5)?
        }
    };
    match sampler.outside {
        Outside::Zeros => Ok(at),
        Outside::Border => within(b, at, last),
        Outside::Reflection => {
            let (low, span) = if sampler.align_corners { (0.0, last) } else { (-0.5, whole) };
            let at = reflected(b, at, low, span)?;
            within(b, at, last)
        }
    }
}

/// `at` between 0 and `last`.
fn within(b: &mut Builder, at: Value, last: f64) -> Result<Value, TypeError> {
    super::activation::clamp(b, at, Some(0.0), Some(last))
}

/// `at` reflected at `low` and `low + span` until it is between them.
fn reflected(b: &mut Builder, at: Value, low: f64, span: f64) -> Result<Value, TypeError> {
    if span == 0.0 {
        return b.full_like(at, 0.0);
    }
    let from_low = offset(b, at, -low)?;
    let size = b.abs(from_low)?;
    let (span_of, two, zero) = (b.full_like(at, span)?, b.full_like(at, 2.0)?, b.full_like(at, 0.0)?);
    let rest = b.rem(size, span_of)?;
    let times = b.div(size, span_of)?;
    let times = b.floor(times)?;
    let odd = b.rem(times, two)?;
    let even = b.compare(CompareFn::Eq, odd, zero)?;
    let back = b.sub(span_of, rest)?;
    let inside = b.select(even, rest, back)?;
    offset(b, inside, low)
}

/// An element of the image beside each place, and how much of it counts.
struct Corner {
    /// Index in the image, i64.
    index: Value,
    /// Its weight, 0 where it is outside.
    weight: Value,
}

fn corners(b: &mut Builder, at: Value, extent: usize, between: Between) -> Result<Vec<Corner>, TypeError> {
    if between == Between::Nearest {
        let nearest = b.round(at)?;
        let one = b.full_like(at, 1.0)?;
        return Ok(vec![corner(b, nearest, one, extent)?]);
    }
    let low = b.floor(at)?;
    let high = offset(b, low, 1.0)?;
    let (of_low, of_high) = (b.sub(high, at)?, b.sub(at, low)?);
    Ok(vec![corner(b, low, of_low, extent)?, corner(b, high, of_high, extent)?])
}

fn corner(b: &mut Builder, place: Value, weight: Value, extent: usize) -> Result<Corner, TypeError> {
    let place = b.stop_gradient(place)?;
    let inside = within(b, place, (extent - 1) as f64)?;
    let is_inside = b.compare(CompareFn::Eq, inside, place)?;
    let zero = b.full_like(weight, 0.0)?;
    let weight = b.select(is_inside, weight, zero)?;
    // A place that is not a number is outside.
    let counted = b.select(is_inside, inside, zero)?;
    Ok(Corner { index: b.cast(counted, DType::I64)?, weight })
}

/// Places `[N, H, W, 2]` of an image of `[height, width]` moved by `theta` `[N, 2, 3]` (`torch.nn.functional.affine_grid`).
pub fn affine_grid(
    b: &mut Builder,
    theta: Value,
    [height, width]: [usize; 2],
    align_corners: bool,
) -> Result<Value, TypeError> {
    let ty = b.ty(theta).clone();
    let &[n, 2, 3] = &ty.shape[..] else {
        return Err(TypeError::new("a plane is moved by two rows of three").expected("[N, 2, 3]").found(&ty));
    };
    let of = TensorType::checked(ty.dtype, [height, width])?;
    let column = base(b, &of, 1, align_corners)?;
    let row = base(b, &of, 0, align_corners)?;
    let one = b.splat(&of, 1.0)?;
    let mut sum: Option<Value> = None;
    for (k, place) in [column, row, one].into_iter().enumerate() {
        let part = b.slice_axis(theta, 2, k, k + 1)?;
        let part = b.reshape(part, &[n, 2])?;
        let whole = [n, height, width, 2];
        let (part, place) = (b.broadcast(part, &whole, &[0, 3])?, b.broadcast(place, &whole, &[1, 2])?);
        let term = b.mul(part, place)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => b.add(sum, term)?,
        });
    }
    sum.ok_or_else(|| TypeError::new("a plane has two axes"))
}

/// Middles of elements along an axis, from −1 to 1.
fn base(b: &mut Builder, ty: &TensorType, axis: usize, align_corners: bool) -> Result<Value, TypeError> {
    let extent = ty.shape[axis];
    let index = b.iota(ty.dtype, &ty.shape, axis)?;
    let (scale, first) = match (align_corners, extent) {
        (true, 1) => (0.0, 0.0),
        (true, _) => (2.0 / (extent as f64 - 1.0), -1.0),
        (false, _) => (2.0 / extent as f64, 1.0 / extent as f64 - 1.0),
    };
    let scaled = b.scale(index, scale)?;
    offset(b, scaled, first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build};

    const IMAGE: (&[usize], &[f64]) = (&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);

    fn sampled(places: &[f64], sampler: Sampler) -> Vec<f64> {
        let grid: (&[usize], &[f64]) = (&[1, 1, places.len() / 2, 2], places);
        build(&[IMAGE, grid], |b, x| grid_sample(b, x[0], x[1], sampler)).floats().to_vec()
    }

    #[test]
    fn places_are_columns_and_rows_from_minus_one_to_one() {
        let corners = Sampler { between: Between::Bilinear, outside: Outside::Zeros, align_corners: true };
        let found = sampled(&[-1.0, -1.0, 1.0, -1.0, -1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 3.0, f64::NAN, 0.0], corners);
        assert_close("corners", &found, &[1.0, 2.0, 3.0, 2.5, 3.0, 0.0, 0.0], 1e-12);
        let edges = Sampler { align_corners: false, ..corners };
        assert_close("edges", &sampled(&[-1.0, -1.0, 0.5, -0.5, 0.0, 0.0], edges), &[0.25, 2.0, 2.5], 1e-12);
        let nearest = Sampler { between: Between::Nearest, ..corners };
        assert_close("nearest", &sampled(&[-0.2, 0.9, 0.0, 0.0], nearest), &[3.0, 1.0], 1e-12);
    }

    #[test]
    fn outside_is_the_border_or_a_reflection() {
        let border = Sampler { between: Between::Bilinear, outside: Outside::Border, align_corners: false };
        assert_close("border", &sampled(&[-9.0, -9.0, 9.0, 0.0], border), &[1.0, 3.0], 1e-12);
        let reflection = Sampler { outside: Outside::Reflection, align_corners: true, ..border };
        assert_close("reflection", &sampled(&[2.0, -1.0, 3.5, -1.0, -4.0, 1.0], reflection), &[1.5, 1.25, 3.5], 1e-12);
    }

    #[test]
    fn the_identity_moves_nothing() {
        let theta: (&[usize], &[f64]) = (&[1, 2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        for align_corners in [false, true] {
            let sampler = Sampler { between: Between::Bilinear, outside: Outside::Zeros, align_corners };
            let found = build(&[IMAGE, theta], |b, x| {
                let grid = affine_grid(b, x[1], [2, 2], align_corners)?;
                grid_sample(b, x[0], grid, sampler)
            });
            assert_close("identity", found.floats(), IMAGE.1, 1e-12);
        }
    }
}
