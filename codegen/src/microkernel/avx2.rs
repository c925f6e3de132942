//! 6 × 16 tiles in 256-bit vectors: twelve sums, two vectors of `b` and a broadcast of `a` fill the registers.

use super::{MicroKernel, Tile, dispatch};
use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps,
    _mm256_maskstore_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

const LANES: usize = 8;

pub(super) const KERNEL: MicroKernel = MicroKernel { rows: 6, columns: 2 * LANES, run };

/// Lanes set, then lanes clear: a window into it is the mask of any number of lanes.
static MASKS: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

unsafe fn run(tile: &Tile) {
    let vectors = tile.columns.div_ceil(LANES);
    let masked = !tile.columns.is_multiple_of(LANES);
    dispatch!(compute, tile, vectors, masked, [1 2 3 4 5 6])
}

/// `ROWS` rows of `VECTORS` vectors, the last one masked if `MASKED`.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize, const MASKED: bool>(t: &Tile) {
    // SAFETY: rows, columns and depth are those of the tile, for which the caller vouches; masked lanes are not touched.
    unsafe {
        let mask = last_mask(t.columns - LANES * (VECTORS - 1));
        let load = |p: *const f32, v: usize| match MASKED && v == VECTORS - 1 {
            true => _mm256_maskload_ps(p.add(LANES * v), mask),
            false => _mm256_loadu_ps(p.add(LANES * v)),
        };
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth {
            let mut row: [__m256; VECTORS] = [_mm256_setzero_ps(); VECTORS];
            for (v, x) in row.iter_mut().enumerate() {
                *x = load(b, v);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = _mm256_set1_ps(a.offset(r as isize * t.a_row).read_unaligned());
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum = _mm256_fmadd_ps(factor, x, *sum);
                }
            }
            a = a.wrapping_offset(t.a_step);
            b = b.wrapping_offset(t.b_step);
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = t.c.add(r * t.c_row);
            for (v, &sum) in sums.iter().enumerate() {
                let sum = if t.accumulate { _mm256_add_ps(sum, load(c, v)) } else { sum };
                match MASKED && v == VECTORS - 1 {
                    true => _mm256_maskstore_ps(c.add(LANES * v), mask, sum),
                    false => _mm256_storeu_ps(c.add(LANES * v), sum),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn last_mask(lanes: usize) -> __m256i {
    let window = &MASKS[LANES - lanes..2 * LANES - lanes];
    // SAFETY: the window is eight words long.
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}
