//! 6 × 16 tiles in 256-bit vectors: twelve sums, two vectors of `b` and a broadcast of `a` fill the registers. 4 × 24 tiles
//! where rows would leave tiles of four or fewer, or few rows fewer tiles: twelve sums as well. 8 × 8 tiles where there are
//! no more columns: eight sums are as many as hide the latency of an addition.

use super::{MicroKernel, Tile, UNROLL, copy, dispatch, wide_avx2};
use crate::microkernel::transpose_avx2::transpose;
use std::arch::asm;
use std::arch::x86_64::{
    __m256, __m256i, _mm_castps_pd, _mm_movehl_ps, _mm_store_ss, _mm_storel_pd, _mm_storeu_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_maskload_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

pub(super) const LANES: usize = 8;

/// Columns from which on a last tile that is not full hardly counts.
const MANY_COLUMNS: usize = 256;

/// Rows up to which what a tile takes beside its multiplications, some 25 cycles, counts.
const FEW_ROWS: usize = 16;

/// Rows of the left factor that are reached from one pointer in tiles of one vector.
const ROWS_OF_POINTER: usize = 3;
const POINTERS: usize = 8usize.div_ceil(ROWS_OF_POINTER);

pub(super) fn kernel(rows: usize, columns: usize) -> MicroKernel {
    let fills_three = columns.is_multiple_of(3 * LANES) || columns >= MANY_COLUMNS;
    let tiles = |tall: usize, vectors: usize| rows.div_ceil(tall) * columns.div_ceil(vectors * LANES);
    let fewer = rows <= FEW_ROWS && columns.is_multiple_of(3 * LANES) && tiles(4, 3) < tiles(6, 2);
    let (rows, vectors) = match rows {
        _ if columns <= LANES => (8, 1),
        1..=4 | 7..=8 if fills_three => (4, 3),
        _ if fewer => (4, 3),
        _ => (6, 2),
    };
    MicroKernel {
        rows,
        columns: vectors * LANES,
        lanes: LANES,
        vector: LANES,
        along_depth: false,
        run,
        copy: copy::avx,
        transpose,
        split: None,
    }
}

/// Lanes set, then lanes clear: a window into it is the mask of any number of lanes.
static MASKS: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

unsafe fn run(tile: &Tile) {
    dispatch!(compute, tile, tile.columns.div_ceil(LANES), 1 [1 2 3 4 5 6 7 8], 2 [1 2 3 4 5 6], 3 [1 2 3 4])
}

/// Tiles of `ROWS` rows of `VECTORS` vectors.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const ROWS: usize, const VECTORS: usize>(tiles: &Tile) {
    // SAFETY: as promised by the caller.
    tiles.each(|t| unsafe { compute_tile::<ROWS, VECTORS>(t) });
}

#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn compute_tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    // SAFETY: rows, columns and depth are those of the tile, for which the caller vouches; `b` may be read to the end
    // of the last vector.
    unsafe {
        let sums: [[__m256; VECTORS]; ROWS] = if VECTORS == 1 { narrow_sums(t) } else { wide_avx2::sums(t) };
        match (t.columns % LANES, t.add.is_null()) {
            (0, true) => {
                for (r, sums) in sums.iter().enumerate() {
                    let c = t.c.add(r * t.c_row);
                    (0..VECTORS).for_each(|v| _mm256_storeu_ps(c.add(LANES * v), sums[v]));
                }
            }
            (0, false) => {
                for (r, sums) in sums.iter().enumerate() {
                    let (c, add) = (t.c.add(r * t.c_row), t.add.add(r * t.c_row));
                    for (v, &sum) in sums.iter().enumerate() {
                        let sum = _mm256_add_ps(sum, _mm256_loadu_ps(add.add(LANES * v)));
                        _mm256_storeu_ps(c.add(LANES * v), sum);
                    }
                }
            }
            (rest, _) => {
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        let at = r * t.c_row + LANES * v;
                        store_sum(t, at, sum, if v == VECTORS - 1 { rest } else { 0 });
                    }
                }
            }
        }
    }
}

