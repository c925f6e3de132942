//! Products of which both factors have their depths next to each other, in 512-bit vectors along the depth; every element is
//! the sum that it is in [two vectors of 256 bits](super::dots_avx2).

use super::avx2::store_sum;
use super::avx512::LANES;
use super::transpose_avx2::transpose;
use super::{MicroKernel, Tile, copy, dispatch};
use std::arch::x86_64::{
    __m128, __m512, _mm256_castps128_ps256, _mm512_add_ps, _mm512_castps512_ps128, _mm512_fmadd_ps,
    _mm512_maskz_compress_ps, _mm512_maskz_loadu_ps, _mm512_permute_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
};

/// Columns of the largest tile.
const COLUMNS: usize = 4;

/// Sixteen sums.
pub(super) const KERNEL: MicroKernel = MicroKernel {
    rows: 4,
    columns: COLUMNS,
    lanes: 1,
    vector: 1,
    along_depth: true,
    run,
    copy: copy::avx512,
    transpose,
    split: None,
};

unsafe fn run(tiles: &Tile) {
    dispatch!(compute, tiles, tiles.columns, 1 [1 2 3 4], 2 [1 2 3 4], 3 [1 2 3 4], 4 [1 2 3 4]);
}

#[target_feature(enable = "avx512f,avx2")]
unsafe fn compute<const ROWS: usize, const COLUMNS: usize>(tiles: &Tile) {
    // SAFETY: as promised by the caller.
    tiles.each(|t| unsafe { compute_tile::<ROWS, COLUMNS>(t) });
}

#[target_feature(enable = "avx512f,avx2")]
#[inline]
unsafe fn compute_tile<const ROWS: usize, const COLUMNS: usize>(t: &Tile) {
    let mut sums = [[_mm512_setzero_ps(); COLUMNS]; ROWS];
    let rows: [*const f32; ROWS] = std::array::from_fn(|r| t.a.wrapping_offset(r as isize * t.a_row));
    let columns: [*const f32; COLUMNS] = std::array::from_fn(|j| t.b.wrapping_offset(j as isize * t.b_column));
    let mut add_products = |k: usize, mask: u16| {
        // SAFETY: depths, rows and columns are those of the tile, for which the caller vouches; masked lanes are not touched.
        let load = |from: &*const f32| unsafe { _mm512_maskz_loadu_ps(mask, from.add(k)) };
        let columns = columns.each_ref().map(load);
        for (row, sums) in rows.iter().zip(&mut sums) {
            let row = load(row);
            for (&column, sum) in columns.iter().zip(sums) {
                *sum = _mm512_fmadd_ps(row, column, *sum);
            }
        }
    };
    let rest = t.depth % LANES;
    (0..t.depth - rest).step_by(LANES).for_each(|k| add_products(k, u16::MAX));
    if rest > 0 {
        add_products(t.depth - rest, (1 << rest) - 1);
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: as above.
        unsafe { store_sum(t, r * t.c_row, _mm256_castps128_ps256(met(sums)), COLUMNS) };
    }
}

/// The elements of a row, in the first lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn met<const COUNT: usize>(sums: &[__m512; COUNT]) -> __m128 {
    let [a, b, c, d]: [__m512; COLUMNS] = std::array::from_fn(|j| sums[j.min(COUNT - 1)]);
    let halves = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    let (ab, cd) = (halves(a, b), halves(c, d));
    let quads = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
    let pairs = _mm512_add_ps(quads, _mm512_permute_ps::<0x4e>(quads));
    let elements = _mm512_add_ps(pairs, _mm512_permute_ps::<0xb1>(pairs));
    _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, elements))
}
