//! Micro-kernels: tiles of a product of f32 matrices, those below each other in one call, for each vector instruction
//! set.
//!
//! Every element is one chain of additions over ascending k, so that its bits do not depend on the tile it is in; only
//! where vectors are read along the depth, it is sixteen. Of parts of floats the products of 32 depths are added up part by
//! part, in whatever tile as well.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod assembled_rows_avx512;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod copy;
#[cfg(target_arch = "x86_64")]
mod dots_avx2;
#[cfg(target_arch = "x86_64")]
mod dots_avx512;
#[cfg(target_arch = "x86_64")]
mod neighbours_avx2;
mod portable;
mod rows;
#[cfg(target_arch = "x86_64")]
mod rows_avx2;
#[cfg(target_arch = "x86_64")]
mod rows_avx512;
mod rows_portable;
#[cfg(target_arch = "x86_64")]
mod sliding_avx2;
#[cfg(target_arch = "x86_64")]
mod split_avx512;
mod transpose;
#[cfg(target_arch = "x86_64")]
mod transpose_avx2;
#[cfg(target_arch = "x86_64")]
mod vectors_avx2;
#[cfg(target_arch = "x86_64")]
mod wide_avx2;
#[cfg(target_arch = "x86_64")]
mod wide_avx512;

pub(crate) use copy::Lines;
pub(crate) use rows::{
    ABSENT, RowKernel, RowTile, Segment, Slide, ZEROS, kernel_of_neighbours, kernels_of_depths, neighbour_kernel,
    row_kernel, sliding_kernel,
};

use gradc_ir::target::VectorIsa;

/// `c[r][j] = Σ_k a[r][k] · b[k][j] (+ add[r][j])`: what a micro-kernel is given, one tile or several below each other.
/// Strides are in elements; the factors may have any alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// Number of products per element.
    pub depth: usize,
    /// Left factor.
    pub a: *const f32,
    /// From one row of `a` to the next.
    pub a_row: isize,
    /// From one k to the next in `a`.
    pub a_step: isize,
    /// Right factor.
    pub b: *const f32,
    /// Where the right factor of what is computed next begins, its depths as far apart as those of `b`: kernels whose
    /// vectors are lines of the cache bring it in meanwhile. Null if nothing is to be.
    pub ahead: *const f32,
    /// From one column to the next in `b`: 1, but for kernels that read along the depth.
    pub b_column: isize,
    /// From one k to the next in `b`.
    pub b_step: isize,
    /// The result; its columns are contiguous.
    pub c: *mut f32,
    /// From one row of `c` to the next.
    pub c_row: usize,
    /// Rows, at most those of the kernel.
    pub rows: usize,
    /// How many tiles of so many rows there are, each below the one before in the result.
    pub tiles: usize,
    /// From the first row of a tile to that of the next in `a`.
    pub a_tile: isize,
    /// Columns, at most those of the kernel.
    pub columns: usize,
    /// What is added to the sums when these are complete, its rows as far apart as those of `c`, which it may be; null
    /// if nothing is.
    pub add: *const f32,
}

impl Tile {
    /// Moves on to the tile below.
    fn descend(&mut self) {
        let distance = self.rows * self.c_row;
        self.a = self.a.wrapping_offset(self.a_tile);
        self.c = self.c.wrapping_add(distance);
        if !self.add.is_null() {
            self.add = self.add.wrapping_add(distance);
        }
    }

    /// The tile below.
    #[cfg(target_arch = "x86_64")]
    fn below(mut self) -> Tile {
        self.descend();
        self
    }

    /// Calls a function with each of the tiles.
    #[inline(always)]
    fn each(&self, mut compute: impl FnMut(&Tile)) {
        let mut tile = *self;
        for _ in 0..self.tiles {
            compute(&tile);
            tile.descend();
        }
    }
}

/// A tile function and its largest tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MicroKernel {
    /// Most rows of a tile.
    pub rows: usize,
    /// Most columns of a tile.
    pub columns: usize,
    /// The right factor of a tile is read in vectors of this many columns: past the tile's last column where these do
    /// not fill the last vector.
    pub lanes: usize,
    /// Columns of a vector, of which tiles have whole ones where they can.
    pub vector: usize,
    /// Whether vectors are read along the depth: both factors have their depths next to each other, the left one in
    /// place.
    pub along_depth: bool,
    /// Computes a tile and those below it.
    ///
    /// # Safety
    /// The factors and the result of the tiles are valid for their extents, and the processor has the instruction set.
    pub run: unsafe fn(&Tile),
    /// Packs lines whose elements at each depth follow each other.
    ///
    /// # Safety
    /// The lines and their places in the panel are valid, and the processor has the instruction set.
    pub copy: unsafe fn(&Lines),
    /// Packs a strip whose elements follow each other in depth.
    ///
    /// # Safety
    /// The strip and its panel are valid for their extents, and the processor has the instruction set.
    pub transpose: unsafe fn(&Strip),
    /// Writes the parts of floats, where panels hold these; both factors are packed then.
    ///
    /// # Safety
    /// The lines are valid, there is room for a square, aligned to 64 bytes, and the processor has the instruction set.
    pub split: Option<unsafe fn(&Square)>,
}

