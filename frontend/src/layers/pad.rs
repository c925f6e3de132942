//! Elements of a tensor again, around it.

use super::indexing::pick;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// Widest border made of single elements.
const WIDEST: i64 = 1 << 12;

/// The element that stands at place `k` before (negative) or behind the `n` there are; `None` where the border is too
/// wide for them.
pub type Border = fn(k: i64, n: i64) -> Option<i64>;

/// Mirrored at the first and last element, which are not repeated.
pub fn reflected(k: i64, n: i64) -> Option<i64> {
    let inside = if k < 0 {
        -k
    } else if k >= n {
        2 * (n - 1) - k
    } else {
        k
    };
    (0..n).contains(&inside).then_some(inside)
}

/// The first and last element again and again.
pub fn replicated(k: i64, n: i64) -> Option<i64> {
    (n > 0).then(|| k.clamp(0, n - 1))
}

/// From the other end.
pub fn wrapped(k: i64, n: i64) -> Option<i64> {
    (-n..2 * n).contains(&k).then(|| k.rem_euclid(n))
}

/// `x` with `widths` elements before and after along an axis, chosen by `border`; negative widths cut.
pub fn pad_with(
    b: &mut Builder,
    x: Value,
    axis: usize,
    [before, after]: [i64; 2],
    border: Border,
) -> Result<Value, TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| TypeError::new("axis out of range").found(axis))? as i64;
    let range = before.checked_neg().zip(extent.checked_add(after)).filter(|_| before.max(after) <= WIDEST);
    let places = range.and_then(|(start, end)| (start..end).map(|k| Some(border(k, extent)? as usize)).collect());
    let wrong = || {
        let error = TypeError::new("a border is too wide");
        error.expected(format!("what {extent} elements give, at most {WIDEST}")).found(format!("{before} and {after}"))
    };
    let places: Vec<usize> = places.ok_or_else(wrong)?;
    pick(b, x, axis, &places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::build;
    use gradc_ir::types::TensorType;

    #[test]
    fn borders_are_mirrored_repeated_or_from_the_other_end() {
        let x: (&[usize], &[f64]) = (&[3], &[1.0, 2.0, 3.0]);
        let padded = |widths, border| build(&[x], |b, v| pad_with(b, v[0], 0, widths, border)).floats().to_vec();
        assert_eq!(padded([2, 1], reflected), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
        assert_eq!(padded([2, 1], replicated), [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(padded([2, 1], wrapped), [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
        assert_eq!(padded([-1, 1], replicated), [2.0, 3.0, 3.0]);
        let mut b = Builder::new("test");
        let v = b.input("x", TensorType::f32([3])).unwrap();
        assert!(pad_with(&mut b, v, 0, [3, 0], reflected).is_err());
        assert!(pad_with(&mut b, v, 0, [i64::MIN, 0], wrapped).is_err());
    }
}