/// The sums of a tile over all depths. Between rows of one vector the compiler would walk by additions one after the other,
/// which take twice as long as the multiplications.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn narrow_sums<const ROWS: usize, const VECTORS: usize>(t: &Tile) -> [[__m256; VECTORS]; ROWS] {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let first = |i: usize| unrelated(t.a.wrapping_offset((ROWS_OF_POINTER * i) as isize * t.a_row));
    let (mut firsts, mut b): ([*const f32; POINTERS], _) = (std::array::from_fn(first), t.b);
    let step = || {
        // SAFETY: as promised by the caller.
        unsafe {
            let row: [__m256; VECTORS] = std::array::from_fn(|v| _mm256_loadu_ps(b.add(LANES * v)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = firsts[r / ROWS_OF_POINTER].wrapping_offset((r % ROWS_OF_POINTER) as isize * t.a_row);
                add_row(sums, a, &row);
            }
        }
        for first in &mut firsts {
            *first = unrelated(first.wrapping_offset(t.a_step));
        }
        b = unrelated(b.wrapping_offset(t.b_step));
    };
    for_each_depth(t.depth, step);
    sums
}

#[inline(always)]
fn for_each_depth(depth: usize, mut step: impl FnMut()) {
    for _ in 0..depth / UNROLL {
        for _ in 0..UNROLL {
            step();
        }
    }
    for _ in 0..depth % UNROLL {
        step();
    }
}

/// A pointer of which the compiler does not know how far it is from others.
#[inline(always)]
fn unrelated(pointer: *const f32) -> *const f32 {
    let mut address = pointer.expose_provenance();
    // SAFETY: nothing is done.
    unsafe { asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags)) };
    std::ptr::with_exposed_provenance(address)
}

/// Adds `*a` times `row` to the sums of a row.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_row<const VECTORS: usize>(sums: &mut [__m256; VECTORS], a: *const f32, row: &[__m256; VECTORS]) {
    // SAFETY: the caller vouches for `a`.
    let factor = _mm256_set1_ps(unsafe { a.read_unaligned() });
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum = _mm256_fmadd_ps(factor, *x, *sum);
    }
}

/// Stores a vector of sums of a tile, or only the first `rest` lanes where that is not 0, and adds what is to be added.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store_sum(t: &Tile, at: usize, sum: __m256, rest: usize) {
    // SAFETY: the lanes read and written are those of the caller's tile.
    unsafe {
        let sum = match (t.add.is_null(), rest) {
            (true, _) => sum,
            (false, 0) => _mm256_add_ps(sum, _mm256_loadu_ps(t.add.add(at))),
            (false, _) => _mm256_add_ps(sum, _mm256_maskload_ps(t.add.add(at), first_lanes(rest))),
        };
        store(t.c.add(at), sum, false, rest);
    }
}

/// Stores a vector, or only the first `rest` lanes where that is not 0, adding what is there if asked to.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store(to: *mut f32, sum: __m256, accumulate: bool, rest: usize) {
    // SAFETY: the lanes read and written are those of the caller's tile.
    unsafe {
        match (rest, accumulate) {
            (0, false) => _mm256_storeu_ps(to, sum),
            (0, true) => _mm256_storeu_ps(to, _mm256_add_ps(sum, _mm256_loadu_ps(to))),
            (_, false) => store_part(to, sum, rest),
            (_, true) => store_part(to, _mm256_add_ps(sum, _mm256_maskload_ps(to, first_lanes(rest))), rest),
        }
    }
}

/// Stores the first `lanes` lanes, fewer than eight; a masked store takes several times as long.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store_part(mut to: *mut f32, x: __m256, lanes: usize) {
    let mut rest = _mm256_castps256_ps128(x);
    // SAFETY: as many lanes are stored as the caller vouches for.
    unsafe {
        if lanes & 4 != 0 {
            _mm_storeu_ps(to, rest);
            (to, rest) = (to.add(4), _mm256_extractf128_ps::<1>(x));
        }
        if lanes & 2 != 0 {
            _mm_storel_pd(to.cast(), _mm_castps_pd(rest));
            (to, rest) = (to.add(2), _mm_movehl_ps(rest, rest));
        }
        if lanes & 1 != 0 {
            _mm_store_ss(to, rest);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn first_lanes(lanes: usize) -> __m256i {
    let window = &MASKS[LANES - lanes..2 * LANES - lanes];
    // SAFETY: the window is eight words long.
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}
