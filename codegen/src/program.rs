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
    /// Work space for sums that cannot stand where the result will, bytes.
    pub sums_bytes: usize,
    /// Work space of one thread, bytes.
    pub thread_bytes: usize,
}

/// A contraction and which of its kernel's arguments the sums go to.
#[derive(Debug)]
pub(crate) struct PlacedContraction {
    /// How it is computed.
    pub plan: ContractionPlan,
    /// Position of the result's address among the arguments.
    pub result: usize,
}
