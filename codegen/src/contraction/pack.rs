//! Packing: gathers a block of a factor into panels as micro-kernels read them, zeros where guards fail.
//!
//! Factors may be the host's own memory, of any alignment.

use super::plan::{Factor, GuardedAxis, Offsets, Runs};
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
            match &factor.runs {
                _ if factor.guarded.is_empty() => pack_flat(factor, outer, part, depth.clone(), width, from, to),
                Some(runs) => pack_runs(factor, runs, outer, part, depth.clone(), width, from, to),
                None => pack_guarded(factor, outer, part, depth.clone(), width, from, to),
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

/// As [`pack_guarded`], a run of neighbouring elements at a time.
#[allow(clippy::too_many_arguments, reason = "the arguments of `pack` and the runs")]
unsafe fn pack_runs(
    factor: &Factor,
    runs: &Runs,
    outer: usize,
    part: Range<usize>,
    depth: Range<usize>,
    width: usize,
    from: *const f32,
    to: *mut f32,
) {
    // SAFETY: the panel has room for `width` floats per depth.
    unsafe { std::ptr::write_bytes(to, 0, width * depth.len()) };
    let mut run = runs.starts.partition_point(|&s| s <= part.start) - 1;
    while runs.starts[run] < part.end {
        let piece = runs.starts[run].max(part.start)..runs.starts[run + 1].min(part.end);
        for (row, k) in depth.clone().enumerate() {
            let Some((offset, inside)) = run_at(factor, runs.moving, outer, k, &piece) else { continue };
            let first = row * width + (piece.start - part.start);
            // SAFETY: the elements of `inside` are inside the operand, and the panel has a place for each of the piece.
            unsafe {
                let from = from.offset(offset as isize + inside.start as isize).cast::<u8>();
                let to = to.add(first + inside.start).cast::<u8>();
                std::ptr::copy_nonoverlapping(from, to, 4 * inside.len());
            }
        }
        run += 1;
    }
}

/// Offset of the first element of a piece of a run at one depth, and which of its elements no guard excludes.
fn run_at(
    factor: &Factor,
    moving: Option<usize>,
    outer: usize,
    k: usize,
    piece: &Range<usize>,
) -> Option<(i32, Range<usize>)> {
    let at = |o: &Offsets| o.outer[outer] + o.depth[k] + o.free[piece.start];
    let (mut offset, mut inside) = (at(&factor.flat), 0..piece.len());
    for (number, axis) in factor.guarded.iter().enumerate() {
        let index = at(&axis.index);
        offset += index * axis.stride;
        if moving == Some(number) {
            inside = (-index).max(0) as usize..piece.len().min((axis.extent - index).max(0) as usize);
        } else if index.cast_unsigned() >= axis.extent.cast_unsigned() {
            return None;
        }
    }
    (inside.start < inside.end).then_some((offset, inside))
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
