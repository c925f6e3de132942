//! Which parameters' updates need a value: dependence in a training step, whatever its ops.

use super::ParameterSet;
use gradc_ir::graph::{Def, Graph, InputId, NodeId, OutputKind, Role, Value};

/// For every node of a training step, the parameters whose updates need it.
#[derive(Clone, Debug)]
pub struct Needs {
    parameters: Vec<InputId>,
    of_node: Vec<ParameterSet>,
}

impl Needs {
    /// The parameters with an update are numbered in the order of the graph's inputs.
    ///
    /// The update of a state belongs to the parameters whose own updates read the state.
    pub fn of(graph: &Graph) -> Needs {
        let mut of_parameters: Vec<(InputId, Value)> = updates(graph, Role::Parameter).collect();
        of_parameters.sort();
        let none = ParameterSet::with_capacity(of_parameters.len());
        let mut needs = Needs {
            parameters: of_parameters.iter().map(|&(id, _)| id).collect(),
            of_node: vec![none; graph.nodes().len()],
        };
        for (number, (_, next)) in of_parameters.iter().enumerate() {
            needs.of_node[next.node.index()].insert(number);
        }
        needs.propagate(graph);
        for (id, next) in updates(graph, Role::State) {
            let readers = needs.at(graph.inputs()[id.index()].value.node).clone();
            needs.of_node[next.node.index()].union_with(&readers);
        }
        needs.propagate(graph);
        needs
    }

    /// Hands what each node is needed for on to its operands.
    fn propagate(&mut self, graph: &Graph) {
        for (index, node) in graph.nodes().iter().enumerate().rev() {
            if let Def::Op(_) = node.def {
                let (before, here) = self.of_node.split_at_mut(index);
                node.operands.iter().for_each(|v| before[v.node.index()].union_with(&here[0]));
            }
        }
    }

    /// The parameters with an update, in the order of their numbers.
    pub fn parameters(&self) -> &[InputId] {
        &self.parameters
    }

    /// The parameters whose updates need a node.
    pub fn at(&self, id: NodeId) -> &ParameterSet {
        &self.of_node[id.index()]
    }
}

/// What is updated of the inputs of a role, and with what.
fn updates(graph: &Graph, role: Role) -> impl Iterator<Item = (InputId, Value)> + '_ {
    let of_role = move |id: InputId| graph.inputs()[id.index()].role == role;
    graph.outputs().iter().filter_map(move |output| match output.kind {
        OutputKind::Update(id) if of_role(id) => Some((id, output.value)),
        _ => None,
    })
}
