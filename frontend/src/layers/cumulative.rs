//! Sums and products of what comes before along an axis.
//!
//! In ⌈log₂ n⌉ rounds, each of which combines elements at twice the distance (Hillis and Steele, 1986).

use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// `y[k] = x[0] + … + x[k]` along `axis`; with `exclusive` without `x[k]`, with `reverse` from the other end.
pub fn cumulative_sum(
    b: &mut Builder,
    x: Value,
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> Result<Value, TypeError> {
    let x = if reverse { b.reverse(x, &[axis])? } else { x };
    let x = if exclusive { shifted(b, x, axis, 1, 0.0)? } else { x };
    let y = cumulative(b, x, axis, Builder::add, 0.0)?;
    if reverse { b.reverse(y, &[axis]) } else { Ok(y) }
}

/// `y[k] = x[0] · … · x[k]` along `axis`.
pub fn cumulative_product(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    cumulative(b, x, axis, Builder::mul, 1.0)
}

/// Combines each element with all before it; `neutral` leaves what it is combined with as it is.
fn cumulative(
    b: &mut Builder,
    x: Value,
    axis: usize,
    combine: fn(&mut Builder, Value, Value) -> Result<Value, TypeError>,
    neutral: f64,
) -> Result<Value, TypeError> {
    let extent = *b.shape(x).get(axis).ok_or_else(|| TypeError::new("axis out of range").found(axis))?;
    let (mut y, mut distance) = (x, 1);
    while distance < extent {
        let before = shifted(b, y, axis, distance, neutral)?;
        y = combine(b, before, y)?;
        distance *= 2;
    }
    Ok(y)
}

/// `y[k] = x[k − distance]`, and `fill` where there is none.
fn shifted(b: &mut Builder, x: Value, axis: usize, distance: usize, fill: f64) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    let distance = distance.min(shape[axis]);
    let kept = b.slice_axis(x, axis, 0, shape[axis] - distance)?;
    let none = vec![0; shape.len()];
    let mut low = none.clone();
    low[axis] = distance;
    b.pad(kept, &low, &none, &none, fill)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::build;

    const X: [f64; 10] = [1.0, 2.0, 3.0, 4.0, 5.0, -1.0, 2.0, 0.0, 3.0, 2.0];

    #[test]
    fn sums_and_products_run_along_the_axis() {
        type Layer = fn(&mut Builder, Value) -> Result<Value, TypeError>;
        let cases: [(Layer, [f64; 10]); 6] = [
            (|b, x| cumulative_sum(b, x, 1, false, false), [1.0, 3.0, 6.0, 10.0, 15.0, -1.0, 1.0, 1.0, 4.0, 6.0]),
            (|b, x| cumulative_sum(b, x, 1, true, false), [0.0, 1.0, 3.0, 6.0, 10.0, 0.0, -1.0, 1.0, 1.0, 4.0]),
            (|b, x| cumulative_sum(b, x, 1, false, true), [15.0, 14.0, 12.0, 9.0, 5.0, 6.0, 7.0, 5.0, 5.0, 2.0]),
            (|b, x| cumulative_sum(b, x, 1, true, true), [14.0, 12.0, 9.0, 5.0, 0.0, 7.0, 5.0, 5.0, 2.0, 0.0]),
            (|b, x| cumulative_sum(b, x, 0, false, false), [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 4.0, 3.0, 7.0, 7.0]),
            (|b, x| cumulative_product(b, x, 1), [1.0, 2.0, 6.0, 24.0, 120.0, -1.0, -2.0, 0.0, 0.0, 0.0]),
        ];
        for (layer, expected) in cases {
            assert_eq!(build(&[(&[2, 5], &X)], |b, x| layer(b, x[0])).floats(), expected);
        }
    }
}
