//! Which runs of depth a row may meet: windows that are far apart meet few.

use super::factor::{Part, stretch_on};
use super::roles::Roles;
use super::tiles::Line;
use crate::loops::{AxisPlan, LoadPlan};
use std::collections::BTreeMap;

/// What a product meets along one guarded axis, from which follows what all its rows meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reached {
    /// Everything, so far from zero modulo what divides the index.
    Inside(i64),
    /// What this index of the outer loops lets it.
    At(i64),
}

/// What a product meets, whose outer loops add `outer` to the left factor: those with the same are alike but for where
/// they are.
pub(super) fn reached(roles: &Roles, outer: &Part, rows: &[Part], lines: &[Line]) -> Vec<Reached> {
    let on_axis = |(number, axis): (usize, &AxisPlan)| {
        let (low, high) = bounds(rows.iter().map(|row| row.axes[number]));
        let (first, last) = bounds(lines.iter().map(|line| line.left.axes[number]));
        let along = roles.run.map_or(0, |run| axis.index.affine.coeffs[run]) * (roles.depth() as i64 - 1);
        let (divisor, at) = (axis.index.divisor, outer.axes[number]);
        let is_inside = at + low + first + along.min(0) >= 0
            && (at + high + last + along.max(0)).div_euclid(divisor) < axis.extent as i64;
        if is_inside { Reached::Inside(at.rem_euclid(divisor)) } else { Reached::At(at) }
    };
    roles.left.axes.iter().enumerate().map(on_axis).collect()
}

fn bounds(values: impl Iterator<Item = i64> + Clone) -> (i64, i64) {
    (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
}

/// Elements from where a product reads the left factor to where one that meets the same does, along guarded axes.
pub(super) fn moved(left: &LoadPlan, from: &Part, to: &Part) -> i64 {
    let along =
        |(number, axis): (usize, &AxisPlan)| (to.axes[number] - from.axes[number]) / axis.index.divisor * axis.stride;
    left.axes.iter().enumerate().map(along).sum()
}

/// For every guarded axis of the left factor, which lines its guard lets through, by what rows add to its index.
pub(super) struct Reach {
    axes: Vec<BTreeMap<i64, Vec<bool>>>,
    /// Number of lines.
    lines: usize,
}

impl Reach {
    /// What rows meet in a product whose outer loops add `outer` to the left factor.
    pub fn new(roles: &Roles, outer: &Part, rows: &[Part], lines: &[Line]) -> Reach {
        let (run, depth) = (roles.run, roles.depth() as i64);
        let axes = roles.left.axes.iter().enumerate().map(|(number, axis)| {
            let passes = |of_row: i64, line: &Line| {
                let index = outer.axes[number] + of_row + line.left.axes[number];
                let (low, high) = stretch_on(axis, run, depth, index);
                low < high
            };
            let mut known: BTreeMap<i64, Vec<bool>> = BTreeMap::new();
            for row in rows {
                let of_row = row.axes[number];
                known.entry(of_row).or_insert_with(|| lines.iter().map(|line| passes(of_row, line)).collect());
            }
            known
        });
        Reach { axes: axes.collect(), lines: lines.len() }
    }

    /// The lines that no axis keeps from some row, in ascending order.
    pub fn lines<'a>(&self, rows: impl Iterator<Item = &'a Part>) -> Vec<usize> {
        let masks = |row: &Part| self.axes.iter().zip(&row.axes).map(|(known, of_row)| &known[of_row][..]).collect();
        let masks: Vec<Vec<&[bool]>> = rows.map(masks).collect();
        (0..self.lines).filter(|&line| masks.iter().any(|axes| axes.iter().all(|passes| passes[line]))).collect()
    }
}
