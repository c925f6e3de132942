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
    /// Work space that all threads share, bytes.
    pub shared_bytes: usize,
    /// Work space of one thread, bytes.
    pub thread_bytes: usize,
    /// Whether threads work on blocks, each of them as if it were alone: with shared work space of its own.
    pub has_blocks: bool,
}

impl Program {
    /// Bytes from the work space of one thread to that of the next.
    pub fn thread_stride_bytes(&self) -> usize {
        self.thread_bytes + if self.has_blocks { self.shared_bytes } else { 0 }
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
