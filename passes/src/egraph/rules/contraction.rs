//! Data movement folded into the axis numbers of a contraction.
//!
//! The pairs of contracted axes keep their order, so every sum keeps its order of terms.

use super::terms::{reshape, transpose};
use super::{Sampler, Site, Term};
use crate::axes::{Group, groups, others, pick, ranks};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::ops::DotGeneral;
use gradc_ir::types::TypeError;

rules! { Layout, Bitwise;
    "dot-of-transpose": "dot_general(transpose(x), y)" => "transpose(dot_general(x, y))"
        if "either operand; the transpose of the result is nothing where free axes keep their order";
    on [DotGeneral] by dot_of_transpose, as in |s| {
        let dot = Dot::random(s);
        let [a, b] = dot.shapes.clone();
        let side = s.below(2);
        let perm = s.permutation([&a, &b][side].len());
        let moved = s.made_by_transpose([&a, &b][side], &perm)?;
        let other = s.float([&b, &a][side])?;
        let operands = if side == 0 { [moved, other] } else { [other, moved] };
        s.op(dot.op, &operands)
    };

    "transpose-of-dot": "transpose(dot_general(x, y))" => "dot_general(x, y) or dot_general(y, x)"
        if "batch axes stay in front and each operand's free axes stay together";
    on [Transpose] by transpose_of_dot, as in |s| {
        let (y, batch, free) = Dot::random(s).build(s)?;
        let mut perm = s.permutation(batch);
        let (left, right) = (batch..batch + free[0], batch + free[0]..batch + free[0] + free[1]);
        if s.below(2) == 0 { perm.extend(left.chain(right)) } else { perm.extend(right.chain(left)) }
        s.transpose(y, &perm)
    };

    "dot-of-reshape": "dot_general(reshape(x), y)" => "reshape(dot_general(x, reshape(y)))"
        if "either operand; no two kinds of axis are merged, no two batch or contracted axes";
    on [DotGeneral] by dot_of_reshape, as in |s| {
        let dot = Dot::random(s);
        let [a, b] = dot.shapes.clone();
        let side = s.below(2);
        let shape = [&a, &b][side];
        // split every even extent, so that the reshape merges
        let source: Vec<usize> = shape.iter().flat_map(|&d| if d % 2 == 0 { vec![2, d / 2] } else { vec![d] }).collect();
        let x = s.float(&source)?;
        let moved = s.reshape(x, shape)?;
        let other = s.float([&b, &a][side])?;
        let operands = if side == 0 { [moved, other] } else { [other, moved] };
        s.op(dot.op, &operands)
    };
}

/// A random contraction, for the examples.
struct Dot {
    op: DotGeneral,
    shapes: [Vec<usize>; 2],
}

impl Dot {
    fn random(s: &mut Sampler) -> Dot {
        let (batch, contract, free) = (s.below(3), s.below(3), [s.below(3), s.below(3)]);
        let shared = s.extents(batch + contract);
        let mut side = |free: usize| {
            let rank = batch + contract + free;
            let axes = s.permutation(rank);
            let mut shape = s.extents(rank);
            (0..batch + contract).for_each(|k| shape[axes[k]] = shared[k]);
            (axes[..batch].to_vec(), axes[batch..batch + contract].to_vec(), shape)
        };
        let ((lhs_batch, lhs_contract, a), (rhs_batch, rhs_contract, b)) = (side(free[0]), side(free[1]));
        Dot { op: DotGeneral { lhs_batch, rhs_batch, lhs_contract, rhs_contract }, shapes: [a, b] }
    }

    /// The result on new inputs, with the numbers of batch and free axes.
    fn build(self, s: &mut Sampler) -> Result<(Value, usize, [usize; 2]), TypeError> {
        let Dot { op, shapes: [a, b] } = self;
        let (batch, contract) = (op.lhs_batch.len(), op.lhs_contract.len());
        let free = [a.len() - batch - contract, b.len() - batch - contract];
        let operands = [s.float(&a)?, s.float(&b)?];
        Ok((s.op(op, &operands)?, batch, free))
    }
}

/// The result of a random contraction of new inputs.
pub fn random_dot(s: &mut Sampler) -> Result<Value, TypeError> {
    Ok(Dot::random(s).build(s)?.0)
}

/// Free axes of both operands, ascending, given their ranks.
pub fn free_axes(op: &DotGeneral, ranks: [usize; 2]) -> [Vec<usize>; 2] {
    let [left, right] = sides(op);
    [left.free(ranks[0]), right.free(ranks[1])]
}

/// One operand of a contraction: its batch and contracted axes.
struct Side<'a> {
    batch: &'a [usize],
    contract: &'a [usize],
}

impl Side<'_> {
    /// The free axes, ascending.
    fn free(&self, rank: usize) -> Vec<usize> {
        others(rank, &[self.batch, self.contract].concat())
    }
}

fn sides(op: &DotGeneral) -> [Side<'_>; 2] {
    [
        Side { batch: &op.lhs_batch, contract: &op.lhs_contract },
        Side { batch: &op.rhs_batch, contract: &op.rhs_contract },
    ]
}

/// The contraction with other axes for operand `side`.
fn with_side(op: &DotGeneral, side: usize, batch: Vec<usize>, contract: Vec<usize>) -> DotGeneral {
    let op = op.clone();
    match side {
        0 => DotGeneral { lhs_batch: batch, lhs_contract: contract, ..op },
        _ => DotGeneral { rhs_batch: batch, rhs_contract: contract, ..op },
    }
}

/// Operands in order, `x` being number `side`.
fn operands(side: usize, x: Term, other: Term) -> [Term; 2] {
    if side == 0 { [x, other] } else { [other, x] }
}

