//! A copy of a windowed factor with zeros around it, in which no read needs a guard.

use super::factor::FactorCopy;
use crate::loops::{LoadPlan, range};
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, Body, Contraction, Index};
use gradc_ir::types::DType;

/// The contraction on a copy of its guarded factor, which becomes operand `copy`; `None` when not exactly one factor is
/// guarded, or divisions leave holes between its elements.
pub(super) fn padded(contraction: &Contraction, copy: usize) -> Option<(Contraction, FactorCopy)> {
    let extents = [&contraction.space[..], &contraction.reduce].concat();
    let mut padded = contraction.clone();
    let is_guarded = |factor: &Access| !LoadPlan::new(factor, &extents).axes.is_empty();
    let guarded = match [&contraction.lhs, &contraction.rhs].map(is_guarded) {
        [true, false] => &mut padded.lhs,
        [false, true] => &mut padded.rhs,
        _ => return None,
    };
    let (access, made) = copied(guarded, &extents, copy)?;
    *guarded = access;
    Some((padded, made))
}

/// The access to a copy of all that it reads, and the copy.
fn copied(access: &Access, extents: &[usize], copy: usize) -> Option<(Access, FactorCopy)> {
    if access.fill.is_none_or(|fill| fill.get() != 0.0) {
        return None;
    }
    if access.indices.iter().any(|i| i.divisor != 1 || i.loaded.is_some()) {
        return None;
    }
    let ranges = access.indices.iter().map(|index| range(&index.affine, extents));
    let (lows, view): (Vec<i64>, Vec<usize>) = ranges.map(|(low, high)| (low, (high - low) as usize + 1)).unzip();
    let from_low = |(index, low): (&Index, &i64)| Index::from(index.affine.clone().offset(-low));
    let indices = access.indices.iter().zip(&lows).map(from_low).collect();
    let kernel = copy_from(access, lows, &view);
    Some((Access { operand: copy, view, indices, fill: None }, FactorCopy { kernel }))
}

/// A kernel that reads the operand of an access from these indices on, zero outside of it.
fn copy_from(access: &Access, lows: Vec<i64>, view: &[usize]) -> LoopKernel {
    let shifted = |(dim, low): (usize, i64)| Index::from(Affine::dim(view.len(), dim).offset(low));
    let indices = lows.into_iter().enumerate().map(shifted).collect();
    let mut body = Body::default();
    let value = body.load(DType::F32, Access { indices, ..access.clone() });
    LoopKernel { space: view.to_vec(), accumulate: None, body, stores: vec![value] }
}
