//! Row tiles of few columns in 256-bit vectors of neighbouring rows: 16 × 6. Where columns do not fill a vector, rows
//! do.

use super::avx2::{LANES, store};
use super::rows::{RowKernel, RowTile};
use super::transpose_avx2::transposed;
use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps};

/// Twelve sums, two vectors of rows and a broadcast of a column fill the registers.
const COLUMNS: usize = 6;

pub(super) const KERNEL: RowKernel =
    RowKernel { rows: 2 * LANES, columns: COLUMNS, lanes: LANES, depths: 1, neighbours: LANES, slide: None, run };

unsafe fn run(tile: &RowTile) {
    macro_rules! dispatch {
        ($($columns:literal)+) => {
            // SAFETY: as promised by the caller.
            unsafe {
                match (tile.rows.div_ceil(LANES), tile.columns) {
                    $((1, $columns) => compute::<1, $columns>(tile), (2, $columns) => compute::<2, $columns>(tile),)+
                    _ => unreachable!("a tile is not larger than its kernel"),
                }
            }
        };
    }
    dispatch!(1 2 3 4 5 6)
}

/// `VECTORS` vectors of rows, `WIDTH` columns.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const VECTORS: usize, const WIDTH: usize>(t: &RowTile) {
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches, and that the left factor
    // may be read to the end of a vector.
    unsafe {
        for tile in 0..t.tiles {
            let mut sums = [[_mm256_setzero_ps(); VECTORS]; WIDTH];
            t.for_each_depth::<VECTORS, LANES>(tile, |rows, offset, right| {
                let left: [__m256; VECTORS] = std::array::from_fn(|v| _mm256_loadu_ps(rows[v].wrapping_offset(offset)));
                for (column, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm256_set1_ps(right.add(column).read_unaligned());
                    for (sum, x) in sums.iter_mut().zip(left) {
                        *sum = _mm256_fmadd_ps(factor, x, *sum);
                    }
                }
            });
            for vector in 0..VECTORS {
                let column = |c: usize| if c < WIDTH { sums[c][vector] } else { _mm256_setzero_ps() };
                for (r, sums) in transposed(std::array::from_fn(column)).into_iter().enumerate() {
                    if let Some(row) = t.present_row(tile, LANES * vector + r) {
                        store(row, sums, t.accumulate, WIDTH);
                    }
                }
            }
        }
    }
}
