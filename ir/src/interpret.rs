//! The interpreter: evaluates a graph node by node with each op's reference semantics. The oracle.

use crate::diagnostic::Diagnostic;
use crate::graph::{Def, Graph, NodeId, OutputKind, Value};
use crate::op::EvalError;
use crate::tensor::{Data, Tensor};
use std::collections::HashMap;

/// Values of all nodes of one evaluation.
pub struct Evaluation {
    results: Vec<Vec<Tensor>>,
}

impl Evaluation {
    /// Tensor of a value.
    pub fn get(&self, value: Value) -> &Tensor {
        &self.results[value.node.index()][value.result as usize]
    }

    /// The first node in topological order with a result that is not finite although all its float operands are.
    pub fn first_non_finite(&self, graph: &Graph) -> Option<NodeId> {
        let finite = |t: &Tensor| match &t.data {
            Data::Float(v) => v.iter().all(|x| x.is_finite()),
            Data::Int(_) => true,
        };
        let operands_finite = |id: &NodeId| graph.node(*id).operands.iter().all(|&v| finite(self.get(v)));
        graph.node_ids().find(|id| !self.results[id.index()].iter().all(finite) && operands_finite(id))
    }
}

/// How the interpreter stores intermediate floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// In f64 throughout.
    Double,
    /// Rounded to the value's dtype after every op.
    Storage,
}

/// Evaluates every node; `inputs` has one tensor per declared input, in order.
pub fn evaluate(graph: &Graph, inputs: &[Tensor], precision: Precision) -> Result<Evaluation, Diagnostic> {
    check_inputs(graph, inputs)?;
    let mut run = Evaluation { results: Vec::with_capacity(graph.nodes().len()) };
    for id in graph.node_ids() {
        let node = graph.node(id);
        let results = match &node.def {
            Def::Input(input) => vec![inputs[input.index()].clone()],
            Def::Op(op) => {
                let operands: Vec<&Tensor> = node.operands.iter().map(|&v| run.get(v)).collect();
                op.eval(&operands).map_err(|e| graph.diagnostic_at(id, "evaluation", format!("{}: {e}", op.name())))?
            }
        };
        run.results.push(match precision {
            Precision::Double => results,
            Precision::Storage => results.iter().map(Tensor::rounded).collect(),
        });
    }
    Ok(run)
}

fn check_inputs(graph: &Graph, inputs: &[Tensor]) -> Result<(), Diagnostic> {
    if inputs.len() != graph.inputs().len() {
        return Err(Diagnostic::new("input-count", "wrong number of inputs")
            .expected(graph.inputs().len())
            .found(inputs.len()));
    }
    for (declared, given) in graph.inputs().iter().zip(inputs) {
        let ty = graph.ty(declared.value);
        if *ty != given.ty {
            return Err(Diagnostic::new("input-type", format!("input `{}` has the wrong type", declared.name))
                .expected(ty)
                .found(&given.ty));
        }
    }
    Ok(())
}

/// Evaluates and returns the outputs in declaration order.
pub fn outputs(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Diagnostic> {
    let run = evaluate(graph, inputs, Precision::Double)?;
    Ok(graph.outputs().iter().map(|o| run.get(o.value).clone()).collect())
}

/// Applies a closed function; for the reference semantics of region ops.
pub fn apply(function: &Graph, arguments: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
    let arguments: Vec<Tensor> = arguments.iter().map(|&t| t.clone()).collect();
    outputs(function, &arguments).map_err(|e| EvalError(e.to_string()))
}

/// One call of an entry on named tensors: takes the inputs by name, returns results and applied updates.
pub fn step(graph: &Graph, tensors: &mut HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>, Diagnostic> {
    let inputs = graph.inputs().iter().map(|i| match (tensors.get(&i.name), i.default) {
        (Some(t), _) => Ok(t.clone()),
        (None, Some(default)) => Ok(Tensor::splat(graph.ty(i.value).clone(), default.get())),
        (None, None) => Err(Diagnostic::new("missing-input", format!("no tensor for input `{}`", i.name))),
    });
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let mut results = HashMap::new();
    for (output, tensor) in graph.outputs().iter().zip(outputs(graph, &inputs)?) {
        let target = if matches!(output.kind, OutputKind::Update(_)) { &mut *tensors } else { &mut results };
        target.insert(output.name.clone(), tensor);
    }
    Ok(results)
}
