//! Sums over the steps of a loop that need not be made step by step: one product after the loop instead of one per step.
//!
//! The gradient of a weight that every step multiplies by is `Σₜ aₜᵀ bₜ`. Step by step it is read, added to and written
//! again, and its products are short. Where `a` and `b` are there for all steps anyway, stacked, it is the product that
//! sums over steps and rows at once. The sum has another order than that of the steps, as every contraction has its own;
//! each element is still summed in one fixed order. Where operands have to be stacked for it, the sum leaves the loop if
//! they are small beside it; else it stays, and memory does not grow for it.
//!
//! A loop that keeps its [order](Scan::in_order), as one found in a flat graph does, keeps its sums unless sums may be
//! re-associated.

use super::extract::extract;
use super::rebuild::rebuild;
use crate::bodies::map_bodies;
use crate::differentiate::dependents;
use crate::egraph::rules::NumericClass;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Graph, Output, Value};
use gradc_ir::ops::{DotGeneral, Op, ReduceSum, Scan};
use gradc_ir::types::TypeError;
use std::collections::{BTreeMap, BTreeSet};

/// Of what a step moves to add to a sum, the most that stacking operands instead may be: one part in so many. More where
/// sums are re-associated, for that is done to be fast.
const STACKED_SHARE: usize = 4;
const REASSOCIATED_SHARE: usize = 3;

/// The graph with carries that only sum up products of stacked values replaced by one product each, in bodies too; of
/// the loops that `fp` allows it for.
pub fn sum_after_loops(graph: &Graph, fp: NumericClass) -> Result<Graph, Diagnostic> {
    let ill_typed = |e| Diagnostic::from_type_error("internal-sums", e, Loc::default());
    let graph = map_bodies(graph, &mut |body| of_graph(body, fp).map_err(ill_typed))?;
    of_graph(&graph, fp).map_err(ill_typed)
}

fn of_graph(graph: &Graph, fp: NumericClass) -> Result<Graph, TypeError> {
    rebuild(graph, |b, _, op, operands| {
        let Op::Scan(scan) = op else { return b.apply(op.clone(), operands) };
        let stays = scan.in_order && fp != NumericClass::Reassociation;
        let share = if fp == NumericClass::Reassociation { REASSOCIATED_SHARE } else { STACKED_SHARE };
        let sums = if stays { vec![] } else { sums(scan, share) };
        if sums.is_empty() { b.apply(op.clone(), operands) } else { after(b, scan, &sums, operands) }
    })
}

/// A carry that sums up terms of the steps.
struct Sum {
    carry: usize,
    /// In the order in which a step adds them.
    terms: Vec<Term>,
}

impl Sum {
    /// Values of the body that have to be stacked for it.
    fn unstacked<'a>(&'a self, scan: &'a Scan) -> impl Iterator<Item = Value> + 'a {
        let operands = self.terms.iter().flat_map(|term| &term.operands).copied();
        operands.filter(|&value| !is_slice(scan, value) && !is_stacked(scan, value))
    }

    /// Whether what has to be stacked is small beside the sum, one part in `share`.
    fn pays(&self, scan: &Scan, share: usize) -> bool {
        let stacked: usize = self.unstacked(scan).map(|v| scan.body.ty(v).size_bytes()).sum();
        share * stacked <= scan.body.ty(scan.body.inputs()[self.carry].value).size_bytes()
    }
}

fn is_slice(scan: &Scan, value: Value) -> bool {
    scan.body.inputs()[scan.carries..scan.carries + scan.scanned].iter().any(|input| input.value == value)
}

fn is_stacked(scan: &Scan, value: Value) -> bool {
    scan.body.outputs()[scan.carries..].iter().any(|output| output.value == value)
}

/// What a step adds, and how it is summed over all steps.
struct Term {
    /// Reduces stacked operands over steps as well.
    reduction: Op,
    /// Values of the body.
    operands: Vec<Value>,
    /// What then only moves elements, first things first.
    moves: Vec<Op>,
}

fn sums(scan: &Scan, share: usize) -> Vec<Sum> {
    let uses = uses(&scan.body);
    let sums = (0..scan.carries).filter_map(|k| Some(Sum { carry: k, terms: terms(scan, &uses, k)? }));
    sums.filter(|sum| sum.pays(scan, share)).collect()
}

/// How often the values of each node are read, results of the graph included.
fn uses(body: &Graph) -> Vec<usize> {
    let mut uses = vec![0; body.nodes().len()];
    let operands = body.nodes().iter().flat_map(|node| &node.operands);
    operands.chain(body.outputs().iter().map(|o| &o.value)).for_each(|v| uses[v.node.index()] += 1);
    uses
}

