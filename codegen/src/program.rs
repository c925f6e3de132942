//! The tables of an executable that native code refers to by position.

use crate::contraction::ContractionPlan;
use crate::host::HostKernel;

/// What kernels that leave native code need.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// Kernels run by the reference semantics of an op.
    pub hosts: Vec<HostKernel>,
    /// Contractions computed by micro-kernels.
    pub contractions: Vec<PlacedContraction>,
    /// Work space that all threads share, bytes.
    pub shared_bytes: usize,
    /// Work space of one thread, bytes.
    pub thread_bytes: usize,
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
}
