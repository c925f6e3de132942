//! The tables of an executable that native code refers to by position.

use crate::host::HostKernel;

/// What kernels that leave native code need.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// Kernels run by the reference semantics of an op.
    pub hosts: Vec<HostKernel>,
}
