//! Schedule and memory plan: in which order kernels run and in which bytes their values live.

use crate::band::LoopBand;
use crate::graph::{Graph, NodeId, Value};
use crate::layout::Layouts;
use std::collections::BTreeMap;

/// Nodes computed by one kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The nodes, ascending.
    pub nodes: Vec<NodeId>,
    /// The values that leave the group, ascending; all others exist only inside the kernel.
    pub stored: Vec<Value>,
    /// What the kernel does with each row, in order, where it is a [`RowKernel`](crate::kernel::RowKernel); each of these
    /// has no steps of its own, and the values that leave it are read by later ones or leave the group. Else empty.
    pub steps: Vec<Group>,
}

/// One thing a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the kernel of a group.
    Run(Group),
    /// Leave with a failure unless every element of the value is finite; comes before every update.
    CheckFinite(Value),
    /// Apply a region: run its bodies as often and under the condition it says.
    Region(RegionSchedule),
}

/// The order of the bodies of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSchedule {
    /// The node whose lowered form is the region.
    pub node: NodeId,
    /// One per body; their graphs are the region's [frames](crate::region::RegionForm::frames).
    pub bodies: Vec<Schedule>,
}

/// The order of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The graph scheduled.
    pub graph: Graph,
    /// How values are stored.
    pub layouts: Layouts,
    /// Bands between the loops of contractions, outside of which nothing need be computed.
    pub bands: BTreeMap<NodeId, Vec<LoopBand>>,
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
    /// In the body of a region: what its argument with this position is bound to. A carry's is its result's place, which
    /// the operand is copied to first; a slice's moves with the steps.
    Argument(u32),
    /// In the body of a region: the region's result with this position, a slice of it where the body makes slices.
    Result(u32),
}

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which block.
    pub segment: Segment,
    /// Offset of the first byte, a multiple of [`ALIGNMENT_BYTES`]; 0 outside of what the plan lays out.
    pub offset_bytes: usize,
}

/// Alignment of every buffer in a segment.
pub const ALIGNMENT_BYTES: usize = 64;

/// A schedule with a place for every stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The order.
    pub schedule: Schedule,
    /// The places.
    pub memory: MemoryLayout,
}

/// Where the values of a scheduled graph live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Where each input and each stored value lives. Values may share a place: aliases, and in-place updates.
    pub places: BTreeMap<Value, Place>,
    /// Values written elsewhere that replace a persistent tensor when the step is over, or that leave the body of a
    /// region when a step of it is: (from, to, size in bytes), one after the other.
    pub commits: Vec<(Place, Place, usize)>,
    /// Size of the arena; of a body, of its part of the arena.
    pub arena_bytes: usize,
    /// The memory of every region, by node.
    pub regions: BTreeMap<NodeId, RegionMemory>,
}

/// The memory of a region's bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMemory {
    /// Where the bodies' arenas start in the arena around them.
    pub work_offset_bytes: usize,
    /// One per body.
    pub bodies: Vec<MemoryLayout>,
}

impl RegionMemory {
    /// Size of the part of the arena that the bodies of one block of rows work in, one at a time.
    pub fn block_bytes(&self) -> usize {
        self.bodies.iter().map(|body| body.arena_bytes).max().unwrap_or(0).next_multiple_of(ALIGNMENT_BYTES)
    }

    /// Size of the part of the arena that the bodies work in for so many blocks of rows at the same time.
    pub fn work_bytes(&self, blocks_at_once: usize) -> usize {
        self.block_bytes().saturating_mul(blocks_at_once)
    }
}
