//! Row tiles of up to 24 sums in 512-bit vectors, whose loops over depth are assembler: left to the compiler, sums of
//! so many vectors go to memory where it optimises the program as a whole.
//!
//! Tiles of 8 × 48 and 6 × 64 read least for each product, and processors whose clock depends on power run faster then.
//! Of fewer columns, several depths fill a vector beside each other: one read of the left factor then serves as many
//! columns as there are vectors, times those depths. What they sum meets when the tile is stored.

use super::avx512::LANES;
use super::rows::{RowKernel, RowTile};
use std::arch::asm;
use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_compress_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps,
    _mm512_shuffle_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

/// Sums of a tile, at most.
const SUMS: usize = 24;

/// Addresses of rows, at most: they are in registers.
const MOST_ADDRESSES: usize = 8;

/// Rows of a tile of neighbours, at most: windows of 16 channels have that many in each tap.
const MOST_ROWS_OF_NEIGHBOURS: usize = 16;

/// The kernel for so many columns; `None` where they do not fill tiles.
pub(super) fn kernel(columns: usize) -> Option<RowKernel> {
    let fills = |kernel: &RowKernel| columns.is_multiple_of(kernel.columns);
    [kernel_of::<4, 1, 1>(), kernel_of::<3, 1, 1>()].into_iter().find(fills)
}

/// The kernels whose tiles are so many columns with several depths beside each other.
pub(super) fn kernels_of_depths(columns: usize) -> Vec<RowKernel> {
    let fours = [kernel_of::<1, 4, 1>(), kernel_of::<2, 4, 1>(), kernel_of::<3, 4, 1>()];
    let least_of_fours = fours.into_iter().find(|kernel| kernel.columns >= columns);
    least_of_fours.into_iter().chain(Some(kernel_of::<2, 2, 1>()).filter(|pairs| pairs.columns >= columns)).collect()
}

/// The kernel for at most a vector of columns whose rows are neighbours by fours: it has more rows than addresses.
pub(super) fn kernel_of_neighbours(columns: usize) -> Option<RowKernel> {
    Some(kernel_of::<1, 1, 4>()).filter(|kernel| columns <= kernel.columns)
}

fn kernel_of<const VECTORS: usize, const DEPTHS: usize, const NEIGHBOURS: usize>() -> RowKernel {
    let most_rows = if NEIGHBOURS == 1 { MOST_ADDRESSES } else { MOST_ROWS_OF_NEIGHBOURS };
    let (rows, lanes) = ((SUMS / VECTORS).min(most_rows), LANES / DEPTHS);
    let run = run::<VECTORS, DEPTHS, NEIGHBOURS>;
    RowKernel { rows, columns: VECTORS * lanes, lanes, neighbours: NEIGHBOURS, depths: DEPTHS, slide: None, run }
}

unsafe fn run<const VECTORS: usize, const DEPTHS: usize, const NEIGHBOURS: usize>(tile: &RowTile) {
    // SAFETY: as promised to the caller.
    unsafe {
        match tile.rows / NEIGHBOURS {
            1 => compute::<1, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            2 => compute::<2, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            3 => compute::<3, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            4 => compute::<4, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            5 => compute::<5, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            6 => compute::<6, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            7 => compute::<7, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            8 => compute::<8, VECTORS, DEPTHS, NEIGHBOURS>(tile),
            _ => unreachable!("a tile is not larger than its kernel"),
        }
    }
}

/// The lanes of a vector number `vector` that are among so many columns.
fn mask_of(columns: usize, vector: usize) -> u16 {
    let lanes = columns.saturating_sub(LANES * vector).min(LANES);
    ((1u32 << lanes) - 1) as u16
}

/// Reads so many depths of a row into all lanes.
macro_rules! broadcast {
    (1) => {
        "vbroadcastss zmm28, dword ptr ["
    };
    (2) => {
        "vbroadcastsd zmm28, qword ptr ["
    };
    (4) => {
        "vbroadcastf32x4 zmm28, xmmword ptr ["
    };
}

