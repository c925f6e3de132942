//! The tables of an executable that native code refers to by position.

use crate::contraction::ContractionPlan;
use crate::indirect::IndirectPlan;
use crate::lines::LinesPlan;
use crate::transposition::TranspositionPlan;

/// What kernels that leave native code need.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// Contractions computed by micro-kernels.
    pub contractions: Vec<PlacedContraction>,
    /// Contractions computed by row tiles.
    pub indirect: Vec<PlacedIndirect>,
    /// Copies that transpose.
    pub transpositions: Vec<TranspositionPlan>,
    /// Work along lines.
    pub lines: Vec<LinesPlan>,
    /// For panels that loops keep, bytes.
    pub kept_bytes: usize,
    /// Work space of the first thread, with what a kernel shares with all threads before it, bytes.
    pub first_thread_bytes: usize,
    /// Work space of each other thread, bytes.
    pub thread_bytes: usize,
    /// Whether threads work on blocks, each of them as if it were alone: with shared work space of its own.
    pub has_blocks: bool,
}

impl Program {
    /// Makes room for a kernel that shares so many bytes between threads and has so many for each.
    pub fn reserve(&mut self, shared_bytes: usize, thread_bytes: usize) {
        self.first_thread_bytes = self.first_thread_bytes.max(shared_bytes + thread_bytes);
        self.thread_bytes = self.thread_bytes.max(thread_bytes);
    }

    /// Bytes of work space with so many threads, behind what loops keep.
    pub fn work_space_bytes(&self, threads: usize) -> usize {
        self.work_space_at(threads, 0)
    }

    /// Where the work space of a thread begins in a kernel that shares so many bytes: only the first thread's is behind
    /// these, so that kernels that share nothing use the same bytes for it.
    pub fn work_space_at(&self, thread: usize, shared_bytes: usize) -> usize {
        let stride_bytes = if self.has_blocks { self.first_thread_bytes } else { self.thread_bytes };
        thread.checked_sub(1).map_or(shared_bytes, |before| self.first_thread_bytes + before * stride_bytes)
    }
}

/// A contraction and where its sums go.
#[derive(Debug)]
pub(crate) struct PlacedContraction {
    /// How it is computed.
    pub plan: ContractionPlan,
    /// The kernel that is run on each block of sums; without one, the sums are the result.
    pub epilogue: Option<usize>,
    /// Position of the first result's address among the arguments.
    pub result: usize,
    /// Position of the address of what is added to the sums as they are stored, if anything is.
    pub added: Option<usize>,
    /// Where its panels are among those that loops keep, if they are, bytes.
    pub kept_at: usize,
    /// Work space that threads share, bytes.
    pub shared_bytes: usize,
}

/// A contraction by row tiles and where its sums go.
#[derive(Debug)]
pub(crate) struct PlacedIndirect {
    /// How it is computed.
    pub plan: IndirectPlan,
    /// The operand that a copy in the shared work space stands for, and where that is, in floats.
    pub copy: Option<(usize, usize)>,
    /// Where its sums go.
    pub sums: Sums,
    /// Work space that threads share, bytes.
    pub shared_bytes: usize,
}

/// Where the sums of a contraction by row tiles go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sums {
    /// To the result whose address is at this position among the arguments.
    Result(usize),
    /// To the shared work space.
    Shared,
    /// One product after the other to the thread's work space, where this kernel reads them.
    Epilogue(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_space_of_threads_does_not_meet_what_they_share_nor_each_others() {
        let mut program = Program::default();
        program.reserve(100, 20);
        program.reserve(0, 110);
        // Of the first kernel, in which threads share 100 bytes, and of the second.
        assert_eq!([0, 1, 2].map(|thread| program.work_space_at(thread, 100)), [100, 120, 230]);
        assert_eq!([0, 1, 2].map(|thread| program.work_space_at(thread, 0)), [0, 120, 230]);
        assert_eq!([1, 2].map(|threads| program.work_space_bytes(threads)), [120, 230]);
        // Threads that work on blocks share nothing with others.
        program.has_blocks = true;
        assert_eq!([1, 2, 3].map(|threads| program.work_space_bytes(threads)), [120, 240, 360]);
    }
}
