//! The applications of a saturated e-graph as edges between the forms of its classes.

use crate::egraph::language::Node;
use crate::egraph::rules::Term;
use crate::egraph::saturate::{Application, Saturated, canonical, lookup};
use egg::Id;
use std::collections::{HashMap, VecDeque};

/// An application and the direction it is used in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Position in the list of applications.
    pub application: usize,
    /// From the replacement to what was matched.
    pub reversed: bool,
}

/// Edges by the e-node they start at.
pub struct Ways {
    edges: HashMap<Node, Vec<(Edge, Node)>>,
}

impl Ways {
    /// The edges of all applications.
    pub fn new(saturated: &Saturated) -> Ways {
        let mut edges: HashMap<Node, Vec<(Edge, Node)>> = HashMap::new();
        for (application, done) in saturated.applications.iter().enumerate() {
            let (from, to) = (canonical(&saturated.egraph, &done.from), replacement(saturated, done));
            let edge = |reversed| Edge { application, reversed };
            edges.entry(from.clone()).or_default().push((edge(false), to.clone()));
            edges.entry(to).or_default().push((edge(true), from));
        }
        Ways { edges }
    }

    /// The first edge of a shortest way between two forms of a class that does not begin with a closed edge.
    pub fn first_edge(&self, start: &Node, end: &Node, closed: &[Edge]) -> Option<Edge> {
        let mut reached: HashMap<&Node, Option<Edge>> = HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            let first = reached[node];
            if node == end {
                return first;
            }
            for (edge, next) in self.edges.get(node).into_iter().flatten() {
                let is_closed = first.is_none() && closed.contains(edge);
                if !is_closed && !reached.contains_key(next) {
                    reached.insert(next, first.or(Some(*edge)));
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

/// The top of a replacement; the first form of its class when it is a value that was there.
fn replacement(saturated: &Saturated, done: &Application) -> Node {
    let egraph = &saturated.egraph;
    let class = |arg| lookup(egraph, arg).expect("the replacement was added");
    let classes: Box<[Id]> = done.term.args().iter().map(class).collect();
    match &done.term {
        Term::Value(id) => canonical(egraph, egraph.id_to_node(*id)),
        Term::Op(op, _) => Node::Op(op.clone(), classes),
        Term::Sum(_) => Node::sum(classes),
    }
}
