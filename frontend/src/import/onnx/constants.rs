//! Values that are known during import: shape arithmetic, constants and what is computed from them.
//!
//! A value is known when every operand of its op is; it is found by the op's own [`eval`](gradc_ir::ops::Op::eval).

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, Node, NodeId, OutputKind, Role, Value};
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Values with more elements than this are not evaluated during import.
const MAX_KNOWN_ELEMENTS: usize = 1 << 16;

/// Elements of all evaluated values together, so that a hostile file cannot fill the memory.
const MAX_TOTAL_ELEMENTS: usize = 1 << 24;

/// The model's tensors; constants with equal contents are one.
#[derive(Default)]
pub struct Tensors {
    /// Every parameter, buffer and constant by name.
    pub by_name: BTreeMap<String, HostTensor>,
    by_content: HashMap<(TensorType, Vec<u8>), String>,
}

impl Tensors {
    /// The name under which a constant is held: that of an equal constant from before, else `name`, made unique.
    fn intern(&mut self, name: &str, tensor: HostTensor) -> String {
        let content = (tensor.ty().clone(), tensor.bytes().to_vec());
        if let Some(name) = self.by_content.get(&content) {
            return name.clone();
        }
        let numbered = (self.by_content.len()..).map(|k| format!("{name}.{k}"));
        let mut names = std::iter::once(name.to_string()).chain(numbered);
        let name = names.find(|n| !self.by_name.contains_key(n)).expect("there are more names than tensors");
        self.by_content.insert(content, name.clone());
        self.by_name.insert(name.clone(), tensor);
        name
    }

    /// The value of a constant: an op when it is one repeated value, else an input of role constant.
    pub fn constant(&mut self, b: &mut Builder, name: &str, tensor: HostTensor) -> Result<Value, TypeError> {
        if let Some(value) = repeated_value(&tensor) {
            return b.splat(tensor.ty(), value);
        }
        let ty = tensor.ty().clone();
        let name = self.intern(name, tensor);
        match b.graph().input_named(&name) {
            Some((_, input)) => Ok(input.value),
            None => b.declare(&name, Role::Constant, ty, None),
        }
    }
}

/// The value all elements have, when they have one that an f64 holds exactly; 0 for a tensor without elements.
fn repeated_value(tensor: &HostTensor) -> Option<f64> {
    let size_bytes = tensor.ty().dtype.size_bytes();
    let Some(first) = tensor.bytes().get(..size_bytes) else { return Some(0.0) };
    if tensor.bytes().chunks_exact(size_bytes).any(|element| element != first) {
        return None;
    }
    let scalar = TensorType::new(tensor.ty().dtype, []);
    let one = HostTensor::new(scalar.clone(), first.to_vec()).ok()?.to_tensor();
    match &one.data {
        gradc_ir::tensor::Data::Float(v) => Some(v[0]),
        gradc_ir::tensor::Data::Int(v) => (Tensor::splat(scalar, v[0] as f64) == one).then_some(v[0] as f64),
    }
}

/// Evaluates what can be evaluated of a growing graph.
#[derive(Default)]
pub struct Known {
    results: Vec<Option<Vec<Tensor>>>,
    elements: usize,
}

impl Known {
    /// The tensor of a value, when it is known.
    pub fn get(&mut self, graph: &Graph, tensors: &Tensors, value: Value) -> Option<&Tensor> {
        self.extend(graph, tensors);
        self.results[value.node.index()].as_ref().map(|results| &results[value.result as usize])
    }

    /// Evaluates the nodes appended since the last call, in topological order.
    fn extend(&mut self, graph: &Graph, tensors: &Tensors) {
        for node in &graph.nodes()[self.results.len()..] {
            let result = self.evaluate(graph, tensors, node);
            let elements = |results: &Vec<Tensor>| results.iter().map(|t| t.ty.elements()).sum();
            self.elements += result.as_ref().map_or(0, elements);
            self.results.push(result);
        }
    }

