//! Appending nodes: the only way a graph grows. Types are inferred, never stated.

use crate::attr::Float;
use crate::diagnostic::Loc;
use crate::graph::{Def, Graph, Input, InputId, LocId, Node, NodeId, Output, OutputKind, Role, Value};
use crate::ops::{Constant, DotGeneral, Op};
use crate::types::{DType, TensorType, TypeError};
use std::collections::HashMap;

mod convolution;
mod elementwise;
mod indexing;
mod reduce;
mod region;
mod structural;

pub use structural::broadcast_shape;

/// Appends nodes to a graph, inferring their types; equal nodes are made once.
#[derive(Clone, Debug)]
pub struct Builder {
    graph: Graph,
    loc: LocId,
    loc_ids: HashMap<Loc, LocId>,
    made: HashMap<(Op, Vec<Value>), NodeId>,
}

impl Builder {
    /// A builder of an empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Builder::from_graph(Graph::new(name))
    }

    /// Goes on where a graph ends.
    pub fn from_graph(graph: Graph) -> Self {
        let loc_ids = graph.locs.iter().enumerate().map(|(k, l)| (l.clone(), LocId(k as u32))).collect();
        let made = graph.nodes.iter().zip(graph.node_ids()).filter_map(|(node, id)| match &node.def {
            Def::Op(op) => Some(((op.clone(), node.operands.clone()), id)),
            Def::Input(_) => None,
        });
        Builder { made: made.collect(), loc: LocId::default(), loc_ids, graph }
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        self.graph.ty(value)
    }

    /// Shape of a value.
    pub fn shape(&self, value: Value) -> &[usize] {
        &self.graph.ty(value).shape
    }

    /// The place given to nodes appended from here on.
    pub fn set_loc(&mut self, loc: Loc) {
        let next = LocId(self.graph.locs.len() as u32);
        self.loc = *self.loc_ids.entry(loc.clone()).or_insert(next);
        if self.loc == next {
            self.graph.locs.push(loc);
        }
    }

    /// Declares an input and returns its value.
    pub fn declare(
        &mut self,
        name: &str,
        role: Role,
        ty: TensorType,
        default: Option<f64>,
    ) -> Result<Value, TypeError> {
        ty.check_size()?;
        if self.graph.input_named(name).is_some() {
            return Err(TypeError::new(format!("two inputs are called `{name}`")).expected("unique names"));
        }
        let id = InputId(self.graph.inputs.len() as u32);
        let value = self.append(Def::Input(id), vec![], vec![ty]);
        self.graph.inputs.push(Input { name: name.into(), role, default: default.map(Float::new), value });
        Ok(value)
    }

    /// Declares an input of another graph again. Ids are those there if inputs are declared in their order.
    pub fn declare_again(&mut self, graph: &Graph, id: InputId) -> Result<Value, TypeError> {
        let input = &graph.inputs()[id.index()];
        self.declare(&input.name, input.role, graph.ty(input.value).clone(), input.default.map(|d| d.get()))
    }

    /// Declares a data input.
    pub fn input(&mut self, name: &str, ty: TensorType) -> Result<Value, TypeError> {
        self.declare(name, Role::Input, ty, None)
    }

    /// Declares a parameter of the model.
    pub fn parameter(&mut self, name: &str, ty: TensorType) -> Result<Value, TypeError> {
        self.declare(name, Role::Parameter, ty, None)
    }

    /// Adds an output.
    pub fn output(&mut self, name: &str, value: Value, kind: OutputKind) {
        self.graph.outputs.push(Output { name: name.into(), value, kind });
    }

    /// Makes `value` the next value of the persistent input `of`; types must agree.
    pub fn update(&mut self, of: InputId, value: Value) -> Result<(), TypeError> {
        let input = &self.graph.inputs[of.index()];
        let (old, new) = (self.ty(input.value), self.ty(value));
        if old != new {
            return Err(TypeError::new(format!("the next value of `{}` has another type", input.name))
                .expected(old)
                .found(new));
        }
        let name = input.name.clone();
        self.output(&name, value, OutputKind::Update(of));
        Ok(())
    }

    fn append(&mut self, def: Def, operands: Vec<Value>, types: Vec<TensorType>) -> Value {
        let node = NodeId(self.graph.nodes.len() as u32);
        self.graph.nodes.push(Node { def, operands, types, loc: self.loc });
        Value { node, result: 0 }
    }

    /// Applies an op and returns all its results.
    pub fn apply(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
        let key = (op.into(), operands.to_vec());
        let node = match self.made.get(&key) {
            Some(&node) => node,
            None => self.append_op(key)?,
        };
        Ok(self.graph.results(node).collect())
    }

    fn append_op(&mut self, (op, operands): (Op, Vec<Value>)) -> Result<NodeId, TypeError> {
        let inputs: Vec<&TensorType> = operands.iter().map(|&v| self.graph.ty(v)).collect();
        let types =
            op.infer(&inputs).map_err(|e| TypeError { message: format!("{}: {}", op.name(), e.message), ..e })?;
        types.iter().try_for_each(TensorType::check_size)?;
        let node = self.append(Def::Op(op.clone()), operands.clone(), types).node;
        self.made.insert((op, operands), node);
        Ok(node)
    }

    /// Applies an op and returns its first result.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Value, TypeError> {
        Ok(self.apply(op, operands)?[0])
    }

    /// Copies the nodes of `body` with its inputs bound to `arguments`; returns the values of its outputs.
    ///
    /// A node keeps its place if it has one, else it gets the current one.
    pub fn inline(&mut self, body: &Graph, arguments: &[Value]) -> Result<Vec<Value>, TypeError> {
        if body.inputs.len() != arguments.len() {
            return Err(TypeError::new("wrong number of arguments").expected(body.inputs.len()).found(arguments.len()));
        }
        let around = self.loc;
        let mut values: Vec<Vec<Value>> = Vec::with_capacity(body.nodes.len());
        for (node, id) in body.nodes.iter().zip(body.node_ids()) {
            self.loc = around;
            if !body.loc(id).is_unknown() {
                self.set_loc(body.loc(id).clone());
            }
            let results = match &node.def {
                Def::Input(id) => vec![arguments[id.index()]],
                Def::Op(op) => {
                    let operands: Vec<Value> =
                        node.operands.iter().map(|v| values[v.node.index()][v.result as usize]).collect();
                    self.apply(op.clone(), &operands)?
                }
            };
            values.push(results);
        }
        self.loc = around;
        Ok(body.outputs.iter().map(|o| values[o.value.node.index()][o.value.result as usize]).collect())
    }

    /// A tensor of one repeated value.
    pub fn splat(&mut self, ty: &TensorType, value: f64) -> Result<Value, TypeError> {
        self.op(Constant { value: value.into(), dtype: ty.dtype, shape: ty.shape.clone() }, &[])
    }

    /// A tensor of the type of `x` with every element `value`.
    pub fn full_like(&mut self, x: Value, value: f64) -> Result<Value, TypeError> {
        self.splat(&self.ty(x).clone(), value)
    }

    /// A scalar constant.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<Value, TypeError> {
        self.splat(&TensorType::new(dtype, []), value)
    }

    /// Contraction with `batch` and `contract` axes given as `[left, right]`.
    pub fn dot_general(
        &mut self,
        a: Value,
        b: Value,
        batch: [&[usize]; 2],
        contract: [&[usize]; 2],
    ) -> Result<Value, TypeError> {
        let op = DotGeneral {
            lhs_batch: batch[0].to_vec(),
            rhs_batch: batch[1].to_vec(),
            lhs_contract: contract[0].to_vec(),
            rhs_contract: contract[1].to_vec(),
        };
        self.op(op, &[a, b])
    }
}
