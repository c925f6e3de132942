//! Floats as sums of three numbers of bf16, in the tiles that AMX multiplies.
//!
//! The first part is the float cut to eight bits, the second what that leaves out, rounded to eight bits, the third the
//! rest: together they are the float, but for those below 2⁻¹⁰², whose parts may fall below what numbers of bf16 can be.
//! Two depths stand together in a word, and which two is free, as long as both factors agree: the depths `p` and
//! `p + 16` of each 32 do, because no lanes have to be moved for that.

use super::{SQUARE, SQUARE_FLOATS, Side, Square};
use std::arch::x86_64::*;

/// Rows of a tile, and words of each.
pub(super) const TILE_SIDE: usize = 16;

/// Words of a tile.
pub(super) const TILE_WORDS: usize = TILE_SIDE * TILE_SIDE;

/// Depths of a tile, two in each word; rows or columns of a square.
pub(super) const SQUARE_SIDE: usize = SQUARE;

/// Parts of a float.
pub(super) const PARTS: usize = 3;

/// Words of the parts of a square: each is two tiles.
pub(super) const PARTS_WORDS: usize = 2 * PARTS * TILE_WORDS;

/// Words of a square: its parts, and for each half a vector of zeros, or of what is not a number where one of its floats
/// is not finite.
pub(super) const SQUARE_WORDS: usize = PARTS_WORDS + 2 * TILE_SIDE;

const _: () = assert!(SQUARE_SIDE == 2 * TILE_SIDE && SQUARE_WORDS == SQUARE_FLOATS);

/// The bits that a number of bf16 has of a float.
const UPPER: i32 = 0xffff_0000_u32 as i32;

/// Half of the last of them.
const HALF: i32 = 0x8000;

/// Writes the tiles of a square.
///
/// # Safety
/// As for [`MicroKernel::split`](super::MicroKernel::split).
pub(super) unsafe fn split(square: &Square) {
    // SAFETY: as promised by the caller.
    unsafe {
        match (square.lines.len(), square.count) {
            (SQUARE_SIDE, SQUARE_SIDE) => split_square::<true>(square),
            _ => split_square::<false>(square),
        }
    }
}

/// Splits a square, of which nothing is missing if it is `WHOLE`.
#[target_feature(enable = "avx512f")]
unsafe fn split_square<const WHOLE: bool>(square: &Square) {
    // Tiles of the left factor have rows of depths, those of the right one depths of columns.
    let as_they_come = (square.side == Side::Left) != square.lines_are_depths;
    for half in 0..2 {
        let to = |part: usize| square.to.cast::<__m512i>().wrapping_add((2 * part + half) * TILE_SIDE);
        // SAFETY: as promised by the caller.
        unsafe {
            let check = if as_they_come {
                half_of::<WHOLE>(square, half, |part, row, words| _mm512_storeu_si512(to(part).add(row), words))
            } else {
                let mut tiles = [[_mm512_setzero_si512(); TILE_SIDE]; PARTS];
                let check = half_of::<WHOLE>(square, half, |part, row, words| tiles[part][row] = words);
                for (part, tile) in tiles.iter().enumerate() {
                    let columns = transposed(tile);
                    columns.iter().enumerate().for_each(|(row, &words)| _mm512_storeu_si512(to(part).add(row), words));
                }
                check
            };
            _mm512_storeu_ps(square.to.add(PARTS_WORDS + half * TILE_SIDE), check);
        }
    }
}

/// Splits half of the rows or columns of a square, line by line as they come, and returns zeros if all are finite.
///
/// # Safety
/// As for [`split`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn half_of<const WHOLE: bool>(
    square: &Square,
    half: usize,
    mut store: impl FnMut(usize, usize, __m512i),
) -> __m512 {
    let mut check = _mm512_setzero_ps();
    for row in 0..TILE_SIDE {
        // SAFETY: as promised by the caller.
        let pair = unsafe {
            match square.lines_are_depths {
                true => [row, row + TILE_SIDE].map(|line| vector::<WHOLE>(square, line, half * TILE_SIDE)),
                false => [0, TILE_SIDE].map(|first| vector::<WHOLE>(square, half * TILE_SIDE + row, first)),
            }
        };
        let [low, high] = pair.map(|floats| parts_of(floats));
        // What is left of a number that is not finite is not a number.
        for [.., third] in [low, high] {
            check = _mm512_fmadd_ps(_mm512_castsi512_ps(third), _mm512_setzero_ps(), check);
        }
        for part in 0..PARTS {
            store(part, row, pairs(low[part], high[part]));
        }
    }
    check
}

