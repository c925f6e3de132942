//! The walk over a file's nodes: names to values, one rule per operator, all problems together.

use super::constants::{Known, Tensors};
use super::fault::Fault;
use super::node::{Node, Slot};
use super::ops::{self, Rule};
use super::proto::{NodeProto, TensorProto};
use super::provenance::{loc_of, name_of};
use super::tensors::TensorReader;
use crate::model::ImportOptions;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{Graph, InputId, OutputKind, Role, Value};
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A decoded file: what both walks read.
pub struct Source<'a> {
    /// File name of the model.
    pub file: String,
    /// Name of the model.
    pub name: String,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Nodes in topological order.
    pub nodes: &'a [NodeProto],
    /// Data inputs.
    pub inputs: Vec<(&'a str, TensorType)>,
    /// Weights and constants in file order.
    pub initializers: Vec<(String, Role)>,
    /// Names of the outputs.
    pub outputs: Vec<&'a str>,
}

/// Which of a model's two graphs is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward of a training step.
    Train,
    /// Inference.
    Infer,
}

/// Shape of every tensor of a file, by name.
pub type Shapes = HashMap<String, Vec<usize>>;

/// One walk over a file.
pub struct Walk<'a> {
    /// Where nodes are appended.
    pub b: Builder,
    /// Which graph is built.
    pub mode: Mode,
    /// Arguments of the import.
    pub options: &'a ImportOptions,
    /// Shapes at the file's own batch size, when another one is imported.
    pub recorded: Option<&'a Shapes>,
    tensors: &'a mut Tensors,
    reader: &'a mut TensorReader,
    known: Known,
    values: HashMap<&'a str, Slot>,
    updates: BTreeMap<InputId, Value>,
    problems: Vec<Diagnostic>,
    notes: BTreeSet<String>,
}

/// A finished walk.
pub struct Walked {
    /// The graph, with dead nodes and unused inputs still in it.
    pub graph: Graph,
    /// What is known in it.
    pub known: Known,
    /// Shape of every tensor.
    pub shapes: Shapes,
    /// What the user should know.
    pub notes: BTreeSet<String>,
}

/// Builds one graph of a file.
///
/// # Errors
/// Every problem found; users of a failed node's results are passed over.
pub fn walk<'a>(
    source: &'a Source<'a>,
    mode: Mode,
    options: &'a ImportOptions,
    recorded: Option<&'a Shapes>,
    tensors: &'a mut Tensors,
    reader: &'a mut TensorReader,
) -> Result<Walked, Diagnostics> {
    let mut walk = Walk {
        b: Builder::new(source.name.clone()),
        mode,
        options,
        recorded,
        tensors,
        reader,
        known: Known::default(),
        values: HashMap::new(),
        updates: BTreeMap::new(),
        problems: vec![],
        notes: BTreeSet::new(),
    };
    walk.declare(source);
    for node in source.nodes {
        walk.node(node, source);
    }
    walk.output(source);
    walk.finish()
}

impl<'a> Walk<'a> {
    fn declare(&mut self, source: &'a Source<'a>) {
        let initializers = source.initializers.iter().map(|(name, role)| {
            let ty = self.tensors.by_name[name].ty().clone();
            (name.as_str(), *role, ty)
        });
        let inputs = source.inputs.iter().map(|(name, ty)| (*name, Role::Input, ty.clone()));
        for (name, role, ty) in inputs.chain(initializers).collect::<Vec<_>>() {
            match self.b.declare(name, role, ty, None) {
                Ok(value) => self.bind(name, value.into()),
                Err(e) => self.problem(Diagnostic::from_type_error("invalid-input", e, Default::default()), source),
            }
        }
    }

    fn problem(&mut self, diagnostic: Diagnostic, source: &Source) {
        let unplaced = diagnostic.loc.is_unknown();
        self.problems.push(if unplaced { diagnostic.in_file(&source.file) } else { diagnostic });
    }

    fn bind(&mut self, name: &'a str, slot: Slot) {
        self.values.insert(name, slot);
    }

    fn node(&mut self, proto: &'a NodeProto, source: &'a Source<'a>) {
        let (name, loc) = (name_of(proto), loc_of(proto, &source.file));
        self.b.set_loc(loc.clone());
        let results = self.apply(proto, source.opset).unwrap_or_else(|faults| {
            self.problems.extend(faults.into_iter().map(|f| f.at(name, loc.clone())));
            vec![]
        });
        let mut results = results.into_iter();
        for output in &proto.output {
            let slot = results.next().unwrap_or(Slot::Failed);
            if !output.is_empty() && self.values.insert(output, slot).is_some() {
                let twice = TypeError::new(format!("value `{output}` is defined twice"));
                self.problems.push(Fault::new("duplicate-name", twice).at(name, loc.clone()));
            }
        }
    }

