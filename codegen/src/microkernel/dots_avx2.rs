//! Products of which both factors have their depths next to each other, in 256-bit vectors along the depth: nothing has to
//! be transposed, which pays where each float is multiplied a few times.
//!
//! Elements are added up in sixteen sums, whatever the tile. These meet in such a way that a depth which begins with multiples
//! of four zeros has the same bits without them.

use super::avx2::{LANES, first_lanes, store_sum};
use super::transpose_avx2::transpose;
use super::{MicroKernel, Tile, copy, dispatch};
use std::arch::x86_64::{
    __m256, _mm_unpacklo_ps, _mm256_add_ps, _mm256_castps128_ps256, _mm256_castps256_ps128, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_permute_ps, _mm256_permute2f128_ps, _mm256_setzero_ps,
};

/// Vectors in which each element is summed.
const VECTORS: usize = 2;

/// Rows that meet a column at a time: eight chains of additions hide their latency, and few streams of memory are followed
/// best.
const TOGETHER: usize = 4;

/// One column of a product.
pub(super) const COLUMN: MicroKernel = MicroKernel { rows: 4 * TOGETHER, columns: 1, run: column, ..KERNEL };

/// Twelve sums, two rows of two vectors and a column of one fill the registers.
pub(super) const KERNEL: MicroKernel = MicroKernel {
    rows: 3,
    columns: 2,
    lanes: 1,
    vector: 1,
    along_depth: true,
    run,
    copy: copy::avx,
    transpose,
    split: None,
};

unsafe fn run(tiles: &Tile) {
    dispatch!(compute, tiles, tiles.columns, 1 [1 2 3], 2 [1 2 3]);
}

unsafe fn column(tiles: &Tile) {
    tiles.each(|tile| {
        let mut part = Tile { tiles: 1, a_tile: TOGETHER as isize * tile.a_row, ..*tile };
        for first in (0..tile.rows).step_by(TOGETHER) {
            part.rows = TOGETHER.min(tile.rows - first);
            dispatch!(compute, &part, 1, 1 [1 2 3 4]);
            part.descend();
        }
    });
}

#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const ROWS: usize, const COLUMNS: usize>(tiles: &Tile) {
    // SAFETY: as promised by the caller.
    tiles.each(|t| unsafe { compute_tile::<ROWS, COLUMNS>(t) });
}

/// However many rows and columns there are, each element is summed in the lanes of two vectors, which meet at last.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn compute_tile<const ROWS: usize, const COLUMNS: usize>(t: &Tile) {
    let mut sums = [[[_mm256_setzero_ps(); VECTORS]; COLUMNS]; ROWS];
    let rows: [*const f32; ROWS] = std::array::from_fn(|r| t.a.wrapping_offset(r as isize * t.a_row));
    let columns: [*const f32; COLUMNS] = std::array::from_fn(|j| t.b.wrapping_offset(j as isize * t.b_column));
    let whole = t.depth - t.depth % (VECTORS * LANES);
    // SAFETY: depths, rows and columns are those of the tile, for which the caller vouches; masked lanes are not touched.
    unsafe {
        for k in (0..whole).step_by(VECTORS * LANES) {
            for v in 0..VECTORS {
                let load = |from: *const f32| _mm256_loadu_ps(from.add(k + LANES * v));
                add_products(&mut sums, v, rows.map(load), columns.map(load));
            }
        }
        for k in (whole..t.depth).step_by(LANES) {
            let mask = first_lanes(LANES.min(t.depth - k));
            let load = |from: *const f32| _mm256_maskload_ps(from.add(k), mask);
            add_products(&mut sums, (k - whole) / LANES, rows.map(load), columns.map(load));
        }
        for (r, sums) in sums.iter().enumerate() {
            store_sum(t, r * t.c_row, met(sums), COLUMNS);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_products<const ROWS: usize, const COLUMNS: usize>(
    sums: &mut [[[__m256; VECTORS]; COLUMNS]; ROWS],
    vector: usize,
    rows: [__m256; ROWS],
    columns: [__m256; COLUMNS],
) {
    for (row, sums) in rows.into_iter().zip(sums) {
        for (column, sum) in columns.into_iter().zip(sums) {
            sum[vector] = _mm256_fmadd_ps(row, column, sum[vector]);
        }
    }
}

/// The elements of a row, in the first lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn met<const COLUMNS: usize>(sums: &[[__m256; VECTORS]; COLUMNS]) -> __m256 {
    let [a, b] = [0, COLUMNS - 1].map(|j| _mm256_add_ps(sums[j][0], sums[j][1]));
    let quads = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
    let pairs = _mm256_add_ps(quads, _mm256_permute_ps::<0x4e>(quads));
    let elements = _mm256_add_ps(pairs, _mm256_permute_ps::<0xb1>(pairs));
    let [first, last] = [_mm256_castps256_ps128(elements), _mm256_extractf128_ps::<1>(elements)];
    _mm256_castps128_ps256(_mm_unpacklo_ps(first, last))
}
