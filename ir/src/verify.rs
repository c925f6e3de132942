//! The verifier: every invariant of [`Graph`], each violation under its own code.
//!
//! | code | violated invariant |
//! |---|---|
//! | `loc-range` | a node's place is in the table, whose first entry is the unknown place |
//! | `operand-order` | operands are defined by earlier nodes |
//! | `operand-result` | operands name results that exist |
//! | `invalid-op` | the op accepts its operands |
//! | `type-mismatch` | recorded types are the inferred ones |
//! | `type-size` | no type is too large to be held |
//! | `input-declaration` | declarations and input nodes point at each other, in one order; an input has one result |
//! | `duplicate-input` | input names are unique |
//! | `input-default` | a hyperparameter is a scalar with a default; only state may have one too |
//! | `output-value` | outputs name values that exist |
//! | `update-target` | an update replaces a persistent input |
//! | `update-name` | an update is called as its input is |
//! | `update-type` | an update has its input's type |
//! | `duplicate-update` | an input has at most one update |
//! | `checked-dtype` | a checked output is floating point |
//! | `region-signature` | a region body has data inputs and plain results only |
//! | `region-size` | regions nest, and expand, within limits |

use crate::attr::Attr;
use crate::diagnostic::{Diagnostic, Loc};
use crate::graph::{Def, Function, Graph, Input, InputId, Node, NodeId, OutputKind, Role, Value};
use crate::ops::Op;
use crate::types::TensorType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How deep regions may nest.
pub const MAX_REGION_DEPTH: usize = 64;

/// How many nodes a graph may have when every region body is written out once per use (2^24).
///
/// Work on nested regions is proportional to this, so a short text must not stand for more.
pub const MAX_EXPANDED_NODES: usize = 1 << 24;

/// Checks every invariant of a graph and of the region bodies in it.
pub fn verify(graph: &Graph) -> Result<(), Diagnostic> {
    verify_within(graph, &mut Functions::default()).map(drop)
}

fn verify_within(graph: &Graph, functions: &mut Functions) -> Result<Extent, Diagnostic> {
    let mut checker = Checker::default();
    if graph.locs.first() != Some(&Loc::default()) {
        return Err(Diagnostic::new("loc-range", "the first place must be the unknown one"));
    }
    for id in graph.node_ids() {
        checker.node(graph, id, functions)?;
    }
    for index in 0..graph.outputs.len() {
        checker.output(graph, index)?;
    }
    checker.finish(graph)
}

/// Size of a graph with the bodies of its regions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    /// How deep regions nest in it.
    depth: usize,
    /// Its nodes, every body counted once per use.
    nodes: usize,
}

/// Region bodies already verified, so that a shared one is looked at once.
#[derive(Default)]
pub(crate) struct Functions {
    extents: HashMap<*const Graph, Extent>,
}

impl Functions {
    /// Takes a function for verified.
    pub(crate) fn insert(&mut self, function: &Function, extent: Extent) {
        self.extents.insert(Arc::as_ptr(function), extent);
    }

    fn verify(&mut self, function: &Function) -> Result<Extent, Diagnostic> {
        if let Some(&extent) = self.extents.get(&Arc::as_ptr(function)) {
            return Ok(extent);
        }
        let extent = verify_within(function, self)?;
        self.insert(function, extent);
        Ok(extent)
    }
}

/// Checks a graph node by node, as the parser makes it.
#[derive(Default)]
pub(crate) struct Checker {
    names: HashMap<String, InputId>,
    updated: HashSet<InputId>,
    extent: Extent,
}

impl Checker {
    /// The input called `name` among those already checked.
    pub(crate) fn input_named(&self, name: &str) -> Option<InputId> {
        self.names.get(name).copied()
    }

    /// Checks a node, all earlier ones having been checked.
    pub(crate) fn node(&mut self, graph: &Graph, id: NodeId, functions: &mut Functions) -> Result<(), Diagnostic> {
        let node = graph.node(id);
        if node.loc.0 as usize >= graph.locs.len() {
            return Err(Diagnostic::new("loc-range", format!("node %{} has a place that is not listed", id.0)));
        }
        let checked = match &node.def {
            Def::Input(input) => self.input_node(graph, id, *input),
            Def::Op(op) => check_operands(graph, id)
                .and_then(|()| self.regions(op, functions))
                .and_then(|()| check_types(graph, node, op)),
        };
        self.extent.nodes += 1;
        checked.and_then(|()| self.check_extent()).map_err(|d| at(d, graph.loc(id)))
    }

    fn input_node(&mut self, graph: &Graph, id: NodeId, input: InputId) -> Result<(), Diagnostic> {
        let node = graph.node(id);
        let declared = graph.inputs.get(input.index()).filter(|i| i.value == Value { node: id, result: 0 });
        let in_order = input.index() == self.names.len();
        let (Some(declared), true, [], [ty]) = (declared, in_order, &node.operands[..], &node.types[..]) else {
            return Err(Diagnostic::new(
                "input-declaration",
                format!("input node %{} and its declaration differ", id.0),
            ));
        };
        ty.check_size().map_err(|e| Diagnostic::from_type_error("type-size", e, Loc::default()))?;
        check_default(declared, ty)?;
        if self.names.insert(declared.name.clone(), input).is_some() {
            return Err(Diagnostic::new("duplicate-input", format!("two inputs are called `{}`", declared.name)));
        }
        Ok(())
    }

    fn regions(&mut self, op: &Op, functions: &mut Functions) -> Result<(), Diagnostic> {
        for (_, attr) in op.attrs() {
            let Attr::Function(body) = attr else { continue };
            let extent = functions.verify(&body)?;
            check_signature(&body, op)?;
            self.extent.depth = self.extent.depth.max(extent.depth + 1);
            self.extent.nodes = self.extent.nodes.saturating_add(extent.nodes);
        }
        Ok(())
    }

