//! The rewrite rules: tables of name, pattern, guard, replacement and example.
//!
//! A rule looks at one node and answers with terms equal to it. Adding a rule is adding an entry to a table;
//! its example makes the rule law check it on random inputs (`cargo test -p gradc-passes rule_laws`): bit for bit, or
//! within the bound of re-association. None is a blanket commutativity, and none may be worse for every use.

#[macro_use]
mod macros;
mod contraction;
mod cut;
mod einsum;
mod example;
mod layout;
mod reassociation;
mod reduction;
mod renaming;
mod slice;
mod terms;
mod view;

pub use cut::is_selection;
pub use example::{Random, Sampler};
pub use view::View;

use super::analysis::EGraph;
use super::language::{Node, SUM};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::lower::{Lowering, Scalar};
use gradc_ir::ops::{Add, Op};
use gradc_ir::types::{TensorType, TypeError};
use std::collections::{BTreeMap, BTreeSet};

/// The op of a sum.
static ADDITION: Op = Op::Add(Add {});

/// What a group of rules is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Slices and concatenations pushed towards their source: what is not used is not computed.
    Slice,
    /// Transposes, reshapes, broadcasts and constants meeting, moving and vanishing.
    Layout,
    /// Sums and products in another order.
    Reassociation,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 3] = [Family::Slice, Family::Layout, Family::Reassociation];
}

/// What a rewrite may change, defined on the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NumericClass {
    /// Nothing: the same bits for all inputs, NaNs, infinities and signed zeros included.
    Bitwise,
    /// The order in which sums and products are rounded. On finite inputs the error stays within γₖ = ku / (1 − ku) of
    /// the sum of the magnitudes of all terms, where k roundings follow each other (Higham, Accuracy and Stability of
    /// Numerical Algorithms, 2002, §3.1) and u is the unit roundoff.
    Reassociation,
}

/// Which nodes a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Nodes of the ops with these names.
    Ops(&'static [&'static str]),
    /// Nodes of every op.
    Any,
    /// Sums of any number of terms.
    Sum,
}

impl Root {
    /// Nodes of the named ops; of every op when none is named.
    pub const fn of(names: &'static [&'static str]) -> Root {
        if names.is_empty() { Root::Any } else { Root::Ops(names) }
    }
}

/// One rewrite rule.
pub struct Rule {
    /// Stable kebab-case name.
    pub name: &'static str,
    /// What it is for.
    pub family: Family,
    /// What it may change.
    pub class: NumericClass,
    /// Left-hand side, with attribute variables in braces.
    pub pattern: &'static str,
    /// Right-hand side.
    pub replacement: &'static str,
    /// When it applies; empty for always.
    pub guard: &'static str,
    /// Which nodes it looks at.
    pub root: Root,
    /// The terms equal to a matched node.
    pub rewrite: fn(&Site) -> Vec<Term>,
    /// Builds a random instance of the left-hand side.
    pub example: fn(&mut Sampler) -> Result<Value, TypeError>,
}

/// A replacement: ops over values that are already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// A class of the e-graph.
    Value(Id),
    /// An op applied to terms.
    Op(Op, Vec<Term>),
    /// The sum of terms, in any order.
    Sum(Vec<Term>),
}

impl Term {
    /// An op applied to terms.
    pub fn op(op: impl Into<Op>, args: impl IntoIterator<Item = Term>) -> Term {
        Term::Op(op.into(), args.into_iter().collect())
    }

    /// The terms it is made of directly.
    pub fn args(&self) -> &[Term] {
        match self {
            Term::Value(_) => &[],
            Term::Op(_, args) | Term::Sum(args) => args,
        }
    }

    /// The sum of at least one term.
    pub fn sum(mut terms: Vec<Term>) -> Term {
        if terms.len() == 1 { terms.remove(0) } else { Term::Sum(terms) }
    }
}

impl From<Id> for Term {
    fn from(id: Id) -> Term {
        Term::Value(id)
    }
}

/// A node a rule may rewrite, and the e-graph below it.
pub struct Site<'a> {
    egraph: &'a EGraph,
    /// What is seen of the operands; everything without.
    view: Option<&'a View>,
    /// Name of the node's op; [`SUM`] for a sum.
    pub name: &'static str,
    /// The node's op. A sum is an addition of any number of operands.
    pub op: &'a Op,
    /// The node's operands.
    pub args: &'a [Id],
    /// Type of the node's only result.
    pub ty: &'a TensorType,
}

