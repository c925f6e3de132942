//! Row tiles that slide along a run, in 256-bit vectors: 4 × 16, lanewise. The factors of a run stay in registers, and
//! what several rows read is read once.

use super::avx2::{LANES, first_lanes, store};
use super::rows::{RowKernel, RowTile, Slide};
use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_setzero_ps};

/// Depths of a run. Eight sums, six factors and two vectors of what the rows read fill the registers.
const DEPTH: usize = 3;

/// The kernel for rows that slide like this, if there is one.
pub(super) fn kernel(slide: Slide) -> Option<RowKernel> {
    let run = match slide {
        Slide { apart: 1, depth: DEPTH } => run::<1>,
        Slide { apart: 2, depth: DEPTH } => run::<2>,
        _ => return None,
    };
    Some(RowKernel { rows: 4, columns: 2 * LANES, lanes: LANES, depths: 1, neighbours: 1, slide: Some(slide), run })
}

unsafe fn run<const APART: usize>(tile: &RowTile) {
    macro_rules! dispatch {
        ($($rows:literal)+) => {
            // SAFETY: as promised by the caller.
            unsafe {
                match (tile.rows, tile.columns.div_ceil(LANES), tile.columns.is_multiple_of(LANES)) {
                    $(
                        ($rows, 1, true) => compute::<APART, $rows, 1, false>(tile),
                        ($rows, 1, false) => compute::<APART, $rows, 1, true>(tile),
                        ($rows, 2, true) => compute::<APART, $rows, 2, false>(tile),
                        ($rows, 2, false) => compute::<APART, $rows, 2, true>(tile),
                    )+
                    _ => unreachable!("a tile is not larger than its kernel"),
                }
            }
        };
    }
    dispatch!(1 2 3 4)
}

/// `ROWS` rows, `APART` depths from one to the next, of `VECTORS` vectors, the last one masked if `MASKED`.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const APART: usize, const ROWS: usize, const VECTORS: usize, const MASKED: bool>(t: &RowTile) {
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches; positions that are outside
    // and masked lanes are not touched.
    unsafe {
        let rest = if MASKED { t.columns - LANES * (VECTORS - 1) } else { 0 };
        let mask = first_lanes(rest);
        let load = |p: *const f32, v: usize| match MASKED && v == VECTORS - 1 {
            true => _mm256_maskload_ps(p.wrapping_add(LANES * v), mask),
            false => _mm256_loadu_ps(p.wrapping_add(LANES * v)),
        };
        for tile in 0..t.tiles {
            let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
            for segment in std::slice::from_raw_parts(t.segments, t.count) {
                let right = t.right.wrapping_offset(segment.right as isize);
                let factors: [[__m256; VECTORS]; DEPTH] = std::array::from_fn(|k| {
                    std::array::from_fn(|v| load(right.wrapping_offset(k as isize * t.right_step), v))
                });
                let mut left = t.first_row(tile).wrapping_offset(segment.left as isize);
                for position in 0..APART * (ROWS - 1) + DEPTH {
                    if segment.has(position) {
                        for v in 0..VECTORS {
                            let x = load(left, v);
                            for (k, factors) in factors.iter().enumerate() {
                                if let Some(row) = row_at::<APART, ROWS>(position, k) {
                                    sums[row][v] = _mm256_fmadd_ps(x, factors[v], sums[row][v]);
                                }
                            }
                        }
                    }
                    left = left.wrapping_offset(t.left_step);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let c = t.result_row(tile, r);
                for (v, &sum) in sums.iter().enumerate() {
                    store(c.add(LANES * v), sum, t.accumulate, if v == VECTORS - 1 { rest } else { 0 });
                }
            }
        }
    }
}

/// The row that reads this position at depth `k`.
#[inline(always)]
const fn row_at<const APART: usize, const ROWS: usize>(position: usize, k: usize) -> Option<usize> {
    let reads = position >= k && (position - k).is_multiple_of(APART) && (position - k) / APART < ROWS;
    if reads { Some((position - k) / APART) } else { None }
}