fn dot_of_transpose(site: &Site) -> Vec<Term> {
    let op = attrs!(site, DotGeneral);
    let folded = |side: usize, perm: &[usize], x: Id| {
        let [left, right] = sides(op);
        let free_before = if side == 0 { 0 } else { left.free(site.shape(site.args[0]).len()).len() };
        let own = if side == 0 { left } else { right };
        let moved_free = pick(perm, &own.free(perm.len()));
        let term = with_side(op, side, pick(perm, own.batch), pick(perm, own.contract));
        let term = Term::op(term, operands(side, x.into(), site.args[1 - side].into()));
        // the folded contraction has the free axes in x's order
        let start = op.lhs_batch.len() + free_before;
        let mut order: Vec<usize> = (0..site.ty.rank()).collect();
        ranks(&moved_free).into_iter().enumerate().for_each(|(k, rank)| order[start + k] = start + rank);
        transpose(term, order)
    };
    let of_side = |side: usize| each!(site, site.args[side], Transpose).map(move |(t, x)| (side, &t.perm, x[0]));
    [0, 1].into_iter().flat_map(of_side).map(|(side, perm, x)| folded(side, perm, x)).collect()
}

fn transpose_of_dot(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Transpose);
    let folded = |op: &DotGeneral, args: &[Id]| {
        let batch = op.lhs_batch.len();
        let left = site.shape(args[0]).len() - batch - op.lhs_contract.len();
        let (front, back) = outer.perm.split_at(batch);
        let kept: Vec<usize> = (batch..outer.perm.len()).collect();
        let swapped: Vec<usize> = (batch + left..outer.perm.len()).chain(batch..batch + left).collect();
        let (lhs_batch, rhs_batch) = match front.iter().all(|&d| d < batch) {
            true => (pick(&op.lhs_batch, front), pick(&op.rhs_batch, front)),
            false => return None,
        };
        let (lhs_contract, rhs_contract) = (op.lhs_contract.clone(), op.rhs_contract.clone());
        let (a, b) = (args[0].into(), args[1].into());
        if back == kept {
            Some(Term::op(DotGeneral { lhs_batch, rhs_batch, lhs_contract, rhs_contract }, [a, b]))
        } else if back == swapped {
            let op = DotGeneral {
                lhs_batch: rhs_batch,
                rhs_batch: lhs_batch,
                lhs_contract: rhs_contract,
                rhs_contract: lhs_contract,
            };
            Some(Term::op(op, [b, a]))
        } else {
            None
        }
    };
    each!(site, site.args[0], DotGeneral).filter_map(|(op, args)| folded(op, args)).collect()
}

fn dot_of_reshape(site: &Site) -> Vec<Term> {
    let op = attrs!(site, DotGeneral);
    let of_side = |side: usize| each!(site, site.args[side], Reshape).map(move |(r, x)| (side, &r.shape, x[0]));
    let found = [0, 1].into_iter().flat_map(of_side);
    found.filter_map(|(side, shape, x)| unshape_operand(site, op, side, shape, x)).collect()
}

/// The contraction on `x` instead of operand `side`, which is `x` reshaped to `shape`.
fn unshape_operand(site: &Site, op: &DotGeneral, side: usize, shape: &[usize], x: Id) -> Option<Term> {
    let [left, right] = sides(op);
    let (own, partner) = if side == 0 { (left, right) } else { (right, left) };
    let groups = groups(site.shape(x), shape)?;
    let free = own.free(shape.len());
    let whole = |g: &Group| g.to.len() == 1 || g.to.clone().all(|d| free.contains(&d));
    if !groups.iter().all(whole) {
        return None;
    }
    let source = |axis: usize| groups.iter().find(|g| g.to.contains(&axis)).map(|g| g.from.clone());
    let sources = |axes: &[usize]| axes.iter().map(|&d| source(d)).collect::<Option<Vec<_>>>();
    let (batch, contract) = (sources(own.batch)?, sources(own.contract)?);

    // the partner's paired axes are split in the same way
    let other = site.args[1 - side];
    let paired = |axis: usize| {
        let at = |list: &[usize]| list.iter().position(|&d| d == axis);
        at(partner.batch).map(|k| &batch[k]).or_else(|| at(partner.contract).map(|k| &contract[k]))
    };
    let (mut split, mut first) = (Vec::new(), Vec::new());
    for (axis, &extent) in site.shape(other).iter().enumerate() {
        first.push(split.len());
        match paired(axis) {
            Some(range) => split.extend_from_slice(&site.shape(x)[range.clone()]),
            None => split.push(extent),
        }
    }
    let renamed = |axes: &[usize], ranges: &[std::ops::Range<usize>]| {
        axes.iter().zip(ranges).flat_map(|(&d, r)| first[d]..first[d] + r.len()).collect::<Vec<_>>()
    };
    let (other_batch, other_contract) = (renamed(partner.batch, &batch), renamed(partner.contract, &contract));
    let term = with_side(op, side, batch.into_iter().flatten().collect(), contract.into_iter().flatten().collect());
    let term = with_side(&term, 1 - side, other_batch, other_contract);
    let args = operands(side, x.into(), reshape(other, site.shape(other), &split));
    let natural = match side {
        0 => result_shape(&term, site.shape(x), &split),
        _ => result_shape(&term, &split, site.shape(x)),
    };
    Some(reshape(Term::op(term, args), &natural, &site.ty.shape))
}

/// Result shape of a contraction of operands with these shapes.
fn result_shape(op: &DotGeneral, a: &[usize], b: &[usize]) -> Vec<usize> {
    let [left, right] = free_axes(op, [a.len(), b.len()]);
    [pick(a, &op.lhs_batch), pick(a, &left), pick(b, &right)].concat()
}