impl<'a> Site<'a> {
    /// A node as a site; `None` unless it is an op with one result, or a sum.
    pub fn at(egraph: &'a EGraph, class: Id, node: &'a Node) -> Option<Site<'a>> {
        match (node, egraph[class].data.types.as_slice()) {
            (Node::Op(op, args), [ty]) => Some(Site { egraph, view: None, name: op.name(), op, args, ty }),
            (Node::Sum(args), [ty]) => Some(Site { egraph, view: None, name: SUM, op: &ADDITION, args, ty }),
            _ => None,
        }
    }

    /// The same node with a limited view of what is below it.
    pub fn seen_through(self, view: &'a View) -> Site<'a> {
        Site { view: Some(view), ..self }
    }

    /// Type of an operand.
    pub fn type_of(&self, id: Id) -> &'a TensorType {
        &self.egraph[id].data.types[0]
    }

    /// Shape of an operand.
    pub fn shape(&self, id: Id) -> &'a [usize] {
        &self.type_of(id).shape
    }

    /// The value of every element of an operand, where it is known.
    pub fn splat(&self, id: Id) -> Option<f64> {
        let fact = &self.egraph[id].data;
        let seen = match self.view {
            Some(view) => view.splat(self.egraph.find(id), &fact.types, fact.splat),
            None => fact.splat,
        };
        seen.map(|v| v.get())
    }

    /// Whether the window needs all of an operand, so that computing a slice of it apart saves nothing.
    pub fn is_needed(&self, id: Id) -> bool {
        self.egraph[id].data.needed
    }

    /// Whether an operand is the same in every step of the loop that the node is in, so that what follows from such
    /// operands alone costs next to nothing.
    pub fn is_invariant(&self, id: Id) -> bool {
        self.egraph[id].data.invariant
    }

    /// Whether gradients are yet to be taken, so that an op which only stops them does something.
    pub fn is_differentiable(&self) -> bool {
        self.egraph.analysis.frame.differentiable
    }

    /// Whether two operands are known to be equal.
    pub fn same(&self, a: Id, b: Id) -> bool {
        self.egraph.find(a) == self.egraph.find(b)
    }

    /// The ops known to make an operand, as sites. Sums are not among them.
    pub fn makers(&self, id: Id) -> impl Iterator<Item = Site<'a>> + use<'a> {
        let (egraph, view, class) = (self.egraph, self.view, self.egraph.find(id));
        let ops = self.nodes(class).filter(|node| matches!(node, Node::Op(..)));
        ops.filter_map(move |node| Some(Site { view, ..Site::at(egraph, class, node)? }))
    }

    /// The terms of every sum known to be equal to an operand.
    pub fn sums(&self, id: Id) -> impl Iterator<Item = &'a [Id]> + use<'a> {
        self.nodes(self.egraph.find(id)).filter_map(|node| match node {
            Node::Sum(terms) => Some(&terms[..]),
            _ => None,
        })
    }

    /// The nodes that are seen of a class.
    fn nodes(&self, class: Id) -> impl Iterator<Item = &'a Node> + use<'a> {
        let view = self.view;
        self.egraph[class].nodes.iter().filter(move |node| view.is_none_or(|v| v.shows(class, node)))
    }

    /// Whether the op computes every element from the same element of its operands, and does compute something.
    ///
    /// Told from the lowered form, so that motion rules hold for ops that do not exist yet.
    pub fn is_elementwise(&self) -> bool {
        let shapes_agree = !self.args.is_empty() && self.args.iter().all(|&a| self.shape(a) == self.ty.shape);
        if !shapes_agree {
            return false;
        }
        let inputs: Vec<&TensorType> = self.args.iter().map(|&a| self.type_of(a)).collect();
        let Lowering::Nests(nests) = self.op.lower(&inputs, std::slice::from_ref(self.ty)) else { return false };
        let pointwise = |scalar: &Scalar| match scalar {
            Scalar::Load(access) => access.is_identity(&self.ty.shape),
            Scalar::LoopIndex(_) | Scalar::Accumulated(_) => false,
            _ => true,
        };
        matches!(nests.as_slice(), [nest] if nest.combine.is_none() && nest.alias_of().is_none()
            && nest.body.scalars.iter().all(|(s, _)| pointwise(s)))
    }
}

/// The rules, by the ops they look at.
pub struct RuleIndex {
    rules: Vec<Rule>,
    by_op: BTreeMap<&'static str, Vec<usize>>,
    any: Vec<usize>,
}

impl RuleIndex {
    /// Every rule.
    pub fn all() -> RuleIndex {
        RuleIndex::new(all_rules())
    }

    /// The rules of some families that change no more than `most`.
    pub fn of(families: &BTreeSet<Family>, most: NumericClass) -> RuleIndex {
        let wanted = |rule: &Rule| families.contains(&rule.family) && rule.class <= most;
        RuleIndex::new(all_rules().into_iter().filter(wanted).collect())
    }

    /// An index of the given rules.
    pub fn new(rules: Vec<Rule>) -> RuleIndex {
        let mut index = RuleIndex { by_op: BTreeMap::new(), any: vec![], rules };
        for (k, rule) in index.rules.iter().enumerate() {
            match rule.root {
                Root::Ops(names) => names.iter().for_each(|name| index.by_op.entry(name).or_default().push(k)),
                Root::Any => index.any.push(k),
                Root::Sum => index.by_op.entry(SUM).or_default().push(k),
            }
        }
        index
    }

    /// The most that any of the rules may change.
    pub fn most(&self) -> NumericClass {
        self.rules.iter().map(|rule| rule.class).max().unwrap_or(NumericClass::Bitwise)
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// One rule.
    pub fn rule(&self, index: usize) -> &Rule {
        &self.rules[index]
    }

    /// What every rule has to say about a site.
    pub fn rewrites<'a>(&'a self, site: &'a Site) -> impl Iterator<Item = (usize, Vec<Term>)> + 'a {
        let named = self.by_op.get(site.name).map(Vec::as_slice).unwrap_or_default();
        let any = if site.name == SUM { &[] } else { self.any.as_slice() };
        named.iter().chain(any).map(|&k| (k, (self.rules[k].rewrite)(site)))
    }
}

/// Every rule, in the order of the tables.
pub fn all_rules() -> Vec<Rule> {
    let bitwise = [renaming::rules(), layout::rules(), reduction::rules(), contraction::rules(), slice::rules()];
    bitwise.into_iter().chain([reassociation::rules()]).flatten().collect()
}