/// Adds the products of one row, reached by an address, to its sums.
macro_rules! row_of {
    ($depths:tt $row:literal $($behind:literal)?: $a:literal) => {
        concat!(broadcast!($depths), $row, $($behind,)? "+{left}]\nvfmadd231ps ", $a, ", zmm28, zmm24\n")
    };
    ($depths:tt $row:literal: $a:literal $b:literal) => {
        concat!(row_of!($depths $row: $a), "vfmadd231ps ", $b, ", zmm28, zmm25\n")
    };
    ($depths:tt $row:literal: $a:literal $b:literal $c:literal) => {
        concat!(row_of!($depths $row: $a $b), "vfmadd231ps ", $c, ", zmm28, zmm26\n")
    };
    ($depths:tt $row:literal: $a:literal $b:literal $c:literal $d:literal) => {
        concat!(row_of!($depths $row: $a $b $c), "vfmadd231ps ", $d, ", zmm28, zmm27\n")
    };
}

/// The same of four rows that are neighbours.
macro_rules! four_rows_of {
    ($row:literal: $a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            row_of!(1 $row: $a),
            row_of!(1 $row "+4": $b),
            row_of!(1 $row "+8": $c),
            row_of!(1 $row "+12": $d),
        )
    };
}

/// A row by its number, for tiles of how many vectors.
macro_rules! row {
    (neighbours 1: 0) => { four_rows_of!("{a0}": "zmm0" "zmm1" "zmm2" "zmm3") };
    (neighbours 1: 1) => { four_rows_of!("{a1}": "zmm4" "zmm5" "zmm6" "zmm7") };
    (neighbours 1: 2) => { four_rows_of!("{a2}": "zmm8" "zmm9" "zmm10" "zmm11") };
    (neighbours 1: 3) => { four_rows_of!("{a3}": "zmm12" "zmm13" "zmm14" "zmm15") };
    ($depths:tt 1: 0) => { row_of!($depths "{a0}": "zmm0") };
    ($depths:tt 1: 1) => { row_of!($depths "{a1}": "zmm1") };
    ($depths:tt 1: 2) => { row_of!($depths "{a2}": "zmm2") };
    ($depths:tt 1: 3) => { row_of!($depths "{a3}": "zmm3") };
    ($depths:tt 1: 4) => { row_of!($depths "{a4}": "zmm4") };
    ($depths:tt 1: 5) => { row_of!($depths "{a5}": "zmm5") };
    ($depths:tt 1: 6) => { row_of!($depths "{a6}": "zmm6") };
    ($depths:tt 1: 7) => { row_of!($depths "{a7}": "zmm7") };
    ($depths:tt 2: 0) => { row_of!($depths "{a0}": "zmm0" "zmm1") };
    ($depths:tt 2: 1) => { row_of!($depths "{a1}": "zmm2" "zmm3") };
    ($depths:tt 2: 2) => { row_of!($depths "{a2}": "zmm4" "zmm5") };
    ($depths:tt 2: 3) => { row_of!($depths "{a3}": "zmm6" "zmm7") };
    ($depths:tt 2: 4) => { row_of!($depths "{a4}": "zmm8" "zmm9") };
    ($depths:tt 2: 5) => { row_of!($depths "{a5}": "zmm10" "zmm11") };
    ($depths:tt 2: 6) => { row_of!($depths "{a6}": "zmm12" "zmm13") };
    ($depths:tt 2: 7) => { row_of!($depths "{a7}": "zmm14" "zmm15") };
    ($depths:tt 3: 0) => { row_of!($depths "{a0}": "zmm0" "zmm1" "zmm2") };
    ($depths:tt 3: 1) => { row_of!($depths "{a1}": "zmm3" "zmm4" "zmm5") };
    ($depths:tt 3: 2) => { row_of!($depths "{a2}": "zmm6" "zmm7" "zmm8") };
    ($depths:tt 3: 3) => { row_of!($depths "{a3}": "zmm9" "zmm10" "zmm11") };
    ($depths:tt 3: 4) => { row_of!($depths "{a4}": "zmm12" "zmm13" "zmm14") };
    ($depths:tt 3: 5) => { row_of!($depths "{a5}": "zmm15" "zmm16" "zmm17") };
    ($depths:tt 3: 6) => { row_of!($depths "{a6}": "zmm18" "zmm19" "zmm20") };
    ($depths:tt 3: 7) => { row_of!($depths "{a7}": "zmm21" "zmm22" "zmm23") };
    ($depths:tt 4: 0) => { row_of!($depths "{a0}": "zmm0" "zmm1" "zmm2" "zmm3") };
    ($depths:tt 4: 1) => { row_of!($depths "{a1}": "zmm4" "zmm5" "zmm6" "zmm7") };
    ($depths:tt 4: 2) => { row_of!($depths "{a2}": "zmm8" "zmm9" "zmm10" "zmm11") };
    ($depths:tt 4: 3) => { row_of!($depths "{a3}": "zmm12" "zmm13" "zmm14" "zmm15") };
    ($depths:tt 4: 4) => { row_of!($depths "{a4}": "zmm16" "zmm17" "zmm18" "zmm19") };
    ($depths:tt 4: 5) => { row_of!($depths "{a5}": "zmm20" "zmm21" "zmm22" "zmm23") };
}

