//! 4 × 8 tiles in plain Rust, for any processor.

use super::transpose::in_squares;
use super::{MicroKernel, Strip, Tile, copy};

const ROWS: usize = 4;
const COLUMNS: usize = 8;

/// Rows and depths that are transposed at a time.
const SQUARE: usize = 4;

pub(super) const KERNEL: MicroKernel = MicroKernel {
    rows: ROWS,
    columns: COLUMNS,
    lanes: 1,
    vector: 1,
    along_depth: false,
    run,
    copy: copy::portable,
    transpose,
    split: None,
};

unsafe fn run(tiles: &Tile) {
    // SAFETY: as promised by the caller.
    tiles.each(|tile| unsafe { compute(tile) });
}

unsafe fn compute(tile: &Tile) {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    // SAFETY: rows, columns and depth are those of the tile, for which the caller vouches.
    unsafe {
        if tile.rows == ROWS && tile.columns == COLUMNS {
            add_products(tile, ROWS, COLUMNS, &mut sums);
        } else {
            add_products(tile, tile.rows, tile.columns, &mut sums);
        }
        for (r, sums) in sums.iter().enumerate().take(tile.rows) {
            for (j, sum) in sums.iter().enumerate().take(tile.columns) {
                let at = r * tile.c_row + j;
                let added = if tile.add.is_null() { *sum } else { tile.add.add(at).read_unaligned() + sum };
                *tile.c.add(at) = added;
            }
        }
    }
}

/// Inlined once with constant extents, which the compiler unrolls into vectors, and once for the edges.
#[inline(always)]
unsafe fn add_products(tile: &Tile, rows: usize, columns: usize, sums: &mut [[f32; COLUMNS]; ROWS]) {
    let (mut a, mut b) = (tile.a, tile.b);
    for _ in 0..tile.depth {
        for (r, sums) in sums.iter_mut().enumerate().take(rows) {
            // SAFETY: `r` is a row of the tile.
            let factor = unsafe { a.offset(r as isize * tile.a_row).read_unaligned() };
            for (j, sum) in sums.iter_mut().enumerate().take(columns) {
                // SAFETY: `j` is a column of the tile.
                *sum += factor * unsafe { b.add(j).read_unaligned() };
            }
        }
        a = a.wrapping_offset(tile.a_step);
        b = b.wrapping_offset(tile.b_step);
    }
}

unsafe fn transpose(strip: &Strip) {
    // SAFETY: as promised by the caller.
    unsafe {
        let whole = |to: *mut f32, column: [f32; SQUARE]| to.cast::<[f32; SQUARE]>().write_unaligned(column);
        let part = |to: *mut f32, column: [f32; SQUARE], rows: usize| {
            (0..rows).for_each(|i| to.add(i).write(column[i]));
        };
        in_squares(strip, |rows, depths| columns(rows.map(|row| read(row, depths))), whole, part);
    }
}

/// The first `count` floats.
unsafe fn read(from: *const f32, count: usize) -> [f32; SQUARE] {
    if count == SQUARE {
        // SAFETY: as promised by the caller.
        return unsafe { from.cast::<[f32; SQUARE]>().read_unaligned() };
    }
    // SAFETY: as promised by the caller.
    std::array::from_fn(|k| if k < count { unsafe { from.add(k).read_unaligned() } } else { 0.0 })
}

fn columns(rows: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    std::array::from_fn(|k| rows.map(|row| row[k]))
}
