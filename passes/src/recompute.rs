//! Cheap recomputation: what the backward pass can make again for next to nothing is not kept from the forward pass.
//!
//! A normalised, scaled or clipped tensor follows in a few operations from another tensor that is kept anyway. Where
//! the backward pass reads it element by element, making it again costs arithmetic inside a kernel that waits for
//! memory; where a product reads it, one more pass over it, which is worth it when the product is long.
//! Barriers keep what is made again apart from what was made first.

use crate::cost::op_cost;
use crate::schedule::{Form, Forms, is_polynomial, operations};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, NodeId, OutputKind, Value};
use gradc_ir::lower::{Access, Scalar};
use gradc_ir::target::Target;
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{BTreeMap, BTreeSet};

/// Most operations per element that are done again.
pub(crate) const MOST_OPERATIONS: usize = 12;

/// Values smaller than this are kept, bytes.
const SMALL_BYTES: usize = 16 << 10;

/// How much smaller an operand has to be than what is made of it for its own keeping not to count.
const NEGLIGIBLE: usize = 16;

/// Operations a product does per element of a factor from which on making the factor again is cheap against it.
const LONG_PRODUCT: f64 = 256.0;

/// The graph with values that are cheap to make again made again for the backward pass; what it computes is the same.
///
pub fn recompute(graph: &Graph, target: &Target) -> Result<Graph, Diagnostic> {
    let plan = Plan::new(graph, target);
    let mut copy = Copy { plan: &plan, b: Builder::new(&graph.name), first: vec![], again: BTreeMap::new() };
    for id in graph.node_ids() {
        let copied = copy.node(id);
        copied.map_err(|e| Diagnostic::from_type_error("internal-recompute", e, graph.loc(id).clone()))?;
    }
    for output in graph.outputs() {
        copy.b.output(&output.name, copy.first[output.value.node.index()][output.value.result as usize], output.kind);
    }
    Ok(copy.b.finish().without_dead_nodes())
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
    /// For forward nodes, the forward nodes that are done again to make their value again.
    chains: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl<'a> Plan<'a> {
    fn new(graph: &'a Graph, target: &'a Target) -> Self {
        let (users, forward) = (graph.users(), needed_by_the_loss(graph));
        let mut plan = Plan { forms: Forms::row_major(graph), target, users, forward, chains: BTreeMap::new() };
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

    /// What has to be there before anything is made again for a backward node: the last sum that its gradient is
    /// computed from, at the beginning of the backward pass the loss.
    fn token(&self, id: NodeId) -> Value {
        let (mut open, mut seen, mut sums) = (vec![id], BTreeSet::new(), BTreeSet::new());
        while let Some(node) = open.pop() {
            let operands = self.graph().node(node).operands.iter().filter(|v| !self.forward[v.node.index()]);
            for &operand in operands.filter(|v| self.graph().op(v.node).is_some()) {
                match self.forms.get(operand.node) {
                    Form::Map(_) | Form::Alias(_) if seen.insert(operand.node) => open.push(operand.node),
                    Form::Map(_) | Form::Alias(_) => {}
                    _ => _ = sums.insert(operand),
                }
            }
        }
        let loss = self.graph().outputs().iter().find(|o| o.kind == OutputKind::Checked).map(|o| o.value);
        sums.pop_last().or(loss).expect("without a loss everything is forward")
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

/// Which nodes a checked output, the loss, depends on; all of them in a graph without one.
fn needed_by_the_loss(graph: &Graph) -> Vec<bool> {
    let checked = || graph.outputs().iter().filter(|o| o.kind == OutputKind::Checked);
    let mut needed = vec![checked().next().is_none(); graph.nodes().len()];
    checked().for_each(|output| needed[output.value.node.index()] = true);
    for id in graph.node_ids().rev() {
        if needed[id.index()] {
            graph.node(id).operands.iter().for_each(|v| needed[v.node.index()] = true);
        }
    }
    needed
}

/// Copies a graph node by node.
struct Copy<'a> {
    plan: &'a Plan<'a>,
    b: Builder,
    /// Results of each node, as the forward pass makes them.
    first: Vec<Vec<Value>>,
    /// Results of nodes done again so far.
    again: BTreeMap<NodeId, Vec<Value>>,
}

impl Copy<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), TypeError> {
        let graph = self.plan.graph();
        let node = graph.node(id);
        let backward = !self.plan.forward[id.index()];
        if backward {
            let chains: Vec<_> = node.operands.iter().filter_map(|v| self.plan.chains.get(&v.node)).collect();
            if !chains.is_empty() {
                let token = self.plan.token(id);
                chains.into_iter().flatten().try_for_each(|&link| self.repeat(link, token))?;
            }
        }
        self.b.set_loc(graph.loc(id).clone());
        let results = match &node.def {
            Def::Input(input) => {
                let input = &graph.inputs()[input.index()];
                let default = input.default.map(|d| d.get());
                vec![self.b.declare(&input.name, input.role, graph.ty(input.value).clone(), default)?]
            }
            Def::Op(op) => {
                let made_again = |v: &Value| backward && self.plan.chains.contains_key(&v.node);
                let operands = node.operands.iter().map(|v| self.renamed(*v, made_again(v)));
                let operands: Vec<Value> = operands.collect();
                self.b.apply(op.clone(), &operands)?
            }
        };
        self.first.push(results);
        Ok(())
    }

    /// Does a forward node again after a token, unless that has been done.
    fn repeat(&mut self, id: NodeId, token: Value) -> Result<(), TypeError> {
        let graph = self.plan.graph();
        if self.again.contains_key(&id) {
            return Ok(());
        }
        let op = graph.op(id).expect("only ops are done again").clone();
        self.b.set_loc(graph.loc(id).to_backward());
        let operands: Vec<Value> = graph.node(id).operands.clone();
        let operands = operands.into_iter().map(|v| match self.again.get(&v.node) {
            Some(results) => Ok(results[v.result as usize]),
            None => self.b.barrier(self.renamed(v, false), self.renamed(token, false)),
        });
        let operands = operands.collect::<Result<Vec<Value>, _>>()?;
        let results = self.b.apply(op, &operands)?;
        self.again.insert(id, results);
        Ok(())
    }

    /// A value in the copy: the one made again, if wanted and there is one.
    fn renamed(&self, value: Value, again: bool) -> Value {
        let results = self.again.get(&value.node).filter(|_| again).unwrap_or(&self.first[value.node.index()]);
        results[value.result as usize]
    }
}