    /// Results of a node: all it names, or none after a failure that is reported elsewhere.
    fn apply(&mut self, proto: &'a NodeProto, opset: i64) -> Result<Vec<Slot>, Vec<Fault>> {
        let inputs = self.operands(proto).map_err(|fault| vec![fault])?;
        let Some(rule) = ops::rule(proto).filter(|_| !inputs.contains(&Some(Slot::Failed))) else { return Ok(vec![]) };
        let node = Node::new(proto, inputs, opset);
        let results = rule.apply(self, &node);
        let mut faults = node.unread_attributes();
        match results {
            Ok(results) if results.len() < proto.output.iter().rposition(|o| !o.is_empty()).map_or(0, |at| at + 1) => {
                let extra = TypeError::new(format!("`{}` has results that are not supported", proto.op_type));
                let counts = extra.expected(results.len()).found(proto.output.len());
                faults.push(Fault::new("unsupported", counts));
            }
            Ok(results) if faults.is_empty() => return Ok(results),
            Ok(_) => {}
            // what a failed rule has not read says nothing
            Err(fault) => faults = vec![fault],
        }
        Err(faults)
    }

    fn operands(&self, proto: &NodeProto) -> Result<Vec<Option<Slot>>, Fault> {
        let operand = |name: &String| match (name.is_empty(), self.values.get(name.as_str())) {
            (true, _) => Ok(None),
            (false, Some(slot)) => Ok(Some(slot.clone())),
            (false, None) => Err(Fault::new("undefined-value", TypeError::new(format!("`{name}` is not defined")))
                .expected("a graph input, an initializer or a result of an earlier node")
                .help("nodes must be in topological order; a graph with a cycle has none")),
        };
        proto.input.iter().map(operand).collect()
    }

    fn output(&mut self, source: &Source) {
        let mut seen = BTreeSet::new();
        for name in &source.outputs {
            let problem = match self.values.get(name) {
                Some(Slot::Value(value)) if seen.insert(*name) => {
                    self.b.output(name, *value, OutputKind::Result);
                    continue;
                }
                Some(Slot::Failed) => continue,
                Some(Slot::Value(_)) => Diagnostic::new("duplicate-name", format!("two outputs are called `{name}`")),
                Some(Slot::Sequence(_)) => {
                    Diagnostic::new("unsupported", format!("output `{name}` is a sequence")).expected("a tensor")
                }
                None => Diagnostic::new("undefined-value", format!("output `{name}` is not defined")),
            };
            self.problem(problem, source);
        }
        for (id, value) in std::mem::take(&mut self.updates) {
            if let Err(e) = self.b.update(id, value) {
                self.problem(Diagnostic::from_type_error("invalid-update", e, Default::default()), source);
            }
        }
    }

    fn finish(self) -> Result<Walked, Diagnostics> {
        if !self.problems.is_empty() {
            return Err(Diagnostics(self.problems));
        }
        let shape = |(name, slot): (&&str, &Slot)| match slot {
            Slot::Value(v) => Some((name.to_string(), self.b.shape(*v).to_vec())),
            _ => None,
        };
        let shapes = self.values.iter().filter_map(shape).collect();
        Ok(Walked { graph: self.b.finish(), known: self.known, shapes, notes: self.notes })
    }

    /// The tensor of a value, when it is known during import.
    pub fn known(&mut self, value: Value) -> Option<Tensor> {
        self.known.get(self.b.graph(), self.tensors, value).cloned()
    }

    /// The integers of operand `at`, which must be known; `None` when the operand is left out.
    pub fn optional_ints(&mut self, node: &Node, at: usize) -> Result<Option<Vec<i64>>, Fault> {
        let Some(value) = node.optional(at)? else { return Ok(None) };
        let ty = self.b.ty(value).clone();
        if ty.dtype.is_float() {
            return Err(TypeError::new(format!("operand {at} must hold integers")).found(ty).into());
        }
        self.known(value).map(|t| Some(t.ints().to_vec())).ok_or_else(|| unknown_operand(at))
    }

    /// The integers of operand `at`, which must be there and known.
    pub fn ints(&mut self, node: &Node, at: usize) -> Result<Vec<i64>, Fault> {
        node.input(at)?;
        Ok(self.optional_ints(node, at)?.unwrap_or_default())
    }

