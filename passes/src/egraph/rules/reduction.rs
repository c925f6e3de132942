//! Reductions and the data movement before them. The order in which values meet stays as it is.

use super::terms::{broadcast, reshape, transpose};
use super::{Sampler, Site, Term};
use crate::axes::{groups, others, pick, ranks};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::ops::{Op, ReduceMax, ReduceMin, ReduceProd, ReduceSum};
use gradc_ir::types::TypeError;

rules! { Layout, Bitwise;
    "reduce-of-transpose": "reduce{a}(transpose(x))" => "transpose(reduce{b}(x))"
        if "the reduced axes keep their order";
    on [ReduceMax, ReduceMin, ReduceProd, ReduceSum] by reduce_of_transpose, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        reduced(s, y)
    };

    "reduce-of-reshape": "reduce{a}(reshape(x))" => "reshape(reduce{b}(x))"
        if "no reduced axis was merged with or split from a kept one";
    on [ReduceMax, ReduceMin, ReduceProd, ReduceSum] by reduce_of_reshape, as in |s| {
        let x = s.any()?;
        let y = s.reshaped(x)?;
        reduced(s, y)
    };

    "reduce-of-broadcast": "reduce{a}(broadcast(x))" => "broadcast(reduce{b}(x))" if "no reduced axis repeats";
    on [ReduceMax, ReduceMin, ReduceProd, ReduceSum] by reduce_of_broadcast, as in |s| {
        let x = s.any()?;
        let (shape, dims) = s.repetition(x);
        let y = s.broadcast(x, &shape, &dims)?;
        s.reduce_sum(y, &dims[..1])
    };

    "reduce-over-one": "reduce{a}(x)" => "reshape(x)" if "axes a have extent 1; not for sums, which lose the sign of zero";
    on [ReduceMax, ReduceMin, ReduceProd] by reduce_over_one, as in |s| {
        let (n, m) = (s.below(4) + 1, s.below(4) + 1);
        let x = s.float(&[n, 1, m])?;
        match s.below(3) { 0 => s.reduce_max(x, &[1]), 1 => s.reduce_min(x, &[1]), _ => s.reduce_prod(x, &[1]) }
    };

    "extremum-of-broadcast": "reduce{a}(broadcast(x))" => "broadcast(x)" if "maximum or minimum over repeated axes";
    on [ReduceMax, ReduceMin] by extremum_of_broadcast, as in |s| {
        let x = s.any()?;
        let (shape, dims) = s.repetition(x);
        let y = s.broadcast(x, &shape, &dims)?;
        let repeated = others(shape.len(), &dims);
        if s.below(2) == 0 { s.reduce_max(y, &repeated) } else { s.reduce_min(y, &repeated[..1]) }
    };
}

/// A random reduction over at least one axis.
fn reduced(s: &mut Sampler, x: Value) -> Result<Value, TypeError> {
    let rank = s.shape(x).len();
    let mut axes = s.axes(rank);
    if axes.is_empty() {
        axes.push(s.below(rank));
    }
    match s.below(4) {
        0 => s.reduce_max(x, &axes),
        1 => s.reduce_min(x, &axes),
        2 => s.reduce_prod(x, &axes),
        _ => s.reduce_sum(x, &axes),
    }
}

/// Axes of a reduction.
pub fn axes_of(op: &Op) -> Option<&[usize]> {
    match op {
        Op::ReduceMax(ReduceMax { axes })
        | Op::ReduceMin(ReduceMin { axes })
        | Op::ReduceProd(ReduceProd { axes })
        | Op::ReduceSum(ReduceSum { axes }) => Some(axes),
        _ => None,
    }
}

/// The same reduction over other axes.
fn over(op: &Op, axes: Vec<usize>) -> Op {
    match op {
        Op::ReduceMax(_) => ReduceMax { axes }.into(),
        Op::ReduceMin(_) => ReduceMin { axes }.into(),
        Op::ReduceProd(_) => ReduceProd { axes }.into(),
        _ => ReduceSum { axes }.into(),
    }
}

fn reduce_over_one(site: &Site) -> Vec<Term> {
    let x = site.args[0];
    match axes_of(site.op) {
        Some(axes) if axes.iter().all(|&d| site.shape(x)[d] == 1) => vec![reshape(x, site.shape(x), &site.ty.shape)],
        _ => vec![],
    }
}

fn extremum_of_broadcast(site: &Site) -> Vec<Term> {
    let Some(axes) = axes_of(site.op) else { return vec![] };
    let moved = |dims: &[usize], shape: &[usize], x: Id| {
        let repeats = axes.iter().all(|d| !dims.contains(d) && shape[*d] > 0);
        let kept = others(shape.len(), axes);
        let kept_dims = (0..kept.len()).filter(|&k| dims.contains(&kept[k])).collect();
        repeats.then(|| broadcast(x, &site.ty.shape, kept_dims))
    };
    each!(site, site.args[0], Broadcast).filter_map(|(op, x)| moved(&op.dims, &op.shape, x[0])).collect()
}

fn reduce_of_transpose(site: &Site) -> Vec<Term> {
    let Some(axes) = axes_of(site.op) else { return vec![] };
    let moved = |perm: &[usize], x: Id| {
        let source = pick(perm, axes);
        let kept = pick(perm, &others(perm.len(), axes));
        let ordered = source.is_sorted();
        ordered.then(|| transpose(Term::op(over(site.op, source), [x.into()]), ranks(&kept)))
    };
    each!(site, site.args[0], Transpose).filter_map(|(op, x)| moved(&op.perm, x[0])).collect()
}

fn reduce_of_reshape(site: &Site) -> Vec<Term> {
    let Some(axes) = axes_of(site.op) else { return vec![] };
    let moved = |x: Id, to: &[usize]| {
        let mut source = Vec::new();
        for group in groups(site.shape(x), to)? {
            let reduced = group.to.clone().filter(|d| axes.contains(d)).count();
            if reduced > 0 && reduced == group.to.len() {
                source.extend(group.from);
            } else if reduced > 0 {
                return None;
            }
        }
        let kept = pick(site.shape(x), &others(site.shape(x).len(), &source));
        // a sum over nothing would keep the sign of a zero that a sum over one element loses
        (!source.is_empty()).then(|| reshape(Term::op(over(site.op, source), [x.into()]), &kept, &site.ty.shape))
    };
    each!(site, site.args[0], Reshape).filter_map(|(op, x)| moved(x[0], &op.shape)).collect()
}

fn reduce_of_broadcast(site: &Site) -> Vec<Term> {
    let Some(axes) = axes_of(site.op) else { return vec![] };
    let moved = |dims: &[usize], rank: usize, x: Id| {
        let source: Option<Vec<usize>> = axes.iter().map(|a| dims.iter().position(|d| d == a)).collect();
        let kept = others(rank, axes);
        let kept_dims = (0..kept.len()).filter(|&k| dims.contains(&kept[k])).collect();
        Some(broadcast(Term::op(over(site.op, source?), [x.into()]), &site.ty.shape, kept_dims))
    };
    each!(site, site.args[0], Broadcast).filter_map(|(op, x)| moved(&op.dims, op.shape.len(), x[0])).collect()
}
