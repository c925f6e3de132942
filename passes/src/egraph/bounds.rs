//! The bound of re-association, for the laws.
//!
//! A class of sums and products stands for one polynomial with positive coefficients in its leaves and their negatives.
//! Any order of evaluating it errs by at most γₖ M, where M is the polynomial at the magnitudes of the leaves, k the most
//! roundings on a way from a leaf to the result, and γₖ = ku / (1 − ku) (Higham 2002, §3.1, lemma 3.1).

use super::language::Node;
use super::laws::evaluate;
use super::saturate::Saturated;
use egg::{Id, Language};
use gradc_ir::lower::Lowering;
use gradc_ir::ops::{Add, Op};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::TensorType;

/// The first class with two nodes that differ by more than their bounds.
pub fn unbounded_class(saturated: &Saturated, inputs: &[Tensor], stored: bool) -> Option<String> {
    let egraph = &saturated.egraph;
    let magnitudes: Vec<Tensor> = inputs.iter().map(magnitude).collect();
    let (values, bounds) = (evaluate(saturated, inputs, stored), polynomials(saturated, &magnitudes));
    let unit = if stored { f64::from(f32::EPSILON) / 2.0 } else { f64::EPSILON / 2.0 };
    (0..values.len()).find_map(|id| {
        let of = usize::from(egraph.find(Id::from(id)));
        let (Some(a), Some(b)) = (&bounds[id], &bounds[of]) else { return None };
        let within = |k: usize| {
            let (x, y) = (values[id][0].floats()[k], values[of][0].floats()[k]);
            let most = (gamma(a.roundings, unit) + gamma(b.roundings, unit)) * a.most.floats()[k];
            (x - y).abs() <= most
        };
        let broken = values[id][0].ty != values[of][0].ty || !(0..values[id][0].ty.elements()).all(within);
        broken.then(|| {
            format!("{:?}\n= {:?}\n{:?}\n= {:?}", egraph.nodes()[id], values[id], egraph.nodes()[of], values[of])
        })
    })
}

fn gamma(roundings: usize, unit: f64) -> f64 {
    let ku = roundings as f64 * unit;
    ku / (1.0 - ku)
}

fn magnitude(tensor: &Tensor) -> Tensor {
    Tensor::float(tensor.ty.clone(), tensor.floats().iter().map(|v| v.abs()).collect())
}

/// A polynomial at the magnitudes of its leaves.
struct Polynomial {
    most: Tensor,
    roundings: usize,
}

/// The polynomials that float nodes are; `None` for what is none.
fn polynomials(saturated: &Saturated, magnitudes: &[Tensor]) -> Vec<Option<Polynomial>> {
    let mut found: Vec<Option<Polynomial>> = Vec::new();
    for node in saturated.egraph.nodes() {
        let operands: Option<Vec<&Polynomial>> =
            node.children().iter().map(|&c| found[usize::from(c)].as_ref()).collect();
        found.push(operands.and_then(|operands| polynomial(node, &operands, magnitudes)));
    }
    found
}

fn polynomial(node: &Node, operands: &[&Polynomial], magnitudes: &[Tensor]) -> Option<Polynomial> {
    let most: Vec<&Tensor> = operands.iter().map(|p| &p.most).collect();
    let (most, own) = match node {
        // an input is rounded to its dtype
        Node::Input(id) => (magnitudes[id.index()].clone(), 1),
        Node::Op(op, _) => (at_magnitudes(op, &most)?, roundings(op, &most)),
        Node::Sum(_) => {
            let plus = |a: Tensor, b: &&Tensor| Add {}.eval_one(&[&a, b]);
            (most[1..].iter().fold(most[0].clone(), plus), most.len() - 1)
        }
        Node::Project(..) | Node::Roots(_) => return None,
    };
    Some(Polynomial { most, roundings: own + operands.iter().map(|p| p.roundings).sum::<usize>() })
}

/// A polynomial op with every coefficient made positive, at magnitudes.
fn at_magnitudes(op: &Op, most: &[&Tensor]) -> Option<Tensor> {
    match op {
        Op::Sub(_) => Some(Add {}.eval_one(most)),
        Op::Neg(_) => Some(most[0].clone()),
        Op::Add(_) | Op::Mul(_) | Op::DotGeneral(_) | Op::ReduceSum(_) => Some(op.eval_one(most)),
        Op::Transpose(_) | Op::Reshape(_) | Op::Broadcast(_) | Op::Slice(_) | Op::Concat(_) => Some(op.eval_one(most)),
        Op::Constant(_) => Some(magnitude(&op.eval_one(most))),
        _ => None,
    }
}

/// Roundings of one element of a result.
fn roundings(op: &Op, operands: &[&Tensor]) -> usize {
    let types: Vec<&TensorType> = operands.iter().map(|t| &t.ty).collect();
    let outputs = op.infer(&types).expect("a well-typed op");
    match op.lower(&types, &outputs) {
        Lowering::Contraction(c) => c.reduce.iter().product::<usize>() + 1,
        Lowering::Nests(nests) => nests.iter().map(|nest| nest.reduce.iter().product::<usize>()).max().unwrap_or(1),
        _ => 1,
    }
}

/// Evaluation of ops with one result.
trait EvalOne {
    fn eval_one(&self, operands: &[&Tensor]) -> Tensor;
}

impl<T: Clone + Into<Op>> EvalOne for T {
    fn eval_one(&self, operands: &[&Tensor]) -> Tensor {
        let op: Op = self.clone().into();
        op.eval(operands).expect("a well-typed op").remove(0)
    }
}
