//! What becomes of every parameter in training: all of it trains, a part does, or none and why.

use gradc_frontend::model::Model;
use gradc_ir::graph::{Def, Graph, NodeId, Role};
use gradc_passes::train::Trainable;
use serde::Serialize;
use std::fmt;

/// What becomes of one parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterReport {
    /// Its name.
    pub name: String,
    /// Elements it has.
    pub elements: usize,
    /// Elements of it that train; gradient, each tensor of optimizer state and update have as many.
    pub trained_elements: usize,
    /// Size of these, bytes.
    pub trained_bytes: usize,
    /// How it trains.
    pub training: Training,
}

/// How a parameter trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Training {
    /// All of it.
    Whole,
    /// Some indices of one axis, as in `[:,0..4+7]`: 0, 1, 2, 3 and 7 of axis 1.
    Part(String),
    /// None of it.
    Frozen {
        /// Who says so.
        by: FrozenBy,
        /// What the backward pass does where it is used.
        gradient: GradientThere,
    },
}

/// Who freezes a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenBy {
    /// The recipe's `trainable` does not name it.
    Recipe,
    /// The model file marks it, and the recipe has no `trainable`.
    ModelFile,
    /// Others matter more within the recipe's `budget`.
    Budget,
}

/// What the backward pass does at the op that meets a frozen parameter with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientThere {
    /// The op's other operands lead to what trains: a gradient passes, but none for the parameter is formed.
    Passes,
    /// Nothing before the op trains: the backward pass ends after it.
    EndsAfter,
    /// The loss does not depend on the parameter.
    Unused,
}

impl fmt::Display for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Training::Frozen { by, gradient } = self else {
            return match self {
                Training::Part(part) => write!(f, "in part, {part}"),
                _ => write!(f, "in full"),
            };
        };
        let by = match by {
            FrozenBy::Recipe => "the recipe does not name it",
            FrozenBy::ModelFile => "the model file freezes it",
            FrozenBy::Budget => "others matter more within the budget",
        };
        let gradient = match gradient {
            GradientThere::Passes => "gradients pass its layer for what trains before",
            GradientThere::EndsAfter => "nothing trains before its layer, where the backward pass has ended",
            GradientThere::Unused => "the loss does not depend on it",
        };
        write!(f, "frozen: {by}; {gradient}")
    }
}

/// One report per parameter of a forward graph with a loss, in the graph's order.
///
/// `left_out` could train and does not because of a budget; `named` says whether the recipe has a list of what trains.
pub(crate) fn parameter_reports(
    forward: &Graph,
    trainable: &[Trainable],
    left_out: &[Trainable],
    model: &Model,
    named: bool,
) -> Vec<ParameterReport> {
    let wanted = reached(forward, |input| trainable.iter().any(|t| t.parameter == input));
    let by_data = reached(forward, |input| !model.tensors.contains_key(input));
    let report = |input: &gradc_ir::graph::Input| {
        let shape = &forward.ty(input.value).shape;
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let (trained_elements, training) = match trainable.iter().find(|t| t.parameter == input.name) {
            Some(Trainable { part: None, .. }) => (elements(shape), Training::Whole),
            Some(Trainable { part: Some(part), .. }) => {
                (elements(&part.shape(shape)), Training::Part(part.to_string()))
            }
            None => {
                let by = match () {
                    () if left_out.iter().any(|t| t.parameter == input.name) => FrozenBy::Budget,
                    () if !named && model.frozen.contains(&input.name) => FrozenBy::ModelFile,
                    () => FrozenBy::Recipe,
                };
                (0, Training::Frozen { by, gradient: gradient_at(forward, input.value.node, &wanted, &by_data) })
            }
        };
        let trained_bytes = trained_elements * forward.ty(input.value).dtype.size_bytes();
        ParameterReport {
            name: input.name.clone(),
            elements: elements(shape),
            trained_elements,
            trained_bytes,
            training,
        }
    };
    forward.inputs().iter().filter(|i| i.role == Role::Parameter).map(report).collect()
}

/// For each node whether it depends on an input of which `is_source` holds.
fn reached(graph: &Graph, is_source: impl Fn(&str) -> bool) -> Vec<bool> {
    let mut reached = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let depends = match &node.def {
            Def::Input(id) => is_source(&graph.inputs()[id.index()].name),
            Def::Op(_) => node.operands.iter().any(|v| reached[v.node.index()]),
        };
        reached.push(depends);
    }
    reached
}

/// What the backward pass does where the value of a node first meets data.
fn gradient_at(graph: &Graph, from: NodeId, wanted: &[bool], by_data: &[bool]) -> GradientThere {
    let users = graph.users();
    let (mut open, mut gradient) = (vec![from], GradientThere::Unused);
    while let Some(id) = open.pop() {
        for &user in &users[id.index()] {
            if !by_data[user.index()] {
                open.push(user);
            } else if graph.node(user).operands.iter().any(|v| wanted[v.node.index()]) {
                return GradientThere::Passes;
            } else {
                gradient = GradientThere::EndsAfter;
            }
        }
    }
    gradient
}
