//! 14 × 32 tiles in 512-bit vectors: 28 sums, two vectors of `b` and two factors of `a` fill the registers.

use super::{MicroKernel, Tile, dispatch, wide_avx512};
use crate::microkernel::transpose_avx2::transpose;
use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};

pub(super) const LANES: usize = 16;

pub(super) const KERNEL: MicroKernel = MicroKernel { rows: 14, columns: 2 * LANES, lanes: 1, run, transpose };

unsafe fn run(tile: &Tile) {
    dispatch!(
        compute, tile, tile.columns.div_ceil(LANES),
        1 [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2 [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 3 []
    )
}

/// Tiles of `ROWS` rows of `VECTORS` vectors, the last one masked.
#[target_feature(enable = "avx512f")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize>(tiles: &Tile) {
    // SAFETY: as promised by the caller.
    tiles.each(|t| unsafe { compute_tile::<ROWS, VECTORS>(t) });
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn compute_tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    let rest = t.columns - LANES * (VECTORS - 1);
    let last = u16::MAX >> (LANES - rest);
    let mask = |v: usize| if v == VECTORS - 1 { last } else { u16::MAX };
    // SAFETY: rows, columns and depth are those of the tile, for which the caller vouches; masked lanes are not touched.
    unsafe {
        let sums: [[__m512; VECTORS]; ROWS] = wide_avx512::sums(t, last);
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let at = r * t.c_row + LANES * v;
                let sum = match t.add.is_null() {
                    true => sum,
                    false => _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask(v), t.add.add(at))),
                };
                _mm512_mask_storeu_ps(t.c.add(at), mask(v), sum);
            }
        }
    }
}
