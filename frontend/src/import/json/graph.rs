//! From the declarations of a model file to a graph.

use super::call::Call;
use super::file::{Extent, FunctionDecl, ModelFile, NodeDecl};
use super::layers::{LAYERS, Layer};
use super::regions::{Bodies, REGIONS, Region};
use crate::schema::did_you_mean;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::ops::Op;
use gradc_ir::types::{TensorType, TypeError};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Builds one graph of the model, or says everything that is wrong with it.
pub(super) fn build(file: &ModelFile, name: &str, context: Context) -> Result<Graph, Diagnostics> {
    let mut maker = Maker::new(name, context, "");
    maker.functions(&file.functions);
    maker.inputs(file);
    file.nodes.iter().for_each(|node| maker.node(node));
    maker.outputs(file);
    maker.finish()
}

/// What holds for all nodes of a file.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The file.
    pub source: &'a str,
    /// Sizes of the named extents.
    pub dims: &'a BTreeMap<String, usize>,
    /// Whether the graph is the one that trains.
    pub training: bool,
    /// The functions that nodes may apply.
    pub functions: &'a [FunctionDecl],
}

pub(super) struct Maker<'a> {
    b: Builder,
    context: Context<'a>,
    /// The node whose body is made; empty for the model itself.
    within: &'a str,
    /// Results by name; `None` where making them failed, which is told once.
    scope: BTreeMap<String, Option<Vec<Value>>>,
    problems: Vec<Diagnostic>,
}

impl<'a> Maker<'a> {
    pub fn new(name: &str, context: Context<'a>, within: &'a str) -> Self {
        Maker { b: Builder::new(name), context, within, scope: BTreeMap::new(), problems: vec![] }
    }

    /// The graph, or the problems.
    pub fn finish(self) -> Result<Graph, Diagnostics> {
        if self.problems.is_empty() { Ok(self.b.finish()) } else { Err(Diagnostics(self.problems)) }
    }

    /// The layer of a node: those of a body are parts of the node that applies it.
    fn layer(&self, name: &str) -> String {
        if self.within.is_empty() { name.into() } else { format!("{}.{name}", self.within) }
    }

    fn loc(&self, name: &str, op: &str) -> Loc {
        Loc { file: self.context.source.into(), layer: self.layer(name), source_op: op.into(), ..Loc::default() }
    }

    fn functions(&mut self, functions: &[FunctionDecl]) {
        for (k, function) in functions.iter().enumerate() {
            if functions[..k].iter().any(|before| before.name == function.name) {
                let twice = Diagnostic::new("duplicate-name", format!("two functions are called `{}`", function.name));
                self.problem(&function.name, "", twice.expected("unique names among functions"));
            }
        }
    }

