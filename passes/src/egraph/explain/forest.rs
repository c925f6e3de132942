//! Concrete programs over an e-graph. A class stands for all its forms at once; a tree is one form, all the way down.

use crate::egraph::extract::sum_in_order;
use crate::egraph::language::Node;
use crate::egraph::saturate::Saturated;
use egg::{Id, Language};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::types::TypeError;
use std::collections::HashMap;

/// A program: position in a [`Forest`].
pub type Tree = Id;

/// Trees, equal parts held once. Every tree is a form that the e-graph has.
pub struct Forest<'a> {
    saturated: &'a Saturated,
    /// Children are trees; those of a sum in the order of their classes, as in the e-graph.
    nodes: Vec<Node>,
    classes: Vec<Id>,
    known: HashMap<Node, Tree>,
    /// The form each e-node was added in.
    added: HashMap<Id, Tree>,
    /// The first e-node of each class.
    first: HashMap<Id, Id>,
}

impl<'a> Forest<'a> {
    /// A forest without trees.
    pub fn new(saturated: &'a Saturated) -> Self {
        let mut first = HashMap::new();
        for id in (0..saturated.egraph.nodes().len()).map(Id::from) {
            first.entry(saturated.egraph.find(id)).or_insert(id);
        }
        Forest { saturated, nodes: vec![], classes: vec![], known: HashMap::new(), added: HashMap::new(), first }
    }

    /// A node with other children, which are trees; `None` when the e-graph has no such form.
    pub fn add(&mut self, node: &Node, mut children: Vec<Tree>) -> Option<Tree> {
        if matches!(node, Node::Sum(_)) {
            children.sort_by_key(|&tree| self.class(tree));
        }
        let node = with_children(node, children);
        if let Some(&known) = self.known.get(&node) {
            return Some(known);
        }
        let e_node = node.clone().map_children(|tree| self.class(tree));
        let class = self.saturated.egraph.lookup(e_node)?;
        let tree = Id::from(self.nodes.len());
        self.known.insert(node.clone(), tree);
        self.nodes.push(node);
        self.classes.push(class);
        Some(tree)
    }

    /// The top of a tree, its children trees.
    pub fn node(&self, tree: Tree) -> &Node {
        &self.nodes[usize::from(tree)]
    }

    /// The class a tree is a form of.
    pub fn class(&self, tree: Tree) -> Id {
        self.classes[usize::from(tree)]
    }

    /// The top of a tree, its children classes.
    pub fn e_node(&self, tree: Tree) -> Node {
        self.node(tree).clone().map_children(|child| self.class(child))
    }

    /// The first form a class had.
    pub fn first_form(&mut self, class: Id) -> Option<Tree> {
        self.as_added(*self.first.get(&class)?)
    }

    /// An e-node in the form it was added in.
    fn as_added(&mut self, id: Id) -> Option<Tree> {
        if let Some(&tree) = self.added.get(&id) {
            return Some(tree);
        }
        let node = self.saturated.egraph.id_to_node(id);
        let children: Option<Vec<Tree>> = node.children().iter().map(|&child| self.as_added(child)).collect();
        let tree = self.add(node, children?)?;
        self.added.insert(id, tree);
        Some(tree)
    }

    /// The form that an extraction chose for a class.
    pub fn chosen(&mut self, chosen: &HashMap<Id, Node>, class: Id, made: &mut HashMap<Id, Tree>) -> Option<Tree> {
        if let Some(&tree) = made.get(&class) {
            return Some(tree);
        }
        let node = chosen.get(&class)?;
        let egraph = &self.saturated.egraph;
        let children = node.children().iter().map(|&child| self.chosen(chosen, egraph.find(child), made));
        let children: Option<Vec<Tree>> = children.collect();
        let tree = self.add(node, children?)?;
        made.insert(class, tree);
        Some(tree)
    }

    /// The part of a tree below a path of child positions.
    pub fn part(&self, tree: Tree, path: &[usize]) -> Tree {
        path.iter().fold(tree, |at, &child| self.node(at).children()[child])
    }

    /// The tree with the part below a path replaced.
    pub fn with_part(&mut self, tree: Tree, path: &[usize], part: Tree) -> Option<Tree> {
        let Some((&child, rest)) = path.split_first() else { return Some(part) };
        let inner = self.with_part(self.node(tree).children()[child], rest, part)?;
        let node = self.node(tree).clone();
        let mut children = node.children().to_vec();
        children[child] = inner;
        self.add(&node, children)
    }

    /// A tree of everything the window makes, as a window.
    pub fn graph(&self, window: &Graph, root: Tree) -> Result<Graph, TypeError> {
        let mut builder = Builder::new(window.name.clone());
        let mut inputs = Vec::with_capacity(window.inputs().len());
        for input in window.inputs() {
            inputs.push(builder.input(&input.name, window.ty(input.value).clone())?);
        }
        let mut results: HashMap<Tree, Vec<Value>> = HashMap::new();
        for tree in self.post_order(root) {
            let node = self.node(tree);
            let args: Vec<Value> = node.children().iter().map(|child| results[child][0]).collect();
            let values = match node {
                Node::Input(id) => vec![inputs[id.index()]],
                Node::Op(op, _) => builder.apply(op.clone(), &args)?,
                Node::Sum(_) => vec![sum_in_order(&mut builder, &args)?],
                Node::Project(result, of) => vec![results[of][*result as usize]],
                Node::Roots(_) => args,
            };
            results.insert(tree, values);
        }
        for (output, &value) in window.outputs().iter().zip(&results[&root]) {
            builder.output(&output.name, value, OutputKind::Result);
        }
        Ok(builder.finish())
    }

    /// The parts of a tree, operands before users, each once.
    fn post_order(&self, root: Tree) -> Vec<Tree> {
        let mut order = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = vec![(root, 0)];
        while let Some((tree, next)) = stack.pop() {
            match self.node(tree).children().get(next) {
                Some(&child) => {
                    stack.push((tree, next + 1));
                    if !std::mem::replace(&mut seen[usize::from(child)], true) {
                        stack.push((child, 0));
                    }
                }
                None => order.push(tree),
            }
        }
        order
    }
}

/// The node with other children, in the order given.
fn with_children(node: &Node, children: Vec<Id>) -> Node {
    match node {
        Node::Input(id) => Node::Input(*id),
        Node::Op(op, _) => Node::Op(op.clone(), children.into()),
        Node::Sum(_) => Node::Sum(children.into()),
        Node::Project(result, _) => Node::Project(*result, children[0]),
        Node::Roots(_) => Node::Roots(children.into()),
    }
}
