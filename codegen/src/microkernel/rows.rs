//! Row tiles: products whose left rows are found through tables, one entry per run of depth.
//!
//! After Dukhan, The Indirect Convolution Algorithm (2019), with offsets for pointers and runs for taps. Windows are
//! neither unfolded nor padded: a row that does not meet a run reads zeros there, a run that no row meets is left out.

use super::rows_portable;
#[cfg(target_arch = "x86_64")]
use super::{rows_avx2, rows_avx512};
use gradc_ir::target::VectorIsa;

/// Stands for the offset of a row that reads zeros.
pub(crate) const ABSENT: i32 = i32::MIN;

/// What an absent row reads.
pub(crate) static ZEROS: [f32; 1024] = [0.0; 1024];

/// A run of depth; offsets are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct Segment {
    /// Where its first depth is in the left factor, without what the rows add.
    pub left: i32,
    /// Where its first depth is in the right factor.
    pub right: i32,
    /// Number of products per element.
    pub depth: i32,
}

/// `c[r][j] (+)= Σ over segments s, k: left(s, r, k) · right(s, k)[j]`; strides are in elements.
///
/// The left factor is one number per row, or a vector along the columns when the tile is *lanewise*:
/// `left(s, r, k)[j]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTile {
    /// The runs.
    pub segments: *const Segment,
    /// Number of runs.
    pub count: usize,
    /// Left factor.
    pub left: *const f32,
    /// From one k to the next.
    pub left_step: isize,
    /// What each row adds to the left offset of a segment, or [`ABSENT`].
    pub left_rows: *const i32,
    /// From one segment's entries in `left_rows` to the next one's; 0 when all segments share them.
    pub left_rows_step: usize,
    /// Right factor; its columns are contiguous.
    pub right: *const f32,
    /// From one k to the next.
    pub right_step: isize,
    /// The result; its columns are contiguous.
    pub result: *mut f32,
    /// Where each row is in the result.
    pub result_rows: *const i32,
    /// Rows, at most those of the kernel.
    pub rows: usize,
    /// Columns, at most those of the kernel.
    pub columns: usize,
    /// Add to what is in the result.
    pub accumulate: bool,
}

impl RowTile {
    /// Addresses of the rows in a segment, and by how much each advances.
    ///
    /// # Safety
    /// The tables have entries for `ROWS` rows of the segment.
    #[inline(always)]
    pub unsafe fn rows_of<const ROWS: usize>(&self, at: usize) -> ([*const f32; ROWS], *const f32, isize, isize) {
        // SAFETY: as promised by the caller; offsets stay inside the factors.
        unsafe {
            let segment = &*self.segments.add(at);
            let offsets = self.left_rows.add(at * self.left_rows_step);
            let left = self.left.offset(segment.left as isize);
            // Absent rows advance like the others, from that end of the zeros from which they stay inside.
            let zeros = ZEROS.as_ptr().wrapping_offset((segment.depth as isize - 1) * (-self.left_step).max(0));
            let rows = std::array::from_fn(|r| match *offsets.add(r) {
                ABSENT => zeros,
                offset => left.wrapping_offset(offset as isize),
            });
            (rows, self.right.offset(segment.right as isize), segment.depth as isize, self.right_step)
        }
    }
}

/// A row-tile function and its largest tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowKernel {
    /// Most rows of a tile.
    pub rows: usize,
    /// Most columns of a tile.
    pub columns: usize,
    /// Computes a tile.
    ///
    /// # Safety
    /// The tile's tables, factors and result are valid for its extents, and the processor has the instruction set.
    pub run: unsafe fn(&RowTile),
}

/// The row kernel for a product of `columns` columns.
pub(crate) fn row_kernel(isa: VectorIsa, columns: usize, lanewise: bool) -> RowKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 => rows_avx2::kernel(columns, lanewise),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 => rows_avx512::kernel(lanewise),
        _ => rows_portable::kernel(lanewise),
    }
}

/// Calls `compute` with the tile's rows, vectors and masking as constants; `wide` lists the rows of tiles of two
/// vectors, `narrow` those of one.
#[cfg(target_arch = "x86_64")]
macro_rules! dispatch_rows {
    ($tile:expr, $lanes:expr, $lanewise:ident, wide [$($wide:literal)+], narrow [$($narrow:literal)+]) => {
        // SAFETY: as promised to the caller.
        unsafe {
            match ($tile.rows, $tile.columns.div_ceil($lanes), $tile.columns.is_multiple_of($lanes)) {
                $(
                    ($wide, 2, true) => compute::<$wide, 2, false, $lanewise>($tile),
                    ($wide, 2, false) => compute::<$wide, 2, true, $lanewise>($tile),
                )+
                $(
                    ($narrow, 1, true) => compute::<$narrow, 1, false, $lanewise>($tile),
                    ($narrow, 1, false) => compute::<$narrow, 1, true, $lanewise>($tile),
                )+
                _ => unreachable!("a tile is not larger than its kernel"),
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use dispatch_rows;
