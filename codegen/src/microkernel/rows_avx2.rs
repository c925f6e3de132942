//! Row tiles in 256-bit vectors: 6 × 16, or 8 × 8 where there are no more columns: eight sums
//! are as many as hide the latency of an addition, and their addresses still fit the registers.

use super::avx2::{LANES, first_lanes, store};
use super::rows::{RowKernel, RowTile, dispatch_rows};
use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_set1_ps, _mm256_setzero_ps,
};

pub(super) fn kernel(columns: usize, lanewise: bool) -> RowKernel {
    let run = if lanewise { run::<true> } else { run::<false> };
    match columns <= LANES {
        true => RowKernel { rows: 8, columns: LANES, lanes: LANES, depths: 1, neighbours: 1, slide: None, run },
        false => RowKernel { rows: 6, columns: 2 * LANES, lanes: LANES, depths: 1, neighbours: 1, slide: None, run },
    }
}

unsafe fn run<const LANEWISE: bool>(tile: &RowTile) {
    dispatch_rows!(tile, LANES, LANEWISE, 1 [1 2 3 4 5 6 7 8], 2 [1 2 3 4 5 6])
}

/// `ROWS` rows of `VECTORS` vectors, the last one masked if `MASKED`.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize, const MASKED: bool, const LANEWISE: bool>(t: &RowTile) {
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches; masked lanes are not
    // touched.
    unsafe {
        let rest = if MASKED { t.columns - LANES * (VECTORS - 1) } else { 0 };
        let mask = first_lanes(rest);
        let load = |p: *const f32, v: usize| match MASKED && v == VECTORS - 1 {
            true => _mm256_maskload_ps(p.add(LANES * v), mask),
            false => _mm256_loadu_ps(p.add(LANES * v)),
        };
        for tile in 0..t.tiles {
            let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
            t.for_each_depth::<ROWS, 1>(tile, |rows, offset, right| {
                let columns: [__m256; VECTORS] = std::array::from_fn(|v| load(right, v));
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let left = row.wrapping_offset(offset);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let factor = if LANEWISE { load(left, v) } else { _mm256_set1_ps(left.read_unaligned()) };
                        *sum = _mm256_fmadd_ps(factor, columns[v], *sum);
                    }
                }
            });
            for (r, sums) in sums.iter().enumerate() {
                let c = t.result_row(tile, r);
                for (v, &sum) in sums.iter().enumerate() {
                    store(c.add(LANES * v), sum, t.accumulate, if v == VECTORS - 1 { rest } else { 0 });
                }
            }
        }
    }
}
