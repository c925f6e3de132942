//! Row tiles in 512-bit vectors: 8 × 32 or 12 × 16. With more rows of two vectors the compiler keeps sums in memory
//! where it optimises the program as a whole, and tiles take twice as long.

use super::avx512::LANES;
use super::rows::{RowKernel, RowTile, dispatch_rows};
use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};

pub(super) fn kernel(columns: usize, lanewise: bool) -> RowKernel {
    let run = if lanewise { run::<true> } else { run::<false> };
    let rows = if columns > LANES { 8 } else { 12 };
    RowKernel { rows, columns: 2 * LANES, lanes: LANES, depths: 1, neighbours: 1, slide: None, run }
}

unsafe fn run<const LANEWISE: bool>(tile: &RowTile) {
    dispatch_rows!(tile, LANES, LANEWISE, 1 [1 2 3 4 5 6 7 8 9 10 11 12], 2 [1 2 3 4 5 6 7 8])
}

/// `ROWS` rows of `VECTORS` vectors, the last one masked if `MASKED`.
#[target_feature(enable = "avx512f")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize, const MASKED: bool, const LANEWISE: bool>(t: &RowTile) {
    let rest = t.columns - LANES * (VECTORS - 1);
    let mask = |v: usize| if MASKED && v == VECTORS - 1 { (1u16 << rest) - 1 } else { u16::MAX };
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches; masked lanes are not
    // touched.
    unsafe {
        let load = |p: *const f32, v: usize| _mm512_maskz_loadu_ps(mask(v), p.add(LANES * v));
        for tile in 0..t.tiles {
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
            t.for_each_depth::<ROWS, 1>(tile, |rows, offset, right| {
                let columns: [__m512; VECTORS] = std::array::from_fn(|v| load(right, v));
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let left = row.wrapping_offset(offset);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let factor = if LANEWISE { load(left, v) } else { _mm512_set1_ps(left.read_unaligned()) };
                        *sum = _mm512_fmadd_ps(factor, columns[v], *sum);
                    }
                }
            });
            for (r, sums) in sums.iter().enumerate() {
                let c = t.result_row(tile, r);
                for (v, &sum) in sums.iter().enumerate() {
                    let sum = if t.accumulate { _mm512_add_ps(sum, load(c, v)) } else { sum };
                    _mm512_mask_storeu_ps(c.add(LANES * v), mask(v), sum);
                }
            }
        }
    }
}
