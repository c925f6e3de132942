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

/// Rows and depths of a strip: whole cache lines of the result and of the operand, few enough to stay in the
/// first-level cache however far apart they are. Where a matrix has fewer rows or depths, a strip has more of the others.
const STRIP_ROWS: usize = 64;
const STRIP_DEPTH: usize = 16;
const STRIP_ELEMENTS: usize = STRIP_ROWS * STRIP_DEPTH;

/// Fewest elements of a matrix for which a strip pays, and of a copy for which a call does: a loop nest has copied fewer
/// in a microsecond.
const FEWEST_OF_MATRIX: usize = 32;
const FEWEST_ELEMENTS: usize = 1 << 12;

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
    /// Rows and depths of a strip.
    strip: [usize; 2],
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
        if !load.axes.is_empty() || operands[access.operand] != DType::F32 {
            return None;
        }
        let mut others = merged(&kernel.space, &load.flat);
        let row = others.pop()?;
        let column = others.remove(others.iter().rposition(|other| other.step == 1)?);
        let matrices: usize = others.iter().map(|other| other.extent).product();
        let elements = row.extent * column.extent;
        let fills_squares = row.extent.max(column.extent) >= SQUARE && elements >= FEWEST_OF_MATRIX;
        let large = fills_squares && elements * matrices >= FEWEST_ELEMENTS;
        if !large || (0..=1).contains(&row.step) || matrices > MOST_MATRICES {
            return None;
        }
        let rows = (0..row.extent as i64).map(|i| i32::try_from(i * row.step).ok()).collect::<Option<Vec<i32>>>()?;
        Some(TranspositionPlan {
            operand: access.operand,
            to,
            rows,
            depth: column.extent,
            width: column.stride,
            matrices: matrices_at(load.flat.base as isize, &others),
            strip: strip_of(row.extent, column.extent),
            transpose: micro_kernel(isa, SQUARE, SQUARE).transpose,
        })
    }

    /// Strips of each matrix along its rows and along its depths.
    fn grid(&self) -> [usize; 2] {
        [self.rows.len().div_ceil(self.strip[0]), self.depth.div_ceil(self.strip[1])]
    }

    /// Strips of all matrices.
    fn strips(&self) -> usize {
        self.matrices.len() * self.grid().iter().product::<usize>()
    }

    /// Number of chunks, by shape alone.
    pub fn chunks(&self) -> usize {
        let elements = self.matrices.len() * self.rows.len() * self.depth;
        equal_shares((elements / CHUNK_ELEMENTS).clamp(1, self.strips().clamp(1, MOST_CHUNKS)))
    }

    /// Transposes a strip.
    ///
    /// # Safety
    /// The addresses are those of the kernel's operand and result.
    unsafe fn transpose_strip(&self, number: usize, from: *const f32, to: *mut f32) {
        let [down, across] = self.grid();
        let (source, target) = self.matrices[number / (down * across)];
        let first = number / across % down * self.strip[0];
        let depth = number % across * self.strip[1];
        let rows = &self.rows[first..self.rows.len().min(first + self.strip[0])];
        let strip = Strip {
            from: from.wrapping_offset(source + depth as isize),
            rows,
            depth: self.strip[1].min(self.depth - depth),
            to: to.wrapping_add(target + depth * self.width + first),
            width: self.width,
            room: rows.len(),
        };
        // SAFETY: rows and depths are those of a matrix; nothing is written beyond them.
        unsafe { (self.transpose)(&strip) };
    }
}

/// A loop of a copy: its trips, and from one to the next in the operand and in the result, in elements.
#[derive(Clone, Copy, Debug)]
struct Loop {
    extent: usize,
    step: i64,
    stride: usize,
}

/// The loops of a copy into a row-major result, neighbours as one where the operand is read as by one.
fn merged(space: &[usize], flat: &Affine) -> Vec<Loop> {
    let mut loops: Vec<Loop> = vec![];
    let strides = row_major_strides(space);
    for d in (0..space.len()).filter(|&d| space[d] != 1) {
        let (extent, step) = (space[d], flat.coeffs[d]);
        match loops.last_mut() {
            Some(outer) if outer.step == step * extent as i64 => {
                *outer = Loop { extent: outer.extent * extent, step, stride: strides[d] };
            }
            _ => loops.push(Loop { extent, step, stride: strides[d] }),
        }
    }
    loops
}

/// Rows and depths of the strips of a matrix.
fn strip_of(rows: usize, depth: usize) -> [usize; 2] {
    let most = |least: usize, other: usize| least.max(STRIP_ELEMENTS / other / least * least);
    [most(STRIP_ROWS, depth.max(SQUARE)), most(STRIP_DEPTH, rows)]
}

/// Where the matrix begins in the operand and in the result for all trips of the loops around.
fn matrices_at(base: isize, around: &[Loop]) -> Vec<(isize, usize)> {
    let mut places = vec![(base, 0)];
    for &Loop { extent, step, stride } in around {
        let at =
            |(from, to): (isize, usize)| (0..extent).map(move |i| (from + i as isize * step as isize, to + i * stride));
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
        let size = plan.strips().div_ceil(plan.chunks());
        for strip in chunk * size..plan.strips().min((chunk + 1) * size) {
            plan.transpose_strip(strip, from, to);
        }
    }
}
