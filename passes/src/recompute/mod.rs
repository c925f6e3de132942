//! Cheap recomputation: what the backward pass can make again for next to nothing is not kept from the forward pass.
//!
//! A normalised, scaled or clipped tensor follows in a few operations from another tensor that is kept anyway. Where
//! the backward pass reads it element by element, making it again costs arithmetic inside a kernel that waits for
//! memory; where a product reads it, one more pass over it, which is worth it when the product is long.
//! Barriers keep what is made again apart from what was made first.

mod repeat;

pub(crate) use repeat::{Chains, Repeated, needed_by_the_loss, repeat};

use crate::cost::op_cost;
use crate::schedule::{Form, Forms, is_polynomial, operations};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Graph, NodeId, Value};
use gradc_ir::lower::{Access, Scalar};
use gradc_ir::target::Target;
use gradc_ir::types::TensorType;
use std::collections::BTreeSet;

/// Most operations per element that are done again.
pub(crate) const MOST_OPERATIONS: usize = 12;

/// Values smaller than this are kept, bytes.
const SMALL_BYTES: usize = 16 << 10;

/// How much smaller an operand has to be than what is made of it for its own keeping not to count.
const NEGLIGIBLE: usize = 16;

/// Operations a product does per element of a factor from which on making the factor again is cheap against it.
const LONG_PRODUCT: f64 = 256.0;

/// The graph with values that are cheap to make again made again for the backward pass; what it computes is the same.
pub fn recompute(graph: &Graph, target: &Target) -> Result<Graph, Diagnostic> {
    let plan = Plan::new(graph, target);
    Ok(repeat(&plan.forms, &plan.forward, &plan.chains)?.graph)
}

/// Whether a scalar takes many instructions, or reads at an index that is read itself.
pub(crate) fn is_long(scalar: &Scalar) -> bool {
    let gathers = |access: &Access| access.indices.iter().any(|i| i.loaded.is_some());
    is_polynomial(scalar) || matches!(scalar, Scalar::Load(access) if gathers(access))
}

/// What is made again.
struct Plan<'a> {
    forms: Forms<'a>,
    target: &'a Target,
    users: Vec<Vec<NodeId>>,
    /// Which nodes the loss needs.
    forward: Vec<bool>,
    chains: Chains,
}

impl<'a> Plan<'a> {
    fn new(graph: &'a Graph, target: &'a Target) -> Self {
        let forms = Forms::row_major(graph);
        let (users, forward) = (graph.users(), needed_by_the_loss(&forms));
        let mut plan = Plan { forms, target, users, forward, chains: Chains::new() };
        for id in graph.node_ids() {
            if let Some(chain) = plan.chain(id).filter(|_| plan.is_forward(id)) {
                plan.chains.insert(id, chain);
            }
        }
        plan
    }

    fn graph(&self) -> &'a Graph {
        self.forms.graph
    }

    fn is_forward(&self, id: NodeId) -> bool {
        self.forward[id.index()] && self.graph().op(id).is_some()
    }

    fn backward_users(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.users[id.index()].iter().copied().filter(|user| !self.forward[user.index()])
    }

    /// The nodes to do again for the value of `id`, if that is cheap and saves keeping it.
    fn chain(&self, id: NodeId) -> Option<BTreeSet<NodeId>> {
        let value = Value { node: id, result: 0 };
        let bytes = self.graph().ty(value).size_bytes();
        let is_read = self.backward_users(id).next().is_some();
        if !is_read || bytes < SMALL_BYTES || !self.backward_users(id).all(|user| self.allows(user, value)) {
            return None;
        }
        let mut chain = BTreeSet::new();
        let cheap = self.collect(id, bytes, &mut chain)?;
        (1..=MOST_OPERATIONS).contains(&cheap).then_some(chain)
    }

    /// Adds what has to be done again for a value to `chain`; the operations per element, if that is possible.
    fn collect(&self, id: NodeId, bytes: usize, chain: &mut BTreeSet<NodeId>) -> Option<usize> {
        if chain.contains(&id) {
            return Some(0);
        }
        let own = self.operations(id)?;
        chain.insert(id);
        let operands = &self.graph().node(id).operands;
        operands.iter().try_fold(own, |sum, &operand| {
            let more = if self.is_at_hand(operand, bytes) { 0 } else { self.collect(operand.node, bytes, chain)? };
            Some(sum + more).filter(|&sum| sum <= MOST_OPERATIONS)
        })
    }

    /// Operations per element of a forward map without long functions.
    fn operations(&self, id: NodeId) -> Option<usize> {
        match self.forms.get(id) {
            _ if !self.is_forward(id) => None,
            Form::Alias(_) => Some(0),
            Form::Map(nest) if nest.body.scalars.iter().any(|(s, _)| is_long(s)) => None,
            Form::Map(nest) => Some(operations(&nest.body)),
            _ => None,
        }
    }

    /// Whether the backward pass has a value whatever is decided here, or keeping it costs next to nothing.
    fn is_at_hand(&self, value: Value, bytes: usize) -> bool {
        let is_view = || self.operations(value.node) == Some(0);
        let is_read = || self.backward_users(value.node).next().is_some();
        let kept = || is_read() && !is_view() && !self.chains.contains_key(&value.node);
        let negligible = || self.graph().ty(value).size_bytes() * NEGLIGIBLE <= bytes;
        self.graph().input_of(value).is_some() || negligible() || self.is_stored(value.node) || kept()
    }

    /// Whether the forward pass stores a value because several kernels read it; it is kept rather than what follows
    /// from it.
    fn is_stored(&self, id: NodeId) -> bool {
        let users = self.users[id.index()].iter().filter(|user| self.forward[user.index()]);
        self.is_forward(id) && matches!(self.forms.get(id), Form::Contract(_)) && users.count() > 1
    }

    /// Whether a reader may be given a value that is made again.
    fn allows(&self, user: NodeId, value: Value) -> bool {
        let graph = self.graph();
        match self.forms.get(user) {
            Form::Alias(_) | Form::Map(_) => {
                let view = self.forms.nest(user).is_none_or(|nest| operations(&nest.body) == 0);
                !view || self.users[user.index()].iter().all(|&next| self.allows(next, Value { node: user, result: 0 }))
            }
            Form::Reduce(_) => true,
            Form::Contract(_) => {
                let node = graph.node(user);
                let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
                let flops = graph.op(user).map_or(0.0, |op| op_cost(op, &inputs, &node.types, self.target).flops);
                flops >= LONG_PRODUCT * graph.ty(value).elements() as f64
            }
            _ => false,
        }
    }
}
