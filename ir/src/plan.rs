//! Schedule and memory plan: in which order kernels run and in which bytes their values live.

use crate::graph::{Graph, NodeId, Value};
use crate::layout::Layouts;
use std::collections::BTreeMap;

/// Nodes computed by one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The nodes, ascending.
    pub nodes: Vec<NodeId>,
    /// The values that leave the group, ascending; all others exist only inside the kernel.
    pub stored: Vec<Value>,
}

/// One thing a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the kernel of a group.
    Run(Group),
    /// Leave with a failure unless every element of the value is finite; comes before every update.
    CheckFinite(Value),
}

/// The order of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The graph scheduled.
    pub graph: Graph,
    /// How values are stored.
    pub layouts: Layouts,
    /// What is done, in order.
    pub actions: Vec<Action>,
}

/// A block of memory the step works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Intermediate values; contents mean nothing between calls, except results until the next call.
    Arena,
    /// Parameters, buffers and state, shared by all entries.
    Persistent,
    /// Constants of the model, shared by all entries.
    Constants,
    /// The host's memory behind the data input or hyperparameter with this position among them.
    Host(u32),
}

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which block.
    pub segment: Segment,
    /// Offset of the first byte, a multiple of [`ALIGNMENT_BYTES`] except for host memory, where it is 0.
    pub offset_bytes: usize,
}

/// Alignment of every buffer in a segment.
pub const ALIGNMENT_BYTES: usize = 64;

/// A schedule with a place for every stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The order.
    pub schedule: Schedule,
    /// Where each input and each stored value lives. Values may share a place: aliases, and in-place updates.
    pub places: BTreeMap<Value, Place>,
    /// Values written elsewhere that replace a persistent tensor when the step is over: (from, to, size in bytes).
    pub commits: Vec<(Place, Place, usize)>,
    /// Size of the arena.
    pub arena_bytes: usize,
}