/// What a step adds to carry `k` if that is all it does with it.
fn terms(scan: &Scan, uses: &[usize], k: usize) -> Option<Vec<Term>> {
    let body = &scan.body;
    let (carry, mut sum) = (body.inputs()[k].value, body.outputs()[k].value);
    let depends = dependents(body, &[carry]);
    let mut terms = vec![];
    while sum != carry {
        let (Op::Add(_), &[a, b]) = (body.op(sum.node)?, &body.node(sum.node).operands[..]) else { return None };
        let (before, term) = match (depends[a.node.index()], depends[b.node.index()]) {
            (true, false) => (a, b),
            (false, true) => (b, a),
            _ => return None,
        };
        if uses[sum.node.index()] > 1 {
            return None;
        }
        terms.push(term_of(body, term)?);
        sum = before;
    }
    terms.reverse();
    (uses[carry.node.index()] == 1 && !terms.is_empty()).then_some(terms)
}

fn term_of(body: &Graph, mut value: Value) -> Option<Term> {
    let mut moves = vec![];
    while let op @ (Op::Transpose(_) | Op::Reshape(_)) = body.op(value.node)? {
        moves.push(op.clone());
        value = body.node(value.node).operands[0];
    }
    moves.reverse();
    let reduction = over_steps(body.op(value.node)?)?;
    Some(Term { reduction, operands: body.node(value.node).operands.clone(), moves })
}

/// The op that sums over a new leading axis as well.
fn over_steps(op: &Op) -> Option<Op> {
    let after = |axes: &[usize]| axes.iter().map(|axis| axis + 1).collect::<Vec<_>>();
    let with_steps = |axes: &[usize]| [&[0], &after(axes)[..]].concat();
    match op {
        Op::DotGeneral(dot) => Some(Op::from(DotGeneral {
            lhs_batch: after(&dot.lhs_batch),
            rhs_batch: after(&dot.rhs_batch),
            lhs_contract: with_steps(&dot.lhs_contract),
            rhs_contract: with_steps(&dot.rhs_contract),
        })),
        Op::ReduceSum(sum) => Some(Op::from(ReduceSum { axes: with_steps(&sum.axes) })),
        _ => None,
    }
}

/// The results of the loop with its sums made after it.
fn after(b: &mut Builder, scan: &Scan, sums: &[Sum], operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let made = without(b, scan, sums, operands)?;
    let result = |(k, output): (usize, &Output)| match sums.iter().find(|sum| sum.carry == k) {
        Some(sum) => summed(b, sum, operands[k], &made.stacked),
        None => Ok(made.carries.get(&k).copied().unwrap_or_else(|| made.stacked[&output.value])),
    };
    scan.body.outputs().iter().enumerate().map(result).collect()
}

/// What there is of a loop without its sums.
struct Made {
    /// Final carries by their positions.
    carries: BTreeMap<usize, Value>,
    /// Values of the body, stacked.
    stacked: BTreeMap<Value, Value>,
}

/// The loop without its sums, what they need stacked.
fn without(b: &mut Builder, scan: &Scan, sums: &[Sum], operands: &[Value]) -> Result<Made, TypeError> {
    let body = &scan.body;
    let stays = |k: &usize| sums.iter().all(|sum| sum.carry != *k);
    let carries: Vec<usize> = (0..scan.carries).filter(stays).collect();
    let stacked = body.outputs()[scan.carries..].iter().map(|o| o.value);
    let stacked: BTreeSet<Value> = stacked.chain(sums.iter().flat_map(|sum| sum.unstacked(scan))).collect();
    let slices = (scan.carries..scan.carries + scan.scanned).map(|k| (body.inputs()[k].value, operands[k]));
    let mut made = Made { carries: BTreeMap::new(), stacked: slices.collect() };
    let results: Vec<Value> = carries.iter().map(|&k| body.outputs()[k].value).chain(stacked.iter().copied()).collect();
    if !results.is_empty() {
        let arguments: Vec<usize> = (0..operands.len()).filter(stays).collect();
        let inputs: Vec<Value> = arguments.iter().map(|&k| body.inputs()[k].value).collect();
        let operands: Vec<Value> = arguments.iter().map(|&k| operands[k]).collect();
        let body = extract(&body.name, body, &inputs, &results)?;
        let all = b.apply(Scan { body, carries: carries.len(), ..scan.clone() }, &operands)?;
        made.stacked.extend(stacked.into_iter().zip(all[carries.len()..].iter().copied()));
        made.carries.extend(carries.into_iter().zip(all));
    }
    Ok(made)
}

/// What the carry holds after the last step.
fn summed(b: &mut Builder, sum: &Sum, start: Value, stacked: &BTreeMap<Value, Value>) -> Result<Value, TypeError> {
    let mut total = start;
    for term in &sum.terms {
        let operands: Vec<Value> = term.operands.iter().map(|v| stacked[v]).collect();
        let mut value = b.op(term.reduction.clone(), &operands)?;
        for moved in &term.moves {
            value = b.op(moved.clone(), &[value])?;
        }
        total = b.add(total, value)?;
    }
    Ok(total)
}
