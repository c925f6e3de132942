//! Row tiles: products whose left rows are found through tables, one entry per run of depth.
//!
//! After Dukhan, The Indirect Convolution Algorithm (2019), with offsets for pointers and runs for taps. Windows are
//! neither unfolded nor padded: a row that does not meet a run reads zeros there, a run that no row meets is left out.

use super::rows_portable;
#[cfg(target_arch = "x86_64")]
use super::{assembled_rows_avx512, neighbours_avx2, rows_avx2, rows_avx512, sliding_avx2};
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
    /// Where rows slide: the first position along the run that is inside of the left factor, and the end of these.
    pub positions: [u16; 2],
}

impl Segment {
    /// Whether a position along the run is inside of the left factor.
    #[inline(always)]
    pub fn has(&self, position: usize) -> bool {
        let [first, end] = self.positions;
        (position as u16).wrapping_sub(first) < end - first
    }
}

/// How rows slide along a run: each reads at its first depth what the row before it reads `apart` depths later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slide {
    /// Depths from one row to the next.
    pub apart: usize,
    /// Depths of a run.
    pub depth: usize,
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
    /// Where each row is in the result; [`ABSENT`] where the kernel takes rows in groups and a group has fewer.
    pub result_rows: *const i32,
    /// Rows, at most those of the kernel.
    pub rows: usize,
    /// Tiles of these segments that follow each other.
    pub tiles: usize,
    /// From one tile's entries in `left_rows` and in `result_rows` to the next one's.
    pub tile_step: usize,
    /// Columns, at most those of the kernel.
    pub columns: usize,
    /// Add to what is in the result.
    pub accumulate: bool,
}

impl RowTile {
    /// Calls `step` with the rows' addresses in a tile, the left offset and the right address of every k of every
    /// segment. The rows are every `APART`-th of the tile.
    ///
    /// # Safety
    /// The tables have entries for `ROWS` such rows.
    #[inline(always)]
    pub unsafe fn for_each_depth<const ROWS: usize, const APART: usize>(
        &self,
        tile: usize,
        mut step: impl FnMut(&[*const f32; ROWS], isize, *const f32),
    ) {
        let along = |rows: &[*const f32; ROWS], mut left: isize, mut right: *const f32, depth: usize| {
            for _ in 0..depth {
                step(rows, left, right);
                left += self.left_step;
                right = right.wrapping_offset(self.right_step);
            }
        };
        // SAFETY: as promised by the caller.
        unsafe { self.for_each_segment::<ROWS, APART>(tile, along) }
    }

    /// Calls `run` with the rows' addresses in a tile, and the left offset, the right address and the depth of every
    /// segment.
    ///
    /// # Safety
    /// As for [`for_each_depth`](Self::for_each_depth).
    #[inline(always)]
    pub unsafe fn for_each_segment<const ROWS: usize, const APART: usize>(
        &self,
        tile: usize,
        mut run: impl FnMut(&[*const f32; ROWS], isize, *const f32, usize),
    ) {
        let right = |segment: &Segment| self.right.wrapping_offset(segment.right as isize);
        // SAFETY: as promised by the caller.
        unsafe {
            if self.left_rows_step == 0 {
                let rows = std::array::from_fn(|r| {
                    self.left.wrapping_offset(self.row_offset(tile * self.tile_step + APART * r))
                });
                for at in 0..self.count {
                    let segment = &*self.segments.add(at);
                    run(&rows, segment.left as isize, right(segment), segment.depth as usize);
                }
                return;
            }
            for at in 0..self.count {
                let segment = &*self.segments.add(at);
                let rows = self.rows_of::<ROWS, APART>(at, segment);
                run(&rows, 0, right(segment), segment.depth as usize);
            }
        }
    }

    /// Where a row of a tile is in the result, if it is there.
    ///
    /// # Safety
    /// The tables have entries for the row.
    #[inline(always)]
    pub unsafe fn present_row(&self, tile: usize, row: usize) -> Option<*mut f32> {
        // SAFETY: as promised by the caller.
        let offset = unsafe { *self.result_rows.add(tile * self.tile_step + row) };
        (offset != ABSENT).then(|| self.result.wrapping_offset(offset as isize))
    }

    /// Where the first row of a tile is in the left factor.
    ///
    /// # Safety
    /// The tables have an entry for it.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub unsafe fn first_row(&self, tile: usize) -> *const f32 {
        // SAFETY: as promised by the caller.
        self.left.wrapping_offset(unsafe { self.row_offset(tile * self.tile_step) })
    }

    /// Where a row of a tile is in the result.
    ///
    /// # Safety
    /// The tables have entries for the row.
    #[inline(always)]
    pub unsafe fn result_row(&self, tile: usize, row: usize) -> *mut f32 {
        // SAFETY: as promised by the caller.
        self.result.wrapping_offset(unsafe { *self.result_rows.add(tile * self.tile_step + row) } as isize)
    }

    unsafe fn row_offset(&self, at: usize) -> isize {
        // SAFETY: as promised by the caller.
        unsafe { *self.left_rows.add(at) as isize }
    }

    /// Addresses of the rows in a segment that has its own offsets.
    #[inline(always)]
    unsafe fn rows_of<const ROWS: usize, const APART: usize>(
        &self,
        at: usize,
        segment: &Segment,
    ) -> [*const f32; ROWS] {
        // Absent rows advance like the others, from that end of the zeros from which they stay inside.
        let zeros = ZEROS.as_ptr().wrapping_offset((segment.depth as isize - 1) * (-self.left_step).max(0));
        let left = self.left.wrapping_offset(segment.left as isize);
        // SAFETY: as promised by the caller.
        std::array::from_fn(|r| match unsafe { self.row_offset(at * self.left_rows_step + APART * r) } {
            offset if offset == ABSENT as isize => zeros,
            offset => left.wrapping_offset(offset),
        })
    }
}

