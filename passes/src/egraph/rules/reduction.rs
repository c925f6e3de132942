//! Reductions and the data movement before them. The order in which values meet stays as it is.

use super::axes::{groups, others, pick, ranks};
use super::terms::{broadcast, reshape, transpose};
use super::{Sampler, Site, Term};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::ops::{Op, ReduceSum};
use gradc_ir::types::TypeError;

rules! { Layout, Bitwise;
    "reduce-of-transpose": "reduce{a}(transpose(x))" => "transpose(reduce{b}(x))"
        if "the reduced axes keep their order";
    on [ReduceSum] by reduce_of_transpose, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        reduced(s, y)
    };

    "reduce-of-reshape": "reduce{a}(reshape(x))" => "reshape(reduce{b}(x))"
        if "no reduced axis was merged with or split from a kept one";
    on [ReduceSum] by reduce_of_reshape, as in |s| {
        let x = s.any()?;
        let y = s.reshaped(x)?;
        reduced(s, y)
    };

    "reduce-of-broadcast": "reduce{a}(broadcast(x))" => "broadcast(reduce{b}(x))" if "no reduced axis repeats";
    on [ReduceSum] by reduce_of_broadcast, as in |s| {
        let x = s.any()?;
        let (shape, dims) = s.repetition(x);
        let y = s.broadcast(x, &shape, &dims)?;
        s.reduce_sum(y, &dims[..1])
    };
}

/// A random sum over at least one axis.
fn reduced(s: &mut Sampler, x: Value) -> Result<Value, TypeError> {
    let rank = s.shape(x).len();
    let mut axes = s.axes(rank);
    if axes.is_empty() {
        axes.push(s.below(rank));
    }
    s.reduce_sum(x, &axes)
}

/// Axes of a reduction.
fn axes_of(op: &Op) -> Option<&[usize]> {
    match op {
        Op::ReduceSum(op) => Some(&op.axes),
        _ => None,
    }
}

/// The same reduction over other axes.
fn over(op: &Op, axes: Vec<usize>) -> Op {
    match op {
        Op::ReduceSum(_) => ReduceSum { axes }.into(),
        other => other.clone(),
    }
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
