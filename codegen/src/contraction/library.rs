//! Products by the `gemm` crate, and when it is faster than gradc's own kernels.

use super::plan::{Block, ContractionPlan};
use crate::backend::Library;
use crate::loops::Blocking;

// What products take that micro-kernels do not serve, in ns, measured on Zen 3 (`--bench contractions -- narrow` has
// them). Micro-kernels themselves are at least as fast as the library wherever they serve: `-- layers` and `-- squares`.

/// A product of two floats in a loop nest that finds both factors side by side along the depth, and in one that does not.
const LOOP_PRODUCT_NS: f64 = 0.14;
const STRIDED_LOOP_PRODUCT_NS: f64 = 0.43;

/// A call of the library, whose code and work space no neighbour has left in the cache (0.4 µs where calls follow each
/// other), a product of two floats in vectors, and a float of either factor that it packs. That is its speed in a build
/// whose crates are compiled apart, where it is half as fast as in one that is linked as a whole.
const CALL_NS: f64 = 1000.0;
const LIBRARY_PRODUCT_NS: f64 = 0.051;
const LIBRARY_PACK_NS: f64 = 0.11;

/// Rows and columns that the library computes at least, whatever vectors gradc's kernels have.
const LEAST_ROWS: usize = 4;
const LEAST_COLUMNS: usize = 8;

impl ContractionPlan {
    /// Whether the library should compute this product. Where it has to be faster that is instead of loops alone:
    /// `served` says that gradc's micro-kernels or kernels for vectors are there.
    pub(super) fn wants_library(&self, library: Library, served: bool) -> bool {
        let able = self.matrices().is_some();
        match library {
            Library::Never => false,
            Library::WherePossible => able,
            Library::WhereFaster => !served && able && self.library_ns() < self.loops_ns(),
        }
    }

    /// Strides of both factors when the library can read them.
    fn matrices(&self) -> Option<[(isize, isize); 2]> {
        let strides = [self.left.strides()?, self.right.strides()?];
        strides.iter().all(|&(free, depth)| free >= 0 && depth >= 0).then_some(strides)
    }

    fn loops_ns(&self) -> f64 {
        let Blocking { m, n, .. } = self.blocking;
        let side_by_side = [&self.left, &self.right].iter().all(|factor| factor.depth_step == Some(1));
        let product_ns = if side_by_side { LOOP_PRODUCT_NS } else { STRIDED_LOOP_PRODUCT_NS };
        self.outer as f64 * (m * n * self.k) as f64 * product_ns
    }

    fn library_ns(&self) -> f64 {
        let Blocking { m, n, .. } = self.blocking;
        let products = m.next_multiple_of(LEAST_ROWS) * n.next_multiple_of(LEAST_COLUMNS) * self.k;
        let packed = (m + n) * self.k;
        let work_ns = products as f64 * LIBRARY_PRODUCT_NS + packed as f64 * LIBRARY_PACK_NS;
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