/// A row-tile function and its largest tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowKernel {
    /// Most rows of a tile.
    pub rows: usize,
    /// Most columns of a tile.
    pub columns: usize,
    /// Columns of a vector.
    pub lanes: usize,
    /// Depths that a vector has beside each other: so many neighbours along a run are one of the left factor, and the
    /// right one has all of them for every column, in the order of [`lane_loops`](Self::lane_loops).
    pub depths: usize,
    /// Rows of a tile come in groups of so many that are neighbours in the left factor. Where they fill a vector, that
    /// is read past a group's last row where it is absent from the result.
    pub neighbours: usize,
    /// How the rows of a tile slide, if they must.
    pub slide: Option<Slide>,
    /// Computes a tile.
    ///
    /// # Safety
    /// The tile's tables, factors and result are valid for its extents, and the processor has the instruction set.
    pub run: unsafe fn(&RowTile),
}

/// Floats of 128 bits, in which the lanes of different vectors meet.
const QUARTER: usize = 4;

impl RowKernel {
    /// Whether vectors are of neighbouring rows: else they are of columns.
    pub fn has_vectors_of_rows(&self) -> bool {
        self.neighbours == self.lanes
    }

    /// Loops over the columns in the order in which a right factor with several depths beside each other has them:
    /// their trips, and columns from one to the next.
    pub fn lane_loops(&self) -> [(usize, usize); 4] {
        let (vectors, in_quarter) = (self.columns / self.lanes, QUARTER / self.depths);
        // So many vectors meet in one.
        let together = vectors.min(self.depths);
        let quarters = self.lanes / in_quarter;
        let columns = quarters * together * in_quarter;
        let quarter = together * in_quarter;
        [(self.columns / columns, columns), (together, in_quarter), (quarters, quarter), (in_quarter, 1)]
    }
}

/// The row kernel for a product of `columns` columns.
pub(crate) fn row_kernel(isa: VectorIsa, columns: usize, lanewise: bool) -> RowKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 => rows_avx2::kernel(columns, lanewise),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 | VectorIsa::Amx => match assembled_rows_avx512::kernel(columns) {
            Some(kernel) if !lanewise => kernel,
            _ => rows_avx512::kernel(columns, lanewise),
        },
        _ => rows_portable::kernel(lanewise),
    }
}

/// The row kernels for a product of so few columns that have several depths beside each other.
pub(crate) fn kernels_of_depths(isa: VectorIsa, columns: usize) -> Vec<RowKernel> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 | VectorIsa::Amx => assembled_rows_avx512::kernels_of_depths(columns),
        _ => vec![],
    }
}

/// The row kernel for a product of so few columns whose rows are neighbours.
pub(crate) fn kernel_of_neighbours(isa: VectorIsa, columns: usize) -> Option<RowKernel> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 | VectorIsa::Amx => assembled_rows_avx512::kernel_of_neighbours(columns),
        _ => None,
    }
}

/// The row kernel that reads vectors of neighbouring rows, for few columns.
pub(crate) fn neighbour_kernel(isa: VectorIsa) -> Option<RowKernel> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 | VectorIsa::Avx512 | VectorIsa::Amx => Some(neighbours_avx2::KERNEL),
        _ => None,
    }
}

/// The row kernel for lanewise products whose rows slide.
pub(crate) fn sliding_kernel(isa: VectorIsa, slide: Slide) -> Option<RowKernel> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 | VectorIsa::Avx512 | VectorIsa::Amx => sliding_avx2::kernel(slide),
        _ => None,
    }
}

/// Calls `compute` with the tile's rows, vectors and masking as constants; each list has the rows of tiles of so many
/// vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! dispatch_rows {
    ($tile:expr, $lanes:expr, $lanewise:ident, $($vectors:literal [$($rows:literal)+]),+) => {
        // SAFETY: as promised to the caller.
        unsafe {
            match ($tile.rows, $tile.columns.div_ceil($lanes), $tile.columns.is_multiple_of($lanes)) {
                $($(
                    ($rows, $vectors, true) => compute::<$rows, $vectors, false, $lanewise>($tile),
                    ($rows, $vectors, false) => compute::<$rows, $vectors, true, $lanewise>($tile),
                )+)+
                _ => unreachable!("a tile is not larger than its kernel"),
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use dispatch_rows;
