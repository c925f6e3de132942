//! A row times a matrix in 256-bit vectors: memory is what takes time, so it is read in long runs, each float once.

use super::avx2::{LANES, first_lanes, store, store_sum};
use super::transpose_avx2::transpose;
use super::{MicroKernel, Tile, copy};
use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

/// Columns whose sums stay in the first-level cache while rows of the matrix pass.
const COLUMNS: usize = 1024;

/// Rows of the matrix whose products are added at a time: as many streams of memory.
const DEPTHS: usize = 8;

/// One row of a product, whose right factor has its columns next to each other. Every element is the sum that it is in
/// other tiles.
pub(super) const ROW: MicroKernel = MicroKernel {
    rows: 1,
    columns: COLUMNS,
    lanes: 1,
    vector: 1,
    along_depth: false,
    run: row,
    copy: copy::avx,
    transpose,
    split: None,
};

unsafe fn row(tiles: &Tile) {
    // SAFETY: as promised by the caller.
    tiles.each(|tile| unsafe { compute_row(tile) });
}

#[target_feature(enable = "avx2,fma")]
unsafe fn compute_row(t: &Tile) {
    let mut apart = [0.0f32; COLUMNS];
    // Sums that are added to others are complete before.
    let sums = if t.add.is_null() { t.c } else { apart.as_mut_ptr() };
    let whole = t.depth - t.depth % DEPTHS;
    // SAFETY: depths and columns are those of the tile, for which the caller vouches.
    unsafe {
        if t.depth == 0 {
            (0..t.columns).for_each(|j| *sums.add(j) = 0.0);
        }
        (0..whole).step_by(DEPTHS).for_each(|k| add_rows::<DEPTHS>(t, k, sums));
        (whole..t.depth).for_each(|k| add_rows::<1>(t, k, sums));
        if !t.add.is_null() {
            for j in (0..t.columns).step_by(LANES) {
                store_sum(t, j, _mm256_loadu_ps(sums.add(j)), rest(t.columns, j));
            }
        }
    }
}

/// Adds the products of `COUNT` depths from `k` on; the first ones to zeros.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_rows<const COUNT: usize>(t: &Tile, k: usize, sums: *mut f32) {
    // SAFETY: as promised by the caller; of the last vector only the lanes of columns are touched.
    unsafe {
        let at = |i: usize| (k + i) as isize;
        let factors: [__m256; COUNT] =
            std::array::from_fn(|i| _mm256_set1_ps(t.a.offset(at(i) * t.a_step).read_unaligned()));
        let rows: [*const f32; COUNT] = std::array::from_fn(|i| t.b.wrapping_offset(at(i) * t.b_step));
        let whole = t.columns - t.columns % LANES;
        for j in (0..whole).step_by(LANES) {
            let mut sum = if k == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(sums.add(j)) };
            for (factor, row) in factors.iter().zip(rows) {
                sum = _mm256_fmadd_ps(*factor, _mm256_loadu_ps(row.add(j)), sum);
            }
            _mm256_storeu_ps(sums.add(j), sum);
        }
        if whole < t.columns {
            let mask = first_lanes(t.columns - whole);
            let mut sum = if k == 0 { _mm256_setzero_ps() } else { _mm256_maskload_ps(sums.add(whole), mask) };
            for (factor, row) in factors.iter().zip(rows) {
                sum = _mm256_fmadd_ps(*factor, _mm256_maskload_ps(row.add(whole), mask), sum);
            }
            store(sums.add(whole), sum, false, t.columns - whole);
        }
    }
}

/// Lanes of the vector that begins at column `first`, if they are not all columns, else 0.
fn rest(columns: usize, first: usize) -> usize {
    if columns - first < LANES { columns - first } else { 0 }
}