    fn evaluate(&self, graph: &Graph, tensors: &Tensors, node: &Node) -> Option<Vec<Tensor>> {
        let small = node.types.iter().all(|ty| ty.elements() <= MAX_KNOWN_ELEMENTS);
        if !small || self.elements > MAX_TOTAL_ELEMENTS {
            return None;
        }
        match &node.def {
            Def::Input(id) => {
                let input = &graph.inputs()[id.index()];
                let held = tensors.by_name.get(&input.name).filter(|_| input.role == Role::Constant)?;
                Some(vec![held.to_tensor()])
            }
            Def::Op(op) => {
                let operand = |v: &Value| self.results[v.node.index()].as_ref().map(|r| &r[v.result as usize]);
                let operands = node.operands.iter().map(operand).collect::<Option<Vec<_>>>()?;
                let results = op.eval(&operands).ok()?;
                Some(results.iter().map(Tensor::rounded).collect())
            }
        }
    }

    fn is_folded(&self, graph: &Graph, id: NodeId) -> bool {
        !graph.node(id).operands.is_empty() && self.results[id.index()].is_some()
    }

    /// Values some output depends on, where known values depend on nothing.
    pub fn needed(&mut self, graph: &Graph, tensors: &Tensors) -> HashSet<Value> {
        self.extend(graph, tensors);
        let mut needed: HashSet<Value> = graph.outputs().iter().map(|o| o.value).collect();
        for id in graph.node_ids().rev() {
            if !self.is_folded(graph, id) && graph.results(id).any(|v| needed.contains(&v)) {
                needed.extend(&graph.node(id).operands);
            }
        }
        needed
    }

    /// The graph with known values as constants, without what no output needs.
    ///
    /// Data inputs and the inputs named in `kept` stay whether they are needed or not.
    pub fn fold(&mut self, graph: &Graph, tensors: &mut Tensors, kept: &BTreeSet<String>) -> Result<Graph, TypeError> {
        let needed = self.needed(graph, tensors);
        let mut b = Builder::new(graph.name.clone());
        let mut renamed: HashMap<Value, Value> = HashMap::new();
        for id in graph.node_ids() {
            b.set_loc(graph.loc(id).clone());
            let node = graph.node(id);
            let wanted = || graph.results(id).filter(|v| needed.contains(v));
            match &node.def {
                Def::Input(input) => {
                    let input = &graph.inputs()[input.index()];
                    if wanted().next().is_some() || input.role == Role::Input || kept.contains(&input.name) {
                        let ty = graph.ty(input.value).clone();
                        renamed.insert(input.value, b.declare(&input.name, input.role, ty, None)?);
                    }
                }
                Def::Op(_) if self.is_folded(graph, id) => {
                    for value in wanted() {
                        renamed.insert(value, self.folded(&mut b, tensors, value)?);
                    }
                }
                Def::Op(op) if wanted().next().is_some() => {
                    let operands: Vec<Value> = node.operands.iter().map(|v| renamed[v]).collect();
                    renamed.extend(graph.results(id).zip(b.apply(op.clone(), &operands)?));
                }
                Def::Op(_) => {}
            }
        }
        copy_outputs(graph, &mut b, &renamed)?;
        Ok(b.finish())
    }

    fn folded(&self, b: &mut Builder, tensors: &mut Tensors, value: Value) -> Result<Value, TypeError> {
        let results = self.results[value.node.index()].as_ref().expect("a folded node has been evaluated");
        tensors.constant(b, "folded", results[value.result as usize].to_host())
    }
}

fn copy_outputs(graph: &Graph, b: &mut Builder, renamed: &HashMap<Value, Value>) -> Result<(), TypeError> {
    for output in graph.outputs() {
        match output.kind {
            OutputKind::Update(_) => {
                let (id, _) = b.graph().input_named(&output.name).expect("an updated input is kept");
                b.update(id, renamed[&output.value])?;
            }
            kind => b.output(&output.name, renamed[&output.value], kind),
        }
    }
    Ok(())
}
