//! A copy of the right factor in which several depths are beside each other, so that few columns fill vectors.

use super::factor::{FactorCopy, step};
use super::roles::{Roles, guards, uses};
use crate::microkernel::RowKernel;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, Body, Contraction, Index};
use gradc_ir::types::DType;

/// Where a loop of the contraction is among those of a copy: the loops it is made of, and the steps of each.
type Place = Vec<(usize, i64)>;

/// The contraction with the depths of a run in groups of as many as the kernel has beside each other, on a copy of its
/// right factor that becomes operand `copy`; `None` unless the run is contiguous and whole in the left factor, comes in
/// such groups, and one loop over columns reads a right factor without guards.
pub(super) fn beside_each_other(
    contraction: &Contraction,
    roles: &Roles,
    kernel: &RowKernel,
    copy: usize,
) -> Option<(Contraction, FactorCopy)> {
    let (run, &[column]) = (roles.run?, &roles.columns[..]) else { return None };
    let is_whole = roles.extents[run].is_multiple_of(kernel.depths) && !guards(&roles.left, run);
    if roles.lanewise || !is_whole || step(&roles.left, roles.run) != 1 || !roles.right.axes.is_empty() {
        return None;
    }
    let mut grouped = contraction.clone();
    grouped.reduce[run - contraction.space.len()] /= kernel.depths;
    let columns_are_in_rhs = grouped.rhs.indices.iter().any(|index| index.affine.coeffs[column] != 0);
    let (left, right) = match columns_are_in_rhs {
        true => (&mut grouped.lhs, &mut grouped.rhs),
        false => (&mut grouped.rhs, &mut grouped.lhs),
    };
    for index in &mut left.indices {
        index.affine.coeffs[run] *= kernel.depths as i64;
    }
    let (access, made) = copied(right, roles, (run, column), kernel, copy)?;
    *right = access;
    Some((grouped, made))
}

/// The access to a copy of the right factor, and the copy.
fn copied(
    right: &Access,
    roles: &Roles,
    (run, column): (usize, usize),
    kernel: &RowKernel,
    copy: usize,
) -> Option<(Access, FactorCopy)> {
    let rank = roles.extents.len();
    let others: Vec<usize> =
        (0..rank).filter(|&d| d != run && d != column && roles.extents[d] > 1 && uses(&roles.right, d)).collect();
    let before: Vec<usize> =
        others.iter().map(|&d| roles.extents[d]).chain([roles.extents[run] / kernel.depths]).collect();
    let lanes = kernel.lane_loops();
    let space: Vec<usize> =
        before.iter().copied().chain(lanes.map(|(trips, _)| trips)).chain([kernel.depths]).collect();
    let place = |d: usize| -> Place {
        let (groups, depth) = (others.len(), space.len() - 1);
        match others.iter().position(|&other| other == d) {
            Some(at) => vec![(at, 1)],
            None if d == run => vec![(groups, kernel.depths as i64), (depth, 1)],
            None if d == column => (groups + 1..).zip(lanes.map(|(_, columns)| columns as i64)).collect(),
            None => vec![],
        }
    };
    let places: Vec<Place> = (0..rank).map(place).collect();
    let mut read = Access { fill: None, ..right.clone() };
    for index in &mut read.indices {
        index.affine = moved(&index.affine, &places, space.len());
    }
    if kernel.columns != roles.extents[column] {
        read = past_the_columns(read, right, column, roles.extents[column])?;
    }
    let mut body = Body::default();
    let value = body.load(DType::F32, read);
    let made = FactorCopy { kernel: LoopKernel { space, accumulate: None, body, stores: vec![value] } };
    let view = [&before[..], &[kernel.columns * kernel.depths]].concat();
    let in_row =
        Affine { coeffs: Affine::dim(rank, column).coeffs.iter().map(|c| c * kernel.depths as i64).collect(), base: 0 };
    let indices = others.iter().chain([&run]).map(|&d| Affine::dim(rank, d)).chain([in_row]).collect();
    Some((Access::new(copy, &view, indices), made))
}

/// A read that gives zeros past the last column; `None` unless the columns are an axis of their own.
fn past_the_columns(read: Access, right: &Access, column: usize, columns: usize) -> Option<Access> {
    let axis = right.indices.iter().position(|index| index.affine.coeffs[column] != 0)?;
    let rank = right.indices[axis].affine.coeffs.len();
    let is_own = right.indices[axis] == Index::from(Affine::dim(rank, column)) && right.view[axis] == columns;
    is_own.then(|| read.filled(0.0))
}

/// An affine over the loops of a contraction as one over those of a copy.
fn moved(affine: &Affine, places: &[Place], rank: usize) -> Affine {
    let mut coeffs = vec![0; rank];
    for (&coeff, place) in affine.coeffs.iter().zip(places) {
        for &(at, steps) in place {
            coeffs[at] += coeff * steps;
        }
    }
    Affine { base: affine.base, coeffs }
}