/// Sixteen floats of a line, zeros where there are none.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn vector<const WHOLE: bool>(square: &Square, line: usize, first: usize) -> __m512 {
    if WHOLE {
        // SAFETY: there are so many lines, and floats of each.
        return unsafe {
            let at = *square.lines.get_unchecked(line);
            _mm512_loadu_ps(square.from.wrapping_offset(at as isize).wrapping_add(first))
        };
    }
    let Some(&at) = square.lines.get(line) else { return _mm512_setzero_ps() };
    let inside = square.count.saturating_sub(first).min(TILE_SIDE);
    let mask = ((1u32 << inside) - 1) as u16;
    // SAFETY: lanes beyond the line's floats are not read.
    unsafe { _mm512_maskz_loadu_ps(mask, square.from.wrapping_offset(at as isize).wrapping_add(first)) }
}

/// Two vectors of parts, the second in the upper halves of the words.
#[target_feature(enable = "avx512f")]
#[inline]
fn pairs(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(low), _mm512_and_si512(high, _mm512_set1_epi32(UPPER)))
}

/// The parts of sixteen floats, each as a float whose lower half is zero or left out.
#[target_feature(enable = "avx512f")]
#[inline]
fn parts_of(floats: __m512) -> [__m512i; PARTS] {
    let upper = _mm512_set1_epi32(UPPER);
    let first = _mm512_and_si512(_mm512_castps_si512(floats), upper);
    let rest = _mm512_sub_ps(floats, _mm512_castsi512_ps(first));
    let rounded = _mm512_add_epi32(_mm512_castps_si512(rest), _mm512_set1_epi32(HALF));
    let second = _mm512_and_si512(rounded, upper);
    let third = _mm512_sub_ps(rest, _mm512_castsi512_ps(second));
    [first, second, _mm512_castps_si512(third)]
}

/// Rows as columns.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: &[__m512i; TILE_SIDE]) -> [__m512i; TILE_SIDE] {
    let zero = [_mm512_setzero_si512(); TILE_SIDE];
    let (mut pairs, mut fours) = (zero, zero);
    for i in (0..TILE_SIDE).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // In each quarter of vector 4 · i + j there is now a column of the rows 4 · i to 4 · i + 3: column 4 · quarter + j.
    for i in (0..TILE_SIDE).step_by(4) {
        for j in 0..2 {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    }
    let mut columns = zero;
    for j in 0..4 {
        let quarters = [fours[j], fours[j + 4], fours[j + 8], fours[j + 12]];
        let even = [0, 2].map(|i| _mm512_shuffle_i32x4::<0x88>(quarters[i], quarters[i + 1]));
        let odd = [0, 2].map(|i| _mm512_shuffle_i32x4::<0xdd>(quarters[i], quarters[i + 1]));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        columns[j + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        columns[j + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        columns[j + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A float whose parts are in a square of one line.
    fn together(square: &[f32], half: usize, row: usize, at: usize) -> f32 {
        let word = |part: usize| {
            let word = square[(2 * part + half) * TILE_WORDS + row * TILE_SIDE + at % TILE_SIDE].to_bits();
            f32::from_bits(if at < TILE_SIDE { word << 16 } else { word & !0xffff })
        };
        word(0) + (word(1) + word(2))
    }

    #[test]
    fn parts_are_together_the_float() {
        if !is_x86_feature_detected!("avx512f") {
            eprintln!("SKIPPED: this processor has no AVX-512");
            return;
        }
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Of any exponent from 2⁻¹⁰² on.
            let exponent = 25 + (state >> 8) % 230;
            f32::from_bits(state & 0x807f_ffff | exponent << 23)
        };
        let mut floats: Vec<f32> = (0..SQUARE_SIDE * SQUARE_SIDE).map(|_| random()).collect();
        floats[..6].copy_from_slice(&[0.0, -0.0, f32::MAX, f32::MIN, 1.0, f32::from_bits(25 << 23 | 0x7f_ffff)]);
        let lines: Vec<i32> = (0..SQUARE_SIDE).map(|line| (line * SQUARE_SIDE) as i32).collect();
        let mut parts = vec![f32::NAN; SQUARE_WORDS];
        let (from, to) = (floats.as_ptr(), parts.as_mut_ptr());
        let square = Square { from, lines: &lines, count: SQUARE_SIDE, lines_are_depths: false, side: Side::Left, to };
        // SAFETY: lines and parts are whole, and the processor has the instructions.
        unsafe { split(&square) };
        for (at, float) in floats.iter().enumerate() {
            let (row, depth) = (at / SQUARE_SIDE, at % SQUARE_SIDE);
            let found = together(&parts, row / TILE_SIDE, row % TILE_SIDE, depth);
            assert_eq!(found, *float, "row {row}, depth {depth}");
        }
        assert!(parts[PARTS_WORDS..].iter().all(|&check| check == 0.0), "all are finite");
    }
}
