//! 32 × 32 tiles of products of f32 matrices by AMX, which multiplies numbers of bf16 and adds in f32.
//!
//! A float is the sum of three numbers of bf16 (`split_avx512`). Of the nine products of the parts of two floats six are
//! added up, the small ones first; the other three are below 2⁻²² of the product, and as often positive as negative. Six
//! products of parts take less than half as long as one of floats in 512-bit vectors.
//!
//! AMX takes numbers below 2⁻¹²⁶ for zero. An infinite float times the parts of another may be no number; tiles of factors
//! that are not finite are computed from the floats.

use super::split_avx512::{PARTS, PARTS_WORDS, SQUARE_SIDE, SQUARE_WORDS, TILE_SIDE, TILE_WORDS, split};
use super::{MicroKernel, Tile, copy};
use crate::microkernel::transpose_avx2::transpose;
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// For products whose factors are both packed.
pub(super) const KERNEL: MicroKernel = MicroKernel {
    rows: SQUARE_SIDE,
    columns: SQUARE_SIDE,
    lanes: 1,
    vector: TILE_SIDE,
    along_depth: false,
    run,
    copy: copy::avx512,
    transpose,
    split: Some(split),
};

/// Whether the processor has AMX and the system lends this process its registers; asks for them the first time.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && registers_are_lent())
}

/// Whether there are tiles, and products of bf16: CPUID leaf 7, bits 24 and 22 of EDX.
fn has_instructions() -> bool {
    const WANTED: u32 = 1 << 24 | 1 << 22;
    // Without AVX-512 there would be no leaf 7 either.
    is_x86_feature_detected!("avx512f") && __cpuid_count(7, 0).edx & WANTED == WANTED
}

#[cfg(target_os = "linux")]
fn registers_are_lent() -> bool {
    /// `ARCH_REQ_XCOMP_PERM`, and the state component of the tiles' data (`asm/prctl.h`).
    const REQUEST: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the request changes how much the system saves of this process's registers, nothing else.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn registers_are_lent() -> bool {
    false
}

/// How the eight tiles are laid out: all alike.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (4 * TILE_SIDE as u16, TILE_SIDE as u8);
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// The sums of a square, in four tiles.
#[repr(C, align(64))]
struct Sums([[[f32; TILE_SIDE]; TILE_SIDE]; 4]);

impl Sums {
    /// A vector of a row.
    fn at(&self, row: usize, vector: usize) -> &[f32; TILE_SIDE] {
        &self.0[row / TILE_SIDE * 2 + vector][row % TILE_SIDE]
    }

    /// The same, to be written.
    fn at_mut(&mut self, row: usize, vector: usize) -> &mut [f32; TILE_SIDE] {
        &mut self.0[row / TILE_SIDE * 2 + vector][row % TILE_SIDE]
    }
}

/// Loads a tile of a factor: which of its parts, and which half of its rows or columns.
macro_rules! load {
    ($to:literal, $from:literal, $part:literal, $half:literal) => {
        concat!("tileloadd ", $to, ", [{", $from, "} + {row} + 2048 * ", $part, " + 1024 * ", $half, "]\n")
    };
}

/// Adds the products of the tiles that are loaded to the sums of a square, or of its left or upper half.
macro_rules! add {
    (both both) => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n"
    };
    (both one) => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm2, tmm5, tmm6\n"
    };
    (one both) => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\n"
    };
    (one one) => {
        "tdpbf16ps tmm0, tmm4, tmm6\n"
    };
}

/// Loads one part of a factor.
macro_rules! load_part {
    (left both $part:literal) => {
        concat!(load!("tmm4", "a", $part, 0), load!("tmm5", "a", $part, 1))
    };
    (left one $part:literal) => {
        load!("tmm4", "a", $part, 0)
    };
    (right both $part:literal) => {
        concat!(load!("tmm6", "b", $part, 0), load!("tmm7", "b", $part, 1))
    };
    (right one $part:literal) => {
        load!("tmm6", "b", $part, 0)
    };
}