/// Reads the vectors of the right factor.
macro_rules! columns {
    (neighbours 1) => {
        "vmovups zmm24 {{{mask}}} {{z}}, zmmword ptr [{right}]\n"
    };
    ($depths:tt 1) => {
        "vmovups zmm24, zmmword ptr [{right}]\n"
    };
    ($depths:tt 2) => {
        concat!(columns!($depths 1), "vmovups zmm25, zmmword ptr [{right}+64]\n")
    };
    ($depths:tt 3) => {
        concat!(columns!($depths 2), "vmovups zmm26, zmmword ptr [{right}+128]\n")
    };
    ($depths:tt 4) => {
        concat!(columns!($depths 3), "vmovups zmm27, zmmword ptr [{right}+192]\n")
    };
}

/// One depth of some rows, after which the pointers are at the next one.
macro_rules! depth {
    ($depths:tt $vectors:tt: $($number:tt)+) => {
        concat!(
            columns!($depths $vectors),
            $(row!($depths $vectors: $number),)+
            "add {left}, {left_step}\nadd {right}, {right_step}\n",
        )
    };
}

/// Adds the products of a segment to the sums of a tile, four depths between two tests for the end.
macro_rules! segment {
    ($t:ident, $sums:ident, $row:ident, $at:ident, $depths:tt $vectors:tt: $($number:tt)+) => {{
        let (left, right, depth): (isize, *const f32, usize) = $at;
        asm!(
            "/* {a0} {a1} {a2} {a3} {a4} {a5} {a6} {a7} {mask} */",
            "sub {depth}, 4",
            "jb 3f",
            "2:",
            depth!($depths $vectors: $($number)+), depth!($depths $vectors: $($number)+),
            depth!($depths $vectors: $($number)+), depth!($depths $vectors: $($number)+),
            "sub {depth}, 4",
            "jae 2b",
            "3:",
            "add {depth}, 4",
            "jz 5f",
            "4:",
            depth!($depths $vectors: $($number)+),
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
            mask = in(kreg) mask_of($t.columns, 0),
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

/// The segment of as many rows as a tile has addresses.
macro_rules! segment_of_rows {
    ($t:ident, $sums:ident, $row:ident, $at:ident, $depths:tt $vectors:tt) => {
        match ROWS {
            1 => segment!($t, $sums, $row, $at, $depths $vectors: 0),
            2 => segment!($t, $sums, $row, $at, $depths $vectors: 0 1),
            3 => segment!($t, $sums, $row, $at, $depths $vectors: 0 1 2),
            4 => segment!($t, $sums, $row, $at, $depths $vectors: 0 1 2 3),
            _ => segment_of_rows!(@ $t, $sums, $row, $at, $depths $vectors),
        }
    };
    (@ $t:ident, $sums:ident, $row:ident, $at:ident, neighbours 1) => { unreachable!("a tile has at most 16 neighbours") };
    (@ $t:ident, $sums:ident, $row:ident, $at:ident, $depths:tt $vectors:tt) => {
        match ROWS {
            5 => segment!($t, $sums, $row, $at, $depths $vectors: 0 1 2 3 4),
            6 => segment!($t, $sums, $row, $at, $depths $vectors: 0 1 2 3 4 5),
            _ => segment_of_rows!(@@ $t, $sums, $row, $at, $depths $vectors),
        }
    };
    (@@ $t:ident, $sums:ident, $row:ident, $at:ident, $depths:tt 4) => { unreachable!("a tile has at most 24 sums") };
    (@@ $t:ident, $sums:ident, $row:ident, $at:ident, $depths:tt $vectors:tt) => {
        match ROWS {
            7 => segment!($t, $sums, $row, $at, $depths $vectors: 0 1 2 3 4 5 6),
            _ => segment!($t, $sums, $row, $at, $depths $vectors: 0 1 2 3 4 5 6 7),
        }
    };
}

/// Tiles of `ROWS` rows, or groups of as many `NEIGHBOURS`, of `VECTORS` vectors, a column of which is the sum of
/// `DEPTHS` lanes.
#[target_feature(enable = "avx512f")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize, const DEPTHS: usize, const NEIGHBOURS: usize>(t: &RowTile) {
    // SAFETY: tables, rows and columns are those of the tile, for which the caller vouches; masked lanes are not
    // touched.
    unsafe {
        for tile in 0..t.tiles {
            let mut sums = [_mm512_setzero_ps(); SUMS];
            t.for_each_segment::<ROWS, NEIGHBOURS>(tile, |rows, left, right, depth| {
                let (row, at) = (|number: usize| rows[number.min(ROWS - 1)], (left, right, depth));
                match (DEPTHS, VECTORS, NEIGHBOURS) {
                    (1, 1, 4) => segment_of_rows!(t, sums, row, at, neighbours 1),
                    (1, 3, 1) => segment_of_rows!(t, sums, row, at, 1 3),
                    (1, 4, 1) => segment_of_rows!(t, sums, row, at, 1 4),
                    (2, 2, 1) => segment_of_rows!(t, sums, row, at, 2 2),
                    (4, 1, 1) => segment_of_rows!(t, sums, row, at, 4 1),
                    (4, 2, 1) => segment_of_rows!(t, sums, row, at, 4 2),
                    (4, 3, 1) => segment_of_rows!(t, sums, row, at, 4 3),
                    _ => unreachable!("no kernel has such tiles"),
                }
            });
            for (r, sums) in sums.chunks_exact(VECTORS).take(ROWS * NEIGHBOURS).enumerate() {
                let c = t.result_row(tile, r);
                for (v, sums) in sums.chunks(DEPTHS).enumerate() {
                    let (to, sum, mask) = (c.add(LANES * v), columns_of::<DEPTHS>(sums), mask_of(t.columns, v));
                    let sum = if t.accumulate { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to)) } else { sum };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}

/// The columns of at most so many vectors as `DEPTHS`, each the sum of as many lanes; in the order of
/// [`RowKernel::lane_loops`].
#[target_feature(enable = "avx512f")]
fn columns_of<const DEPTHS: usize>(vectors: &[__m512]) -> __m512 {
    let vector = |k: usize| vectors.get(k).copied().unwrap_or(_mm512_setzero_ps());
    match DEPTHS {
        1 => vectors[0],
        2 => {
            let (a, b) = (vector(0), vector(1));
            _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b))
        }
        _ => {
            // In every 128 bits, the lanes of four vectors are a square, of whose transposition the rows are added. At
            // most three vectors are there.
            let halves = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (a, b) = (halves(vector(0), vector(1)), halves(vector(2), vector(3)));
            let sums = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
            _mm512_maskz_compress_ps([0x1111, 0x3333, 0x7777][vectors.len() - 1], sums)
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

    #[test]
    fn few_columns_take_the_least_tiles_that_have_them() {
        let columns = |columns| kernels_of_depths(columns).iter().map(|k| (k.depths, k.columns)).collect::<Vec<_>>();
        assert_eq!(columns(3), [(4, 4), (2, 16)]);
        assert_eq!(columns(9), [(4, 12), (2, 16)]);
        assert_eq!(columns(16), [(2, 16)]);
        assert_eq!(columns(17), []);
    }
}
