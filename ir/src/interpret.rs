//! The interpreter: evaluates a graph node by node with each op's reference semantics. The oracle.

use crate::diagnostic::Diagnostic;
use crate::graph::{Def, Graph, NodeId, OutputKind, Role, Value};
use crate::op::EvalError;
use crate::tensor::{Data, Tensor};
use std::collections::{BTreeSet, HashMap};

/// Values of all nodes of one evaluation.
pub struct Evaluation {
    results: Vec<Vec<Tensor>>,
}

impl Evaluation {
    /// Tensor of a value.
    pub fn get(&self, value: Value) -> &Tensor {
        &self.results[value.node.index()][value.result as usize]
    }

    /// What made `value` not finite, `None` if it is finite: the first node, in topological order, whose results are not
    /// although its operands are, of those that `value` follows from through values that are not.
    ///
    /// An infinity that the program states, such as the mask of an attention, is no origin; where there is no other,
    /// it is the node that made NaN of it.
    pub fn origin_of_non_finite(&self, graph: &Graph, value: Value) -> Option<NodeId> {
        if is_finite(self.get(value)) {
            return None;
        }
        let has_nan = |id: NodeId| self.results[id.index()].iter().any(has_nan);
        let from_nan = |id: NodeId| graph.node(id).operands.iter().any(|v| has_nan(v.node));
        let path = self.non_finite_before(graph, value.node);
        let end = path.iter().copied().find(|&id| has_nan(id) && !from_nan(id)).unwrap_or(value.node);
        let stated = |id: NodeId| match &graph.node(id).def {
            Def::Input(input) => graph.inputs()[input.index()].role == Role::Constant,
            Def::Op(_) => graph.node(id).operands.is_empty(),
        };
        let starts = |id: NodeId| graph.node(id).operands.iter().all(|&v| is_finite(self.get(v))) && !stated(id);
        Some(self.non_finite_before(graph, end).into_iter().find(|&id| starts(id)).unwrap_or(end))
    }

    /// `end` and what it follows from through values that are not finite, in topological order.
    fn non_finite_before(&self, graph: &Graph, end: NodeId) -> Vec<NodeId> {
        let mut path = BTreeSet::from([end]);
        let mut left = vec![end];
        while let Some(id) = left.pop() {
            let made = graph.node(id).operands.iter().filter(|&&v| !is_finite(self.get(v)));
            left.extend(made.map(|v| v.node).filter(|&node| path.insert(node)));
        }
        path.into_iter().collect()
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    match &tensor.data {
        Data::Float(v) => v.iter().all(|x| x.is_finite()),
        Data::Int(_) => true,
    }
}

fn has_nan(tensor: &Tensor) -> bool {
    matches!(&tensor.data, Data::Float(v) if v.iter().any(|x| x.is_nan()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::types::{TensorType, TypeError};

    /// The op that the origin of a non-finite result is, or the input's name; `x` is `[-1, 2]`.
    fn origin(x: [f64; 2], build: impl FnOnce(&mut Builder, Value) -> Result<Value, TypeError>) -> Option<String> {
        let ty = TensorType::f32([2]);
        let mut b = Builder::new("test");
        let input = b.input("x", ty.clone()).expect("a type");
        let result = build(&mut b, input).expect("it is well typed");
        let graph = b.finish();
        let run = evaluate(&graph, &[Tensor::float(ty, x.to_vec())], Precision::Storage).expect("it runs");
        let node = run.origin_of_non_finite(&graph, result)?;
        Some(graph.op(node).map_or("x", |op| op.name()).to_string())
    }

    /// log x + −∞ where x is masked, and of that e to the power less the largest: a softmax's numerator.
    fn masked(b: &mut Builder, x: Value, mask: f64) -> Result<Value, TypeError> {
        let mask = b.full_like(x, mask)?;
        let scores = b.add(x, mask)?;
        let most = b.reduce_max(scores, &[0])?;
        let most = b.broadcast(most, &[2], &[])?;
        let below = b.sub(scores, most)?;
        b.exp(below)
    }

    #[test]
    fn the_origin_of_what_is_not_finite_is_what_made_it() {
        assert_eq!(origin([-1.0, 2.0], |b, x| b.exp(x)), None);
        assert_eq!(origin([-1.0, 2.0], |b, x| b.log(x)).as_deref(), Some("log"));
        assert_eq!(origin([f64::NAN, 2.0], |b, x| b.exp(x)).as_deref(), Some("x"));
        let zero_times_infinity = |b: &mut Builder, x| {
            let infinite = b.recip(x)?;
            b.mul(x, infinite)
        };
        assert_eq!(origin([0.0, 2.0], zero_times_infinity).as_deref(), Some("recip"));
    }

    #[test]
    fn an_infinity_of_the_program_itself_is_no_origin() {
        assert_eq!(origin([-1.0, 2.0], |b, x| masked(b, x, 0.0)), None);
        // all is masked: −∞ less −∞
        assert_eq!(origin([-1.0, 2.0], |b, x| masked(b, x, f64::NEG_INFINITY)).as_deref(), Some("sub"));
        // the logarithm makes NaN, whatever is masked besides
        let beside = |b: &mut Builder, x| {
            let log = b.log(x)?;
            let mask = b.full_like(x, f64::NEG_INFINITY)?;
            b.maximum(log, mask)
        };
        assert_eq!(origin([-1.0, 2.0], beside).as_deref(), Some("log"));
    }
}
