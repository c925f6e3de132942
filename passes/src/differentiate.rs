//! Reverse-mode differentiation: one sweep over the graph that names no op.
//!
//! Zero is symbolic: a value without a contribution has no cotangent, and what leads to nothing that
//! trains is never asked for. Pruning of the backward graph rests on this alone.

use crate::cotangents::Cotangents;
use crate::loops::{self, Backward, LoopPolicies, NOT_DIFFERENTIABLE};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, NodeId, OutputKind, Value};
use gradc_ir::op::{Cotangent, DifferentiateBody, VjpContext};
use gradc_ir::ops::{IterateUntil, Op, Scan};
use gradc_ir::types::TypeError;

/// Appends the gradients of `loss` (a float scalar) with respect to `wrt`; `None` where it is symbolically zero.
///
/// Fails where an op that has no derivative stands between the loss and a value in `wrt`.
pub fn differentiate(builder: &mut Builder, loss: Value, wrt: &[Value]) -> Result<Vec<Option<Value>>, Diagnostic> {
    differentiate_loops(builder, loss, wrt, &LoopPolicies::new())
}

/// As [`differentiate`], with a choice how the gradients of loops are computed.
pub fn differentiate_loops(
    builder: &mut Builder,
    loss: Value,
    wrt: &[Value],
    loops: &LoopPolicies,
) -> Result<Vec<Option<Value>>, Diagnostic> {
    let ty = builder.ty(loss).clone();
    if !ty.dtype.is_float() || ty.rank() != 0 {
        return Err(builder
            .graph()
            .diagnostic_at(loss.node, "loss-not-scalar", "the loss must be a float scalar")
            .found(ty));
    }
    builder.set_loc(builder.graph().loc(loss.node).to_backward());
    let seed = builder.splat(&ty, 1.0).map_err(|e| at_node(builder, loss.node, e))?;
    Sweep { loops, ..Sweep::new(builder, wrt) }.run(&[(loss, seed)], wrt)
}

/// Where the gradient of a value that has none stops: the first op on the way from `from` to `loss`
/// whose derivative is zero, or `None` when no path leads there.
pub fn where_gradient_stops(graph: &Graph, loss: Value, from: Value) -> Option<NodeId> {
    let reached = dependents(graph, &[from]);
    if !reached[loss.node.index()] {
        return None;
    }
    let mut builder = Builder::from_graph(graph.clone());
    let seed = builder.splat(&graph.ty(loss).clone(), 1.0).ok()?;
    let mut sweep = Sweep::new(&mut builder, &[from]);
    sweep.run(&[(loss, seed)], &[from]).ok()?;
    sweep.zero_at
}

/// The answers of one op by itself, which nothing else reads the operands of; regions in it are differentiated as loops
/// and branches of a graph are.
pub fn vjp_alone(
    builder: &mut Builder,
    op: &Op,
    [inputs, outputs]: [&[Value]; 2],
    cotangents: &[Option<Value>],
    wanted: &[bool],
) -> Result<Vec<Cotangent>, TypeError> {
    let (bodies, so_far) = (&Bodies::default(), &mut Cotangents::default());
    op.vjp(&mut VjpContext { builder, inputs, outputs, cotangents, wanted, bodies, so_far })
}

fn at_node(builder: &Builder, node: NodeId, error: TypeError) -> Diagnostic {
    Diagnostic::from_type_error("internal-vjp", error, builder.graph().loc(node).clone())
        .help("this is a bug in gradc: a derivative rule built an ill-typed graph")
}

/// Appends the cotangents of `wrt`, given those of `seeds`; `None` where one is symbolically zero.
///
/// What flows to a value of `sums` is added to what is given there, in the order in which it is found.
pub(crate) fn pull_back(
    builder: &mut Builder,
    seeds: &[(Value, Value)],
    sums: &[(Value, Value)],
    wrt: &[Value],
    loops: &LoopPolicies,
) -> Result<Vec<Option<Value>>, Diagnostic> {
    let mut sweep = Sweep { loops, ..Sweep::new(builder, wrt) };
    sums.iter().for_each(|&(value, sum)| sweep.cotangents.contribute(value, sum));
    sweep.run(seeds, wrt)
}

/// Which nodes depend on one of `values`.
pub(crate) fn dependents(graph: &Graph, values: &[Value]) -> Vec<bool> {
    let mut depends = vec![false; graph.nodes().len()];
    values.iter().for_each(|v| depends[v.node.index()] = true);
    for id in graph.node_ids() {
        depends[id.index()] |= graph.node(id).operands.iter().any(|v| depends[v.node.index()]);
    }
    depends
}

/// State of one reverse sweep.
struct Sweep<'a> {
    builder: &'a mut Builder,
    /// Which forward nodes lead to something asked for.
    wanted: Vec<bool>,
    cotangents: Cotangents,
    /// Last node seen, going backward, that answered zero for a wanted operand.
    zero_at: Option<NodeId>,
    /// How the gradients of loops are computed.
    loops: &'a LoopPolicies,
}

impl<'a> Sweep<'a> {
    fn new(builder: &'a mut Builder, wrt: &[Value]) -> Self {
        static EXACT: LoopPolicies = LoopPolicies::new();
        let wanted = dependents(builder.graph(), wrt);
        Sweep { builder, wanted, cotangents: Cotangents::default(), zero_at: None, loops: &EXACT }
    }

