//! 12 × 32 tiles in 512-bit vectors: 24 sums, two vectors of `b` and a broadcast of `a`.

use super::{MicroKernel, Tile, UNROLL, dispatch};
use crate::microkernel::transpose_avx2::transpose;
use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

pub(super) const LANES: usize = 16;

pub(super) const KERNEL: MicroKernel = MicroKernel { rows: 12, columns: 2 * LANES, lanes: 1, run, transpose };

unsafe fn run(tile: &Tile) {
    dispatch!(compute, tile, tile.columns.div_ceil(LANES), 1 [1 2 3 4 5 6 7 8 9 10 11 12], 2 [1 2 3 4 5 6 7 8 9 10 11 12], 3 [])
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
    let mask = |v: usize| if v == VECTORS - 1 { u16::MAX >> (LANES - rest) } else { u16::MAX };
    // SAFETY: rows, columns and depth are those of the tile, for which the caller vouches; masked lanes are not touched.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let (mut a, mut b) = (t.a, t.b);
        let mut step = || {
            let mut row = [_mm512_setzero_ps(); VECTORS];
            for (v, x) in row.iter_mut().enumerate() {
                *x = _mm512_maskz_loadu_ps(mask(v), b.add(LANES * v));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(a.offset(r as isize * t.a_row).read_unaligned());
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(factor, x, *sum);
                }
            }
            a = a.wrapping_offset(t.a_step);
            b = b.wrapping_offset(t.b_step);
        };
        for _ in 0..t.depth / UNROLL {
            for _ in 0..UNROLL {
                step();
            }
        }
        for _ in 0..t.depth % UNROLL {
            step();
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = t.c.add(r * t.c_row);
            for (v, &sum) in sums.iter().enumerate() {
                let at = c.add(LANES * v);
                let sum = match t.add.is_null() {
                    true => sum,
                    false => {
                        let add = t.add.add(r * t.c_row + LANES * v);
                        _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask(v), add))
                    }
                };
                _mm512_mask_storeu_ps(at, mask(v), sum);
            }
        }
    }
}
