//! What a loop does again in every step although it need not: moved before the loop.
//!
//! What follows from constants of the loop alone is made once. A product of a slice and constants is made of all slices
//! at once: one product of many rows instead of one of few rows per step, as recurrences have it for their inputs. Every
//! element is computed as it was, so every bit stays.

use super::extract::extract;
use super::rebuild::rebuild;
use crate::bodies::map_bodies;
use crate::differentiate::dependents;
use crate::schedule::{Form, Forms};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Def, Function, Graph, NodeId, Value};
use gradc_ir::lower::Scalar;
use gradc_ir::ops::{DotGeneral, Op, Scan};
use gradc_ir::region::{Loop, RegionForm};
use gradc_ir::types::TypeError;
use std::collections::{BTreeMap, BTreeSet};

/// The graph with its loops relieved of what is the same in every step and of products of slices, in bodies too.
///
/// Inputs, outputs and places stay.
pub fn hoist(graph: &Graph) -> Result<Graph, Diagnostic> {
    let ill_typed = |e| Diagnostic::from_type_error("internal-hoist", e, Loc::default());
    let graph = map_bodies(graph, &mut |body| hoist_here(body).map_err(ill_typed))?;
    hoist_here(&graph).map_err(ill_typed)
}

/// [`hoist`] of the loops that a graph has itself, not of those in bodies.
pub(crate) fn hoist_here(graph: &Graph) -> Result<Graph, TypeError> {
    rebuild(graph, |b, id, op, operands| match RegionForm::of_node(graph, id) {
        Some(RegionForm::Loop(looped)) => relieved(b, op, &looped, operands),
        _ => b.apply(op.clone(), operands),
    })
}

/// The results of a loop, what can be made before it made before it.
fn relieved(b: &mut Builder, op: &Op, looped: &Loop, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let steps = Steps::new(looped);
    let (made_once, products) = (steps.made_once(), steps.products(op));
    if made_once.is_empty() && products.is_empty() {
        return b.apply(op.clone(), operands);
    }
    let arguments = steps.arguments();
    let first_const = looped.carries + looped.scanned;
    let (moving, consts) = arguments.split_at(first_const);
    let factors = products.iter().filter_map(|&v| steps.factor(v)).filter(|v| !consts.contains(v));
    let once: Vec<Value> = made_once.iter().copied().chain(factors).collect::<BTreeSet<_>>().into_iter().collect();
    let before = extract(&looped.body.name, &looped.body, consts, &once)?;
    let made = b.inline(&before, &operands[first_const..])?;
    let outside: BTreeMap<Value, Value> =
        once.into_iter().zip(made).chain(arguments.iter().copied().zip(operands.iter().copied())).collect();
    let all = products.iter().map(|&v| steps.product_of_all(b, v, &outside)).collect::<Result<Vec<_>, _>>()?;
    let once: Vec<Value> = made_once.iter().map(|v| outside[v]).collect();
    let operands = [&operands[..first_const], &all, &operands[first_const..], &once].concat();
    let step = steps.given(&[moving, &products, consts, &made_once].concat())?;
    let op = match op {
        Op::Scan(scan) => Op::from(Scan { body: step, scanned: scan.scanned + all.len(), ..scan.clone() }),
        other => other.with_functions([step]),
    };
    b.apply(op, &operands)
}

/// What the steps of a loop depend on.
struct Steps<'a> {
    looped: &'a Loop,
    /// Nodes that depend on carries.
    carried: Vec<bool>,
    /// Nodes that depend on slices.
    sliced: Vec<bool>,
    /// Nodes that depend on constants of the loop.
    constant: Vec<bool>,
}

impl<'a> Steps<'a> {
    fn new(looped: &'a Loop) -> Self {
        let body = &looped.body;
        let arguments: Vec<Value> = body.inputs().iter().map(|i| i.value).collect();
        let (carries, rest) = arguments.split_at(looped.carries);
        let (slices, consts) = rest.split_at(looped.scanned);
        let [carried, sliced, constant] = [carries, slices, consts].map(|values| dependents(body, values));
        Steps { looped, carried, sliced, constant }
    }

    fn arguments(&self) -> Vec<Value> {
        self.body().inputs().iter().map(|i| i.value).collect()
    }

    /// The step with other arguments: values of it that are given.
    fn given(&self, arguments: &[Value]) -> Result<Function, TypeError> {
        let results: Vec<Value> = self.body().outputs().iter().map(|o| o.value).collect();
        extract(&self.body().name, self.body(), arguments, &results)
    }

