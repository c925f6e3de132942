//! Products of one row: a vector times a matrix.
//!
//! Each float of the matrix is multiplied once, so it is read where it is, in the order in which it is stored: rows of it
//! are added up where columns of the result are neighbours in it (`x·W`), else each meets the vector (`x·Wᵀ = (W·xᵀ)ᵀ`).

use super::plan::ContractionPlan;
use crate::loops::Blocking;
use crate::microkernel::{MicroKernel, vector_kernels};

/// Fewest columns, and fewest multiplications, for which a call pays.
const FEWEST_COLUMNS: usize = 8;
const FEWEST_PRODUCTS: usize = 512;

impl ContractionPlan {
    /// The kernel for a product of one row, and whether its columns are then rows; `None` where there is none for it.
    pub(super) fn vector_kernel(&self) -> Option<(MicroKernel, bool)> {
        let Blocking { m, n, .. } = self.blocking;
        if m != 1 || n < FEWEST_COLUMNS || n.saturating_mul(self.k) < FEWEST_PRODUCTS {
            return None;
        }
        let [row, column] = vector_kernels(self.isa)?;
        match (self.left.strides()?, self.right.strides()?) {
            (_, (1, _)) => Some((row, false)),
            ((_, 1), (_, 1)) => Some((column, true)),
            _ => None,
        }
    }

    /// Has the product computed by a kernel for vectors.
    pub(super) fn compute_by(&mut self, (kernel, turned): (MicroKernel, bool)) {
        self.kernel = kernel;
        // There are no tiles that could be left out.
        self.bounds = None;
        if turned {
            self.turn();
        }
    }

    /// Whether one of the factors is a vector.
    pub(super) fn is_one_row(&self) -> bool {
        self.blocking.m == 1 || self.is_one_column()
    }

    /// Whether rows of a matrix meet a vector.
    pub(super) fn is_one_column(&self) -> bool {
        self.turned && self.blocking.n == 1
    }
}
