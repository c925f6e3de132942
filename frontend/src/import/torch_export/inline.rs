//! Regions of a program, written into the graph around them.
//!
//! What a model computes under `torch.no_grad()` is a graph of its own in the file, called by
//! `wrap_with_set_grad_enabled`. Its nodes take the call's place, and what leaves the region is detached: the results,
//! and what it writes to tensors from outside.

use super::memory::tensor_names;
use super::ops;
use super::program::overwritten;
use super::schema::{
    Argument, Graph, GraphArgument, Named, NamedArgument, Node, OptionalTensor, SymIntArgument, TensorMeta,
};
use super::stops::{ALIAS, DETACH};
use gradc_ir::diagnostic::Diagnostic;
use std::collections::{BTreeMap, BTreeSet};

const SET_GRAD: &str = "torch.ops.higher_order.wrap_with_set_grad_enabled";
const AUTOCAST: &str = "torch.ops.higher_order.wrap_with_autocast";
const DETACH_IN_PLACE: &str = "torch.ops.aten.detach_.default";

/// Writes the regions of a graph into it, and those within them, which are as deep as the reader of JSON allows. Calls
/// of other kinds stay, to be reported where they are built.
///
/// # Errors
/// A region whose call does not fit it, or that writes to what a gradient flows through.
pub fn inline_regions(graph: &mut Graph, buffers: &BTreeSet<String>) -> Result<(), Diagnostic> {
    for node in std::mem::take(&mut graph.nodes) {
        match Region::of(&node) {
            None => graph.nodes.push(node),
            Some(region) => {
                let mut body = region.body.graph.clone();
                inline_regions(&mut body, buffers)?;
                let inlined = Inlined { call: &node, region: &region, buffers };
                graph.nodes.extend(inlined.nodes(body, &mut graph.tensor_values)?);
            }
        }
    }
    Ok(())
}

/// A call of a region.
struct Region<'a> {
    body: &'a GraphArgument,
    /// What the body's inputs are.
    operands: &'a [NamedArgument],
    /// Whether gradients do not enter it.
    stops: bool,
}

impl<'a> Region<'a> {
    /// The region that a node calls, if its body can be written in the call's place.
    fn of(node: &'a Node) -> Option<Self> {
        let at = node.inputs.iter().position(|input| matches!(input.arg, Argument::AsGraph(_)))?;
        let Argument::AsGraph(body) = &node.inputs[at].arg else { return None };
        let stops = match (node.target.as_str(), &node.inputs[..at]) {
            (SET_GRAD, [enabled]) => !boolean(enabled)?,
            // Only one that is switched off: half precision is what autocast is for.
            (AUTOCAST, [_, _, enabled, _]) if !boolean(enabled)? => false,
            _ => return None,
        };
        Some(Region { body, operands: &node.inputs[at + 1..], stops })
    }
}

fn boolean(input: &NamedArgument) -> Option<bool> {
    if let Argument::AsBool(value) = input.arg { Some(value) } else { None }
}

/// A region being written in place of its call.
struct Inlined<'a> {
    call: &'a Node,
    region: &'a Region<'a>,
    buffers: &'a BTreeSet<String>,
}

