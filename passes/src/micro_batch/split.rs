//! The forward pass of a part of the batch, and what it takes from the whole.

use super::cut::Flow;
use super::fit::{Fitted, fit, part_type};
use crate::differentiate::dependents;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Def, Graph, InputId, NodeId, OutputKind, Role, Value};
use gradc_ir::types::TypeError;
use std::collections::BTreeMap;

/// How deep in a computation of what all examples share a tensor with one entry per example may be made for a part.
const MOST_DEPTH: usize = 32;

/// A training graph taken apart.
pub(super) struct Split {
    /// What is made once for the whole batch, with the inputs and updates of the original.
    pub whole: Builder,
    /// The forward pass of a part, with the results that go with the part.
    pub part: Builder,
    /// What the inputs of `part` are, in their order.
    pub taken: Vec<Taken>,
    /// The parameters that train, in a part.
    pub trained: Vec<Value>,
    /// The node of a part for each of the original, if it has one.
    pub nodes: Vec<Option<NodeId>>,
    /// The results of the original: made of the whole batch, or what the part's are.
    pub outputs: Vec<Result<Value, Flow>>,
}

/// What a part takes from the whole.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    /// Value of the whole.
    pub value: Value,
    /// The axis of which a part takes its block; all of the value without one.
    pub axis: Option<usize>,
}

/// Sizes that a batch may have, as far as inputs tell: for each extent of a data input its first axis of that extent in
/// every data input, most likely first.
pub fn batch_sizes(graph: &Graph) -> Vec<usize> {
    let data = graph.inputs().iter().filter(|i| i.role == Role::Input);
    let shapes: Vec<&[usize]> = data.map(|i| &graph.ty(i.value).shape[..]).collect();
    let deepest = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut sizes: Vec<usize> = vec![];
    for axis in 0..deepest {
        for size in shapes.iter().filter_map(|shape| shape.get(axis).copied()).filter(|&size| size > 1) {
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
    }
    sizes
}

/// Takes a graph apart into the given number of parts of a batch of `size` examples.
///
/// Fails with the first op that mixes what different examples make.
pub(super) fn split(graph: &Graph, trained: &[Value], size: usize, parts: usize) -> Result<Split, Diagnostic> {
    let mut splitter = Splitter::new(graph, Inputs::Sized(size), dependents(graph, trained), parts);
    graph.node_ids().try_for_each(|id| splitter.node(id))?;
    let outputs = splitter.outputs()?;
    let trained = trained.iter().map(|&v| splitter.shared(v));
    let trained = trained.collect::<Result<_, _>>().map_err(internal)?;
    let Splitter { whole, part, taken, in_part, .. } = splitter;
    let nodes = in_part.iter().map(|made| Some(made.values.as_ref()?.first()?.node)).collect();
    Ok(Split { whole, part, taken, trained, nodes, outputs })
}

/// Arguments that are the same in every part, and the axis along which a block of them was needed.
pub(super) type Wanted = Vec<(InputId, usize)>;

/// A closed function on a part of the batch, given what its arguments are, and what its results are then.
///
/// Where that mixes parts, which arguments it would have to be given as blocks, of which axis, for more to be possible.
pub(super) fn split_function(body: &Graph, arguments: &[Flow], parts: usize) -> Result<(Graph, Vec<Flow>), Wanted> {
    // Nothing in it can be had of the whole batch.
    let trained = vec![true; body.nodes().len()];
    let mut splitter = Splitter::new(body, Inputs::Given(arguments), trained, parts);
    if body.node_ids().any(|id| splitter.node(id).is_err()) {
        return Err(splitter.wanted);
    }
    let flows = body.outputs().iter().map(|o| splitter.flow(o.value)).collect();
    for output in body.outputs() {
        let value = splitter.in_part(output.value).expect("all of a function is made in the part");
        splitter.part.output(&output.name, value, output.kind);
    }
    Ok((splitter.part.finish().without_dead_nodes(), flows))
}

pub(super) fn internal(error: TypeError) -> Diagnostic {
    Diagnostic::from_type_error("internal-micro-batch", error, Loc::default())
}

/// Which inputs go with the part.
#[derive(Clone, Copy)]
enum Inputs<'a> {
    /// Data with an axis of this extent.
    Sized(usize),
    /// All that are given, as these flows say.
    Given(&'a [Flow]),
}

/// What a node is in a part.
struct Made {
    flows: Vec<Flow>,
    /// Its results there; none of what is only made of the whole batch.
    values: Option<Vec<Value>>,
}

impl Made {
    /// The same results in every part.
    fn shared(results: usize, values: Option<Vec<Value>>) -> Self {
        Made { flows: vec![Flow::Whole; results], values }
    }
}

struct Splitter<'a> {
    graph: &'a Graph,
    inputs_are: Inputs<'a>,
    parts: usize,
    /// Which nodes a gradient passes.
    trained: Vec<bool>,
    whole: Builder,
    /// The results of nodes that no gradient passes, of the whole batch.
    in_whole: Vec<Option<Vec<Value>>>,
    part: Builder,
    /// The nodes in a part.
    in_part: Vec<Made>,
    taken: Vec<Taken>,
    wanted: Wanted,
    /// Inputs of the part by what they take.
    inputs: BTreeMap<(Value, Option<usize>), Value>,
}

