//! Products of floats as sums of products of their parts: where that takes less time, and how panels of parts are packed.

use super::blocking::MOST_DEPTH_OF_PARTS;
use super::factor::{Factor, Offsets};
use super::pack::pack;
use super::plan::ContractionPlan;
use crate::loops::Blocking;
use crate::microkernel::{MicroKernel, SQUARE, Side, Square, parts_kernel};
use std::ops::Range;

/// Rows and columns from which on a product may be one of parts. Of 64 each float is split for so few products that steps
/// of models took as long as with floats or longer.
const LEAST_EXTENT: usize = 128;

/// The same of the depth, whatever of it bands leave: with them sums have the bits that they have without.
const LEAST_DEPTH: usize = 32;

/// Floats of a line of the cache.
const LINE_FLOATS: usize = 16;

/// Floats that are so far apart that their lines meet in the first-level cache.
const PAGE_FLOATS: usize = 1024;

// What takes how long, in ns (measured on Sapphire Rapids).

/// The products of two squares, and of half a square and a whole one.
const SQUARES: f64 = 151.0;
const HALF_SQUARES: f64 = 84.0;

/// The sums of a tile, which are stored and added to: where few depths are multiplied they wait for the cache.
const SUMS: f64 = 150.0;

/// A product, whose tiles are configured.
const CALL: f64 = 400.0;

/// A float that is split and packed.
const SPLIT: f64 = 0.2;

/// A product of two floats by the micro-kernel for floats.
const FLOAT_PRODUCT: f64 = 0.0121;

impl ContractionPlan {
    /// Has parts of floats multiplied where that takes less time.
    pub(super) fn multiply_parts_if_it_pays(&mut self) {
        let Some(kernel) = parts_kernel(self.isa) else { return };
        let Blocking { m, n, .. } = self.blocking;
        let is_large = m.min(n) >= LEAST_EXTENT && self.k >= LEAST_DEPTH;
        let has_guards = [&self.left, &self.right].iter().any(|factor| !factor.guarded.is_empty());
        if is_large && !has_guards && !self.kernel.along_depth && self.parts_ns() < self.floats_ns() {
            self.kernel = kernel;
        }
    }

    /// Whether parts of floats are multiplied.
    pub fn multiplies_parts(&self) -> bool {
        self.kernel.split.is_some()
    }

    /// Whether sums had better be made in work space and stored from there: where rows of the result do not begin with a line
    /// of the cache, so that each row of a tile is in one line more, or where all rows of a tile meet in the same few lines of
    /// the first-level cache.
    pub fn sums_apart(&self) -> bool {
        let row = self.result_row;
        self.multiplies_parts() && (!row.is_multiple_of(LINE_FLOATS) || row.is_multiple_of(PAGE_FLOATS))
    }

    fn parts_ns(&self) -> f64 {
        let Blocking { m, n, .. } = self.blocking;
        let [rows, columns, depths] = [m, n, self.k].map(|extent| extent.div_ceil(SQUARE) as f64);
        let has_half = |extent: usize| f64::from(u8::from((1..=SQUARE / 2).contains(&(extent % SQUARE))));
        let halves = (rows * has_half(n) + columns * has_half(m)).min(rows * columns);
        let products = depths * (rows * columns * SQUARES - halves * (SQUARES - HALF_SQUARES));
        let sums = rows * columns * self.k.div_ceil(MOST_DEPTH_OF_PARTS) as f64 * SUMS;
        CALL + products + sums + SPLIT * ((m + n) * self.k) as f64
    }

    fn floats_ns(&self) -> f64 {
        let Blocking { m, n, .. } = self.blocking;
        (m * n * self.k) as f64 * FLOAT_PRODUCT
    }
}

/// A factor that is packed in panels of parts.
#[derive(Clone, Copy)]
pub(super) struct Splitting<'a> {
    pub factor: &'a Factor,
    pub side: Side,
    pub kernel: &'a MicroKernel,
    pub outer: usize,
}

impl Splitting<'_> {
    /// As [`pack`], splitting each float into its parts.
    ///
    /// # Safety
    /// As for [`pack`]; `to` is aligned to 64 bytes.
    pub unsafe fn pack(
        &self,
        tiles: impl Iterator<Item = Range<usize>> + Clone,
        depth: Range<usize>,
        from: *const f32,
        to: *mut f32,
    ) {
        let [square, panel] = [SQUARE, depth.len()].map(|depth| self.kernel.panel_floats(SQUARE, depth));
        let squares = depth.clone().step_by(SQUARE).map(|first| first..depth.end.min(first + SQUARE)).enumerate();
        // SAFETY: as promised by the caller; panels have whole squares.
        let pack = |(tile, free): (usize, Range<usize>), (at, depths): (usize, Range<usize>)| unsafe {
            self.pack_square(free, depths, from, to.wrapping_add(tile * panel + at * square));
        };
        // Along what follows each other in memory first.
        match self.factor.free_runs {
            Some(_) => squares.for_each(|square| tiles.clone().enumerate().for_each(|tile| pack(tile, square.clone()))),
            None => tiles.enumerate().for_each(|tile| squares.clone().for_each(|square| pack(tile.clone(), square))),
        }
    }

    /// # Safety
    /// As for [`pack`](Self::pack), of one square.
    unsafe fn pack_square(&self, free: Range<usize>, depths: Range<usize>, from: *const f32, to: *mut f32) {
        let Offsets { free: of_free, depth: of_depth, .. } = &self.factor.flat;
        let split = self.kernel.split.expect("panels hold parts");
        let (in_free, in_depth) =
            (is_in_a_run(&self.factor.free_runs, &free), is_in_a_run(&self.factor.depth_runs, &depths));
        let (lines, first, count, lines_are_depths) = match (in_free, in_depth) {
            (true, _) => (&of_depth[depths], (free.start, 0), free.len(), true),
            (false, true) => (&of_free[free], (0, depths.start), depths.len(), false),
            // SAFETY: as promised by the caller.
            (false, false) => return unsafe { self.pack_scattered(free, depths, from, to) },
        };
        let from = self.factor.first(from, self.outer, first.0, first.1);
        // SAFETY: as promised by the caller; the floats of a line follow each other.
        unsafe { split(&Square { from, lines, count, lines_are_depths, side: self.side, to }) };
    }

    /// Packs a square of floats first.
    ///
    /// # Safety
    /// As for [`pack_square`](Self::pack_square).
    unsafe fn pack_scattered(&self, free: Range<usize>, depths: Range<usize>, from: *const f32, to: *mut f32) {
        let mut floats = [0.0; SQUARE * SQUARE];
        let lines: [i32; SQUARE] = std::array::from_fn(|line| (line * SQUARE) as i32);
        let split = self.kernel.split.expect("panels hold parts");
        let (count, lines) = (free.len(), &lines[..depths.len()]);
        // SAFETY: as promised by the caller; the square has room for its floats.
        unsafe {
            let tile = std::iter::once(free);
            pack(self.factor, self.kernel, self.outer, tile, depths, from, (floats.as_mut_ptr(), SQUARE));
            split(&Square { from: floats.as_ptr(), lines, count, lines_are_depths: true, side: self.side, to });
        }
    }
}

/// Whether elements of a range follow each other, in runs that begin at these places.
fn is_in_a_run(starts: &Option<Vec<usize>>, range: &Range<usize>) -> bool {
    let Some(starts) = starts else { return false };
    let next = starts.partition_point(|&start| start <= range.start);
    range.end <= starts[next]
}
