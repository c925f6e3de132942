//! What is known about every e-class: types, the repeated value of a constant, and the place it comes from.

use super::frame::Frame;
use super::language::Node;
use egg::{Analysis, DidMerge, Id, Language};
use gradc_ir::attr::Float;
use gradc_ir::lower::{Lowering, Scalar};
use gradc_ir::ops::Op;
use gradc_ir::types::TensorType;

/// An e-graph over a window.
pub type EGraph = egg::EGraph<Node, Facts>;

/// No place: what the analysis sees while the e-graph repairs itself.
pub const NOWHERE: u32 = u32::MAX;

/// The analysis of one window.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Types of the values made outside, by [`InputId`](gradc_ir::graph::InputId).
    pub input_types: Vec<TensorType>,
    /// Place given to e-nodes made from here on.
    pub place: u32,
    /// Whether e-nodes made from here on are needed as a whole.
    pub needed: bool,
    /// Where the window stands.
    pub frame: Frame,
    /// Why the window must be left as it is: two types or two constants met in one class, or a rule built an
    /// ill-typed node. Always the fault of a rule.
    pub poison: Option<String>,
}

impl Facts {
    /// An analysis with the given outside types.
    pub fn new(input_types: Vec<TensorType>, frame: Frame) -> Self {
        Facts { input_types, place: NOWHERE, needed: false, frame, poison: None }
    }

    fn poison(&mut self, reason: String) {
        self.poison.get_or_insert(reason);
    }
}

/// What holds for every node of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// One type per result; empty for the roots.
    pub types: Vec<TensorType>,
    /// The value of every element, where it is known.
    pub splat: Option<Float>,
    /// The earliest node of the window it comes from. Not part of the e-node, where it would keep equal nodes apart.
    pub place: u32,
    /// Whether the window needs all of it: something other than slices, of it or of what is computed from it, reads it.
    pub needed: bool,
    /// Whether it is the same in every step of the loop that the window is in.
    pub invariant: bool,
}

impl Analysis<Node> for Facts {
    type Data = Fact;

    fn make(egraph: &mut EGraph, node: &Node, _: Id) -> Fact {
        let (place, needed) = (egraph.analysis.place, egraph.analysis.needed);
        let (types, splat) = match node {
            Node::Input(id) => (vec![egraph.analysis.input_types[id.index()].clone()], None),
            Node::Op(op, args) => match infer(egraph, op, args) {
                Ok(types) => {
                    let splat = splat_of(op, args, &types);
                    (types, splat)
                }
                Err(reason) => {
                    egraph.analysis.poison(reason);
                    (vec![], None)
                }
            },
            Node::Sum(terms) => match common_type(egraph, terms) {
                Ok(ty) => (vec![ty], None),
                Err(reason) => {
                    egraph.analysis.poison(reason);
                    (vec![], None)
                }
            },
            Node::Project(result, of) => {
                (egraph[*of].data.types.get(*result as usize).cloned().into_iter().collect(), None)
            }
            Node::Roots(_) => (vec![], None),
        };
        Fact { types, splat, place, needed, invariant: is_invariant(egraph, node) }
    }

    /// No fact of a class depends on its children's place or constant, so parents are visited again only where a class
    /// is found to be invariant.
    fn merge(&mut self, into: &mut Fact, from: Fact) -> DidMerge {
        if into.types != from.types {
            self.poison(format!("a value of type {} met one of type {}", show(&into.types), show(&from.types)));
        }
        match (into.splat, from.splat) {
            (Some(a), Some(b)) if a != b => self.poison(format!("constant {a:?} met constant {b:?}")),
            (known, other) => into.splat = known.or(other),
        }
        into.place = into.place.min(from.place);
        into.needed |= from.needed;
        let before = (into.invariant, from.invariant);
        into.invariant |= from.invariant;
        DidMerge(into.invariant != before.0, into.invariant != before.1)
    }
}

/// Whether a node is the same in every step of a loop because its operands are.
fn is_invariant(egraph: &EGraph, node: &Node) -> bool {
    let frame = &egraph.analysis.frame;
    frame.steps > 1
        && match node {
            Node::Input(id) => frame.is_invariant_input(id.index()),
            Node::Roots(_) => false,
            _ => node.children().iter().all(|&id| egraph[id].data.invariant),
        }
}

/// Result types of an op over classes.
pub fn infer(egraph: &EGraph, op: &Op, args: &[Id]) -> Result<Vec<TensorType>, String> {
    let types: Option<Vec<&TensorType>> = args.iter().map(|&a| egraph[a].data.types.first()).collect();
    let types = types.ok_or_else(|| format!("an operand of `{op}` has no type"))?;
    op.infer(&types).map_err(|e| format!("`{op}`: {e}"))
}

/// The type of a sum of classes.
pub fn common_type(egraph: &EGraph, terms: &[Id]) -> Result<TensorType, String> {
    let types: Vec<&[TensorType]> = terms.iter().map(|&t| egraph[t].data.types.as_slice()).collect();
    match types.first() {
        Some([ty]) if ty.dtype.is_float() && types.iter().all(|t| *t == types[0]) => Ok(ty.clone()),
        _ => Err(format!("a sum of {}", types.iter().map(|t| show(t)).collect::<Vec<_>>().join(" and "))),
    }
}

/// The constant behind an op without operands whose nest stores one.
pub fn splat_of(op: &Op, args: &[Id], types: &[TensorType]) -> Option<Float> {
    if !args.is_empty() {
        return None;
    }
    let Lowering::Nests(nests) = op.lower(&[], types) else { return None };
    let [nest] = nests.as_slice() else { return None };
    match nest.body.scalars[nest.result.0 as usize].0 {
        Scalar::Const(value) => Some(value),
        _ => None,
    }
}

fn show(types: &[TensorType]) -> String {
    types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ")
}