impl<'a> Splitter<'a> {
    fn new(graph: &'a Graph, inputs_are: Inputs<'a>, trained: Vec<bool>, parts: usize) -> Self {
        Splitter {
            graph,
            inputs_are,
            parts,
            trained,
            whole: Builder::new(&graph.name),
            in_whole: vec![],
            part: Builder::new(&graph.name),
            in_part: vec![],
            taken: vec![],
            wanted: vec![],
            inputs: BTreeMap::new(),
        }
    }

    fn is_trained(&self, id: NodeId) -> bool {
        self.trained[id.index()]
    }

    fn flow(&self, value: Value) -> Flow {
        self.in_part[value.node.index()].flows[value.result as usize]
    }

    fn node(&mut self, id: NodeId) -> Result<(), Diagnostic> {
        self.whole.set_loc(self.graph.loc(id).clone());
        self.part.set_loc(self.graph.loc(id).clone());
        let made = match &self.graph.node(id).def {
            Def::Input(_) => self.input(id).map(Some),
            Def::Op(_) => self.op(id),
        };
        made.map_err(|e| internal(e).at(self.graph.loc(id).clone()))?.ok_or_else(|| self.refusal(id))
    }

    fn refusal(&self, id: NodeId) -> Diagnostic {
        let op = self.graph.op(id).map_or("input", |op| op.name());
        self.graph.diagnostic_at(id, "examples-mix", format!("`{op}` mixes what different examples make"))
    }

    /// Declares an input of the whole, or of a function.
    fn input(&mut self, id: NodeId) -> Result<(), TypeError> {
        let value = Value { node: id, result: 0 };
        let input = self.graph.input_of(value).expect("the node is an input");
        let ty = self.graph.ty(value).clone();
        let made = match self.inputs_are {
            Inputs::Given(flows) => {
                let flow = flows[self.in_part.len()];
                let declared = self.part.input(&input.name, part_type(&ty, flow, self.parts))?;
                self.in_whole.push(None);
                Made { flows: vec![flow], values: Some(vec![declared]) }
            }
            Inputs::Sized(size) => {
                let axis = ty.shape.iter().position(|&extent| extent == size).filter(|_| input.role == Role::Input);
                let declared = self.whole.declare(&input.name, input.role, ty, input.default.map(|d| d.get()))?;
                self.in_whole.push(Some(vec![declared]));
                let block = axis.map(|axis| self.take(value, Some(axis))).transpose()?;
                Made { flows: vec![axis.map_or(Flow::Whole, Flow::Block)], values: block.map(|v| vec![v]) }
            }
        };
        self.in_part.push(made);
        Ok(())
    }

    fn op(&mut self, id: NodeId) -> Result<Option<()>, TypeError> {
        let graph = self.graph;
        let node = graph.node(id);
        let in_whole = if self.is_trained(id) { None } else { Some(self.apply_to_whole(id)?) };
        let made = match self.made_in_part(id)? {
            Some(made) => made,
            None if in_whole.is_some() => Made::shared(node.types.len(), None),
            None => return Ok(None),
        };
        self.in_whole.push(in_whole);
        self.in_part.push(made);
        Ok(Some(()))
    }

    fn apply_to_whole(&mut self, id: NodeId) -> Result<Vec<Value>, TypeError> {
        let node = self.graph.node(id);
        let operands = node.operands.iter().map(|&v| self.of_whole(v).expect("what it reads is not trained either"));
        let operands: Vec<Value> = operands.collect();
        self.whole.apply(self.graph.op(id).expect("the node is an op").clone(), &operands)
    }

    /// A value of the whole batch, unless a gradient passes it.
    fn of_whole(&self, value: Value) -> Option<Value> {
        Some(self.in_whole[value.node.index()].as_ref()?[value.result as usize])
    }

