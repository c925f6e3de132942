//! Products of few rows or few columns, as sums of products of vectors along the depth: `X·Wᵀ` of a small batch, and layers
//! of few outputs.
//!
//! A factor whose depths follow each other in memory is not transposed then, and lanes are full however few columns there
//! are; but those of every element have to meet at last.

use super::plan::ContractionPlan;
use crate::loops::Blocking;
use crate::microkernel::{Strip, dot_kernel};
use std::ops::Range;

// What takes how long, in multiplications of two vectors by tiles (measured with AVX-512 and with AVX2).

/// A multiplication of two vectors along the depth.
const DOT: f64 = 1.25;

/// The lanes of an element that meet.
const MEETING: f64 = 4.0;

/// A float that is transposed.
pub(super) const TRANSPOSED: f64 = 0.85;

impl ContractionPlan {
    /// Has vectors read along the depth where that takes less time than tiles.
    pub(super) fn read_along_depth_if_it_pays(&mut self) {
        let Some((kernel, lanes)) = dot_kernel(self.isa) else { return };
        if !self.turning_pays() && self.reading_along_depth_pays(lanes as f64) {
            self.kernel = kernel;
        }
    }

    /// Whether both factors have their depths next to each other.
    pub(super) fn is_along_depth(&self) -> bool {
        [&self.left, &self.right].iter().all(|factor| matches!(factor.strides(), Some((_, 1))))
    }

    fn reading_along_depth_pays(&self, lanes: f64) -> bool {
        let (Some((_, 1)), Some(right)) = (self.left.strides(), self.right.strides()) else { return false };
        let Blocking { m, n, .. } = self.blocking;
        let [rows, columns, depth] = [m, n, self.k].map(|extent| extent as f64);
        let transposed = TRANSPOSED * columns * depth;
        let (for_dots, for_tiles) = match right {
            (_, 1) => (0.0, transposed),
            (1, _) => (transposed, 0.0),
            _ => return false,
        };
        let dots = rows * columns * (DOT * (depth / lanes).ceil() + MEETING) + for_dots;
        dots < depth * rows * (columns / lanes).ceil() + for_tiles
    }

    /// Writes columns of the right factor, which are neighbours in it, as rows of as many floats as there are depths.
    ///
    /// # Safety
    /// `from` is the factor's operand; `to` has room.
    pub(super) unsafe fn pack_along_depth(
        &self,
        (outer, columns): (usize, &Range<usize>),
        depth: &Range<usize>,
        (from, to): (*const f32, *mut f32),
    ) {
        let from = self.right.first(from, outer, columns.start, 0);
        let (rows, width) = (&self.right.flat.depth[depth.clone()], depth.len());
        // SAFETY: as promised by the caller.
        unsafe { (self.kernel.transpose)(&Strip { from, rows, depth: columns.len(), to, width, room: width }) };
    }
}