impl MicroKernel {
    /// Floats that a panel of so many rows or columns, of as many depths, takes.
    pub fn panel_floats(&self, width: usize, depth: usize) -> usize {
        match self.split {
            Some(_) => width.div_ceil(SQUARE) * depth.div_ceil(SQUARE) * SQUARE_FLOATS,
            None => width * depth,
        }
    }

    /// Rows of blocks and depths of panels are whole multiples of this, but for the last.
    pub fn unit(&self) -> usize {
        if self.split.is_some() { SQUARE } else { 1 }
    }
}

/// Lines of a square, and floats of each.
pub(crate) const SQUARE: usize = 32;

/// Room, in floats, that the parts of a square take: three of half as many bytes, and a float for each depth.
const SQUARE_FLOATS: usize = SQUARE * (SQUARE / 2 * 3 + 1);

/// Which factor of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one with the rows.
    Left,
    /// The one with the columns.
    Right,
}

/// At most 32 rows or columns of a factor at at most 32 depths, whose floats are split into parts. Offsets are in elements;
/// any alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Square<'a> {
    /// What the offsets count from.
    pub from: *const f32,
    /// Where each line begins.
    pub lines: &'a [i32],
    /// Floats of each, next to each other.
    pub count: usize,
    /// Whether a line is one depth of all rows or columns, or one of these at all depths.
    pub lines_are_depths: bool,
    /// Which factor.
    pub side: Side,
    /// Where the parts go: as tiles that micro-kernels load, zeros where there are no floats.
    pub to: *mut f32,
}

/// `to[k][i] = from[rows[i] + k]`: rows or columns that become a panel. Offsets are in elements; any alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip<'a> {
    /// What the offsets count from.
    pub from: *const f32,
    /// Where each row or column begins.
    pub rows: &'a [i32],
    /// Elements of each, next to each other.
    pub depth: usize,
    /// The panel.
    pub to: *mut f32,
    /// From one k to the next in the panel, at least the number of rows.
    pub width: usize,
    /// How many floats per k may be written, at least the number of rows; what is there beyond the last is left open.
    pub room: usize,
}

/// Steps in depth between two tests for the end.
#[cfg(target_arch = "x86_64")]
const UNROLL: usize = 4;

/// Whether this processor can run code for an instruction set.
pub(crate) fn is_available(isa: VectorIsa) -> bool {
    match isa {
        VectorIsa::Portable => true,
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 => is_available(VectorIsa::Avx2) && is_x86_feature_detected!("avx512f"),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Amx => is_available(VectorIsa::Avx512) && amx::is_available(),
        #[cfg(not(target_arch = "x86_64"))]
        _ => false,
    }
}

/// The micro-kernel of an instruction set for a product of so many rows and columns.
pub(crate) fn micro_kernel(isa: VectorIsa, rows: usize, columns: usize) -> MicroKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 => avx2::kernel(rows, columns),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 | VectorIsa::Amx => avx512::kernel(rows, columns),
        _ => portable::KERNEL,
    }
}

/// The micro-kernels of products that are one row, of a right factor whose columns are next to each other, and of those
/// that are one column, of two factors whose depths are next to each other.
pub(crate) fn vector_kernels(isa: VectorIsa) -> Option<[MicroKernel; 2]> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 | VectorIsa::Avx512 | VectorIsa::Amx => Some([vectors_avx2::ROW, dots_avx2::COLUMN]),
        _ => None,
    }
}

/// The micro-kernel that reads vectors along the depth, and the lanes of these.
pub(crate) fn dot_kernel(isa: VectorIsa) -> Option<(MicroKernel, usize)> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 => Some((dots_avx2::KERNEL, avx2::LANES)),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 | VectorIsa::Amx => Some((dots_avx512::KERNEL, avx512::LANES)),
        _ => None,
    }
}

/// The micro-kernel that multiplies parts of floats.
pub(crate) fn parts_kernel(isa: VectorIsa) -> Option<MicroKernel> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Amx => Some(amx::KERNEL),
        _ => None,
    }
}

/// What [`parts_kernel`] reaches at most on one core, in GFLOP/s of f32; `fastest_s` measures.
pub(crate) fn parts_peak_gflops(isa: VectorIsa, fastest_s: impl FnOnce(&mut dyn FnMut()) -> f64) -> Option<f64> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Amx => Some(amx::peak_gflops(fastest_s)),
        _ => None,
    }
}

/// Calls `$function::<rows, vectors>` for run-time rows and vectors; each list has the rows of tiles of so many
/// vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! dispatch {
    ($function:ident, $tile:expr, $vectors:expr, $($number:literal [$($rows:literal)+]),+) => {
        // SAFETY: as promised to the caller.
        unsafe {
            match ($tile.rows, $vectors) {
                $($(($rows, $number) => $function::<$rows, $number>($tile),)+)+
                _ => unreachable!("a tile is not larger than its kernel"),
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use dispatch;
