//! Packing: gathers a block of a factor into panels as micro-kernels read them, zeros where guards fail.
//!
//! Factors may be the host's own memory, of any alignment.

use super::plan::{Factor, GuardedAxis};
use std::ops::Range;

/// The widest panel: columns of the largest tile.
const WIDEST: usize = 32;

/// Copies rows (or columns) `free` at depths `depth` into panels of `width`: `to[panel][k][i]`, padded with zeros.
///
/// # Safety
/// `from` is the factor's operand; `to` has room for all panels.
pub(super) unsafe fn pack(
    factor: &Factor,
    outer: usize,
    free: Range<usize>,
    depth: Range<usize>,
    width: usize,
    from: *const f32,
    to: *mut f32,
) {
    for (panel, first) in free.clone().step_by(width).enumerate() {
        let part = first..free.end.min(first + width);
        // SAFETY: panels follow each other, each of `width · depth` floats.
        unsafe {
            let to = to.add(panel * width * depth.len());
            if factor.guarded.is_empty() {
                pack_flat(factor, outer, part, depth.clone(), width, from, to);
            } else {
                pack_guarded(factor, outer, part, depth.clone(), width, from, to);
            }
        }
    }
}

unsafe fn pack_flat(
    factor: &Factor,
    outer: usize,
    part: Range<usize>,
    depth: Range<usize>,
    width: usize,
    from: *const f32,
    to: *mut f32,
) {
    let columns = &factor.flat.free[part];
    let depths = &factor.flat.depth[depth];
    let base = factor.flat.outer[outer] as isize;
    if columns.len() < width {
        // SAFETY: the panel has room for `width` floats per depth.
        unsafe { std::ptr::write_bytes(to, 0, width * depths.len()) };
    }
    // Column by column: in the common case that a panel has to be transposed, reads follow each other.
    for (i, &column) in columns.iter().enumerate() {
        // SAFETY: the sum of the three offsets is the element's, inside the operand.
        unsafe {
            let from = from.offset(base + column as isize);
            for (k, &at) in depths.iter().enumerate() {
                *to.add(k * width + i) = from.offset(at as isize).read_unaligned();
            }
        }
    }
}

unsafe fn pack_guarded(
    factor: &Factor,
    outer: usize,
    part: Range<usize>,
    depth: Range<usize>,
    width: usize,
    from: *const f32,
    to: *mut f32,
) {
    let mut columns = [0i32; WIDEST];
    let count = part.len();
    columns[..count].copy_from_slice(&factor.flat.free[part.clone()]);
    for (row, k) in depth.enumerate() {
        let base = factor.flat.outer[outer] + factor.flat.depth[k];
        let (mut offsets, mut inside) = ([0i32; WIDEST], [true; WIDEST]);
        for i in 0..count {
            offsets[i] = base + columns[i];
        }
        for axis in &factor.guarded {
            let start = axis.index.outer[outer] + axis.index.depth[k];
            add_axis(axis, start, &axis.index.free[part.clone()], &mut offsets, &mut inside);
        }
        for i in 0..width {
            // SAFETY: where all guards hold the offset is the element's; the panel has `width` floats per depth.
            unsafe {
                let value =
                    if i < count && inside[i] { from.offset(offsets[i] as isize).read_unaligned() } else { 0.0 };
                *to.add(row * width + i) = value;
            }
        }
    }
}

/// Adds what one guarded axis contributes, and notes where its guard fails.
fn add_axis(axis: &GuardedAxis, start: i32, free: &[i32], offsets: &mut [i32; WIDEST], inside: &mut [bool; WIDEST]) {
    for (i, &part) in free.iter().enumerate() {
        let dividend = start + part;
        let index = if axis.divisor == 1 { dividend } else { dividend / axis.divisor };
        let exact = index * axis.divisor == dividend;
        inside[i] &= exact && index.cast_unsigned() < axis.extent.cast_unsigned();
        offsets[i] = offsets[i].wrapping_add(index.wrapping_mul(axis.stride));
    }
}