    /// A node in a part; `None` where parts mix.
    fn made_in_part(&mut self, id: NodeId) -> Result<Option<Made>, TypeError> {
        let graph = self.graph;
        let node = graph.node(id);
        let flows: Vec<Flow> = node.operands.iter().map(|&v| self.flow(v)).collect();
        if flows.iter().all(|&flow| flow == Flow::Whole) {
            let operands = node.operands.iter().map(|&v| self.shared(v)).collect::<Result<Vec<_>, _>>()?;
            let values = self.part.apply(graph.op(id).expect("the node is an op").clone(), &operands)?;
            return Ok(Some(Made::shared(node.types.len(), Some(values))));
        }
        // Sums that no gradient passes can be had of the whole batch: one where that is enough, the last first.
        let sums: Vec<usize> = (0..flows.len()).filter(|&k| self.is_sum_of_whole(node.operands[k])).collect();
        let single = sums.iter().rev().map(|&k| vec![k]);
        for of_whole in [vec![]].into_iter().chain(single).chain([sums.clone()]) {
            let wanted = (0..flows.len()).map(|k| if of_whole.contains(&k) { Flow::Whole } else { flows[k] });
            let Some(fitted) = fit(graph, id, &wanted.collect::<Vec<_>>(), None, self.parts) else { continue };
            if let Some(results) = self.apply_fitted(id, &fitted, MOST_DEPTH)? {
                return Ok(Some(Made { flows: fitted.results, values: Some(results) }));
            }
        }
        Ok(None)
    }

    fn is_sum_of_whole(&self, value: Value) -> bool {
        self.flow(value) == Flow::Sum && !self.is_trained(value.node)
    }

    /// The op of a part on its operands; `None` where one is not to be had.
    fn apply_fitted(&mut self, id: NodeId, fitted: &Fitted, depth: usize) -> Result<Option<Vec<Value>>, TypeError> {
        let graph = self.graph;
        let mut operands = vec![];
        for (&value, &flow) in graph.node(id).operands.iter().zip(&fitted.operands) {
            let operand = match flow {
                Flow::Whole => Some(self.shared(value)?),
                _ if self.flow(value) == flow => self.in_part(value),
                Flow::Block(axis) if self.flow(value) == Flow::Whole => self.block(value, axis, depth)?,
                _ => None,
            };
            let Some(operand) = operand else { return Ok(None) };
            operands.push(operand);
        }
        self.part.apply(fitted.op.clone(), &operands).map(Some)
    }

    fn in_part(&self, value: Value) -> Option<Value> {
        Some(self.in_part[value.node.index()].values.as_ref()?[value.result as usize])
    }

    /// A value in a part that is the same in all of them.
    fn shared(&mut self, value: Value) -> Result<Value, TypeError> {
        match self.in_part(value).filter(|_| self.flow(value) == Flow::Whole) {
            Some(made) => Ok(made),
            None => self.take(value, None),
        }
    }

    /// The block of a part of a value that all parts share: computed if the op can make a block by itself, else taken.
    fn block(&mut self, value: Value, axis: usize, depth: usize) -> Result<Option<Value>, TypeError> {
        let graph = self.graph;
        let flows = vec![Flow::Whole; graph.node(value.node).operands.len()];
        let computed = graph.op(value.node).is_some() && depth > 0 && self.in_part(value).is_some();
        let fitted = if computed { fit(graph, value.node, &flows, Some(axis), self.parts) } else { None };
        let one = graph.node(value.node).types.len() == 1;
        if let Some(fitted) = fitted.filter(|fitted| one && fitted.results == [Flow::Block(axis)])
            && let Some(made) = self.apply_fitted(value.node, &fitted, depth - 1)?
        {
            return Ok(Some(made[0]));
        }
        if let (Def::Input(id), Inputs::Given(_)) = (&graph.node(value.node).def, self.inputs_are) {
            self.wanted.push((*id, axis));
        }
        if self.is_trained(value.node) { Ok(None) } else { self.take(value, Some(axis)).map(Some) }
    }

    /// An input of the part: a value of the whole, or the part's block of it.
    fn take(&mut self, value: Value, axis: Option<usize>) -> Result<Value, TypeError> {
        let of_whole = self.of_whole(value).expect("only what is made of the whole batch is taken");
        if let Some(&input) = self.inputs.get(&(of_whole, axis)) {
            return Ok(input);
        }
        let ty = part_type(self.graph.ty(value), axis.map_or(Flow::Whole, Flow::Block), self.parts);
        let input = self.part.input(&format!("x{}", self.taken.len()), ty)?;
        self.inputs.insert((of_whole, axis), input);
        self.taken.push(Taken { value: of_whole, axis });
        Ok(input)
    }

    /// Adds the updates to the whole and the results that go with the part to the part; what each result is.
    fn outputs(&mut self) -> Result<Vec<Result<Value, Flow>>, Diagnostic> {
        let mut results = vec![];
        for output in self.graph.outputs() {
            let (flow, value) = (self.flow(output.value), self.in_part(output.value));
            let of_whole = self.of_whole(output.value).ok_or_else(|| self.refusal(output.value.node));
            match output.kind {
                OutputKind::Update(id) => self.whole.update(id, of_whole?).map_err(internal)?,
                _ if flow == Flow::Whole => results.push(Ok(of_whole?)),
                _ => {
                    let value = value.expect("what goes with the part is made in it");
                    self.part.output(&output.name, value, OutputKind::Result);
                    results.push(Err(flow));
                }
            }
        }
        Ok(results)
    }
}
