//! Copies that transpose: what is innermost in the result is not innermost in the operand.

use crate::chunks::equal_shares;
use crate::loops::LoadPlan;
use crate::microkernel::{Strip, micro_kernel};
use crate::runtime::StepContext;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Affine, Scalar};
use gradc_ir::target::VectorIsa;
use gradc_ir::types::{DType, row_major_strides};

/// Rows and depths of the squares that are transposed in registers.
const SQUARE: usize = 8;

/// Rows and depths transposed at a time: whole cache lines of the result and of the operand, few enough to stay in the
/// first-level cache however far apart they are.
const ROWS_AT_A_TIME: usize = 64;
const DEPTHS_AT_A_TIME: usize = 16;

/// Elements of a chunk, at least: about 10 µs of work.
const CHUNK_ELEMENTS: usize = 1 << 15;

/// Most chunks.
const MOST_CHUNKS: usize = 32;

/// Most matrices of one copy, for which there are tables.
const MOST_MATRICES: usize = 1 << 16;

/// Where the transposes go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// To the result whose address is at this position among the arguments.
    Result(usize),
    /// To the shared work space, so many floats from its beginning.
    Shared(usize),
}

/// Matrices that become their transposes: rows of the operand, `depth` neighbours each, become columns of the result.
#[derive(Debug)]
pub(crate) struct TranspositionPlan {
    /// Which operand.
    operand: usize,
    to: Target,
    /// Where each row begins in a matrix of the operand, in elements.
    rows: Vec<i32>,
    depth: usize,
    /// From one column to the next in the result, in elements.
    width: usize,
    /// Where each matrix begins in the operand and in the result.
    matrices: Vec<(isize, usize)>,
    transpose: unsafe fn(&Strip),
}

impl TranspositionPlan {
    /// Plans a kernel that only copies f32, in another order; `None` where a loop nest serves as well.
    pub fn new(kernel: &LoopKernel, operands: &[DType], to: Target, isa: VectorIsa) -> Option<TranspositionPlan> {
        let ([(Scalar::Load(access), DType::F32)], [_], None) =
            (&kernel.body.scalars[..], &kernel.stores[..], &kernel.accumulate)
        else {
            return None;
        };
        let load = LoadPlan::new(access, &kernel.space);
        let (space, steps) = (&kernel.space, &load.flat.coeffs);
        let long: Vec<usize> = (0..space.len()).filter(|&d| space[d] >= SQUARE).collect();
        let (&row, others) = long.split_last()?;
        let innermost = space[row + 1..].iter().all(|&extent| extent == 1);
        let &column = others.iter().rev().find(|&&d| steps[d] == 1)?;
        let fits = innermost && space[row].is_multiple_of(SQUARE) && !(0..=1).contains(&steps[row]);
        let repeated: Vec<usize> = (0..space.len()).filter(|&d| d != row && d != column).collect();
        let matrices: usize = repeated.iter().map(|&d| space[d]).product();
        if !fits || !load.axes.is_empty() || operands[access.operand] != DType::F32 || matrices > MOST_MATRICES {
            return None;
        }
        let rows = (0..space[row] as i64).map(|i| i32::try_from(i * steps[row]).ok()).collect::<Option<Vec<i32>>>()?;
        let strides = row_major_strides(space);
        Some(TranspositionPlan {
            operand: access.operand,
            to,
            rows,
            depth: space[column],
            width: strides[column],
            matrices: matrices_at(space, &load.flat, &strides, &repeated),
            transpose: micro_kernel(isa, SQUARE, SQUARE).transpose,
        })
    }

    /// Pieces that a chunk may consist of: so many rows of a matrix.
    fn pieces(&self) -> usize {
        self.matrices.len() * self.rows.len().div_ceil(ROWS_AT_A_TIME)
    }

    /// Number of chunks, by shape alone.
    pub fn chunks(&self) -> usize {
        let elements = self.matrices.len() * self.rows.len() * self.depth;
        equal_shares((elements / CHUNK_ELEMENTS).clamp(1, self.pieces().clamp(1, MOST_CHUNKS)))
    }

    /// Transposes a piece.
    ///
    /// # Safety
    /// The addresses are those of the kernel's operand and result.
    unsafe fn transpose_piece(&self, piece: usize, from: *const f32, to: *mut f32) {
        let pieces_each = self.rows.len().div_ceil(ROWS_AT_A_TIME);
        let (source, target) = self.matrices[piece / pieces_each];
        let first = piece % pieces_each * ROWS_AT_A_TIME;
        let rows = &self.rows[first..self.rows.len().min(first + ROWS_AT_A_TIME)];
        for depth in (0..self.depth).step_by(DEPTHS_AT_A_TIME) {
            let strip = Strip {
                from: from.wrapping_offset(source + depth as isize),
                rows,
                depth: DEPTHS_AT_A_TIME.min(self.depth - depth),
                to: to.wrapping_add(target + depth * self.width + first),
                width: self.width,
                room: rows.len(),
            };
            // SAFETY: rows and depths are those of a matrix; rows come in whole squares, so that nothing is written
            // beyond them.
            unsafe { (self.transpose)(&strip) };
        }
    }
}

/// Where the matrix begins in the operand and in the result for all values of the loops `repeated`.
fn matrices_at(space: &[usize], flat: &Affine, strides: &[usize], repeated: &[usize]) -> Vec<(isize, usize)> {
    let mut places = vec![(flat.base as isize, 0)];
    for &d in repeated {
        let at = |(from, to): (isize, usize)| {
            (0..space[d]).map(move |i| (from + i as isize * flat.coeffs[d] as isize, to + i * strides[d]))
        };
        places = places.into_iter().flat_map(at).collect();
    }
    places
}

/// Transposes one chunk of the copy with this position in the program; see [`Function`](crate::runtime::Function).
///
/// # Safety
/// Called by native code with its own context and the addresses of the kernel's operands and result.
pub(crate) unsafe extern "C" fn transpose(
    context: *const StepContext,
    transposition: usize,
    arguments: *const *mut u8,
    chunk: usize,
) {
    // SAFETY: the context and all behind it outlive the call; chunks write different rows.
    unsafe {
        let context = &*context;
        let plan = &(&(*context.program).transpositions)[transposition];
        let from = (*arguments.add(plan.operand)).cast::<f32>();
        let to = match plan.to {
            Target::Result(at) => (*arguments.add(at)).cast::<f32>(),
            Target::Shared(first) => context.shared().add(first),
        };
        let size = plan.pieces().div_ceil(plan.chunks());
        for piece in chunk * size..plan.pieces().min((chunk + 1) * size) {
            plan.transpose_piece(piece, from, to);
        }
    }
}