    fn check_extent(&self) -> Result<(), Diagnostic> {
        if self.extent.depth <= MAX_REGION_DEPTH && self.extent.nodes <= MAX_EXPANDED_NODES {
            return Ok(());
        }
        Err(Diagnostic::new("region-size", "regions nest too deeply or expand to too many nodes")
            .expected(format!("{MAX_REGION_DEPTH} levels and {MAX_EXPANDED_NODES} nodes at most"))
            .found(format!("{} levels and {} nodes", self.extent.depth, self.extent.nodes)))
    }

    /// Checks an output, all nodes having been checked.
    pub(crate) fn output(&mut self, graph: &Graph, index: usize) -> Result<(), Diagnostic> {
        let output = &graph.outputs[index];
        let types = graph.nodes.get(output.value.node.index()).map(|n| &n.types);
        let Some(ty) = types.and_then(|t| t.get(output.value.result as usize)) else {
            return Err(Diagnostic::new("output-value", format!("output `{}` is no value of the graph", output.name))
                .found(output.value));
        };
        match output.kind {
            OutputKind::Result => Ok(()),
            OutputKind::Checked if ty.dtype.is_float() => Ok(()),
            OutputKind::Checked => {
                Err(Diagnostic::new("checked-dtype", format!("only floats can be checked, `{}` is not", output.name))
                    .expected("a float dtype")
                    .found(ty))
            }
            OutputKind::Update(of) => self.update(graph, of, &output.name, ty),
        }
        .map_err(|d| d.at(graph.loc(output.value.node).clone()))
    }

    fn update(&mut self, graph: &Graph, of: InputId, name: &str, ty: &TensorType) -> Result<(), Diagnostic> {
        let Some(input) = graph.inputs.get(of.index()).filter(|i| i.role.is_persistent()) else {
            return Err(Diagnostic::new("update-target", format!("update `{name}` has no persistent input"))
                .expected("a parameter, buffer or state"));
        };
        if input.name != name {
            return Err(Diagnostic::new("update-name", "an update must have the name of its input")
                .expected(&input.name)
                .found(name));
        }
        if graph.ty(input.value) != ty {
            return Err(Diagnostic::new("update-type", format!("the next value of `{name}` has another type"))
                .expected(graph.ty(input.value))
                .found(ty));
        }
        if !self.updated.insert(of) {
            return Err(Diagnostic::new("duplicate-update", format!("`{name}` is updated twice")));
        }
        Ok(())
    }

    /// Checks what can be known only at the end.
    pub(crate) fn finish(self, graph: &Graph) -> Result<Extent, Diagnostic> {
        match graph.inputs.get(self.names.len()) {
            None => Ok(self.extent),
            Some(input) => Err(Diagnostic::new("input-declaration", format!("input `{}` has no node", input.name))),
        }
    }
}

/// Places a diagnostic that has no place yet.
fn at(error: Diagnostic, loc: &Loc) -> Diagnostic {
    if error.loc.is_unknown() { error.at(loc.clone()) } else { error }
}

fn check_operands(graph: &Graph, id: NodeId) -> Result<(), Diagnostic> {
    for operand in &graph.node(id).operands {
        if operand.node >= id {
            return Err(Diagnostic::new("operand-order", format!("{operand} is used before it is defined"))
                .expected(format!("a value of a node before %{}", id.0)));
        }
        let results = graph.node(operand.node).types.len();
        if operand.result as usize >= results {
            return Err(Diagnostic::new("operand-result", format!("{operand} does not exist"))
                .expected(format!("one of the {results} results of %{}", operand.node.0)));
        }
    }
    Ok(())
}

fn check_types(graph: &Graph, node: &Node, op: &Op) -> Result<(), Diagnostic> {
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    let refused = |code, e| Diagnostic::from_type_error(code, e, Loc::default());
    let types = op.infer(&operands).map_err(|mut e| {
        e.message = format!("{}: {}", op.name(), e.message);
        refused("invalid-op", e)
    })?;
    types.iter().try_for_each(TensorType::check_size).map_err(|e| refused("type-size", e))?;
    if types.is_empty() {
        return Err(Diagnostic::new("invalid-op", format!("{}: an op must have a result", op.name())));
    }
    if types == node.types {
        return Ok(());
    }
    Err(Diagnostic::new("type-mismatch", format!("{}: the types given are not those of the results", op.name()))
        .expected(list(&types))
        .found(list(&node.types)))
}

fn list(types: &[TensorType]) -> String {
    types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ")
}

fn check_default(input: &Input, ty: &TensorType) -> Result<(), Diagnostic> {
    let ok = match input.role {
        Role::Hyper => input.default.is_some() && ty.rank() == 0,
        Role::State => true,
        _ => input.default.is_none(),
    };
    if ok {
        return Ok(());
    }
    Err(Diagnostic::new("input-default", format!("{} `{}` has a wrong declaration", input.role.word(), input.name))
        .expected(if input.role == Role::Hyper { "a scalar type and a default" } else { "no default" }))
}

fn check_signature(body: &Graph, op: &Op) -> Result<(), Diagnostic> {
    let closed = body.inputs.iter().all(|i| i.role == Role::Input)
        && body.outputs.iter().all(|o| matches!(o.kind, OutputKind::Result));
    if closed {
        return Ok(());
    }
    Err(Diagnostic::new("region-signature", format!("`{}` is no body for {}", body.name, op.name()))
        .expected("inputs of role input, and plain results"))
}

#[cfg(test)]
mod tests;
