//! The e-graph's language: the IR's own ops, sums of any number of terms, and what a window adds around them.

use egg::{Id, Language};
use gradc_ir::graph::InputId;
use gradc_ir::ops::Op;

/// What stands for [`Node::Sum`] where ops have names.
pub const SUM: &str = "sum";

/// One e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A value made outside the window.
    Input(InputId),
    /// An op applied to operands. The class of an op with several results stands for all of them together.
    Op(Op, Box<[Id]>),
    /// The sum of float tensors of one type, in no particular order: operands are sorted, and equal ones repeat. What
    /// associativity and commutativity would reach by rules is one node.
    Sum(Box<[Id]>),
    /// One result of an op with several.
    Project(u16, Id),
    /// Everything that is used outside the window, in order.
    Roots(Box<[Id]>),
}

impl Node {
    /// The sum of some classes.
    pub fn sum(mut terms: Box<[Id]>) -> Node {
        terms.sort_unstable();
        Node::Sum(terms)
    }
}

impl Language for Node {
    /// Name without attributes, so that rules find every node of an op.
    type Discriminant = &'static str;

    fn discriminant(&self) -> &'static str {
        match self {
            Node::Input(_) => "input",
            Node::Op(op, _) => op.name(),
            Node::Sum(_) => SUM,
            Node::Project(..) => "project",
            Node::Roots(_) => "roots",
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Input(a), Node::Input(b)) => a == b,
            (Node::Op(a, x), Node::Op(b, y)) => a == b && x.len() == y.len(),
            (Node::Project(a, _), Node::Project(b, _)) => a == b,
            (Node::Sum(x), Node::Sum(y)) | (Node::Roots(x), Node::Roots(y)) => x.len() == y.len(),
            _ => false,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Node::Input(_) => &[],
            Node::Op(_, args) | Node::Sum(args) | Node::Roots(args) => args,
            Node::Project(_, of) => std::slice::from_ref(of),
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Node::Input(_) => &mut [],
            Node::Op(_, args) | Node::Sum(args) | Node::Roots(args) => args,
            Node::Project(_, of) => std::slice::from_mut(of),
        }
    }

    /// Also keeps the terms of a sum sorted, so that sums of equal terms are equal nodes.
    fn update_children<F: FnMut(Id) -> Id>(&mut self, mut f: F) {
        self.for_each_mut(|id| *id = f(*id));
        if let Node::Sum(terms) = self {
            terms.sort_unstable();
        }
    }
}
