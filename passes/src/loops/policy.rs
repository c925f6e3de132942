//! Which backward loop stands for the derivative of a loop.

use gradc_ir::graph::NodeId;
use std::collections::BTreeMap;

/// How the gradient of a loop is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Backward {
    /// Exact; what is costly is kept of each step.
    #[default]
    Exact,
    /// Exact; about √K of the K states are kept, and the steps between them made again.
    Checkpoint,
    /// As many steps as the loop has, of the derivative at its result: `v ← Φᵀv + g`.
    ///
    /// Equal to the exact gradient for a step that is affine and has no product of its carry and what is
    /// differentiated; else an approximation under a guard.
    Frozen(Tolerance),
    /// The derivative of the fixed point that the loop approaches: `(I − Φᵀ)v = g`, under a guard.
    Implicit(Tolerance),
}

/// What an approximate gradient has to hold; where it does not, the exact one is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest `‖f(x) − x‖ / (1 + ‖x‖)` at the loop's result.
    pub forward: f64,
    /// Largest `‖g − (I − Φᵀ)v‖ / ‖g‖` of an implicit gradient.
    pub backward: f64,
    /// Largest `‖v∞ − v_K‖ / ‖v∞‖`: how far an implicit gradient may be from that of K steps.
    pub gap: f64,
}

impl Default for Tolerance {
    /// For f32.
    fn default() -> Self {
        Tolerance { forward: 1e-5, backward: 1e-5, gap: 1e-3 }
    }
}

/// The loops of a graph whose gradient is not computed as [`Backward::Exact`] says.
pub type LoopPolicies = BTreeMap<NodeId, Backward>;
