//! Products whose rows are the columns of the result: `Yᵀ = W·Xᵀ` for `Y = X·Wᵀ`, and `dWᵀ = dYᵀ·X` for `dW = Xᵀ·dY`.
//!
//! Where a result has few columns and many rows, these fill vectors better. And depths of `W` follow each other in memory,
//! so as the right factor it has to be transposed into panels; as the left factor it is read where it is. Then `X` is
//! transposed instead, and the sums, which pays where there are fewer of both. Every element is the same sum either way.

use super::dots::TRANSPOSED;
use super::factor::Factor;
use super::layout::LITTLE;
use super::plan::{Block, ContractionPlan};
use crate::loops::{Blocking, EpiloguePlan};
use crate::microkernel::{MicroKernel, Strip, micro_kernel};

/// Fewest rows of a result that become columns: below, the right factor is read too rarely to be worth another look.
const FEWEST_ROWS: usize = 32;

/// What a transposed sum takes, in floats that are packed: it is written once more, and read.
const SUM_TURNED: usize = 2;

/// Rows of the result that are written together, from end to end: more may compete for the same places of the cache.
const TURNED_TOGETHER: usize = 8;

impl ContractionPlan {
    /// Makes the columns of the result the rows of the products where less has to be transposed that way.
    pub(super) fn turn_if_it_pays(&mut self, epilogue: Option<&EpiloguePlan>) {
        let divisible = epilogue.is_none_or(EpiloguePlan::has_divisible_columns);
        if self.by_library || self.turned || !divisible || !self.turning_pays() {
            return;
        }
        self.turn();
    }

    /// Whether tiles add something to their sums as they store these: one tile computes the whole of each sum, where it
    /// stays, and what is added is in the first-level cache; elsewhere it is better read in long runs.
    pub fn adds_as_it_stores(&self) -> bool {
        let Blocking { m, n, .. } = self.blocking;
        let one_depth = self.k <= self.most_depth() && self.bounds.is_none();
        let of_floats = !self.multiplies_parts();
        one_depth && of_floats && m * n <= LITTLE && !self.by_library && !self.is_one_row() && !self.turning_pays()
    }

    /// Makes the columns of the result the rows of the products.
    pub(super) fn turn(&mut self) {
        std::mem::swap(&mut self.left, &mut self.right);
        if let Some(bounds) = &mut self.bounds {
            bounds.turn();
        }
        let Blocking { m, n, .. } = self.blocking;
        self.blocking = Blocking { m: n, n: m, rows: n, columns: m };
        self.turned = true;
        if !self.kernel.along_depth {
            self.kernel = micro_kernel(self.isa, n, m);
        }
    }

    /// Parts of floats are packed from either order, and tiles of them are as wide as high.
    pub(super) fn turning_pays(&self) -> bool {
        !self.multiplies_parts() && (self.turning_saves_packing() || self.turning_fills_vectors())
    }

    fn turning_fills_vectors(&self) -> bool {
        let (Some((1, _)), Blocking { m, n, .. }) = (self.left.strides(), self.blocking) else { return false };
        let vectors = |columns: usize, kernel: MicroKernel| columns.div_ceil(kernel.vector) as f64;
        let [rows, columns, depth] = [m, n, self.k].map(|extent| extent as f64);
        let turned = columns * depth * vectors(m, micro_kernel(self.isa, n, m));
        let sums = SUM_TURNED as f64 * TRANSPOSED * rows * columns;
        turned + sums < rows * depth * vectors(n, self.kernel)
    }

    fn turning_saves_packing(&self) -> bool {
        let Blocking { m, n, .. } = self.blocking;
        let in_rows = |factor: &Factor| matches!(factor.strides(), Some((row, 1)) if row != 1);
        let wide_enough = m >= FEWEST_ROWS && n >= FEWEST_ROWS && !self.kernel.along_depth;
        let (rows, columns) = (self.k.saturating_mul(m), self.k.saturating_mul(n));
        let turned = rows.saturating_add(SUM_TURNED.saturating_mul(m.saturating_mul(n)));
        wide_enough && in_rows(&self.left) && in_rows(&self.right) && turned < columns
    }

    /// How the result is cut into blocks.
    pub fn result_blocking(&self) -> Blocking {
        let Blocking { m, n, rows, columns } = self.blocking;
        match self.turned {
            true => Blocking { m: n, n: m, rows: columns, columns: rows },
            false => self.blocking,
        }
    }

    /// The part of the result that a block of the products is.
    pub(super) fn result_block(&self, block: &Block) -> Block {
        let Block { outer, rows, columns } = block.clone();
        match self.turned {
            true => Block { outer, rows: columns, columns: rows },
            false => Block { outer, rows, columns },
        }
    }

    /// Where the rows of a block's sums begin, if they are to be turned.
    pub(super) fn rows_to_turn(&self) -> Vec<i32> {
        let rows = if self.turned { self.blocking.rows } else { 0 };
        (0..rows).map(|row| (row * self.blocking.row_stride()) as i32).collect()
    }

    /// Writes the sums of a block with rows as columns, `width` floats from one of the result's rows to the next.
    ///
    /// # Safety
    /// The sums of the block are behind `sums`, as far apart as in a whole block; `to` has room for them.
    pub(super) unsafe fn write_turned(&self, block: &Block, sums: *const f32, to: *mut f32, width: usize) {
        let (rows, depth) = (&self.row_offsets[..block.rows.len()], block.columns.len());
        for first in (0..depth).step_by(TURNED_TOGETHER) {
            let (from, to) = (sums.wrapping_add(first), to.wrapping_add(first * width));
            let strip = Strip { from, rows, depth: TURNED_TOGETHER.min(depth - first), to, width, room: rows.len() };
            // SAFETY: as promised by the caller.
            unsafe { (self.kernel.transpose)(&strip) };
        }
    }
}