/// All squares of a panel, added to what is in the tiles of sums. Every element is one chain of additions, whatever halves
/// of the squares are needed.
macro_rules! all_squares {
    ($tile:ident, $rows:ident $columns:ident) => {
        asm!(
            "test {squares}, {squares}",
            "jz 3f",
            "2:",
            load_part!(left $rows 0), load_part!(right $columns 2), add!($rows $columns),
            load_part!(right $columns 1), add!($rows $columns),
            load_part!(right $columns 0), add!($rows $columns),
            load_part!(left $rows 2), add!($rows $columns),
            load_part!(left $rows 1), add!($rows $columns),
            load_part!(right $columns 1), add!($rows $columns),
            "add {a}, {square}",
            "add {b}, {square}",
            "dec {squares}",
            "jnz 2b",
            "3:",
            a = inout(reg) $tile.a => _,
            b = inout(reg) $tile.b => _,
            squares = inout(reg) $tile.depth.div_ceil(SQUARE_SIDE) => _,
            square = in(reg) 4 * SQUARE_WORDS,
            row = in(reg) 4 * TILE_SIDE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        )
    };
}

/// Computes squares one below the other.
///
/// # Safety
/// As for [`MicroKernel::run`]: factors are panels that [`split`] has written, and nothing is added but the sums so far.
#[target_feature(enable = "avx512f")]
unsafe fn run(tiles: &Tile) {
    // SAFETY: the processor has the instructions, the system lends the registers, and panels, result and what is added
    // are those of the tiles.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags));
        let whole = tiles.rows == SQUARE_SIDE && tiles.columns == SQUARE_SIDE;
        prefetch(tiles);
        tiles.each(|tile| {
            prefetch(&tile.below());
            match (are_finite(tile), whole) {
                (true, true) => multiply_in_place(tile),
                (finite, _) => multiply_aside(tile, finite),
            }
        });
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

/// Has the result of a tile brought into the first-level cache, which takes as long as to multiply a square.
#[inline]
fn prefetch(t: &Tile) {
    for row in 0..t.rows {
        for vector in 0..t.columns.div_ceil(TILE_SIDE) {
            let at = t.c.wrapping_add(row * t.c_row + vector * TILE_SIDE);
            // SAFETY: a hint, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
        }
    }
}

/// Whether all floats that the panels of a tile are of are finite.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn are_finite(t: &Tile) -> bool {
    let mut checks = _mm512_setzero_ps();
    for square in 0..t.depth.div_ceil(SQUARE_SIDE) {
        for panel in [t.a, t.b] {
            for half in 0..2 {
                // SAFETY: panels have whole squares.
                let check =
                    unsafe { _mm512_loadu_ps(panel.add(square * SQUARE_WORDS + PARTS_WORDS + half * TILE_SIDE)) };
                checks = _mm512_add_ps(checks, check);
            }
        }
    }
    _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(checks, _mm512_setzero_ps()) == u16::MAX
}

/// Computes a whole square where its result is.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn multiply_in_place(t: &Tile) {
    let below = t.c.wrapping_add(TILE_SIDE * t.c_row);
    // SAFETY: as promised by the caller; all tiles are inside the result.
    unsafe {
        if t.add.is_null() {
            clear();
        } else {
            asm!(
                "tileloadd tmm0, [{c} + {row}]",
                "tileloadd tmm1, [{c} + {row} + 64]",
                "tileloadd tmm2, [{below} + {row}]",
                "tileloadd tmm3, [{below} + {row} + 64]",
                c = in(reg) t.c, below = in(reg) below, row = in(reg) 4 * t.c_row,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        all_squares!(t, both both);
        asm!(
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + 64], tmm1",
            "tilestored [{below} + {row}], tmm2",
            "tilestored [{below} + {row} + 64], tmm3",
            c = in(reg) t.c, below = in(reg) below, row = in(reg) 4 * t.c_row,
            options(nostack, preserves_flags),
        );
    }
}

/// Computes a square, and stores of it what is inside the tile.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn multiply_aside(t: &Tile, finite: bool) {
    let mut sums = Sums([[[0.0; TILE_SIDE]; TILE_SIDE]; 4]);
    // SAFETY: as promised by the caller.
    unsafe {
        if !t.add.is_null() {
            load(t, &mut sums);
        }
        if finite {
            multiply(t, &mut sums);
        } else {
            multiply_floats(t, &mut sums);
        }
        store(t, &sums);
    }
}

/// Loads what is in a tile.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(t: &Tile, sums: &mut Sums) {
    for row in 0..t.rows {
        for vector in 0..t.columns.div_ceil(TILE_SIDE) {
            // SAFETY: rows and columns are those of the tile; masked lanes are not touched.
            unsafe {
                let from = t.c.add(row * t.c_row + vector * TILE_SIDE);
                _mm512_store_ps(sums.at_mut(row, vector).as_mut_ptr(), _mm512_maskz_loadu_ps(lanes(t, vector), from));
            }
        }
    }
}

/// Sets the sums to zero.
///
/// # Safety
/// Tiles are configured.
#[inline]
unsafe fn clear() {
    // SAFETY: as promised by the caller.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem, preserves_flags),
        );
    }
}

