//! Kernels: what one native function computes, after fusion.

use crate::graph::Value;
use crate::lower::{Body, Combine, Contraction, ScalarId, Scatter};
use crate::ops::Op;

/// One native function: what it computes, what it reads and what it makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// What it computes.
    pub kind: KernelKind,
    /// Values read; accesses refer to them by position.
    pub operands: Vec<Value>,
    /// Values made, each dense and row-major.
    pub results: Vec<Value>,
}

/// The forms of kernel that code generation knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KernelKind {
    /// A fused loop nest, with or without an accumulation.
    Loops(LoopKernel),
    /// An update of computed places in a copy of operand 0.
    Scatter(Scatter),
    /// The reference semantics of an op, called from native code.
    Host(Op),
}

/// A loop over `space`: accumulate, then run `body` and store.
///
/// ```text
/// for i in space (row-major):
///     Accumulated = accumulate(i)
///     (s0, s1, …) = body(i)
///     result k [i] = stores[k]
/// ```
///
/// Points are independent: a result may share its buffer with an operand that is only read at the point itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopKernel {
    /// Extents of every result (a result's own shape may be coarser, never of another row-major order).
    pub space: Vec<usize>,
    /// What is accumulated per point, if anything.
    pub accumulate: Option<Accumulate>,
    /// Scalar code per point; its accesses use the loop indices of `space` only.
    pub body: Body,
    /// One scalar of `body` per result.
    pub stores: Vec<ScalarId>,
}

/// An accumulation per point of a space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Accumulate {
    /// Combines `body` over `extents`; loop indices are those of the space followed by those of `extents`.
    Reduce {
        /// Extents reduced over.
        extents: Vec<usize>,
        /// How values meet.
        combine: Combine,
        /// Scalar code per point and reduced index.
        body: Body,
        /// The scalar that is combined.
        value: ScalarId,
    },
    /// A sum of products; its `space` equals the kernel's.
    Contract(Contraction),
}
