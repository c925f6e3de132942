//! Where tiles had better read the factors of a product: in place or in panels, by shape and strides alone.

use super::blocking::{LARGE_FACTOR, LEAST_COLUMN_TILES, MOST_DEPTH};
use super::plan::ContractionPlan;
use crate::loops::Blocking;
use crate::microkernel::MicroKernel;

/// Tiles of rows up to which a factor is better read from panels that a loop keeps than in place, through strides
/// between depths along which the processor neither looks ahead nor has many places in the first-level cache.
const FEW_ROW_TILES: usize = 4;

/// Tiles of rows from which on packing a right factor that could be read in place pays.
const MANY_ROW_TILES: usize = 16;

/// The same where each vector of the right factor is a line of the cache, which holds no more than that in a panel
/// either.
const MANY_ROW_TILES_OF_LINES: usize = 40;

/// The same where these lines are whole pages apart.
const MANY_ROW_TILES_OF_PAGES: usize = 8;

/// Floats from one depth to the next from which on these are whole pages apart: each has a place of its own in the
/// table of pages, and few places in the caches.
const PAGES_APART: usize = 2048;

/// Tiles of columns from which on packing the left factor pays though it could be read in place.
const MANY_COLUMN_TILES: usize = 32;

/// Floats of a line of the cache.
const LINE: usize = 16;

/// Elements between rows or depths from which on these compete for places in the cache.
const FAR: usize = 512;

/// Elements between depths from which on even few tiles had better not read them in place. Below, that is no slower
/// than multiply-adds: the processor foresees the strides, and the second-level cache delivers a line in their time.
/// Where a vector of sums is a line, they take half of it: there it is [`FAR`].
const VERY_FAR: usize = 1024;

/// Floats of a part of a factor that stay in the first-level cache anyway.
pub(super) const LITTLE: usize = 1 << 12;

impl ContractionPlan {
    /// Whether tiles had better read the right factor from panels: where its columns are not contiguous, or do not fill
    /// vectors, they must.
    pub(super) fn packs_right(&self) -> bool {
        if self.kernel.along_depth {
            return !self.is_along_depth();
        }
        if self.multiplies_parts() {
            return true;
        }
        let Some((1, step)) = self.right.strides() else { return true };
        if !self.blocking.n.is_multiple_of(self.kernel.lanes) {
            return true;
        }
        let floats = self.k.min(MOST_DEPTH) * self.blocking.n;
        self.blocking.m >= self.many_row_tiles(step) * self.kernel.rows && floats > LITTLE
    }

    /// Tiles of rows from which on a right factor is packed whose depths are so far apart.
    fn many_row_tiles(&self, step: isize) -> usize {
        let of_lines = self.has_lines() && self.blocking.n.is_multiple_of(LINE);
        match of_lines {
            true if step.unsigned_abs() < PAGES_APART => MANY_ROW_TILES_OF_LINES,
            true => MANY_ROW_TILES_OF_PAGES,
            false => MANY_ROW_TILES,
        }
    }

    /// Whether panels of the right factor had better be packed once for the steps of a loop; what is read along the
    /// depth has none.
    pub(super) fn keeps_right(&self, packs_right: bool, room: usize) -> bool {
        let (Blocking { m, n, .. }, MicroKernel { rows, columns, .. }) = (self.blocking, self.kernel);
        let in_tiles = !self.by_library && !self.is_one_row() && !self.kernel.along_depth;
        let one_matrix = in_tiles && !self.turned && self.outer == 1 && self.right.guarded.is_empty();
        let pays = self.depth_parts == 1 && m <= FEW_ROW_TILES * rows && (packs_right || self.k * n > LITTLE);
        one_matrix && pays && self.kernel.panel_floats(n.next_multiple_of(columns), self.k) <= room
    }

    /// Whether tiles had better read the left factor from panels.
    pub(super) fn packs_left(&self) -> bool {
        if self.kernel.along_depth {
            return false;
        }
        if self.multiplies_parts() {
            return true;
        }
        let Some((row, step)) = self.left.strides() else { return true };
        let tiles = self.blocking.columns / self.kernel.columns;
        match step {
            1 => tiles >= MANY_COLUMN_TILES && row.unsigned_abs() >= FAR,
            _ if step.unsigned_abs() >= self.very_far() => tiles >= LEAST_COLUMN_TILES,
            _ => {
                let little = self.blocking.rows * self.k.min(MOST_DEPTH) <= LITTLE;
                tiles >= MANY_COLUMN_TILES && (!little || step.unsigned_abs() >= FAR)
            }
        }
    }

    /// Whether tiles had better bring in what those of the next columns read of a right factor in place: the processor does
    /// not foresee where the few lines begin that they read of each depth.
    pub(super) fn is_read_ahead(&self) -> bool {
        self.has_lines() && self.k.saturating_mul(self.blocking.n) > LARGE_FACTOR
    }

    /// Elements between depths of the left factor from which on few tiles had better not read them in place.
    fn very_far(&self) -> usize {
        if self.has_lines() { FAR } else { VERY_FAR }
    }

    /// Whether a vector of sums is a line of the cache.
    pub(super) fn has_lines(&self) -> bool {
        self.kernel.vector == LINE
    }
}