    fn run(&mut self, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>, Diagnostic> {
        seeds.iter().for_each(|&(value, seed)| self.cotangents.contribute(value, seed));
        for index in (0..self.wanted.len()).rev() {
            if self.wanted[index] {
                self.visit(NodeId(index as u32))?;
            }
        }
        wrt.iter().map(|&value| self.cotangent(value)).collect()
    }

    fn cotangent(&mut self, value: Value) -> Result<Option<Value>, Diagnostic> {
        self.builder.set_loc(self.builder.graph().loc(value.node).to_backward());
        self.cotangents.sum(self.builder, value).map_err(|e| at_node(self.builder, value.node, e))
    }

    fn visit(&mut self, id: NodeId) -> Result<(), Diagnostic> {
        let node = self.builder.graph().node(id).clone();
        let Def::Op(op) = &node.def else { return Ok(()) };
        let outputs: Vec<Value> = self.builder.graph().results(id).collect();
        let cotangents = outputs.iter().map(|&v| self.cotangent(v)).collect::<Result<Vec<_>, _>>()?;
        if cotangents.iter().all(Option::is_none) {
            return Ok(());
        }
        let wanted: Vec<bool> = node.operands.iter().map(|v| self.wanted[v.node.index()]).collect();
        self.builder.set_loc(self.builder.graph().loc(id).to_backward());
        let bodies = &Bodies { backward: self.loops.get(&id).copied().unwrap_or_default() };
        let mut context = VjpContext {
            builder: self.builder,
            inputs: &node.operands,
            outputs: &outputs,
            cotangents: &cotangents,
            wanted: &wanted,
            bodies,
            so_far: &mut self.cotangents,
        };
        let answers = op.vjp(&mut context).map_err(|e| at_node(self.builder, id, e))?;
        for ((answer, &operand), wanted) in answers.into_iter().zip(&node.operands).zip(wanted) {
            if wanted {
                self.take(id, operand, answer)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, id: NodeId, operand: Value, answer: Cotangent) -> Result<(), Diagnostic> {
        match answer {
            Cotangent::Flows(cotangent) => {
                self.cotangents.contribute(operand, cotangent);
                Ok(())
            }
            Cotangent::Zero => {
                self.zero_at = Some(id);
                Ok(())
            }
            Cotangent::NotDifferentiable(reason) => Err(self.blocked(id, operand, &reason)),
        }
    }

    fn blocked(&self, id: NodeId, operand: Value, reason: &str) -> Diagnostic {
        let graph = self.builder.graph();
        let op = graph.op(id).map_or("input", |op| op.name());
        let parameter = self.parameter_behind(operand).unwrap_or("a value that trains");
        graph
            .diagnostic_at(id, NOT_DIFFERENTIABLE, format!("no gradient can flow through `{op}` to `{parameter}`"))
            .found(reason)
            .help("freeze the parameters before this op, or replace the op by a differentiable one")
    }

    /// Name of a wanted input that `value` depends on.
    fn parameter_behind(&self, value: Value) -> Option<&str> {
        let graph = self.builder.graph();
        let mut at = value.node;
        loop {
            match graph.node(at).def {
                Def::Input(id) => return Some(&graph.inputs()[id.index()].name),
                Def::Op(_) => at = graph.node(at).operands.iter().map(|v| v.node).find(|n| self.wanted[n.index()])?,
            }
        }
    }
}

/// Differentiates one region by the same sweep; regions inside of it as is the default.
#[derive(Clone, Copy, Debug, Default)]
struct Bodies {
    /// How the gradient is computed if the region is a loop.
    backward: Backward,
}

impl DifferentiateBody for Bodies {
    fn vjp_body(&self, body: &Graph, wanted: &[usize]) -> Result<Graph, TypeError> {
        let mut builder = Builder::new(format!("{} backward", body.name));
        let mut arguments = Vec::new();
        // Named by position: the body may itself be a derivative, whose own names would meet those given here.
        for (k, input) in body.inputs().iter().enumerate() {
            arguments.push(builder.input(&format!("x{k}"), body.ty(input.value).clone())?);
        }
        let results = builder.inline(body, &arguments)?;
        let mut seeds = Vec::new();
        for (k, &result) in results.iter().enumerate() {
            let ty = builder.ty(result).clone();
            if ty.dtype.is_float() {
                seeds.push((result, builder.input(&format!("dy{k}"), ty)?));
            }
        }
        let wrt: Vec<Value> = wanted.iter().map(|&k| arguments[k]).collect();
        let gradients = Sweep::new(&mut builder, &wrt).run(&seeds, &wrt).map_err(|d| TypeError::new(d.to_string()))?;
        for (&k, gradient) in wanted.iter().zip(gradients) {
            let gradient = match gradient {
                Some(gradient) => gradient,
                None => builder.splat(&builder.ty(arguments[k]).clone(), 0.0)?,
            };
            builder.output(&format!("dx{k}"), gradient, OutputKind::Result);
        }
        Ok(builder.finish())
    }

    fn vjp_loop(&self, scan: &Scan, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        loops::backward(scan, self.backward, cx)
    }

    fn vjp_until(&self, until: &IterateUntil, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        loops::backward_until(until, self.backward, cx)
    }
}
