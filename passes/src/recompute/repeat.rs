//! Copying a graph with some forward values made again where the backward pass reads them.

use crate::schedule::{Form, Forms};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, NodeId, OutputKind, Value};
use gradc_ir::types::TypeError;
use std::collections::{BTreeMap, BTreeSet};

/// For forward nodes whose value is made again, the forward nodes that are done again for it, itself included.
pub(crate) type Chains = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// A graph in which values are made again.
pub(crate) struct Repeated {
    /// The graph, without what nothing needs any more.
    pub graph: Graph,
    /// Where the results of each node of the original are, as they are made first; `None` where nothing needs them.
    pub first: Vec<Option<Vec<Value>>>,
}

/// Which nodes the first checked output, the loss, depends on; all of them in a graph without one. Barriers wait for
/// their tokens but do not depend on them.
pub(crate) fn needed_by_the_loss(forms: &Forms) -> Vec<bool> {
    let graph = forms.graph;
    let loss = graph.outputs().iter().find(|o| o.kind == OutputKind::Checked);
    let mut needed = vec![loss.is_none(); graph.nodes().len()];
    loss.into_iter().for_each(|output| needed[output.value.node.index()] = true);
    for id in graph.node_ids().rev().collect::<Vec<_>>() {
        match forms.get(id) {
            _ if !needed[id.index()] => {}
            Form::Alias(of) => needed[of.node.index()] = true,
            _ => graph.node(id).operands.iter().for_each(|v| needed[v.node.index()] = true),
        }
    }
    needed
}

/// The graph with the values of `chains` made again wherever a node reads them that is not `forward`.
///
/// What is made again reads through barriers, so that it is not taken for what was made first, and waits until the
/// gradient is there that it is for.
pub(crate) fn repeat(forms: &Forms, forward: &[bool], chains: &Chains) -> Result<Repeated, Diagnostic> {
    let graph = forms.graph;
    let b = Builder::new(&graph.name);
    let mut copy = Copy { forms, forward, chains, b, first: vec![], again: BTreeMap::new() };
    for id in graph.node_ids() {
        let copied = copy.node(id);
        copied.map_err(|e| Diagnostic::from_type_error("internal-recompute", e, graph.loc(id).clone()))?;
    }
    for output in graph.outputs() {
        copy.b.output(&output.name, copy.renamed(output.value, false), output.kind);
    }
    Ok(without_dead_nodes(copy.b.finish(), copy.first))
}

/// Drops dead nodes and follows where values go.
fn without_dead_nodes(graph: Graph, first: Vec<Vec<Value>>) -> Repeated {
    let (pruned, kept) = graph.pruned();
    let moved = |values: Vec<Value>| {
        values.into_iter().map(|v| kept[v.node.index()].map(|node| Value { node, ..v })).collect::<Option<Vec<_>>>()
    };
    Repeated { graph: pruned, first: first.into_iter().map(moved).collect() }
}

/// Copies a graph node by node.
struct Copy<'a> {
    forms: &'a Forms<'a>,
    forward: &'a [bool],
    chains: &'a Chains,
    b: Builder,
    /// Results of each node, as the forward pass makes them.
    first: Vec<Vec<Value>>,
    /// Results of nodes done again so far.
    again: BTreeMap<NodeId, Vec<Value>>,
}

impl Copy<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), TypeError> {
        let graph = self.forms.graph;
        let node = graph.node(id);
        let backward = !self.forward[id.index()];
        if backward {
            let chains: Vec<_> = node.operands.iter().filter_map(|v| self.chains.get(&v.node)).collect();
            if !chains.is_empty() {
                let token = self.token(id);
                chains.into_iter().flatten().try_for_each(|&link| self.repeat(link, token))?;
            }
        }
        self.b.set_loc(graph.loc(id).clone());
        let results = match &node.def {
            Def::Input(input) => vec![self.b.declare_again(graph, *input)?],
            Def::Op(op) => {
                let made_again = |v: &Value| backward && self.chains.contains_key(&v.node);
                let operands = node.operands.iter().map(|v| self.renamed(*v, made_again(v)));
                let operands: Vec<Value> = operands.collect();
                self.b.apply(op.clone(), &operands)?
            }
        };
        self.first.push(results);
        Ok(())
    }

    /// What has to be there before anything is made again for a backward node: the last sum that its gradient is
    /// computed from, at the beginning of the backward pass the last sum of the forward pass.
    fn token(&self, id: NodeId) -> Value {
        let graph = self.forms.graph;
        let (mut open, mut seen, mut sums) = (vec![id], BTreeSet::new(), BTreeSet::new());
        while let Some(node) = open.pop() {
            let operands = graph.node(node).operands.iter().filter(|v| !self.forward[v.node.index()]);
            for &operand in operands.filter(|v| graph.op(v.node).is_some()) {
                match self.forms.get(operand.node) {
                    Form::Map(_) | Form::Alias(_) if seen.insert(operand.node) => open.push(operand.node),
                    Form::Map(_) | Form::Alias(_) => {}
                    _ => _ = sums.insert(operand),
                }
            }
        }
        sums.pop_last().unwrap_or_else(|| self.last_of_forward(id))
    }

    /// The last sum of the forward pass before a backward node, or the last of its nodes.
    fn last_of_forward(&self, id: NodeId) -> Value {
        let before = |&k: &NodeId| self.forward[k.index()] && self.forms.graph.op(k).is_some();
        let mut ops = (0..id.0).rev().map(NodeId).filter(before);
        let last = ops.clone().next().expect("what is made again is made before");
        Value { node: ops.find(|&k| self.forms.accumulates(k)).unwrap_or(last), result: 0 }
    }

    /// Does a forward node again after a token, unless that has been done.
    fn repeat(&mut self, id: NodeId, token: Value) -> Result<(), TypeError> {
        let graph = self.forms.graph;
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
