//! The products of tiles of one to three 512-bit vectors: loops over depth in which nothing waits for what is computed.
//!
//! Left to itself the compiler walks from row to row by additions one after the other, which take longer than the
//! multiplications.

use super::Tile;
use std::arch::asm;
use std::arch::x86_64::{__m512, _mm512_setzero_ps};

/// Sums that a tile has at most.
const MOST_SUMS: usize = 28;

/// Clears the sums of a row.
macro_rules! clear {
    ($($sum:literal)+) => { concat!($("vpxord ", $sum, ", ", $sum, ", ", $sum, "\n",)+) };
}

/// Adds the products of one row, reached by an address, to its sum of one vector.
macro_rules! row_of_one {
    ($address:literal: $sum:literal) => {
        concat!("vfmadd231ps ", $sum, ", zmm28, dword ptr [", $address, "]{{1to16}}\n")
    };
}

/// The same of two vectors. The factors of rows next to each other are in different registers.
macro_rules! row_of_two {
    ($address:literal $factor:literal: $first:literal $second:literal) => {
        concat!(
            "vbroadcastss ",
            $factor,
            ", dword ptr [",
            $address,
            "]\n",
            "vfmadd231ps ",
            $first,
            ", ",
            $factor,
            ", zmm28\n",
            "vfmadd231ps ",
            $second,
            ", ",
            $factor,
            ", zmm29\n",
        )
    };
}

/// The same of three vectors.
macro_rules! row_of_three {
    ($address:literal $factor:literal: $first:literal $second:literal $third:literal) => {
        concat!(
            row_of_two!($address $factor: $first $second),
            "vfmadd231ps ", $third, ", ", $factor, ", zmm24\n",
        )
    };
}