    /// The floats of operand `at`, which must be known; `None` when the operand is left out.
    pub fn optional_floats(&mut self, node: &Node, at: usize) -> Result<Option<Vec<f64>>, Fault> {
        let Some(value) = node.optional(at)? else { return Ok(None) };
        let ty = self.b.ty(value).clone();
        if !ty.dtype.is_float() {
            return Err(TypeError::new(format!("operand {at} must hold floats")).found(ty).into());
        }
        self.known(value).map(|t| Some(t.floats().to_vec())).ok_or_else(|| unknown_operand(at))
    }

    /// The number in operand `at`, a scalar that must be known; `None` when the operand is left out.
    pub fn optional_number(&mut self, node: &Node, at: usize) -> Result<Option<f64>, Fault> {
        let Some(value) = node.optional(at)? else { return Ok(None) };
        let known = self.known(value).ok_or_else(|| unknown_operand(at))?;
        number_of(&known)
            .map(Some)
            .ok_or_else(|| TypeError::new(format!("operand {at} must be one number")).found(self.b.ty(value)).into())
    }

    /// A constant of the graph, named after the first result of the node that holds it.
    pub fn constant(&mut self, node: &Node, tensor: HostTensor) -> Result<Value, Fault> {
        Ok(self.tensors.constant(&mut self.b, node.output(0), tensor)?)
    }

    /// Integers of a shape as a constant.
    pub fn int_constant(&mut self, node: &Node, shape: &[usize], values: &[i64]) -> Result<Value, Fault> {
        self.constant(node, HostTensor::from_i64(shape, values)?)
    }

    /// A tensor attribute as a constant.
    pub fn tensor_attribute(&mut self, proto: &TensorProto) -> Result<HostTensor, Fault> {
        self.reader.read(&mut proto.clone()).map_err(|d| {
            let error = TypeError { message: d.message, expected: d.expected, found: d.found };
            Fault::new(d.code, error)
        })
    }

    /// Makes `next` the next value of a running statistic; the update of an update replaces it.
    pub fn update(&mut self, statistic: Value, next: Value) -> Result<(), Fault> {
        let id = self.statistic(statistic)?;
        self.updates.insert(id, next);
        Ok(())
    }

    /// The latest value of a running statistic: one node's update is what the next one reads, as in PyTorch.
    pub fn latest(&self, statistic: Value) -> Result<Value, Fault> {
        Ok(self.updates.get(&self.statistic(statistic)?).copied().unwrap_or(statistic))
    }

    fn statistic(&self, value: Value) -> Result<InputId, Fault> {
        let graph = self.b.graph();
        let buffer = graph.input_of(value).filter(|i| i.role == Role::Buffer);
        buffer
            .and_then(|i| graph.input_named(&i.name))
            .map(|(id, _)| id)
            .ok_or_else(|| Fault::unsupported("running statistics must be initializers").expected("an initializer"))
    }

    /// Something the user should know although it is not an error.
    pub fn note(&mut self, text: &str) {
        self.notes.insert(text.to_string());
    }

    /// Whether the graph of a training step is being built.
    pub fn training(&self) -> bool {
        self.mode == Mode::Train
    }

    /// The shape recorded for a named value at the file's own batch size, when another one is imported.
    pub fn recorded_shape(&self, name: &str) -> Option<&'a [usize]> {
        self.recorded?.get(name).map(Vec::as_slice)
    }
}

fn unknown_operand(at: usize) -> Fault {
    Fault::new("unknown-shape", TypeError::new(format!("operand {at} must be known when the model is imported")))
        .help("export the model with static shapes")
}

fn number_of(tensor: &Tensor) -> Option<f64> {
    match (tensor.ty.elements(), &tensor.data) {
        (1, gradc_ir::tensor::Data::Float(v)) => Some(v[0]),
        (1, gradc_ir::tensor::Data::Int(v)) => Some(v[0] as f64),
        _ => None,
    }
}

impl Rule {
    /// Applies the rule to a node.
    fn apply(&self, walk: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
        let arity = |count: usize| -> Result<(), Fault> {
            let fault = || TypeError::new("wrong number of operands").expected(count).found(node.input_count());
            if node.input_count() == count { Ok(()) } else { Err(fault().into()) }
        };
        match self {
            Rule::Unary(build) => {
                arity(1)?;
                Ok(vec![build(&mut walk.b, node.input(0)?)?.into()])
            }
            Rule::Binary(build) => {
                arity(2)?;
                Ok(vec![build(&mut walk.b, node.input(0)?, node.input(1)?)?.into()])
            }
            Rule::One(build) => Ok(vec![build(walk, node)?.into()]),
            Rule::Many(build) => build(walk, node),
        }
    }
}
