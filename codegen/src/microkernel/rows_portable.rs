//! 4 × 8 row tiles in plain Rust, for any processor.

use super::rows::{RowKernel, RowTile};

const ROWS: usize = 4;
const COLUMNS: usize = 8;

pub(super) fn kernel(lanewise: bool) -> RowKernel {
    RowKernel { rows: ROWS, columns: COLUMNS, run: if lanewise { run::<true> } else { run::<false> } }
}

unsafe fn run<const LANEWISE: bool>(tile: &RowTile) {
    // SAFETY: as promised by the caller.
    unsafe {
        match (tile.rows, tile.columns) {
            (ROWS, COLUMNS) => compute::<ROWS, LANEWISE>(tile, COLUMNS),
            (1, columns) => compute::<1, LANEWISE>(tile, columns),
            (2, columns) => compute::<2, LANEWISE>(tile, columns),
            (3, columns) => compute::<3, LANEWISE>(tile, columns),
            (_, columns) => compute::<ROWS, LANEWISE>(tile, columns),
        }
    }
}

/// Inlined once with a constant number of columns, which the compiler makes vectors of, and for the edges.
#[inline(always)]
unsafe fn compute<const R: usize, const LANEWISE: bool>(t: &RowTile, columns: usize) {
    let mut sums = [[0.0f32; COLUMNS]; R];
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches.
    unsafe {
        for at in 0..t.count {
            let (rows, mut right, depth, right_step) = t.rows_of::<R>(at);
            for k in 0..depth {
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let left = row.wrapping_offset(k * t.left_step);
                    for (j, sum) in sums.iter_mut().enumerate().take(columns) {
                        let factor = left.wrapping_add(if LANEWISE { j } else { 0 }).read_unaligned();
                        *sum += factor * right.add(j).read_unaligned();
                    }
                }
                right = right.wrapping_offset(right_step);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = t.result.offset(*t.result_rows.add(r) as isize);
            for (j, sum) in sums.iter().enumerate().take(columns) {
                *c.add(j) = if t.accumulate { *c.add(j) + sum } else { *sum };
            }
        }
    }
}