/// A row of a tile by its number: what is to be done with it, for tiles of how many vectors. Rows from the eighth on are
/// reached from a pointer of their own.
macro_rules! row {
    (clear 1: 0) => { clear!("zmm0") };
    (clear 1: 1) => { clear!("zmm1") };
    (clear 1: 2) => { clear!("zmm2") };
    (clear 1: 3) => { clear!("zmm3") };
    (clear 1: 4) => { clear!("zmm4") };
    (clear 1: 5) => { clear!("zmm5") };
    (clear 1: 6) => { clear!("zmm6") };
    (clear 1: 7) => { clear!("zmm7") };
    (clear 1: 8) => { clear!("zmm8") };
    (clear 1: 9) => { clear!("zmm9") };
    (clear 1: 10) => { clear!("zmm10") };
    (clear 1: 11) => { clear!("zmm11") };
    (clear 1: 12) => { clear!("zmm12") };
    (clear 1: 13) => { clear!("zmm13") };
    (clear 2: 0) => { clear!("zmm0" "zmm1") };
    (clear 2: 1) => { clear!("zmm2" "zmm3") };
    (clear 2: 2) => { clear!("zmm4" "zmm5") };
    (clear 2: 3) => { clear!("zmm6" "zmm7") };
    (clear 2: 4) => { clear!("zmm8" "zmm9") };
    (clear 2: 5) => { clear!("zmm10" "zmm11") };
    (clear 2: 6) => { clear!("zmm12" "zmm13") };
    (clear 2: 7) => { clear!("zmm14" "zmm15") };
    (clear 2: 8) => { clear!("zmm16" "zmm17") };
    (clear 2: 9) => { clear!("zmm18" "zmm19") };
    (clear 2: 10) => { clear!("zmm20" "zmm21") };
    (clear 2: 11) => { clear!("zmm22" "zmm23") };
    (clear 2: 12) => { clear!("zmm24" "zmm25") };
    (clear 2: 13) => { clear!("zmm26" "zmm27") };
    (clear 3: 0) => { clear!("zmm0" "zmm1" "zmm2") };
    (clear 3: 1) => { clear!("zmm3" "zmm4" "zmm5") };
    (clear 3: 2) => { clear!("zmm6" "zmm7" "zmm8") };
    (clear 3: 3) => { clear!("zmm9" "zmm10" "zmm11") };
    (clear 3: 4) => { clear!("zmm12" "zmm13" "zmm14") };
    (clear 3: 5) => { clear!("zmm15" "zmm16" "zmm17") };
    (clear 3: 6) => { clear!("zmm18" "zmm19" "zmm20") };
    (clear 3: 7) => { clear!("zmm21" "zmm22" "zmm23") };
    (add 1: 0) => { row_of_one!("{a}": "zmm0") };
    (add 1: 1) => { row_of_one!("{a}+{row}": "zmm1") };
    (add 1: 2) => { row_of_one!("{a}+2*{row}": "zmm2") };
    (add 1: 3) => { row_of_one!("{a}+{row_3}": "zmm3") };
    (add 1: 4) => { row_of_one!("{a}+4*{row}": "zmm4") };
    (add 1: 5) => { row_of_one!("{a}+{row_5}": "zmm5") };
    (add 1: 6) => { row_of_one!("{a}+2*{row_3}": "zmm6") };
    (add 1: 7) => { row_of_one!("{a_7}": "zmm7") };
    (add 1: 8) => { row_of_one!("{a_7}+{row}": "zmm8") };
    (add 1: 9) => { row_of_one!("{a_7}+2*{row}": "zmm9") };
    (add 1: 10) => { row_of_one!("{a_7}+{row_3}": "zmm10") };
    (add 1: 11) => { row_of_one!("{a_7}+4*{row}": "zmm11") };
    (add 1: 12) => { row_of_one!("{a_7}+{row_5}": "zmm12") };
    (add 1: 13) => { row_of_one!("{a_7}+2*{row_3}": "zmm13") };
    (add 2: 0) => { row_of_two!("{a}" "zmm30": "zmm0" "zmm1") };
    (add 2: 1) => { row_of_two!("{a}+{row}" "zmm31": "zmm2" "zmm3") };
    (add 2: 2) => { row_of_two!("{a}+2*{row}" "zmm30": "zmm4" "zmm5") };
    (add 2: 3) => { row_of_two!("{a}+{row_3}" "zmm31": "zmm6" "zmm7") };
    (add 2: 4) => { row_of_two!("{a}+4*{row}" "zmm30": "zmm8" "zmm9") };
    (add 2: 5) => { row_of_two!("{a}+{row_5}" "zmm31": "zmm10" "zmm11") };
    (add 2: 6) => { row_of_two!("{a}+2*{row_3}" "zmm30": "zmm12" "zmm13") };
    (add 2: 7) => { row_of_two!("{a_7}" "zmm31": "zmm14" "zmm15") };
    (add 2: 8) => { row_of_two!("{a_7}+{row}" "zmm30": "zmm16" "zmm17") };
    (add 2: 9) => { row_of_two!("{a_7}+2*{row}" "zmm31": "zmm18" "zmm19") };
    (add 2: 10) => { row_of_two!("{a_7}+{row_3}" "zmm30": "zmm20" "zmm21") };
    (add 2: 11) => { row_of_two!("{a_7}+4*{row}" "zmm31": "zmm22" "zmm23") };
    (add 2: 12) => { row_of_two!("{a_7}+{row_5}" "zmm30": "zmm24" "zmm25") };
    (add 2: 13) => { row_of_two!("{a_7}+2*{row_3}" "zmm31": "zmm26" "zmm27") };
    (add 3: 0) => { row_of_three!("{a}" "zmm30": "zmm0" "zmm1" "zmm2") };
    (add 3: 1) => { row_of_three!("{a}+{row}" "zmm31": "zmm3" "zmm4" "zmm5") };
    (add 3: 2) => { row_of_three!("{a}+2*{row}" "zmm30": "zmm6" "zmm7" "zmm8") };
    (add 3: 3) => { row_of_three!("{a}+{row_3}" "zmm31": "zmm9" "zmm10" "zmm11") };
    (add 3: 4) => { row_of_three!("{a}+4*{row}" "zmm30": "zmm12" "zmm13" "zmm14") };
    (add 3: 5) => { row_of_three!("{a}+{row_5}" "zmm31": "zmm15" "zmm16" "zmm17") };
    (add 3: 6) => { row_of_three!("{a}+2*{row_3}" "zmm30": "zmm18" "zmm19" "zmm20") };
    (add 3: 7) => { row_of_three!("{a_7}" "zmm31": "zmm21" "zmm22" "zmm23") };
}

