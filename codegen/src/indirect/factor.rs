//! Where the elements of a factor are along a run of depth, and which of them no guard excludes.

use crate::loops::{AxisPlan, LoadPlan};
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::Affine;

/// A copy that stands for a factor.
#[derive(Clone, Debug)]
pub(crate) struct FactorCopy {
    /// Makes the copy: one point per element.
    pub kernel: LoopKernel,
}

impl FactorCopy {
    /// Floats of the copy.
    pub fn floats(&self) -> usize {
        self.kernel.space.iter().product()
    }
}

/// What some loops add to the index of a factor.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// To the offset of the axes without guards, in elements.
    pub flat: i64,
    /// To the index of each guarded axis.
    pub axes: Vec<i64>,
}

/// The parts of a factor for all values of the loops `dims`, row-major; the constant terms count only when `first`.
pub(super) fn parts(load: &LoadPlan, dims: &[usize], extents: &[usize], first: bool) -> Vec<Part> {
    let flat = values(&load.flat, dims, extents, first);
    let axes: Vec<Vec<i64>> = load.axes.iter().map(|a| values(&a.index.affine, dims, extents, first)).collect();
    let part = |(at, flat): (usize, i64)| Part { flat, axes: axes.iter().map(|axis| axis[at]).collect() };
    flat.into_iter().enumerate().map(part).collect()
}

/// Values of an affine over some loops, row-major.
pub(super) fn values(affine: &Affine, dims: &[usize], extents: &[usize], first: bool) -> Vec<i64> {
    let mut values = vec![if first { affine.base } else { 0 }];
    for &d in dims {
        let step = affine.coeffs[d];
        values = values.iter().flat_map(|&v| (0..extents[d] as i64).map(move |i| v + i * step)).collect();
    }
    values
}

/// A run of depth in a factor: its elements from `low` up to `high`, the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stretch {
    pub low: i64,
    pub high: i64,
    /// What guarded axes add to the offset of depth 0, in elements.
    pub offset: i64,
}

impl Stretch {
    const NOTHING: Stretch = Stretch { low: 0, high: 0, offset: 0 };

    /// Whether no depth of the run is inside.
    pub fn is_empty(&self) -> bool {
        self.low >= self.high
    }
}

/// Elements from one depth to the next along the loop `run`.
pub(super) fn step(load: &LoadPlan, run: Option<usize>) -> i64 {
    let along = |affine: &Affine| run.map_or(0, |d| affine.coeffs[d]);
    along(&load.flat) + load.axes.iter().map(|a| along(&a.index.affine) * a.stride).sum::<i64>()
}

/// The stretch of the run `run`, `depth` long, where the guarded axes have the given sum of parts.
pub(super) fn stretch(load: &LoadPlan, run: Option<usize>, depth: i64, parts: &[&Part]) -> Stretch {
    let mut found = Stretch { low: 0, high: depth, offset: 0 };
    for (number, axis) in load.axes.iter().enumerate() {
        let index: i64 = parts.iter().map(|p| p.axes[number]).sum();
        let (low, high) = stretch_on(axis, run, depth, index);
        (found.low, found.high) = (found.low.max(low), found.high.min(high));
        found.offset += index / axis.index.divisor * axis.stride;
    }
    if found.is_empty() { Stretch::NOTHING } else { found }
}

/// The depths of a run that the guard of one axis lets through, from the first to the end; none where that is not
/// larger.
pub(super) fn stretch_on(axis: &AxisPlan, run: Option<usize>, depth: i64, index: i64) -> (i64, i64) {
    let (moves, divisor) = (run.map_or(0, |d| axis.index.affine.coeffs[d]), axis.index.divisor);
    let extent = axis.extent as i64;
    if moves != 0 {
        return inside(index, moves, extent);
    }
    let is_inside = index % divisor == 0 && (0..extent).contains(&(index / divisor));
    if is_inside { (0, depth) } else { (0, 0) }
}

/// The values of `k` for which `index + k · moves` is in `0..extent`.
fn inside(index: i64, moves: i64, extent: i64) -> (i64, i64) {
    let ceil = |a: i64, b: i64| a.div_euclid(b) + i64::from(a.rem_euclid(b) != 0);
    match moves > 0 {
        true => (ceil(-index, moves), ceil(extent - index, moves)),
        false => (ceil(index - extent + 1, -moves), ceil(index + 1, -moves)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_of_a_run_is_where_its_guard_holds() {
        for index in -7..12i64 {
            for moves in [-3, -2, -1, 1, 2, 3i64] {
                for extent in 1..6i64 {
                    let (low, high) = inside(index, moves, extent);
                    for k in -20..20 {
                        let holds = (0..extent).contains(&(index + k * moves));
                        assert_eq!(holds, low <= k && k < high, "{index} {moves} {extent} {k}");
                    }
                }
            }
        }
    }
}