/// Adds the products of a square at all depths to sums.
///
/// # Safety
/// As for [`run`], and the tiles are configured.
#[inline]
unsafe fn multiply(t: &Tile, sums: &mut Sums) {
    // SAFETY: panels have whole squares.
    unsafe {
        asm!(
            "tileloadd tmm0, [{sums} + {row}]",
            "tileloadd tmm1, [{sums} + {row} + 1024]",
            "tileloadd tmm2, [{sums} + {row} + 2048]",
            "tileloadd tmm3, [{sums} + {row} + 3072]",
            row = in(reg) 4 * TILE_SIDE,
            sums = in(reg) &raw const *sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, readonly, preserves_flags),
        );
        match (t.rows > TILE_SIDE, t.columns > TILE_SIDE) {
            (true, true) => all_squares!(t, both both),
            (true, false) => all_squares!(t, both one),
            (false, true) => all_squares!(t, one both),
            (false, false) => all_squares!(t, one one),
        }
        asm!(
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 1024], tmm1",
            "tilestored [{sums} + {row} + 2048], tmm2",
            "tilestored [{sums} + {row} + 3072], tmm3",
            row = in(reg) 4 * TILE_SIDE,
            sums = in(reg) &raw mut *sums,
            options(nostack, preserves_flags),
        );
    }
}

/// Lanes of a vector of a tile.
fn lanes(t: &Tile, vector: usize) -> u16 {
    let inside = t.columns.saturating_sub(vector * TILE_SIDE).min(TILE_SIDE);
    ((1u32 << inside) - 1) as u16
}

/// Stores the sums of a tile.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store(t: &Tile, sums: &Sums) {
    for row in 0..t.rows {
        for vector in 0..t.columns.div_ceil(TILE_SIDE) {
            let (at, mask) = (row * t.c_row + vector * TILE_SIDE, lanes(t, vector));
            // SAFETY: rows and columns are those of the tile; masked lanes are not touched.
            unsafe {
                let sum = _mm512_load_ps(sums.at(row, vector).as_ptr());
                _mm512_mask_storeu_ps(t.c.add(at), mask, sum);
            }
        }
    }
}

/// Adds the products of a tile to sums, from the floats that its parts are of.
///
/// # Safety
/// As for [`run`].
#[cold]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_floats(t: &Tile, sums: &mut Sums) {
    for depth in 0..t.depth {
        let square = depth / SQUARE_SIDE * SQUARE_WORDS;
        // SAFETY: panels have whole squares.
        let float = |panel: *const f32, word: usize| unsafe {
            let part = |part: usize| *panel.cast::<u32>().add(square + 2 * part * TILE_WORDS + word);
            whole(std::array::from_fn(part), depth % SQUARE_SIDE >= TILE_SIDE)
        };
        let pair = depth % TILE_SIDE;
        let columns: [f32; SQUARE_SIDE] = std::array::from_fn(|column| {
            float(t.b, column / TILE_SIDE * TILE_WORDS + pair * TILE_SIDE + column % TILE_SIDE)
        });
        for row in 0..t.rows {
            let factor = float(t.a, row * TILE_SIDE + pair);
            for (column, &other) in columns.iter().enumerate().take(t.columns) {
                let sum = &mut sums.0[row / TILE_SIDE * 2 + column / TILE_SIDE][row % TILE_SIDE][column % TILE_SIDE];
                *sum = factor.mul_add(other, *sum);
            }
        }
    }
}

/// The float whose parts are in the lower or upper halves of words. Where it is not finite, the first part is.
fn whole(words: [u32; PARTS], upper: bool) -> f32 {
    let [first, second, third] = words.map(|word| f32::from_bits(if upper { word & !0xffff } else { word << 16 }));
    if first.is_finite() { first + (second + third) } else { first }
}

/// Multiply-adds of floats that one core does at most, GFLOP/s, of numbers that are in tiles already.
pub(super) fn peak_gflops(fastest_s: impl FnOnce(&mut dyn FnMut()) -> f64) -> f64 {
    const ROUNDS: usize = 1 << 14;
    // SAFETY: whoever asks has made sure of the processor, and the system lends the registers.
    let seconds = fastest_s(&mut || unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags));
        clear();
        asm!(
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            add!(both both), add!(both both), add!(both both), add!(both both), add!(both both), add!(both both),
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            rounds = inout(reg) ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    });
    2.0 * (ROUNDS * SQUARE_SIDE.pow(3)) as f64 / seconds / 1e9
}
