//! Row tiles of three and four 512-bit vectors, 8 × 48 and 6 × 64: they read least for each product, and processors whose clock
//! depends on power run faster then.
//!
//! Loops over depth are assembler: left to the compiler, sums of so many vectors go to memory where it optimises the program
//! as a whole.

use super::avx512::LANES;
use super::dispatch;
use super::rows::{RowKernel, RowTile};
use std::arch::asm;
use std::arch::x86_64::{_mm512_add_ps, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};

/// Sums of a tile.
const SUMS: usize = 24;

/// The kernel for so many columns; `None` where they do not fill tiles.
pub(super) fn kernel(columns: usize) -> Option<RowKernel> {
    let vectors = [4, 3].into_iter().find(|vectors| columns.is_multiple_of(vectors * LANES))?;
    let rows = SUMS / vectors;
    Some(RowKernel { rows, columns: vectors * LANES, lanes: LANES, neighbours: 1, slide: None, run })
}

unsafe fn run(tile: &RowTile) {
    dispatch!(compute, tile, tile.columns / LANES, 3 [1 2 3 4 5 6 7 8], 4 [1 2 3 4 5 6])
}

/// Adds the products of one row, reached by an address, to its sums.
macro_rules! row_of_three {
    ($row:literal: $first:literal $second:literal $third:literal) => {
        concat!(
            "vbroadcastss zmm28, dword ptr [",
            $row,
            "+{left}]\n",
            "vfmadd231ps ",
            $first,
            ", zmm28, zmm24\n",
            "vfmadd231ps ",
            $second,
            ", zmm28, zmm25\n",
            "vfmadd231ps ",
            $third,
            ", zmm28, zmm26\n",
        )
    };
}

/// The same of four vectors.
macro_rules! row_of_four {
    ($row:literal: $first:literal $second:literal $third:literal $fourth:literal) => {
        concat!(row_of_three!($row: $first $second $third), "vfmadd231ps ", $fourth, ", zmm28, zmm27\n")
    };
}

/// A row by its number, for tiles of how many vectors.
macro_rules! row {
    (3: 0) => { row_of_three!("{a0}": "zmm0" "zmm1" "zmm2") };
    (3: 1) => { row_of_three!("{a1}": "zmm3" "zmm4" "zmm5") };
    (3: 2) => { row_of_three!("{a2}": "zmm6" "zmm7" "zmm8") };
    (3: 3) => { row_of_three!("{a3}": "zmm9" "zmm10" "zmm11") };
    (3: 4) => { row_of_three!("{a4}": "zmm12" "zmm13" "zmm14") };
    (3: 5) => { row_of_three!("{a5}": "zmm15" "zmm16" "zmm17") };
    (3: 6) => { row_of_three!("{a6}": "zmm18" "zmm19" "zmm20") };
    (3: 7) => { row_of_three!("{a7}": "zmm21" "zmm22" "zmm23") };
    (4: 0) => { row_of_four!("{a0}": "zmm0" "zmm1" "zmm2" "zmm3") };
    (4: 1) => { row_of_four!("{a1}": "zmm4" "zmm5" "zmm6" "zmm7") };
    (4: 2) => { row_of_four!("{a2}": "zmm8" "zmm9" "zmm10" "zmm11") };
    (4: 3) => { row_of_four!("{a3}": "zmm12" "zmm13" "zmm14" "zmm15") };
    (4: 4) => { row_of_four!("{a4}": "zmm16" "zmm17" "zmm18" "zmm19") };
    (4: 5) => { row_of_four!("{a5}": "zmm20" "zmm21" "zmm22" "zmm23") };
}

/// One depth of some rows, after which the pointers are at the next one.
macro_rules! depth {
    (3: $($number:tt)+) => {
        concat!(
            "vmovups zmm24, zmmword ptr [{right}]\n",
            "vmovups zmm25, zmmword ptr [{right}+64]\n",
            "vmovups zmm26, zmmword ptr [{right}+128]\n",
            $(row!(3: $number),)+
            "add {left}, {left_step}\nadd {right}, {right_step}\n",
        )
    };
    (4: $($number:tt)+) => {
        concat!(
            "vmovups zmm24, zmmword ptr [{right}]\n",
            "vmovups zmm25, zmmword ptr [{right}+64]\n",
            "vmovups zmm26, zmmword ptr [{right}+128]\n",
            "vmovups zmm27, zmmword ptr [{right}+192]\n",
            $(row!(4: $number),)+
            "add {left}, {left_step}\nadd {right}, {right_step}\n",
        )
    };
}

