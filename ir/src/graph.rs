//! The graph: static shapes, SSA, pure ops, append-only in topological order.

use crate::attr::Float;
use crate::diagnostic::{Diagnostic, Loc};
use crate::ops::Op;
use crate::types::TensorType;
use std::sync::Arc;

/// Index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The node that makes it.
    pub node: NodeId,
    /// Which of the node's results it is.
    pub result: u16,
}

/// Index of an input declaration in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputId(pub u32);

impl InputId {
    /// Position in [`Graph::inputs`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index into [`Graph::locs`]; 0 is "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocId(pub u32);

/// What makes a node's results.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Def {
    /// A value from outside, declared in [`Graph::inputs`].
    Input(InputId),
    /// A pure operation on the operands.
    Op(Op),
}

/// One node: definition, operands, result types and origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// What makes the results.
    pub def: Def,
    /// Operands; every one is defined by an earlier node.
    pub operands: Vec<Value>,
    /// One type per result.
    pub types: Vec<TensorType>,
    /// Where the node comes from.
    pub loc: LocId,
}

/// What an input is to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Data handed in anew for every call.
    Input,
    /// A named tensor of the model that may train.
    Parameter,
    /// A named tensor of the model that is updated without a gradient (running statistics).
    Buffer,
    /// Optimizer state, step counters, random seeds: made by the compiler, kept between steps.
    State,
    /// A tensor of the model that never changes (masks, positions).
    Constant,
    /// A scalar with a default that a host may set per call (learning rate).
    Hyper,
}

impl Role {
    /// Every role, in declaration order.
    pub const ALL: [Role; 6] = [Role::Input, Role::Parameter, Role::Buffer, Role::State, Role::Constant, Role::Hyper];

    /// The word that stands for it in text.
    pub fn word(self) -> &'static str {
        match self {
            Role::Input => "input",
            Role::Parameter => "parameter",
            Role::Buffer => "buffer",
            Role::State => "state",
            Role::Constant => "constant",
            Role::Hyper => "hyper",
        }
    }

    /// Whether the tensor lives in the session between calls.
    pub fn is_persistent(self) -> bool {
        matches!(self, Role::Parameter | Role::Buffer | Role::State)
    }
}

/// Declaration of a value from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Input {
    /// Name, unique in the graph.
    pub name: String,
    /// What it is to the outside.
    pub role: Role,
    /// Initial value of every element, for [`Role::State`] and [`Role::Hyper`].
    pub default: Option<Float>,
    /// The value inside the graph.
    pub value: Value,
}

/// What an output is to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputKind {
    /// Handed to the host.
    Result,
    /// Handed to the host; when any element is not finite, no update of the call takes effect.
    Checked,
    /// The next value of a persistent input.
    Update(InputId),
}

/// A value that leaves the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Output {
    /// Name; of an update, the name of the input it replaces.
    pub name: String,
    /// The value.
    pub value: Value,
    /// What it is to the outside.
    pub kind: OutputKind,
}

/// A graph; also the body of a region op.
///
/// Nodes are only ever appended, and operands come before their users, so the order of
/// [`Graph::nodes`] is a topological order. Nodes are appended through [`Builder`](crate::builder::Builder).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Graph {
    /// Name, for people.
    pub name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) locs: Vec<Loc>,
}

/// A closed function, shared by every region op that applies it.
pub type Function = Arc<Graph>;

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), nodes: vec![], inputs: vec![], outputs: vec![], locs: vec![Loc::default()] }
    }

    /// The nodes in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Ids of all nodes in topological order.
    pub fn node_ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The inputs in declaration order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The outputs in declaration order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// All places; index 0 is the unknown place.
    pub fn locs(&self) -> &[Loc] {
        &self.locs
    }

    /// Where a node comes from.
    pub fn loc(&self, id: NodeId) -> &Loc {
        &self.locs[self.node(id).loc.0 as usize]
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        &self.node(value.node).types[value.result as usize]
    }

    /// The op of a node, `None` for an input.
    pub fn op(&self, id: NodeId) -> Option<&Op> {
        match &self.node(id).def {
            Def::Op(op) => Some(op),
            Def::Input(_) => None,
        }
    }

    /// The declaration behind a value that is an input.
    pub fn input_of(&self, value: Value) -> Option<&Input> {
        match self.node(value.node).def {
            Def::Input(id) => Some(&self.inputs[id.index()]),
            Def::Op(_) => None,
        }
    }

    /// Position and declaration of the input called `name`.
    pub fn input_named(&self, name: &str) -> Option<(InputId, &Input)> {
        let at = self.inputs.iter().position(|i| i.name == name)?;
        Some((InputId(at as u32), &self.inputs[at]))
    }

    /// The output called `name` that is not an update.
    pub fn output_named(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|o| o.name == name && !matches!(o.kind, OutputKind::Update(_)))
    }

    /// Values a node defines.
    pub fn results(&self, id: NodeId) -> impl Iterator<Item = Value> + use<> {
        (0..self.node(id).types.len() as u16).map(move |result| Value { node: id, result })
    }

    /// For every node, the nodes that read one of its results, ascending and without repetition.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for id in self.node_ids() {
            for operand in &self.node(id).operands {
                let list: &mut Vec<NodeId> = &mut users[operand.node.index()];
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        users
    }

    /// Which nodes an output depends on.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for output in &self.outputs {
            live[output.value.node.index()] = true;
        }
        for id in self.node_ids().rev() {
            if live[id.index()] {
                for operand in &self.node(id).operands {
                    live[operand.node.index()] = true;
                }
            }
        }
        live
    }

    /// The graph with nodes that no output depends on removed; inputs all stay.
    pub fn without_dead_nodes(&self) -> Graph {
        self.pruned().0
    }

    /// As [`Graph::without_dead_nodes`], and what became of each node.
    pub fn pruned(&self) -> (Graph, Vec<Option<NodeId>>) {
        let live = self.live();
        let mut out = Graph { nodes: vec![], inputs: self.inputs.clone(), ..self.clone() };
        let mut kept: Vec<Option<NodeId>> = Vec::with_capacity(self.nodes.len());
        let rename = |kept: &[Option<NodeId>], v: Value| {
            let node = kept[v.node.index()].expect("what a live node reads is live");
            Value { node, ..v }
        };
        for id in self.node_ids() {
            let node = self.node(id);
            let stays = live[id.index()] || matches!(node.def, Def::Input(_));
            let operands = if stays { node.operands.iter().map(|&v| rename(&kept, v)).collect() } else { vec![] };
            kept.push(stays.then_some(NodeId(out.nodes.len() as u32)));
            if stays {
                out.nodes.push(Node { operands, ..node.clone() });
            }
        }
        out.inputs.iter_mut().for_each(|i| i.value = rename(&kept, i.value));
        out.outputs.iter_mut().for_each(|o| o.value = rename(&kept, o.value));
        (out, kept)
    }

    /// The graph with other outputs.
    pub fn with_outputs(self, outputs: Vec<Output>) -> Graph {
        Graph { outputs, ..self }
    }

    /// The graph with the result called `name` turned into a checked one.
    pub fn with_checked(mut self, name: &str) -> Graph {
        let result = self.outputs.iter_mut().find(|o| o.name == name && o.kind == OutputKind::Result);
        result.into_iter().for_each(|o| o.kind = OutputKind::Checked);
        self
    }

    /// A diagnostic placed at a node.
    pub fn diagnostic_at(&self, id: NodeId, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(code, message).at(self.loc(id).clone())
    }
}
