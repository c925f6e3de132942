//! Packing: gathers a block of a factor into panels as micro-kernels read them, zeros where guards fail.
//!
//! Factors may be the host's own memory, of any alignment.

use super::factor::{Factor, GuardedAxis, Offsets, Runs};
use crate::microkernel::{Lines, MicroKernel, Strip};
use std::ops::Range;

/// Depths copied at a time.
const DEPTHS_COPIED: usize = 16;

/// The widest panel: columns of the largest tile.
const WIDEST: usize = 48;

/// Copies the rows (or columns) of each tile at depths `depth` into a panel of its own: `to[panel][k][i]`, `width`
/// floats per k. What a panel has beyond its tile is left open.
///
/// # Safety
/// `from` is the factor's operand; `to` has room for all panels; the processor has the kernel's instructions.
pub(super) unsafe fn pack(
    factor: &Factor,
    kernel: &MicroKernel,
    outer: usize,
    tiles: impl Iterator<Item = Range<usize>> + Clone,
    depth: Range<usize>,
    from: *const f32,
    (to, width): (*mut f32, usize),
) {
    if let Some(runs) = &factor.free_runs {
        // A few depths of all tiles at a time, because rows that are far apart compete for places in the cache.
        for first in (0..depth.len()).step_by(DEPTHS_COPIED) {
            let depths = depth.start + first..depth.end.min(depth.start + first + DEPTHS_COPIED);
            let lines = &factor.flat.depth[depths];
            for (number, tile) in tiles.clone().enumerate() {
                let to = to.wrapping_add(number * width * depth.len() + first * width);
                for run in parts_of_runs(runs, &tile) {
                    let from = factor.first(from, outer, run.start, 0);
                    // SAFETY: elements of a run follow each other at each depth, and the tile's panel has room for them.
                    unsafe {
                        let to = to.wrapping_add(run.start - tile.start);
                        (kernel.copy)(&Lines { from, lines, count: run.len(), to, width });
                    }
                }
            }
        }
        return;
    }
    for (number, tile) in tiles.enumerate() {
        let to = to.wrapping_add(number * width * depth.len());
        // SAFETY: panels follow each other, each of `width` floats per depth.
        unsafe {
            match (&factor.runs, &factor.depth_runs) {
                (_, Some(runs)) => {
                    for run in parts_of_runs(runs, &depth) {
                        (kernel.transpose)(&Strip {
                            from: factor.first(from, outer, 0, run.start),
                            rows: &factor.flat.free[tile.clone()],
                            depth: run.len(),
                            to: to.wrapping_add((run.start - depth.start) * width),
                            width,
                            room: width,
                        });
                    }
                }
                _ if factor.guarded.is_empty() => pack_flat(factor, outer, tile, depth.clone(), width, from, to),
                (Some(runs), _) => pack_runs(factor, runs, outer, tile, depth.clone(), width, from, to),
                _ => pack_guarded(factor, outer, tile, depth.clone(), width, from, to),
            }
        }
    }
}

/// The parts of runs, which begin at `starts`, inside a range.
fn parts_of_runs(starts: &[usize], range: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let first = starts.partition_point(|&s| s <= range.start) - 1;
    let runs = starts[first..].windows(2).take_while(|run| run[0] < range.end);
    runs.map(|run| run[0].max(range.start)..run[1].min(range.end))
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
    let base = factor.flat.outer[outer] as isize;
    // Column by column: in the common case that a panel has to be transposed, reads follow each other.
    for (i, &column) in factor.flat.free[part].iter().enumerate() {
        // SAFETY: the sum of the three offsets is the element's, inside the operand.
        unsafe {
            let from = from.offset(base + column as isize);
            for (k, &at) in factor.flat.depth[depth.clone()].iter().enumerate() {
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
