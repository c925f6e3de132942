//! petgraph's visit traits, so that its algorithms run on the IR itself instead of on a copy.
//!
//! Edges follow the data: one from the producer to the reader per operand. What needs no lists of
//! readers is implemented on [`Graph`]; [`Flow`] adds the lists, and with them all neighbours.

use crate::graph::{Graph, Node, NodeId, Value};
use petgraph::visit::*;
use petgraph::{Directed, Direction};
use std::collections::HashSet;
use std::vec;

/// An operand slot: which operand of which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// The reading node.
    pub user: NodeId,
    /// Position among its operands.
    pub operand: usize,
}

/// An edge of the graph: a value and the slot that reads it.
#[derive(Clone, Copy, Debug)]
pub struct Edge<'g> {
    /// The slot.
    pub slot: Use,
    /// The value read.
    pub value: &'g Value,
}

impl EdgeRef for Edge<'_> {
    type NodeId = NodeId;
    type EdgeId = Use;
    type Weight = Value;

    fn source(&self) -> NodeId {
        self.value.node
    }

    fn target(&self) -> NodeId {
        self.slot.user
    }

    fn weight(&self) -> &Value {
        self.value
    }

    fn id(&self) -> Use {
        self.slot
    }
}

fn edge(graph: &Graph, slot: Use) -> Edge<'_> {
    Edge { slot, value: &graph.node(slot.user).operands[slot.operand] }
}

fn slots(graph: &Graph, user: NodeId) -> impl Iterator<Item = Use> + use<> {
    (0..graph.node(user).operands.len()).map(move |operand| Use { user, operand })
}

/// A graph with the readers of every node.
#[derive(Clone, Debug)]
pub struct Flow<'g> {
    graph: &'g Graph,
    uses: Vec<Vec<Use>>,
}

impl Graph {
    /// The graph with the readers of every node, for algorithms that walk along the data.
    pub fn flow(&self) -> Flow<'_> {
        let mut uses = vec![Vec::new(); self.nodes.len()];
        for slot in self.node_ids().flat_map(|id| slots(self, id)) {
            uses[edge(self, slot).source().index()].push(slot);
        }
        Flow { graph: self, uses }
    }
}

/// The traits that need no lists of readers; `$graph` gets the graph out of `self`.
macro_rules! visit_traits {
    ([$($life:lifetime)?] $ty:ty, $this:ident => $graph:expr) => {
        impl$(<$life>)? GraphBase for $ty {
            type EdgeId = Use;
            type NodeId = NodeId;
        }

        impl$(<$life>)? Data for $ty {
            type NodeWeight = Node;
            type EdgeWeight = Value;
        }

        impl$(<$life>)? GraphProp for $ty {
            type EdgeType = Directed;
        }

        impl$(<$life>)? NodeCount for $ty {
            fn node_count(&self) -> usize {
                let $this = self;
                $graph.nodes().len()
            }
        }

        impl$(<$life>)? EdgeCount for $ty {
            fn edge_count(&self) -> usize {
                let $this = self;
                $graph.nodes().iter().map(|n| n.operands.len()).sum()
            }
        }

        impl$(<$life>)? NodeIndexable for $ty {
            fn node_bound(&self) -> usize {
                self.node_count()
            }

            fn to_index(&self, id: NodeId) -> usize {
                id.index()
            }

            fn from_index(&self, index: usize) -> NodeId {
                NodeId(index as u32)
            }
        }

        impl$(<$life>)? NodeCompactIndexable for $ty {}

        impl$(<$life>)? Visitable for $ty {
            type Map = HashSet<NodeId>;

            fn visit_map(&self) -> Self::Map {
                HashSet::new()
            }

            fn reset_map(&self, map: &mut Self::Map) {
                map.clear();
            }
        }

        impl$(<$life>)? petgraph::data::DataMap for $ty {
            fn node_weight(&self, id: NodeId) -> Option<&Node> {
                let $this = self;
                $graph.nodes().get(id.index())
            }

            fn edge_weight(&self, slot: Use) -> Option<&Value> {
                self.node_weight(slot.user)?.operands.get(slot.operand)
            }
        }

        impl<'r, $($life)?> IntoNodeIdentifiers for &'r $ty {
            type NodeIdentifiers = vec::IntoIter<NodeId>;

            fn node_identifiers(self) -> Self::NodeIdentifiers {
                let $this = self;
                $graph.node_ids().collect::<Vec<_>>().into_iter()
            }
        }

        impl<'r, $($life)?> IntoNodeReferences for &'r $ty {
            type NodeRef = (NodeId, &'r Node);
            type NodeReferences = vec::IntoIter<(NodeId, &'r Node)>;

            fn node_references(self) -> Self::NodeReferences {
                let $this = self;
                $graph.node_ids().zip($graph.nodes()).collect::<Vec<_>>().into_iter()
            }
        }

        impl<'r, $($life)?> IntoEdgeReferences for &'r $ty {
            type EdgeRef = Edge<'r>;
            type EdgeReferences = vec::IntoIter<Edge<'r>>;

            fn edge_references(self) -> Self::EdgeReferences {
                let $this = self;
                let slots = $graph.node_ids().flat_map(|id| slots($graph, id));
                slots.map(|slot| edge($graph, slot)).collect::<Vec<_>>().into_iter()
            }
        }

        impl$(<$life>)? GetAdjacencyMatrix for $ty {
            type AdjMatrix = HashSet<(NodeId, NodeId)>;

            fn adjacency_matrix(&self) -> Self::AdjMatrix {
                self.edge_references().map(|e| (e.source(), e.target())).collect()
            }

            fn is_adjacent(&self, matrix: &Self::AdjMatrix, a: NodeId, b: NodeId) -> bool {
                matrix.contains(&(a, b))
            }
        }
    };
}

visit_traits!([] Graph, this => this);
visit_traits!(['g] Flow<'g>, this => this.graph);

impl IntoNeighbors for &Flow<'_> {
    type Neighbors = vec::IntoIter<NodeId>;

    fn neighbors(self, id: NodeId) -> Self::Neighbors {
        self.neighbors_directed(id, Direction::Outgoing)
    }
}

impl IntoNeighborsDirected for &Flow<'_> {
    type NeighborsDirected = vec::IntoIter<NodeId>;

    fn neighbors_directed(self, id: NodeId, direction: Direction) -> Self::NeighborsDirected {
        let end = |e: Edge| if direction == Direction::Outgoing { e.target() } else { e.source() };
        self.edges_directed(id, direction).map(end).collect::<Vec<_>>().into_iter()
    }
}

impl<'r> IntoEdges for &'r Flow<'_> {
    type Edges = vec::IntoIter<Edge<'r>>;

    fn edges(self, id: NodeId) -> Self::Edges {
        self.edges_directed(id, Direction::Outgoing)
    }
}

impl<'r> IntoEdgesDirected for &'r Flow<'_> {
    type EdgesDirected = vec::IntoIter<Edge<'r>>;

    fn edges_directed(self, id: NodeId, direction: Direction) -> Self::EdgesDirected {
        let slots: Vec<Use> = match direction {
            Direction::Outgoing => self.uses[id.index()].clone(),
            Direction::Incoming => slots(self.graph, id).collect(),
        };
        slots.into_iter().map(|slot| edge(self.graph, slot)).collect::<Vec<_>>().into_iter()
    }
}
