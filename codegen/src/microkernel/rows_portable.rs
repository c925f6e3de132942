//! 4 × 8 row tiles in plain Rust, for any processor.

use super::rows::{RowKernel, RowTile};

const ROWS: usize = 4;
const COLUMNS: usize = 8;

pub(super) fn kernel(lanewise: bool) -> RowKernel {
    let run = if lanewise { run::<true> } else { run::<false> };
    RowKernel { rows: ROWS, columns: COLUMNS, lanes: COLUMNS, depths: 1, neighbours: 1, slide: None, run }
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
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches.
    unsafe {
        for tile in 0..t.tiles {
            let mut sums = [[0.0f32; COLUMNS]; R];
            t.for_each_depth::<R, 1>(tile, |rows, offset, right| {
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let left = row.wrapping_offset(offset);
                    for (j, sum) in sums.iter_mut().enumerate().take(columns) {
                        let factor = left.wrapping_add(if LANEWISE { j } else { 0 }).read_unaligned();
                        *sum += factor * right.add(j).read_unaligned();
                    }
                }
            });
            for (r, sums) in sums.iter().enumerate() {
                let c = t.result_row(tile, r);
                for (j, sum) in sums.iter().enumerate().take(columns) {
                    *c.add(j) = if t.accumulate { *c.add(j) + sum } else { *sum };
                }
            }
        }
    }
}
