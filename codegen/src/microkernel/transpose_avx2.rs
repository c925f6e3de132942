//! Transposing strips in 256-bit vectors: 8 × 8 elements at a time, or twice 4 × 4 where rows or depths are no more.

use super::Strip;
use super::avx2::{first_lanes, store_part};
use super::transpose::in_squares;
use std::arch::x86_64::{
    __m128, __m256, _mm_loadu_ps, _mm_maskload_ps, _mm_storeu_ps, _mm256_castps128_ps256, _mm256_castps256_ps128,
    _mm256_castsi256_si128, _mm256_extractf128_ps, _mm256_insertf128_ps, _mm256_loadu_ps, _mm256_maskload_ps,
    _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

const LANES: usize = 8;
const HALF: usize = LANES / 2;

/// Packs a strip.
///
/// # Safety
/// The strip and its panel are valid for their extents, and the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose(strip: &Strip) {
    // SAFETY: as promised by the caller.
    unsafe {
        if strip.room <= HALF {
            return transpose_few_rows(strip);
        }
        let rest = strip.depth % LANES;
        let few = if rest <= HALF { rest } else { 0 };
        let [many, few] = strip.cut(strip.depth - few);
        let part = |to: *mut f32, column: __m256, lanes: usize| store_part(to, column, lanes);
        let whole = |to: *mut f32, column: __m256| _mm256_storeu_ps(to, column);
        in_squares(&many, |rows, depths| eight_columns(rows, depths), whole, part);
        in_squares(&few, |rows, depths| four_columns(rows.map(|row| load_half(row, depths))), whole, part);
    }
}

/// Packs a strip of at most four rows.
#[target_feature(enable = "avx2")]
unsafe fn transpose_few_rows(strip: &Strip) {
    // SAFETY: as promised by the caller.
    unsafe {
        let whole = |to: *mut f32, column: __m128| _mm_storeu_ps(to, column);
        let part = |to: *mut f32, column: __m128, lanes: usize| match lanes {
            HALF => _mm_storeu_ps(to, column),
            _ => store_part(to, _mm256_castps128_ps256(column), lanes),
        };
        in_squares(strip, |rows, depths| columns_of_four(rows.map(|row| load(row, depths))), whole, part);
    }
}

/// The first `count` floats, at most eight.
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const f32, count: usize) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe { if count == LANES { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, first_lanes(count)) } }
}

/// The first `count` floats, at most four.
#[target_feature(enable = "avx2")]
unsafe fn load_half(from: *const f32, count: usize) -> __m128 {
    let mask = _mm256_castsi256_si128(first_lanes(count));
    // SAFETY: as promised by the caller.
    unsafe { if count == HALF { _mm_loadu_ps(from) } else { _mm_maskload_ps(from, mask) } }
}

/// The columns of four rows.
#[target_feature(enable = "avx2")]
fn columns_of_four(rows: [__m256; HALF]) -> [__m128; LANES] {
    let pairs = twice_transposed(rows);
    std::array::from_fn(|k| match k < HALF {
        true => _mm256_castps256_ps128(pairs[k]),
        false => _mm256_extractf128_ps::<1>(pairs[k - HALF]),
    })
}

/// The columns of eight rows of four.
#[target_feature(enable = "avx2")]
fn four_columns(rows: [__m128; LANES]) -> [__m256; HALF] {
    let pair = |i: usize| _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(rows[i]), rows[i + HALF]);
    twice_transposed([pair(0), pair(1), pair(2), pair(3)])
}

/// The columns of eight rows: a row of the lower four and one of the upper are read into one register, so that nothing has
/// to move from one half to the other.
#[target_feature(enable = "avx2")]
unsafe fn eight_columns(rows: [*const f32; LANES], depths: usize) -> [__m256; LANES] {
    // SAFETY: as promised by the caller.
    unsafe {
        if depths < LANES {
            return transposed(rows.map(|row| load(row, depths)));
        }
        let four = |from: usize| four_columns(rows.map(|row| _mm_loadu_ps(row.add(from))));
        let [near, far] = [four(0), four(HALF)];
        std::array::from_fn(|k| if k < HALF { near[k] } else { far[k - HALF] })
    }
}

/// The columns of the squares of four in the lower and in the upper halves.
#[target_feature(enable = "avx2")]
fn twice_transposed([a, b, c, d]: [__m256; HALF]) -> [__m256; HALF] {
    let (low, high) =
        ([_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)], [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)]);
    [
        _mm256_shuffle_ps::<0x44>(low[0], low[1]),
        _mm256_shuffle_ps::<0xEE>(low[0], low[1]),
        _mm256_shuffle_ps::<0x44>(high[0], high[1]),
        _mm256_shuffle_ps::<0xEE>(high[0], high[1]),
    ]
}

/// The columns of eight rows.
#[target_feature(enable = "avx2")]
pub(super) fn transposed(r: [__m256; LANES]) -> [__m256; LANES] {
    let [upper, lower] = [twice_transposed([r[0], r[1], r[2], r[3]]), twice_transposed([r[4], r[5], r[6], r[7]])];
    let left = |k: usize| _mm256_permute2f128_ps::<0x20>(upper[k], lower[k]);
    let right = |k: usize| _mm256_permute2f128_ps::<0x31>(upper[k], lower[k]);
    [left(0), left(1), left(2), left(3), right(0), right(1), right(2), right(3)]
}
