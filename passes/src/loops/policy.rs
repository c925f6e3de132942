//! Which backward loop stands for the derivative of a loop.

use gradc_ir::graph::NodeId;
use std::collections::BTreeMap;

/// How the gradient of a loop is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backward {
    /// Exact; what is costly is kept of each step.
    #[default]
    Exact,
    /// Exact; about √K of the K states are kept, and the steps between them made again.
    Checkpoint,
}

/// The loops of a graph whose gradient is not computed as [`Backward::Exact`] says.
pub type LoopPolicies = BTreeMap<NodeId, Backward>;
