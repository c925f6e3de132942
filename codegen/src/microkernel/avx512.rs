//! 14 × 32 tiles in 512-bit vectors: 28 sums, two vectors of `b` and two factors of `a` fill the registers. 8 × 48 tiles where
//! these take no longer: they load less for each product, and processors whose clock depends on power run faster then.
//! Products of few columns are left to 256-bit vectors.

use super::wide_avx512::{AHEAD, MASKED, WHOLE, sums};
use super::{MicroKernel, Tile, avx2, copy, dispatch};
use crate::microkernel::transpose_avx2::transpose;
use std::arch::asm;
use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};

pub(super) const LANES: usize = 16;

/// Rows and vectors of the largest tiles.
const TILES: [[usize; 2]; 2] = [[14, 2], [8, 3]];

/// Half cycles from one addition to a sum to the next.
const LATENCY: usize = 8;

/// Half cycles for which a read counts by what it takes of the clock; one of a whole vector counts twice.
const READ: f64 = 1.0 / 8.0;

pub(super) fn kernel(rows: usize, columns: usize) -> MicroKernel {
    if columns <= avx2::LANES {
        // Half of the rows of a narrow factor would be read, and half of those of the result written, across two lines of the
        // cache, though the lanes beyond the first are masked.
        return avx2::kernel(rows, columns);
    }
    let cost = |tile: &[usize; 2]| cost(*tile, rows, columns);
    let [tall, wide] = TILES.into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("there are tiles");
    MicroKernel {
        rows: tall,
        columns: wide * LANES,
        lanes: 1,
        vector: LANES,
        along_depth: false,
        run,
        copy: copy::avx512,
        transpose,
        split: None,
    }
}

/// Half cycles for each depth of a product in tiles of so many rows and vectors.
fn cost([tall, wide]: [usize; 2], rows: usize, columns: usize) -> f64 {
    let (tiles, vectors) = (rows.div_ceil(tall), columns.div_ceil(LANES));
    let rows = rows.div_ceil(tiles.max(1));
    let tile = |vectors: usize| {
        let cycles = (rows * vectors).max(rows + vectors).max(LATENCY);
        cycles as f64 + READ * (rows + 2 * vectors) as f64
    };
    let rest = if vectors.is_multiple_of(wide) { 0.0 } else { tile(vectors % wide) };
    tiles as f64 * ((vectors / wide) as f64 * tile(wide) + rest)
}

unsafe fn run(tile: &Tile) {
    dispatch!(
        compute, tile, tile.columns.div_ceil(LANES),
        1 [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2 [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 3 [1 2 3 4 5 6 7 8]
    )
}

/// Tiles of `ROWS` rows of `VECTORS` vectors, the last one masked.
#[target_feature(enable = "avx512f")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize>(tiles: &Tile) {
    let whole = tiles.columns == LANES * VECTORS;
    // Each of the first tiles has one line of each depth brought in.
    let mut ahead = tiles.ahead;
    let lines = tiles.ahead.wrapping_add(LANES * VECTORS);
    // SAFETY: as promised by the caller.
    unsafe {
        tiles.each(|tile| {
            if !whole {
                compute_tile::<ROWS, VECTORS, MASKED>(tile)
            } else if ahead.is_null() || ahead == lines {
                compute_tile::<ROWS, VECTORS, WHOLE>(tile)
            } else {
                compute_tile::<ROWS, VECTORS, AHEAD>(&Tile { ahead, ..*tile });
                ahead = ahead.wrapping_add(LANES);
            }
        })
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn compute_tile<const ROWS: usize, const VECTORS: usize, const LAST: u8>(t: &Tile) {
    let last = if LAST == MASKED { u16::MAX >> (LANES * VECTORS - t.columns) } else { u16::MAX };
    let mask = |v: usize| if v == VECTORS - 1 { last } else { u16::MAX };
    let t = &Tile { c_row: not_hoisted(t.c_row), ..*t };
    // SAFETY: rows, columns and depth are those of the tile, for which the caller vouches; masked lanes are not touched.
    unsafe {
        let sums: [[__m512; VECTORS]; ROWS] = sums::<ROWS, VECTORS, LAST>(t, last);
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

/// The same number, of which the compiler does not know that it is: multiples of it for all rows, made once for all tiles,
/// would go to the stack, and a product of one tile takes as long to make them as for some of its depths.
#[inline(always)]
fn not_hoisted(mut number: usize) -> usize {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {} */", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_those_that_take_least() {
        let tile = |rows, columns| {
            let MicroKernel { rows, columns, .. } = kernel(rows, columns);
            [rows, columns / LANES]
        };
        // As many vectors as there are columns for, without one that few rows share.
        assert_eq!([tile(512, 10), tile(512, 32), tile(512, 64)], [[14, 2]; 3]);
        assert_eq!([tile(16, 48), tile(512, 48), tile(512, 96)], [[8, 3]; 3]);
        // As long by both, with fewer reads.
        assert_eq!(tile(512, 128), [8, 3]);
        // In half of a vector.
        assert_eq!([kernel(64, 8), kernel(64, 9)].map(|kernel| kernel.columns), [8, 2 * LANES]);
    }
}
