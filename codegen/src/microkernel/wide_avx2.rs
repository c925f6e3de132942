//! The products of tiles of two and three 256-bit vectors: loops over depth in which nothing waits for what is computed.
//!
//! Left to itself the compiler walks from row to row by additions one after the other, which take as long as the
//! multiplications, so that neither the next depth nor the next tile is begun ahead; and of a tile of three vectors it has
//! two factors under way and spills.

use super::Tile;
use std::arch::asm;
use std::arch::x86_64::{__m256, _mm256_setzero_ps};

/// Sums that a tile has at most.
const MOST_SUMS: usize = 12;

/// Adds the products of one row, reached from `{a}` by an address, to its sums.
macro_rules! row {
    ($address:literal $factor:literal: $($sum:literal $vector:literal),+) => {
        concat!(
            "vbroadcastss ", $factor, ", dword ptr [", $address, "]\n",
            $("vfmadd231ps ", $sum, ", ", $factor, ", ", $vector, "\n",)+
        )
    };
}

/// Rows of two vectors, by their number.
macro_rules! row_of_two {
    (0) => { row!("{a}" "ymm14": "ymm0" "ymm12", "ymm1" "ymm13") };
    (1) => { row!("{a}+{row}" "ymm15": "ymm2" "ymm12", "ymm3" "ymm13") };
    (2) => { row!("{a}+2*{row}" "ymm14": "ymm4" "ymm12", "ymm5" "ymm13") };
    (3) => { row!("{a}+{row_3}" "ymm15": "ymm6" "ymm12", "ymm7" "ymm13") };
    (4) => { row!("{a}+4*{row}" "ymm14": "ymm8" "ymm12", "ymm9" "ymm13") };
    (5) => { row!("{a}+{row_5}" "ymm15": "ymm10" "ymm12", "ymm11" "ymm13") };
}

/// Rows of three vectors, which leave one register for factors.
macro_rules! row_of_three {
    (0) => { row!("{a}" "ymm15": "ymm0" "ymm12", "ymm1" "ymm13", "ymm2" "ymm14") };
    (1) => { row!("{a}+{row}" "ymm15": "ymm3" "ymm12", "ymm4" "ymm13", "ymm5" "ymm14") };
    (2) => { row!("{a}+2*{row}" "ymm15": "ymm6" "ymm12", "ymm7" "ymm13", "ymm8" "ymm14") };
    (3) => { row!("{a}+{row_3}" "ymm15": "ymm9" "ymm12", "ymm10" "ymm13", "ymm11" "ymm14") };
}

/// One depth of some rows, after which the pointers are at the next one.
macro_rules! depth {
    (2: $($number:tt)+) => {
        concat!(
            "vmovups ymm12, ymmword ptr [{b}]\n",
            "vmovups ymm13, ymmword ptr [{b}+32]\n",
            $(row_of_two!($number),)+
            "add {a}, {a_step}\nadd {b}, {b_step}\n",
        )
    };
    (3: $($number:tt)+) => {
        concat!(
            "vmovups ymm12, ymmword ptr [{b}]\n",
            "vmovups ymm13, ymmword ptr [{b}+32]\n",
            "vmovups ymm14, ymmword ptr [{b}+64]\n",
            $(row_of_three!($number),)+
            "add {a}, {a_step}\nadd {b}, {b_step}\n",
        )
    };
}

/// All depths of some rows, four between two tests for the end.
macro_rules! all_depths {
    ($tile:ident, $sums:ident, $($rows:tt)+) => {{
        let t: &Tile = $tile;
        let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11] = &mut $sums;
        asm!(
            "/* {row} {row_3} {row_5} */",
            "test {fours}, {fours}",
            "jz 3f",
            "2:",
            depth!($($rows)+), depth!($($rows)+), depth!($($rows)+), depth!($($rows)+),
            "dec {fours}",
            "jnz 2b",
            "3:",
            "test {rest}, {rest}",
            "jz 5f",
            "4:",
            depth!($($rows)+),
            "dec {rest}",
            "jnz 4b",
            "5:",
            a = inout(reg) t.a => _,
            b = inout(reg) t.b => _,
            fours = inout(reg) t.depth / 4 => _,
            rest = inout(reg) t.depth % 4 => _,
            row = in(reg) 4 * t.a_row,
            row_3 = in(reg) 12 * t.a_row,
            row_5 = in(reg) 20 * t.a_row,
            a_step = in(reg) 4 * t.a_step,
            b_step = in(reg) 4 * t.b_step,
            inout("ymm0") *s0, inout("ymm1") *s1, inout("ymm2") *s2, inout("ymm3") *s3,
            inout("ymm4") *s4, inout("ymm5") *s5, inout("ymm6") *s6, inout("ymm7") *s7,
            inout("ymm8") *s8, inout("ymm9") *s9, inout("ymm10") *s10, inout("ymm11") *s11,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(readonly, nostack),
        );
    }};
}

/// The sums of a tile of two or three vectors over all depths.
///
/// # Safety
/// As for [`MicroKernel::run`](super::MicroKernel::run), for a tile of so many rows and vectors.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) unsafe fn sums<const ROWS: usize, const VECTORS: usize>(t: &Tile) -> [[__m256; VECTORS]; ROWS] {
    let mut sums = [_mm256_setzero_ps(); MOST_SUMS];
    // SAFETY: the rows and vectors read at each depth are those of the tile, for which the caller vouches.
    unsafe {
        match (ROWS, VECTORS) {
            (1, 2) => all_depths!(t, sums, 2: 0),
            (2, 2) => all_depths!(t, sums, 2: 0 1),
            (3, 2) => all_depths!(t, sums, 2: 0 1 2),
            (4, 2) => all_depths!(t, sums, 2: 0 1 2 3),
            (5, 2) => all_depths!(t, sums, 2: 0 1 2 3 4),
            (6, 2) => all_depths!(t, sums, 2: 0 1 2 3 4 5),
            (1, 3) => all_depths!(t, sums, 3: 0),
            (2, 3) => all_depths!(t, sums, 3: 0 1),
            (3, 3) => all_depths!(t, sums, 3: 0 1 2),
            (4, 3) => all_depths!(t, sums, 3: 0 1 2 3),
            _ => unreachable!("tiles have at most twelve sums"),
        }
    }
    std::array::from_fn(|r| std::array::from_fn(|v| sums[VECTORS * r + v]))
}