impl Inlined<'_> {
    fn nodes(&self, body: Graph, types: &mut BTreeMap<String, TensorMeta>) -> Result<Vec<Node>, Diagnostic> {
        let names = self.names(&body)?;
        let renamed = |name: &str| names.get(name).cloned().unwrap_or_else(|| self.inner(name));
        for (name, meta) in body.tensor_values {
            types.entry(renamed(&name)).or_insert(meta);
        }
        let mut writes = Writes { buffers: self.buffers.clone(), own: BTreeSet::new() };
        let mut nodes = Vec::new();
        for mut node in body.nodes {
            node.inputs.iter_mut().for_each(|input| rename(&mut input.arg, &renamed));
            node.outputs.iter_mut().for_each(|output| rename(output, &renamed));
            let written = if self.region.stops { writes.of(&node)? } else { None };
            nodes.push(node);
            if let Some(buffer) = written {
                let detached = self.inner(&format!("{}.detached", nodes.len()));
                types.extend(types.get(&buffer).cloned().map(|meta| (detached.clone(), meta)));
                nodes.push(self.unary(DETACH_IN_PLACE, &buffer, detached));
            }
        }
        let mut results = body.outputs;
        results.iter_mut().for_each(|result| rename(result, &renamed));
        nodes.extend(self.results(&results)?);
        Ok(nodes)
    }

    /// The name of a value of the body outside of it.
    fn inner(&self, name: &str) -> String {
        format!("{}.{name}", self.call.name.as_deref().unwrap_or(&self.region.body.name))
    }

    /// What the body's inputs are called outside.
    fn names(&self, body: &Graph) -> Result<BTreeMap<String, String>, Diagnostic> {
        let (inputs, operands) = (&body.inputs, self.region.operands);
        if inputs.len() != operands.len() {
            return Err(self.unfit().expected(inputs.len()).found(operands.len()));
        }
        let mut names = BTreeMap::new();
        for (input, operand) in inputs.iter().zip(operands) {
            match (name_of(input), name_of(&operand.arg)) {
                (Some(inside), Some(outside)) => names.insert(inside.to_string(), outside.to_string()),
                (None, _) => continue,
                (Some(inside), None) => {
                    return Err(self.unfit().expected(format!("a tensor or integer for `{inside}`")));
                }
            };
        }
        Ok(names)
    }

    fn unfit(&self) -> Diagnostic {
        let name = self.call.name.as_deref().unwrap_or("unnamed");
        Diagnostic::new("invalid-program", format!("node `{name}`: the call does not fit its region"))
    }

    /// Nodes that give the call's results what the body's are.
    fn results(&self, results: &[Argument]) -> Result<Vec<Node>, Diagnostic> {
        let names = |arguments: &[Argument]| -> Vec<String> {
            arguments.iter().flat_map(tensor_names).map(str::to_string).collect()
        };
        let (inner, outer) = (names(results), names(&self.call.outputs));
        if inner.len() != outer.len() {
            return Err(self.unfit().expected(outer.len()).found(inner.len()));
        }
        let target = if self.region.stops { DETACH } else { ALIAS };
        Ok(inner.into_iter().zip(outer).map(|(from, to)| self.unary(target, &from, to)).collect())
    }

    fn unary(&self, target: &str, from: &str, to: String) -> Node {
        let tensor = |name: &str| Argument::AsTensor(Named { name: name.to_string() });
        Node {
            name: Some(to.clone()),
            target: target.to_string(),
            inputs: vec![NamedArgument { name: "self".into(), arg: tensor(from) }],
            outputs: vec![tensor(&to)],
            metadata: self.call.metadata.clone(),
        }
    }
}

/// What the nodes of a body write to.
struct Writes {
    /// Names of buffers.
    buffers: BTreeSet<String>,
    /// Names of what the body has made in memory of its own.
    own: BTreeSet<String>,
}

impl Writes {
    /// The buffer that a node writes to.
    fn of(&mut self, node: &Node) -> Result<Option<String>, Diagnostic> {
        let results = node.outputs.iter().flat_map(tensor_names).map(str::to_string);
        match overwritten(node).and_then(|input| name_of(&input.arg)) {
            Some(target) if self.buffers.contains(target) => {
                self.buffers.extend(results);
                Ok(Some(target.to_string()))
            }
            // A gradient that stops is all that detaching in place writes.
            Some(target) if !self.own.contains(target) && node.target != DETACH_IN_PLACE => {
                let message = format!("`{target}` is written to where gradients do not flow, and is not a buffer");
                Err(Diagnostic::new("unsupported-mutation", message)
                    .help("compute a new tensor instead: its gradient would have to pass by what is written"))
            }
            _ => {
                let shares = ops::is_view(&node.target);
                self.own.extend(results.filter(|_| !shares));
                Ok(None)
            }
        }
    }
}

/// The name of a tensor or a computed integer.
fn name_of(arg: &Argument) -> Option<&str> {
    match arg {
        Argument::AsTensor(t) | Argument::AsOptionalTensor(OptionalTensor::AsTensor(t)) => Some(&t.name),
        Argument::AsSymInt(SymIntArgument::AsName(name)) => Some(name),
        _ => None,
    }
}

/// Calls every value by another name.
fn rename(arg: &mut Argument, to: &impl Fn(&str) -> String) {
    let tensor = |t: &mut Named| t.name = to(&t.name);
    let optional = |t: &mut OptionalTensor| {
        if let OptionalTensor::AsTensor(t) = t {
            t.name = to(&t.name)
        }
    };
    let int = |n: &mut SymIntArgument| {
        if let SymIntArgument::AsName(name) = n {
            *name = to(name)
        }
    };
    match arg {
        Argument::AsTensor(t) => tensor(t),
        Argument::AsTensors(list) => list.iter_mut().for_each(tensor),
        Argument::AsOptionalTensor(t) => optional(t),
        Argument::AsOptionalTensors(list) => list.iter_mut().for_each(optional),
        Argument::AsSymInt(n) => int(n),
        Argument::AsSymInts(list) => list.iter_mut().for_each(int),
        _ => {}
    }
}
