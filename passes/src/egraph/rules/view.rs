//! A limited view of an e-graph, by which `explain` finds out what a rule looks at.

use crate::egraph::analysis::splat_of;
use crate::egraph::language::Node;
use egg::Id;
use gradc_ir::attr::Float;
use gradc_ir::types::TensorType;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What a rule sees of the classes below a node. It notes which classes the rule asked about.
#[derive(Clone, Debug, Default)]
pub struct View {
    limits: BTreeMap<Id, Limit>,
    /// In the order of asking.
    asked: RefCell<Vec<Id>>,
}

#[derive(Clone, Debug)]
enum Limit {
    Hidden,
    Only(Node),
}

impl View {
    /// The first class asked about of which everything is seen and nothing was decided.
    pub fn next_asked(&self) -> Option<Id> {
        self.asked.borrow().iter().copied().find(|class| !self.limits.contains_key(class))
    }

    /// The view with one node of a class, or none.
    pub fn showing(&self, class: Id, node: Option<&Node>) -> View {
        let mut view = self.clone();
        view.limits.insert(class, node.map_or(Limit::Hidden, |node| Limit::Only(node.clone())));
        view
    }

    /// The one node seen of a class.
    pub fn only(&self, class: Id) -> Option<&Node> {
        match self.limits.get(&class) {
            Some(Limit::Only(node)) => Some(node),
            _ => None,
        }
    }

    /// Whether a node of a class is seen.
    pub(super) fn shows(&self, class: Id, node: &Node) -> bool {
        match self.ask(class) {
            Some(Limit::Hidden) => false,
            Some(Limit::Only(only)) => only == node,
            None => true,
        }
    }

    /// The value of every element of a class, where what is seen tells it.
    pub(super) fn splat(&self, class: Id, types: &[TensorType], known: Option<Float>) -> Option<Float> {
        match self.ask(class) {
            Some(Limit::Only(Node::Op(op, args))) => splat_of(op, args, types),
            Some(_) => None,
            None => known,
        }
    }

    /// The limit of a class, which is noted as asked about.
    fn ask(&self, class: Id) -> Option<&Limit> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&class) {
            asked.push(class);
        }
        self.limits.get(&class)
    }
}