    fn body(&self) -> &'a Graph {
        &self.looped.body
    }

    /// Whether a value is the same in every step.
    fn is_invariant(&self, id: NodeId) -> bool {
        !self.carried[id.index()] && !self.sliced[id.index()]
    }

    /// Whether a node computes the same from constants of the loop in every step.
    fn is_repeated(&self, id: NodeId) -> bool {
        self.is_invariant(id) && self.constant[id.index()] && self.body().op(id).is_some()
    }

    /// The values worth making once: what steps read of what is the same in all of them. What only moves or repeats
    /// elements is left to the step, where it is free.
    fn made_once(&self) -> Vec<Value> {
        let (body, forms) = (self.body(), Forms::row_major(self.body()));
        let readers = body.node_ids().filter(|&id| !self.is_repeated(id));
        let read = readers.flat_map(|id| &body.node(id).operands).chain(body.outputs().iter().map(|o| &o.value));
        let (mut open, mut found): (Vec<Value>, BTreeSet<Value>) = (read.copied().collect(), BTreeSet::new());
        while let Some(value) = open.pop() {
            if !self.is_repeated(value.node) {
                continue;
            }
            if self.is_free(&forms, value.node) {
                open.extend(&body.node(value.node).operands);
            } else {
                found.insert(value);
            }
        }
        found.into_iter().collect()
    }

    /// Whether a node only moves or repeats elements.
    fn is_free(&self, forms: &Forms, id: NodeId) -> bool {
        let (body, node) = (self.body(), self.body().node(id));
        let read: usize = node.operands.iter().map(|&v| body.ty(v).size_bytes()).sum();
        let made: usize = node.types.iter().map(|ty| ty.size_bytes()).sum();
        match forms.get(id) {
            Form::Alias(_) => true,
            Form::Map(nest) => made > read || nest.body.scalars.iter().all(|(s, _)| matches!(s, Scalar::Load(_))),
            _ => false,
        }
    }

    /// Products of a slice and what is the same in every step.
    fn products(&self, op: &Op) -> Vec<Value> {
        let body = self.body();
        if !matches!(op, Op::Scan(_)) {
            return vec![];
        }
        let is_product = |id: &NodeId| matches!(body.op(*id), Some(Op::DotGeneral(_))) && self.slice_of(*id).is_some();
        body.node_ids().filter(is_product).flat_map(|id| body.results(id)).collect()
    }

    /// Which operand of a product is a slice, the other being the same in every step.
    fn slice_of(&self, id: NodeId) -> Option<usize> {
        let &[a, b] = &self.body().node(id).operands[..] else { return None };
        let is_slice = |value: Value| match self.body().node(value.node).def {
            Def::Input(k) => (self.looped.carries..self.looped.carries + self.looped.scanned).contains(&k.index()),
            Def::Op(_) => false,
        };
        match (is_slice(a), is_slice(b)) {
            (true, false) => self.is_invariant(b.node).then_some(0),
            (false, true) => self.is_invariant(a.node).then_some(1),
            _ => None,
        }
    }

    /// What a product multiplies slices by.
    fn factor(&self, product: Value) -> Option<Value> {
        let slice = self.slice_of(product.node)?;
        Some(self.body().node(product.node).operands[1 - slice])
    }

    /// The product of all slices, one after the other along the leading axis.
    fn product_of_all(
        &self,
        b: &mut Builder,
        product: Value,
        outside: &BTreeMap<Value, Value>,
    ) -> Result<Value, TypeError> {
        let body = self.body();
        let (Some(Op::DotGeneral(dot)), Some(slice)) = (body.op(product.node), self.slice_of(product.node)) else {
            return Err(TypeError::new("only products of slices are made of all at once"));
        };
        let operands = [0, 1].map(|k| outside[&body.node(product.node).operands[k]]);
        let after =
            |axes: &[usize], side: usize| axes.iter().map(|a| a + usize::from(side == slice)).collect::<Vec<_>>();
        let all = b.op(
            DotGeneral {
                lhs_batch: after(&dot.lhs_batch, 0),
                rhs_batch: after(&dot.rhs_batch, 1),
                lhs_contract: after(&dot.lhs_contract, 0),
                rhs_contract: after(&dot.rhs_contract, 1),
            },
            &operands,
        )?;
        let left = b.shape(operands[0]).len() - dot.lhs_contract.len();
        let steps = if slice == 0 { dot.lhs_batch.len() } else { left };
        let order: Vec<usize> = (0..b.shape(all).len()).filter(|&axis| axis != steps).collect();
        b.transpose(all, &[&[steps], &order[..]].concat())
    }
}
