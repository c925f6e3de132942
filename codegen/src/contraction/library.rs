//! Products by the `gemm` crate, and when it is faster than gradc's own kernels.

use super::blocking::parts;
use super::plan::{Block, ContractionPlan};
use crate::backend::Library;
use crate::loops::Blocking;

// What work takes, in ns, on a core of 110 GFLOP/s; measured on Zen 3 with `--bench contractions`. Only their ratios count.

/// A product of two vectors' lanes by either: 96 % of the peak.
const PRODUCT_NS: f64 = 0.019;

/// A product in a loop nest.
const LOOP_PRODUCT_NS: f64 = 0.15;

/// A call of one of gradc's tiles.
const TILE_NS: f64 = 8.0;

/// A float packed by gradc, copied or transposed.
const COPY_NS: f64 = 0.15;
const TRANSPOSE_NS: f64 = 0.3;

/// A call of the library, and a float of either factor that it packs.
const CALL_NS: f64 = 130.0;
const LIBRARY_PACK_NS: f64 = 0.25;

/// A float of the matrix that the library multiplies with a single row or column.
const VECTOR_FLOAT_NS: f64 = 0.07;

/// Rows whose sums hide the latency of multiply-adds.
const LATENCY_ROWS: usize = 4;

impl ContractionPlan {
    /// Whether the library should compute this product rather than micro-kernels, or than loops if those do not `pay`.
    /// It reads a matrix that meets a vector no faster than the kernels for that.
    pub(super) fn wants_library(&self, library: Library, pays: bool, by_vectors: bool) -> bool {
        let able = self.matrices().is_some();
        match library {
            Library::Never => false,
            Library::WherePossible => able,
            Library::WhereFaster => {
                !by_vectors && able && self.library_ns() < if pays { self.tiles_ns() } else { self.loops_ns() }
            }
        }
    }

    /// Strides of both factors when the library can read them.
    fn matrices(&self) -> Option<[(isize, isize); 2]> {
        let strides = [self.left.strides()?, self.right.strides()?];
        strides.iter().all(|&(free, depth)| free >= 0 && depth >= 0).then_some(strides)
    }

    fn loops_ns(&self) -> f64 {
        let Blocking { m, n, .. } = self.blocking;
        self.outer as f64 * (m * n * self.k) as f64 * LOOP_PRODUCT_NS
    }

    fn tiles_ns(&self) -> f64 {
        let (Blocking { m, n, .. }, kernel) = (self.blocking, &self.kernel);
        let tiles = m.div_ceil(kernel.rows) * n.div_ceil(kernel.columns);
        let rows: usize = parts(0..m, m.div_ceil(kernel.rows)).map(|tile| tile.len().max(LATENCY_ROWS)).sum();
        let products = rows * n.next_multiple_of(kernel.lanes) * self.k;
        let packed = |packs: bool, floats: usize, contiguous: bool| match (packs, contiguous) {
            (false, _) => 0.0,
            (true, true) => floats as f64 * COPY_NS,
            (true, false) => floats as f64 * TRANSPOSE_NS,
        };
        let packing = packed(self.packs_left(), m * self.k, self.left.free_step == Some(1))
            + packed(self.packs_right(), n * self.k, self.right.free_step == Some(1));
        self.outer as f64 * (tiles as f64 * TILE_NS + products as f64 * PRODUCT_NS + packing)
    }

    fn library_ns(&self) -> f64 {
        let Blocking { m, n, .. } = self.blocking;
        let products = m.next_multiple_of(LATENCY_ROWS) * n.next_multiple_of(self.kernel.lanes) * self.k;
        let packing = ((m + n) * self.k) as f64 * LIBRARY_PACK_NS;
        let work_ns = match m.min(n) {
            1 => (m * n * self.k) as f64 * VECTOR_FLOAT_NS,
            _ => products as f64 * PRODUCT_NS + packing,
        };
        self.outer as f64 * (CALL_NS + work_ns)
    }

    /// Computes a block of sums by the library; `origin` is where row 0 and column 0 of the product would be.
    ///
    /// # Safety
    /// `factors` are the aligned operands of the plan, whose factors are matrices, and the block's sums are behind `origin`.
    pub(super) unsafe fn multiply_by_library(
        &self,
        factors: [*const f32; 2],
        block: &Block,
        origin: *mut f32,
        row_stride: usize,
    ) {
        let [(left_row, left_step), (right_column, right_step)] = self.matrices().expect("the library was chosen");
        let left = self.left.first(factors[0], block.outer, block.rows.start, 0);
        let right = self.right.first(factors[1], block.outer, block.columns.start, 0);
        let sums = origin.wrapping_add(block.rows.start * row_stride + block.columns.start);
        let (m, n, replace) = (block.rows.len(), block.columns.len(), false);
        // SAFETY: rows, columns and depths are those of the block, for which the caller vouches.
        unsafe {
            gemm::gemm(
                m,
                n,
                self.k,
                sums,
                1,
                row_stride as isize,
                replace,
                left,
                left_step,
                left_row,
                right,
                right_column,
                right_step,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}