/// Reads the last vector of a row of the right factor; through a mask only where it must, which takes 1 to 4 % longer.
macro_rules! last {
    (ahead $vector:literal $address:literal) => {
        concat!(last!(whole $vector $address), "prefetcht1 [{ahead}]\nadd {ahead}, {b_step}\n")
    };
    (whole $vector:literal $address:literal) => {
        concat!("vmovups ", $vector, ", zmmword ptr [", $address, "]\n")
    };
    (masked $vector:literal $address:literal) => {
        concat!("vmovups ", $vector, "{{{mask}}}{{z}}, zmmword ptr [", $address, "]\n")
    };
}

/// One depth of some rows, after which the pointers are at the next one.
macro_rules! depth {
    ($last:ident 1: $($number:tt)+) => {
        concat!(
            last!($last "zmm28" "{b}"),
            $(row!(add 1: $number),)+
            "add {a}, {a_step}\nadd {a_7}, {a_step}\nadd {b}, {b_step}\n",
        )
    };
    ($last:ident 2: $($number:tt)+) => {
        concat!(
            "vmovups zmm28, zmmword ptr [{b}]\n",
            last!($last "zmm29" "{b}+64"),
            $(row!(add 2: $number),)+
            "add {a}, {a_step}\nadd {a_7}, {a_step}\nadd {b}, {b_step}\n",
        )
    };
    ($last:ident 3: $($number:tt)+) => {
        concat!(
            "vmovups zmm28, zmmword ptr [{b}]\n",
            "vmovups zmm29, zmmword ptr [{b}+64]\n",
            last!($last "zmm24" "{b}+128"),
            $(row!(add 3: $number),)+
            "add {a}, {a_step}\nadd {a_7}, {a_step}\nadd {b}, {b_step}\n",
        )
    };
}

/// All depths of some rows, four between two tests for the end.
macro_rules! all_depths {
    ($tile:ident, $mask:ident, $sums:ident, $vectors:tt: $($number:tt)+) => {
        match LAST {
            WHOLE => all_depths!(whole, $tile, $mask, $sums, $vectors: $($number)+),
            AHEAD => all_depths!(ahead, $tile, $mask, $sums, $vectors: $($number)+),
            _ => all_depths!(masked, $tile, $mask, $sums, $vectors: $($number)+),
        }
    };
    ($last:ident, $tile:ident, $mask:ident, $sums:ident, $vectors:tt: $($number:tt)+) => {{
        let t: &Tile = $tile;
        asm!(
            "/* {row} {row_3} {row_5} {ahead} {mask} */",
            $(row!(clear $vectors: $number),)+
            "test {fours}, {fours}",
            "jz 3f",
            "2:",
            depth!($last $vectors: $($number)+), depth!($last $vectors: $($number)+),
            depth!($last $vectors: $($number)+), depth!($last $vectors: $($number)+),
            "dec {fours}",
            "jnz 2b",
            "3:",
            "test {rest}, {rest}",
            "jz 5f",
            "4:",
            depth!($last $vectors: $($number)+),
            "dec {rest}",
            "jnz 4b",
            "5:",
            a = inout(reg) t.a => _,
            a_7 = inout(reg) t.a.wrapping_offset(7 * t.a_row) => _,
            b = inout(reg) t.b => _,
            ahead = inout(reg) t.ahead => _,
            fours = inout(reg) t.depth / 4 => _,
            rest = inout(reg) t.depth % 4 => _,
            row = in(reg) 4 * t.a_row,
            row_3 = in(reg) 12 * t.a_row,
            row_5 = in(reg) 20 * t.a_row,
            a_step = in(reg) 4 * t.a_step,
            b_step = in(reg) 4 * t.b_step,
            mask = in(kreg) $mask,
            out("zmm0") $sums[0], out("zmm1") $sums[1], out("zmm2") $sums[2], out("zmm3") $sums[3],
            out("zmm4") $sums[4], out("zmm5") $sums[5], out("zmm6") $sums[6], out("zmm7") $sums[7],
            out("zmm8") $sums[8], out("zmm9") $sums[9], out("zmm10") $sums[10], out("zmm11") $sums[11],
            out("zmm12") $sums[12], out("zmm13") $sums[13], out("zmm14") $sums[14], out("zmm15") $sums[15],
            out("zmm16") $sums[16], out("zmm17") $sums[17], out("zmm18") $sums[18], out("zmm19") $sums[19],
            out("zmm20") $sums[20], out("zmm21") $sums[21], out("zmm22") $sums[22], out("zmm23") $sums[23],
            out("zmm24") $sums[24], out("zmm25") $sums[25], out("zmm26") $sums[26], out("zmm27") $sums[27],
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(readonly, nostack),
        );
    }};
}