/// Adds the products of a segment to the sums of a tile, four depths between two tests for the end.
macro_rules! segment {
    ($t:ident, $sums:ident, $row:ident, $at:ident, $vectors:tt: $($number:tt)+) => {{
        let (left, right, depth): (isize, *const f32, usize) = $at;
        asm!(
            "/* {a0} {a1} {a2} {a3} {a4} {a5} {a6} {a7} */",
            "sub {depth}, 4",
            "jb 3f",
            "2:",
            depth!($vectors: $($number)+), depth!($vectors: $($number)+),
            depth!($vectors: $($number)+), depth!($vectors: $($number)+),
            "sub {depth}, 4",
            "jae 2b",
            "3:",
            "add {depth}, 4",
            "jz 5f",
            "4:",
            depth!($vectors: $($number)+),
            "dec {depth}",
            "jnz 4b",
            "5:",
            a0 = in(reg) $row(0), a1 = in(reg) $row(1), a2 = in(reg) $row(2), a3 = in(reg) $row(3),
            a4 = in(reg) $row(4), a5 = in(reg) $row(5), a6 = in(reg) $row(6), a7 = in(reg) $row(7),
            left = inout(reg) 4 * left => _,
            right = inout(reg) right => _,
            depth = inout(reg) depth => _,
            left_step = in(reg) 4 * $t.left_step,
            right_step = in(reg) 4 * $t.right_step,
            inout("zmm0") $sums[0], inout("zmm1") $sums[1], inout("zmm2") $sums[2], inout("zmm3") $sums[3],
            inout("zmm4") $sums[4], inout("zmm5") $sums[5], inout("zmm6") $sums[6], inout("zmm7") $sums[7],
            inout("zmm8") $sums[8], inout("zmm9") $sums[9], inout("zmm10") $sums[10], inout("zmm11") $sums[11],
            inout("zmm12") $sums[12], inout("zmm13") $sums[13], inout("zmm14") $sums[14], inout("zmm15") $sums[15],
            inout("zmm16") $sums[16], inout("zmm17") $sums[17], inout("zmm18") $sums[18], inout("zmm19") $sums[19],
            inout("zmm20") $sums[20], inout("zmm21") $sums[21], inout("zmm22") $sums[22], inout("zmm23") $sums[23],
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _,
            options(readonly, nostack),
        );
    }};
}

/// Tiles of `ROWS` rows of `VECTORS` whole vectors.
#[target_feature(enable = "avx512f")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize>(t: &RowTile) {
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches.
    unsafe {
        for tile in 0..t.tiles {
            let mut sums = [_mm512_setzero_ps(); SUMS];
            t.for_each_segment::<ROWS, 1>(tile, |rows, left, right, depth| {
                let (row, at) = (|number: usize| rows[number.min(ROWS - 1)], (left, right, depth));
                match (ROWS, VECTORS) {
                    (1, 3) => segment!(t, sums, row, at, 3: 0),
                    (2, 3) => segment!(t, sums, row, at, 3: 0 1),
                    (3, 3) => segment!(t, sums, row, at, 3: 0 1 2),
                    (4, 3) => segment!(t, sums, row, at, 3: 0 1 2 3),
                    (5, 3) => segment!(t, sums, row, at, 3: 0 1 2 3 4),
                    (6, 3) => segment!(t, sums, row, at, 3: 0 1 2 3 4 5),
                    (7, 3) => segment!(t, sums, row, at, 3: 0 1 2 3 4 5 6),
                    (8, 3) => segment!(t, sums, row, at, 3: 0 1 2 3 4 5 6 7),
                    (1, 4) => segment!(t, sums, row, at, 4: 0),
                    (2, 4) => segment!(t, sums, row, at, 4: 0 1),
                    (3, 4) => segment!(t, sums, row, at, 4: 0 1 2),
                    (4, 4) => segment!(t, sums, row, at, 4: 0 1 2 3),
                    (5, 4) => segment!(t, sums, row, at, 4: 0 1 2 3 4),
                    (6, 4) => segment!(t, sums, row, at, 4: 0 1 2 3 4 5),
                    _ => unreachable!("a tile has at most 24 sums"),
                }
            });
            for r in 0..ROWS {
                let c = t.result_row(tile, r);
                for v in 0..VECTORS {
                    let (to, sum) = (c.add(LANES * v), sums[VECTORS * r + v]);
                    let sum = if t.accumulate { _mm512_add_ps(sum, _mm512_loadu_ps(to)) } else { sum };
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_filled() {
        let tile = |columns| kernel(columns).map(|kernel| [kernel.rows, kernel.columns]);
        assert_eq!([48, 96, 144].map(tile), [Some([8, 48]); 3]);
        assert_eq!([64, 192, 512].map(tile), [Some([6, 64]); 3]);
        assert_eq!([16, 32, 40, 80].map(tile), [None; 4]);
    }
}
