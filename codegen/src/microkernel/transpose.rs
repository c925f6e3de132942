//! Transposing strips into panels, a square of registers at a time.

use super::Strip;

/// `to[k][i] = from[rows[i] + k]` in squares of `ROWS` rows and `DEPTH` depths. `square` is given where its rows begin,
/// and how many depths it may read; it returns its columns. `store` writes a column whole, `store_part` only so many
/// rows.
///
/// A column that is not full is written whole as well, where what it has too much is written again: columns follow each
/// other, and so do groups of rows, the last one first.
///
/// # Safety
/// The strip and its panel are valid for their extents; the functions touch what they are given and no more.
#[inline(always)]
pub(super) unsafe fn in_squares<const ROWS: usize, const DEPTH: usize, C: Copy>(
    strip: &Strip,
    square: impl Fn([*const f32; ROWS], usize) -> [C; DEPTH],
    store: impl Fn(*mut f32, C),
    store_part: impl Fn(*mut f32, C, usize),
) {
    let &Strip { from, rows, depth, to, width, room } = strip;
    if depth == 0 {
        return;
    }
    let depths = DEPTH.min(depth);
    for first in (0..rows.len()).step_by(ROWS).rev() {
        let lanes = ROWS.min(room - first);
        // Up to this depth columns are written whole.
        let whole = match lanes == ROWS {
            true => depth,
            false if room == width => (depth * width).saturating_sub(first + ROWS - 1).div_ceil(width),
            false => 0,
        };
        // Rows past the last are replaced by it.
        let starts: [*const f32; ROWS] =
            std::array::from_fn(|i| from.wrapping_offset(rows[(first + i).min(rows.len() - 1)] as isize));
        let squares = whole / DEPTH;
        let mut place = to.wrapping_add(first);
        for k in (0..DEPTH * squares).step_by(DEPTH) {
            for column in square(starts.map(|row| row.wrapping_add(k)), DEPTH) {
                store(place, column);
                place = place.wrapping_add(width);
            }
        }
        for k in (DEPTH * squares..depth).step_by(DEPTH) {
            // The last square overlaps the one before.
            let k = k.min(depth - depths);
            let columns = square(starts.map(|row| row.wrapping_add(k)), depths);
            for (j, column) in columns.into_iter().enumerate().take(depths) {
                let place = to.wrapping_add((k + j) * width + first);
                if k + j < whole { store(place, column) } else { store_part(place, column, lanes) }
            }
        }
    }
}

impl<'a> Strip<'a> {
    /// The first depths and the others.
    pub(super) fn cut(&self, first: usize) -> [Strip<'a>; 2] {
        let (from, to) = (self.from.wrapping_add(first), self.to.wrapping_add(first * self.width));
        [Strip { depth: first, ..*self }, Strip { from, to, depth: self.depth - first, ..*self }]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{is_available, micro_kernel};
    use super::*;
    use gradc_ir::target::VectorIsa;

    const UNTOUCHED: f32 = -1.0;

    /// Transposes rows that are `apart` elements apart into a panel of this width, and looks at all that was written.
    fn check(isa: VectorIsa, [rows, depth, width, room]: [usize; 4], apart: usize) {
        let from: Vec<f32> = (0..(rows - 1) * apart + depth).map(|i| i as f32).collect();
        let offsets: Vec<i32> = (0..rows).map(|i| (i * apart) as i32).collect();
        let end = (depth - 1) * width + room;
        let mut to = vec![UNTOUCHED; end + 64];
        let strip = Strip { from: from.as_ptr(), rows: &offsets, depth, to: to.as_mut_ptr(), width, room };
        // SAFETY: the vectors are as long as the strip and its panel.
        unsafe { (micro_kernel(isa, 8, 8).transpose)(&strip) };
        for (at, &found) in to.iter().enumerate() {
            let (k, i) = (at / width, at % width);
            if k < depth && i < rows {
                assert_eq!(found, (i * apart + k) as f32, "{isa:?} {rows}x{depth} in {width}, {room}: {k} {i}");
            } else if at >= end || i >= room {
                assert_eq!(found, UNTOUCHED, "{isa:?} {rows}x{depth} in {width}, {room}: {k} {i}");
            }
        }
    }

    #[test]
    fn strips_of_any_extents_and_nothing_else_are_written() {
        let sets = [VectorIsa::Portable, VectorIsa::Avx2, VectorIsa::Avx512];
        for isa in sets.into_iter().filter(|&isa| is_available(isa)) {
            for (rows, depth) in (1..=20).flat_map(|rows| (1..=20).map(move |depth| (rows, depth))) {
                check(isa, [rows, depth, rows, rows], depth);
                check(isa, [rows, depth, rows + 3, rows], depth + 5);
                check(isa, [rows, depth, rows + 3, rows + 3], 1);
                check(isa, [rows, depth, rows + 3, rows + 1], depth);
            }
        }
    }
}
