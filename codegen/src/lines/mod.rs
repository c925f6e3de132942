//! Work along the lines of an axis: what becomes of an element depends on the others of its line.

mod sort;
mod sums;

use crate::chunks::equal_shares;
use crate::runtime::StepContext;
use gradc_ir::lower::{LineWork, Lines};
use gradc_ir::types::DType;
use std::ops::Range;

/// Elements of a chunk that are put in order, at least: about 10 µs of work.
const CHUNK_SORTED: usize = 1 << 11;

/// The same of elements that are added.
const CHUNK_ADDED: usize = 1 << 14;

/// Most chunks.
const MOST_CHUNKS: usize = 32;

/// How the lines of a kernel are worked on.
#[derive(Debug)]
pub(crate) struct LinesPlan {
    /// How many lines there are.
    lines: usize,
    /// Elements of a line.
    extent: usize,
    /// From one element of a line to the next.
    inner: usize,
    work: LineWork,
    dtype: DType,
    run: Run,
}

/// Works on some lines, given the addresses of operand and results and a work space.
type Run = unsafe fn(&LinesPlan, Range<usize>, &[*mut u8], *mut u8);

impl LinesPlan {
    /// Plans work on lines of a dtype that native code computes in.
    pub fn new(Lines { shape, axis, work }: &Lines, dtype: DType) -> LinesPlan {
        let run = match work {
            LineWork::Sort { .. } => sort::of(dtype),
            LineWork::CumulativeSum { .. } => sums::of(dtype),
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let lines = shape[..*axis].iter().product::<usize>() * inner;
        LinesPlan { lines, extent: shape[*axis], inner, work: *work, dtype, run }
    }

    /// Number of chunks, by shape alone.
    pub fn chunks(&self) -> usize {
        let of_chunk = match self.work {
            LineWork::Sort { .. } => CHUNK_SORTED,
            LineWork::CumulativeSum { .. } => CHUNK_ADDED,
        };
        let wanted = (self.lines * self.extent / of_chunk).clamp(1, MOST_CHUNKS);
        equal_shares(wanted.min(self.lines.max(1)))
    }

    /// Bytes that a thread needs as work space.
    pub fn scratch_bytes(&self) -> usize {
        match self.work {
            LineWork::Sort { .. } => self.extent * sort::bytes_of_key(self.dtype),
            LineWork::CumulativeSum { .. } => 0,
        }
    }

    /// Where a line begins in a tensor whose lines have so many elements.
    fn start(&self, line: usize, extent: usize) -> usize {
        line / self.inner * extent * self.inner + line % self.inner
    }

    /// The addresses a kernel is called with: one operand and its results.
    fn addresses(&self) -> usize {
        match self.work {
            LineWork::Sort { .. } => 3,
            LineWork::CumulativeSum { .. } => 2,
        }
    }
}

/// Works on one chunk of the lines with this position in the program; see [`Function`](crate::runtime::Function).
///
/// # Safety
/// Called by native code with its own context and the addresses of the kernel's operand and results.
pub(crate) unsafe extern "C" fn work_on_lines(
    context: *const StepContext,
    lines: usize,
    arguments: *const *mut u8,
    chunk: usize,
) {
    // SAFETY: the context and all behind it outlive the call, and a thread has the work space that was asked for; chunks
    // write different lines.
    unsafe {
        let context = &*context;
        let plan = &(&(*context.program).lines)[lines];
        let at = |chunk: usize| plan.lines * chunk / plan.chunks();
        let arguments = std::slice::from_raw_parts(arguments, plan.addresses());
        (plan.run)(plan, at(chunk)..at(chunk + 1), arguments, context.scratch_of_thread(0));
    }
}
