//! Transposing strips into panels, 8 × 8 elements at a time.

use super::Strip;
use std::arch::x86_64::{
    __m256, _mm_storel_pd, _mm_storeu_ps, _mm256_castps_pd, _mm256_castps256_ps128, _mm256_extractf128_pd,
    _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps,
};

const LANES: usize = 8;

/// Packs a strip.
///
/// # Safety
/// The strip and its panel are valid for their extents, and the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose(strip: &Strip) {
    let whole = strip.depth - strip.depth % LANES;
    let count = strip.rows.len();
    for first in (0..count).step_by(LANES) {
        let lanes = LANES.min(strip.room - first);
        // Rows past the last are replaced by it.
        let rows: [*const f32; LANES] =
            std::array::from_fn(|i| strip.from.wrapping_offset(strip.rows[(first + i).min(count - 1)] as isize));
        for k in (0..whole).step_by(LANES) {
            // SAFETY: the elements of rows of the strip; lanes past the panel's width are not stored.
            unsafe {
                let columns = transposed(std::array::from_fn(|i| _mm256_loadu_ps(rows[i].add(k))));
                for (j, column) in columns.into_iter().enumerate() {
                    store(strip.to.add((k + j) * strip.width + first), column, lanes);
                }
            }
        }
    }
    for (i, &row) in strip.rows.iter().enumerate() {
        for k in whole..strip.depth {
            // SAFETY: element `k` of row `i`, and its place in the panel.
            unsafe {
                let from = strip.from.offset(row as isize + k as isize);
                *strip.to.add(k * strip.width + i) = from.read_unaligned();
            }
        }
    }
}

/// Stores the first `lanes` lanes.
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut f32, x: __m256, lanes: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        match lanes {
            8 => _mm256_storeu_ps(to, x),
            6 => {
                _mm_storeu_ps(to, _mm256_castps256_ps128(x));
                _mm_storel_pd(to.add(4).cast(), _mm256_extractf128_pd::<1>(_mm256_castps_pd(x)));
            }
            4 => _mm_storeu_ps(to, _mm256_castps256_ps128(x)),
            _ => {
                let mut all = [0.0; LANES];
                _mm256_storeu_ps(all.as_mut_ptr(), x);
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, lanes);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn transposed(r: [__m256; LANES]) -> [__m256; LANES] {
    let low = |a: usize| _mm256_unpacklo_ps(r[a], r[a + 1]);
    let high = |a: usize| _mm256_unpackhi_ps(r[a], r[a + 1]);
    let pairs = [low(0), high(0), low(2), high(2), low(4), high(4), low(6), high(6)];
    let even = |a: usize| _mm256_shuffle_ps::<0x44>(pairs[a], pairs[a + 2]);
    let odd = |a: usize| _mm256_shuffle_ps::<0xEE>(pairs[a], pairs[a + 2]);
    let quads = [even(0), odd(0), even(1), odd(1), even(4), odd(4), even(5), odd(5)];
    let left = |a: usize| _mm256_permute2f128_ps::<0x20>(quads[a], quads[a + 4]);
    let right = |a: usize| _mm256_permute2f128_ps::<0x31>(quads[a], quads[a + 4]);
    [left(0), left(1), left(2), left(3), right(0), right(1), right(2), right(3)]
}