/// How the last vector of a row of the right factor is read: the lanes of a mask, or all; and then maybe a line of the tile
/// that comes next as well, into the second-level cache.
pub(super) const MASKED: u8 = 0;
pub(super) const WHOLE: u8 = 1;
pub(super) const AHEAD: u8 = 2;

/// The sums of a tile of one to three vectors over all depths, `LAST` being how their last vector is read.
///
/// # Safety
/// As for [`MicroKernel::run`](super::MicroKernel::run), for a tile of so many rows and vectors.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn sums<const ROWS: usize, const VECTORS: usize, const LAST: u8>(
    t: &Tile,
    mask: u16,
) -> [[__m512; VECTORS]; ROWS] {
    let mut sums = [_mm512_setzero_ps(); MOST_SUMS];
    // SAFETY: the rows and vectors read at each depth are those of the tile, for which the caller vouches.
    unsafe {
        match (ROWS, VECTORS) {
            (1, 1) => all_depths!(t, mask, sums, 1: 0),
            (2, 1) => all_depths!(t, mask, sums, 1: 0 1),
            (3, 1) => all_depths!(t, mask, sums, 1: 0 1 2),
            (4, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3),
            (5, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4),
            (6, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5),
            (7, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6),
            (8, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7),
            (9, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7 8),
            (10, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7 8 9),
            (11, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7 8 9 10),
            (12, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7 8 9 10 11),
            (13, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7 8 9 10 11 12),
            (14, 1) => all_depths!(t, mask, sums, 1: 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
            (1, 2) => all_depths!(t, mask, sums, 2: 0),
            (2, 2) => all_depths!(t, mask, sums, 2: 0 1),
            (3, 2) => all_depths!(t, mask, sums, 2: 0 1 2),
            (4, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3),
            (5, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4),
            (6, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5),
            (7, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6),
            (8, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7),
            (9, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7 8),
            (10, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7 8 9),
            (11, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7 8 9 10),
            (12, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7 8 9 10 11),
            (13, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7 8 9 10 11 12),
            (14, 2) => all_depths!(t, mask, sums, 2: 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
            (1, 3) => all_depths!(t, mask, sums, 3: 0),
            (2, 3) => all_depths!(t, mask, sums, 3: 0 1),
            (3, 3) => all_depths!(t, mask, sums, 3: 0 1 2),
            (4, 3) => all_depths!(t, mask, sums, 3: 0 1 2 3),
            (5, 3) => all_depths!(t, mask, sums, 3: 0 1 2 3 4),
            (6, 3) => all_depths!(t, mask, sums, 3: 0 1 2 3 4 5),
            (7, 3) => all_depths!(t, mask, sums, 3: 0 1 2 3 4 5 6),
            (8, 3) => all_depths!(t, mask, sums, 3: 0 1 2 3 4 5 6 7),
            _ => unreachable!("a tile has at most 28 sums"),
        }
    }
    std::array::from_fn(|r| std::array::from_fn(|v| sums[VECTORS * r + v]))
}
