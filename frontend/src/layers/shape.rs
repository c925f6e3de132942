//! Shape changes under PyTorch's names; axes are non-negative.

use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

fn axis_error(axes: &[usize], rank: usize) -> TypeError {
    TypeError::new("axes out of range, repeated or out of order")
        .expected(format!("axes below {rank}"))
        .found(format!("{axes:?}"))
}

/// Merges the axes `start` to `end`, both included, into one.
pub fn flatten(b: &mut Builder, x: Value, start: usize, end: usize) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    if start > end || end >= shape.len() {
        return Err(axis_error(&[start, end], shape.len()));
    }
    let merged = shape[start..=end].iter().product();
    b.reshape(x, &[&shape[..start], &[merged], &shape[end + 1..]].concat())
}

/// Drops `axes`, which must have extent 1.
pub fn squeeze(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    if axes.iter().any(|&d| d >= shape.len()) {
        return Err(axis_error(axes, shape.len()));
    }
    if let Some(&d) = axes.iter().find(|&&d| shape[d] != 1) {
        return Err(TypeError::new(format!("axis {d} cannot be dropped")).expected("extent 1").found(shape[d]));
    }
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).collect();
    b.reshape(x, &kept)
}

/// Inserts axes of extent 1 so that they have the numbers `axes` in the result.
pub fn unsqueeze(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value, TypeError> {
    let mut shape = b.shape(x).to_vec();
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    for &d in &sorted {
        if d > shape.len() || sorted.iter().filter(|&&other| other == d).count() > 1 {
            return Err(axis_error(axes, b.shape(x).len() + axes.len()));
        }
        shape.insert(d, 1);
    }
    b.reshape(x, &shape)
}

/// Cuts `axis` into parts of `size`; the last part may be smaller.
pub fn split(b: &mut Builder, x: Value, axis: usize, size: usize) -> Result<Vec<Value>, TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| axis_error(&[axis], b.shape(x).len()))?;
    if size == 0 {
        return Err(TypeError::new("a split needs parts of at least one element").found(size));
    }
    (0..extent).step_by(size).map(|at| b.slice_axis(x, axis, at, extent.min(at + size))).collect()
}

/// Cuts `axis` into consecutive parts of the given sizes, which must add up to its extent.
pub fn split_sizes(b: &mut Builder, x: Value, axis: usize, sizes: &[usize]) -> Result<Vec<Value>, TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| axis_error(&[axis], b.shape(x).len()))?;
    let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
    if total != Some(extent) {
        return Err(TypeError::new("the parts of a split must cover the axis")
            .expected(extent)
            .found(format!("{sizes:?}")));
    }
    let mut at = 0;
    let mut part = |&size: &usize| {
        at += size;
        b.slice_axis(x, axis, at - size, at)
    };
    sizes.iter().map(&mut part).collect()
}

/// Repeats axes of extent 1 to `shape`, aligned at the end.
pub fn expand(b: &mut Builder, x: Value, shape: &[usize]) -> Result<Value, TypeError> {
    b.broadcast_to(x, shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{build, build_all, noise};
    use gradc_ir::types::TensorType;

    #[test]
    fn shapes_follow_their_definitions() {
        type Layer = fn(&mut Builder, Value) -> Result<Value, TypeError>;
        let cases: [(&str, &[usize], Layer, &[usize]); 7] = [
            ("flatten", &[2, 3, 4, 5], |b, x| flatten(b, x, 1, 2), &[2, 12, 5]),
            ("flatten one", &[2, 3], |b, x| flatten(b, x, 1, 1), &[2, 3]),
            ("squeeze", &[1, 3, 1], |b, x| squeeze(b, x, &[2, 0]), &[3]),
            ("unsqueeze", &[3, 4], |b, x| unsqueeze(b, x, &[3, 0]), &[1, 3, 4, 1]),
            ("unsqueeze scalar", &[], |b, x| unsqueeze(b, x, &[0, 1]), &[1, 1]),
            ("expand", &[3, 1], |b, x| expand(b, x, &[2, 3, 4]), &[2, 3, 4]),
            ("split", &[7, 2], |b, x| Ok(split(b, x, 0, 3)?[2]), &[1, 2]),
        ];
        for (name, shape, layer, expected) in cases {
            let y = build(&[(shape, &noise(shape.iter().product(), 1))], |b, x| layer(b, x[0]));
            assert_eq!(y.ty.shape, expected, "{name}");
        }
    }

    #[test]
    fn the_parts_of_a_split_are_the_whole() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let parts = build_all(&[(&[2, 3], &x)], |b, x| split_sizes(b, x[0], 1, &[1, 2]));
        assert_eq!(parts[0].floats(), [1.0, 4.0]);
        assert_eq!(parts[1].floats(), [2.0, 3.0, 5.0, 6.0]);
        let parts = build_all(&[(&[2, 3], &x)], |b, x| split(b, x[0], 1, 2));
        assert_eq!(parts[0].floats(), [1.0, 2.0, 4.0, 5.0]);
        assert_eq!(parts[1].floats(), [3.0, 6.0]);
    }

    #[test]
    fn wrong_axes_are_refused() {
        let mut b = Builder::new("test");
        let x = b.input("x", TensorType::f32([2, 1, 3])).unwrap();
        assert!(flatten(&mut b, x, 2, 1).is_err());
        assert!(flatten(&mut b, x, 0, 3).is_err());
        assert!(squeeze(&mut b, x, &[0]).is_err());
        assert!(squeeze(&mut b, x, &[3]).is_err());
        assert!(unsqueeze(&mut b, x, &[1, 1]).is_err());
        assert!(unsqueeze(&mut b, x, &[5]).is_err());
        assert!(split(&mut b, x, 0, 0).is_err());
        assert!(split_sizes(&mut b, x, 2, &[usize::MAX, 4]).is_err());
        assert!(expand(&mut b, x, &[2, 4, 4]).is_err());
    }
}