    /// Declares the arguments of a body.
    pub fn arguments<'b>(&mut self, arguments: impl Iterator<Item = (&'b String, &'b TensorType)>) {
        for (name, ty) in arguments {
            let made = self.declare(name, Role::Input, ty.dtype, ty.shape.clone());
            self.define(name, "", made);
        }
    }

    fn problem(&mut self, name: &str, op: &str, problem: Diagnostic) {
        let loc = self.loc(name, op);
        self.problems.push(problem.at(loc));
    }

    /// Names what was made, or notes why it was not; the first of two things with one name keeps it.
    fn define(&mut self, name: &str, op: &str, made: Result<Option<Vec<Value>>, Diagnostic>) {
        let values = made.unwrap_or_else(|problem| {
            self.problem(name, op, problem);
            None
        });
        if self.scope.contains_key(name) {
            let twice = Diagnostic::new("duplicate-name", format!("two things are called `{name}`"));
            return self.problem(name, op, twice.expected("unique names among inputs, tensors and nodes"));
        }
        self.scope.insert(name.into(), values);
    }

    fn inputs(&mut self, file: &ModelFile) {
        for input in &file.inputs {
            let shape: Result<Vec<usize>, Diagnostic> = input.shape.iter().map(|e| self.extent(e)).collect();
            let made = shape.and_then(|shape| self.declare(&input.name, Role::Input, input.dtype.0, shape));
            self.define(&input.name, "", made);
        }
        let tensors =
            [(Role::Parameter, &file.parameters), (Role::Buffer, &file.buffers), (Role::Constant, &file.constants)];
        for (role, tensor) in tensors.into_iter().flat_map(|(role, list)| list.iter().map(move |t| (role, t))) {
            let made = self.declare(&tensor.name, role, tensor.dtype.0, tensor.shape.clone());
            self.define(&tensor.name, "", made);
        }
    }

    fn extent(&self, extent: &Extent) -> Result<usize, Diagnostic> {
        match extent {
            Extent::Size(size) => Ok(*size),
            Extent::Dim(name) => self.context.dims.get(name).copied().ok_or_else(|| {
                let mut problem = Diagnostic::new("unknown-dim", format!("there is no `{name}` in `dims`"));
                problem.help = did_you_mean(name, self.context.dims.keys().map(String::as_str));
                problem
            }),
        }
    }

    fn declare(
        &mut self,
        name: &str,
        role: Role,
        dtype: gradc_ir::types::DType,
        shape: Vec<usize>,
    ) -> Result<Option<Vec<Value>>, Diagnostic> {
        if self.scope.contains_key(name) {
            return Ok(None);
        }
        let declared = TensorType::checked(dtype, shape).and_then(|ty| self.b.declare(name, role, ty, None));
        declared.map(|v| Some(vec![v])).map_err(|e| Diagnostic::from_type_error("shape-too-large", e, Loc::default()))
    }

    /// Makes a node, or notes what is wrong with it.
    pub fn node(&mut self, node: &NodeDecl) {
        self.b.set_loc(self.loc(&node.name, &node.op));
        let operands: Vec<Result<Option<Value>, Diagnostic>> = node.inputs.iter().map(|name| self.find(name)).collect();
        let mut known = Some(Vec::new());
        for operand in operands {
            match operand {
                Ok(Some(value)) => known.as_mut().into_iter().for_each(|list| list.push(value)),
                Ok(None) => known = None,
                Err(problem) => {
                    self.problem(&node.name, &node.op, problem);
                    known = None;
                }
            }
        }
        let made = self.apply(node, known);
        self.define(&node.name, &node.op, made);
    }

    /// A value by name: `node` or `node:1`. `None` where making it failed.
    fn find(&self, reference: &str) -> Result<Option<Value>, Diagnostic> {
        let numbered = reference.rsplit_once(':').and_then(|(name, k)| Some((name, k.parse::<usize>().ok()?)));
        let (name, result) = numbered.filter(|_| !self.scope.contains_key(reference)).unwrap_or((reference, 0));
        let Some(values) = self.scope.get(name) else {
            let mut problem = Diagnostic::new("unknown-value", format!("nothing before this is called `{name}`"));
            problem.help = did_you_mean(name, self.scope.keys().map(String::as_str));
            return Err(problem);
        };
        let Some(values) = values else { return Ok(None) };
        values.get(result).copied().map(Some).ok_or_else(|| {
            Diagnostic::new("unknown-value", format!("`{name}` has no result {result}"))
                .found(format!("{} results", values.len()))
        })
    }

    /// Results of a node; nothing where an operand is missing, but an unknown op is told all the same.
    fn apply(&mut self, node: &NodeDecl, operands: Option<Vec<Value>>) -> Result<Option<Vec<Value>>, Diagnostic> {
        let build = Build::named(&node.op).ok_or_else(|| unknown_op(&node.op))?;
        let Some(operands) = operands else { return Ok(None) };
        let Context { dims, training, .. } = self.context;
        let attrs = node.attrs.iter().map(|(name, value)| (name.clone(), with_sizes(value, dims))).collect();
        let layer = self.layer(&node.name);
        let mut bodies = Bodies { context: self.context, node: &layer, problems: vec![] };
        let mut call = Call { b: &mut self.b, training, operands, attrs };
        let made = match build {
            Build::Layer(build) => build(&mut call),
            Build::Region(build) => build(&mut call, &mut bodies),
            Build::Op => ir_op(&node.op, &mut call),
        };
        let made = made.and_then(|values| call.finish().map(|()| values));
        if !bodies.problems.is_empty() {
            self.problems.append(&mut bodies.problems);
            return Ok(None);
        }
        made.map(Some).map_err(|e| Diagnostic::from_type_error("invalid-node", e, Loc::default()))
    }

    fn outputs(&mut self, file: &ModelFile) {
        if file.outputs.is_empty() {
            self.problem("outputs", "", Diagnostic::new("no-outputs", "the model returns nothing"));
        }
        self.results(file.outputs.iter().map(|output| (output.name.clone(), output.value.as_str())));
    }

    /// Names what the graph returns.
    pub fn results<'b>(&mut self, results: impl Iterator<Item = (String, &'b str)>) {
        for (name, value) in results {
            match self.find(value) {
                Ok(Some(value)) => self.b.output(&name, value, OutputKind::Result),
                Ok(None) => {}
                Err(problem) => self.problem(&name, "output", problem),
            }
        }
    }
}

/// How a node is built.
enum Build {
    Layer(Layer),
    Region(Region),
    /// An op of the IR, from its attributes.
    Op,
}

impl Build {
    fn named(op: &str) -> Option<Build> {
        let layer = || LAYERS.iter().find(|(name, _)| *name == op).map(|(_, build)| Build::Layer(*build));
        let region = || REGIONS.iter().find(|(name, _)| *name == op).map(|(_, build)| Build::Region(*build));
        layer().or_else(region).or_else(|| Op::NAMES.contains(&op).then_some(Build::Op))
    }
}

fn unknown_op(op: &str) -> Diagnostic {
    let names = LAYERS.iter().map(|(name, _)| *name).chain(Op::NAMES.iter().copied());
    let mut problem = Diagnostic::new("unknown-op", format!("there is no op `{op}`"));
    problem.help = did_you_mean(op, names);
    problem
}

fn ir_op(name: &str, call: &mut Call) -> Result<Vec<Value>, TypeError> {
    let attrs = call.ir_attrs()?;
    let op = Op::parse(name, attrs).ok_or_else(|| TypeError::new(format!("there is no op `{name}`")))??;
    call.b.apply(op, &call.operands)
}

/// The attribute with the names of `dims` in its lists replaced by their sizes.
fn with_sizes(value: &Json, dims: &BTreeMap<String, usize>) -> Json {
    let Json::Array(list) = value else { return value.clone() };
    let size = |entry: &Json| entry.as_str().and_then(|name| dims.get(name)).map_or(entry.clone(), |&size| size.into());
    list.iter().map(size).collect()
}
