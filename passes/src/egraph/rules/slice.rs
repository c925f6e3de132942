//! Slices pushed towards their source, and concatenations that a slice or its neighbours undo.
//!
//! What is not used is then never computed: a channel-sparse update needs only its slice of the weight gradient.

use super::contraction::{free_axes, random_dot};
use super::reduction::axes_of;
use super::terms::{broadcast, reshape, transpose};
use super::{Sampler, Site, Term};
use crate::axes::{groups, inverse, others};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::ops::{Concat, DotGeneral, Slice};
use gradc_ir::types::TypeError;

rules! { Slice, Bitwise;
    "slice-of-slice": "slice{b}(slice{a}(x))" => "slice{a∘b}(x)";
    on [Slice] by slice_of_slice, as in |s| {
        let x = s.any()?;
        let y = sliced(s, x)?;
        sliced(s, y)
    };

    "slice-of-transpose": "slice(transpose(x))" => "transpose(slice(x))";
    on [Slice] by slice_of_transpose, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        sliced(s, y)
    };

    "slice-of-broadcast": "slice(broadcast(x))" => "broadcast(slice(x))";
    on [Slice] by slice_of_broadcast, as in |s| {
        let x = s.any()?;
        let y = s.repeated(x)?;
        sliced(s, y)
    };

    "slice-of-reshape": "slice(reshape(x))" => "reshape(slice(x))" if "axes that are split or merged are not cut";
    on [Slice] by slice_of_reshape, as in |s| {
        let x = s.float(&[2, 3, 4])?;
        let y = if s.below(2) == 0 { s.reshape(x, &[6, 4])? } else { s.reshape(x, &[2, 3, 2, 2])? };
        let (axis, to) = if s.shape(y).len() == 2 { (1, 1 + s.below(4)) } else { (s.below(2), 1 + s.below(2)) };
        s.slice_axis(y, axis, 0, to)
    };

    "slice-of-elementwise": "slice(f(x, …))" => "f(slice(x), …)" if "f is elementwise";
    on [Slice] by slice_of_elementwise, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let z = s.mul(x, y)?;
        sliced(s, z)
    };

    "slice-of-concat": "slice(concat(x, y, …))" => "concat(slice(y), …)" if "an operand is not needed";
    on [Slice] by slice_of_concat, as in |s| {
        let (x, axis) = (s.any()?, 0);
        let (y, z) = (s.like(x)?, s.like(x)?);
        let all = s.concat(&[x, y, z], axis)?;
        sliced(s, all)
    };

    "slice-of-pad": "slice(pad(x))" => "slice(x)" if "no padding is taken";
    on [Slice] by slice_of_pad, as in |s| {
        let x = s.any()?;
        let rank = s.shape(x).len();
        let (low, high) = (vec![s.below(3); rank], vec![s.below(3); rank]);
        let interior: Vec<usize> = (0..rank).map(|_| s.below(2)).collect();
        let y = s.pad(x, &low, &high, &interior, 0.0)?;
        let stride: Vec<usize> = interior.iter().map(|i| i + 1).collect();
        let limit: Vec<usize> = (0..rank).map(|d| s.shape(y)[d] - high[d]).collect();
        s.slice(y, &low, &limit, &stride)
    };

    "slice-of-dot": "slice(dot_general(x, y))" => "dot_general(slice(x), slice(y))";
    on [Slice] by slice_of_dot, as in |s| {
        let y = random_dot(s)?;
        sliced(s, y)
    };

    "slice-of-reduce": "slice(reduce(x))" => "reduce(slice(x))";
    on [Slice] by slice_of_reduce, as in |s| {
        let shape = s.extents(3);
        let x = s.float(&shape)?;
        let axis = s.below(3);
        let y = if s.below(2) == 0 { s.reduce_sum(x, &[axis])? } else { s.reduce_max(x, &[axis])? };
        sliced(s, y)
    };

    "concat-of-slices": "concat(slice(x), slice(x), …)" => "slice(x)" if "each slice begins where the one before ends";
    on [Concat] by concat_of_slices, as in |s| {
        let x = s.float(&[3, 5])?;
        let (first, second) = (1 + s.below(2), 3 + s.below(2));
        let parts = [(0, first), (first, second), (second, 5)];
        let parts = parts.map(|(from, to)| s.slice_axis(x, 1, from, to));
        let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
        s.concat(&parts, 1)
    };

    "concat-of-concat": "concat(concat(x, y), z, …)" => "concat(x, y, z, …)" if "along one axis";
    on [Concat] by concat_of_concat, as in |s| {
        let x = s.any()?;
        let (y, z) = (s.like(x)?, s.like(x)?);
        let first = s.concat(&[x, y], 0)?;
        if s.below(2) == 0 { s.concat(&[first, z], 0) } else { s.concat(&[z, first], 0) }
    };

    "reverse-of-reverse": "reverse{a}(reverse{a}(x))" => "x";
    on [Reverse] by reverse_of_reverse, as in |s| {
        let x = s.any()?;
        let y = s.reverse(x, &[0])?;
        s.reverse(y, &[0])
    };
}

/// A random slice that takes at least one element of every axis.
fn sliced(s: &mut Sampler, x: Value) -> Result<Value, TypeError> {
    let shape = s.shape(x).to_vec();
    let start: Vec<usize> = shape.iter().map(|&d| s.below(d)).collect();
    let limit: Vec<usize> = shape.iter().zip(&start).map(|(&d, &from)| from + 1 + s.below(d - from)).collect();
    let stride: Vec<usize> = shape.iter().map(|&d| 1 + s.below(d.min(2))).collect();
    s.slice(x, &start, &limit, &stride)
}

/// What a slice takes along one axis.
#[derive(Clone, Copy, PartialEq)]
struct Cut {
    start: usize,
    stride: usize,
    count: usize,
}

impl Cut {
    fn all(count: usize) -> Cut {
        Cut { start: 0, stride: 1, count }
    }

    /// What is taken of the source when `self` is taken of what `inner` took.
    fn of(self, inner: Cut) -> Cut {
        let start = inner.start + self.start * inner.stride;
        Cut { start, stride: self.stride * inner.stride, count: self.count }
    }
}

fn cuts(op: &Slice) -> Vec<Cut> {
    let count = |d: usize| (op.limit[d] - op.start[d]).div_ceil(op.stride[d]);
    (0..op.start.len()).map(|d| Cut { start: op.start[d], stride: op.stride[d], count: count(d) }).collect()
}

/// `x`, which has shape `shape`, cut along every axis.
fn cut(x: impl Into<Term>, shape: &[usize], cuts: &[Cut]) -> Term {
    if cuts.iter().zip(shape).all(|(cut, &extent)| *cut == Cut::all(extent)) {
        return x.into();
    }
    let (mut start, mut limit, mut stride) = (vec![], vec![], vec![]);
    for cut in cuts {
        // one element, or none, has no distance to the next, and none begins nowhere
        let step = if cut.count > 1 { cut.stride } else { 1 };
        let first = if cut.count > 0 { cut.start } else { 0 };
        start.push(first);
        limit.push(cut.count.checked_sub(1).map_or(0, |last| first + last * step + 1));
        stride.push(step);
    }
    Term::op(Slice { start, limit, stride }, [x.into()])
}

fn counts(cuts: &[Cut]) -> Vec<usize> {
    cuts.iter().map(|c| c.count).collect()
}

fn slice_of_slice(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let composed = |inner: &Slice, x: Id| {
        let both: Vec<Cut> = outer.iter().zip(cuts(inner)).map(|(o, i)| o.of(i)).collect();
        cut(x, site.shape(x), &both)
    };
    each!(site, site.args[0], Slice).map(|(op, x)| composed(op, x[0])).collect()
}

fn slice_of_transpose(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let moved = |perm: &[usize], x: Id| {
        let inner: Vec<Cut> = inverse(perm).into_iter().map(|d| outer[d]).collect();
        transpose(cut(x, site.shape(x), &inner), perm.to_vec())
    };
    each!(site, site.args[0], Transpose).map(|(op, x)| moved(&op.perm, x[0])).collect()
}

fn slice_of_broadcast(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let moved = |dims: &[usize], x: Id| {
        let inner: Vec<Cut> = dims.iter().map(|&d| outer[d]).collect();
        broadcast(cut(x, site.shape(x), &inner), &site.ty.shape, dims.to_vec())
    };
    each!(site, site.args[0], Broadcast).map(|(op, x)| moved(&op.dims, x[0])).collect()
}

fn slice_of_reshape(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let moved = |x: Id, to: &[usize]| {
        let from = site.shape(x);
        let mut inner: Vec<Cut> = from.iter().map(|&d| Cut::all(d)).collect();
        for group in groups(from, to)? {
            let whole = group.to.clone().all(|d| outer[d] == Cut::all(to[d]));
            match (group.from.len(), group.to.len()) {
                _ if whole => {}
                (1, 1) => inner[group.from.start] = outer[group.to.start],
                _ => return None,
            }
        }
        Some(reshape(cut(x, from, &inner), &counts(&inner), &site.ty.shape))
    };
    each!(site, site.args[0], Reshape).filter_map(|(op, x)| moved(x[0], &op.shape)).collect()
}

fn slice_of_elementwise(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let inside = |f: Site| Term::op(f.op.clone(), f.args.iter().map(|&x| cut(x, f.shape(x), &outer)));
    site.makers(site.args[0]).filter(Site::is_elementwise).map(inside).collect()
}

fn slice_of_concat(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let narrowed = |axis: usize, parts: &[Id]| {
        let (taken, mut at, mut kept) = (outer[axis], 0usize, Vec::new());
        for &part in parts {
            let extent = site.shape(part)[axis];
            // the indices taken that fall into at..at + extent
            let first = at.saturating_sub(taken.start).div_ceil(taken.stride);
            let end = (at + extent).saturating_sub(taken.start).div_ceil(taken.stride).min(taken.count);
            if first < end {
                let mut inner = outer.clone();
                inner[axis] = Cut { start: taken.start + first * taken.stride - at, count: end - first, ..taken };
                kept.push(cut(part, site.shape(part), &inner));
            }
            at += extent;
        }
        match kept.len() {
            1 => kept.pop(),
            n if 1 < n && n < parts.len() => Some(Term::op(Concat { axis }, kept)),
            _ => None,
        }
    };
    each!(site, site.args[0], Concat).filter_map(|(op, parts)| narrowed(op.axis, parts)).collect()
}

fn slice_of_pad(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let unpadded = |axis: usize, extent: usize, low: usize, interior: usize| {
        let (taken, gap) = (outer[axis], interior + 1);
        let offset = taken.start.checked_sub(low)?;
        let aligned = offset % gap == 0 && (taken.count <= 1 || taken.stride % gap == 0);
        let inner = Cut { start: offset / gap, stride: (taken.stride / gap).max(1), count: taken.count };
        let inside = inner.count > 0 && inner.start + (inner.count - 1) * inner.stride < extent;
        (aligned && inside).then_some(inner)
    };
    let moved = |low: &[usize], interior: &[usize], x: Id| {
        let shape = site.shape(x);
        let inner: Option<Vec<Cut>> = (0..shape.len()).map(|d| unpadded(d, shape[d], low[d], interior[d])).collect();
        Some(cut(x, shape, &inner?))
    };
    each!(site, site.args[0], Pad).filter_map(|(op, x)| moved(&op.low, &op.interior, x[0])).collect()
}

fn slice_of_dot(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let moved = |op: &DotGeneral, args: &[Id]| {
        let shapes = [site.shape(args[0]), site.shape(args[1])];
        let [left, right] = free_axes(op, shapes.map(<[usize]>::len));
        let (of_left, of_right) = outer[op.lhs_batch.len()..].split_at(left.len());
        let inner = |side: usize, batch: &[usize], free: &[usize], of_free: &[Cut]| {
            let mut inner: Vec<Cut> = shapes[side].iter().map(|&d| Cut::all(d)).collect();
            batch.iter().zip(&outer).for_each(|(&d, c)| inner[d] = *c);
            free.iter().zip(of_free).for_each(|(&d, c)| inner[d] = *c);
            cut(args[side], shapes[side], &inner)
        };
        let operands = [inner(0, &op.lhs_batch, &left, of_left), inner(1, &op.rhs_batch, &right, of_right)];
        Term::op(op.clone(), operands)
    };
    each!(site, site.args[0], DotGeneral).map(|(op, args)| moved(op, args)).collect()
}

fn slice_of_reduce(site: &Site) -> Vec<Term> {
    let outer = cuts(attrs!(site, Slice));
    let moved = |f: Site| {
        let axes = axes_of(f.op)?;
        let shape = site.shape(f.args[0]);
        let mut inner: Vec<Cut> = shape.iter().map(|&d| Cut::all(d)).collect();
        others(shape.len(), axes).into_iter().zip(&outer).for_each(|(d, c)| inner[d] = *c);
        Some(Term::op(f.op.clone(), [cut(f.args[0], shape, &inner)]))
    };
    site.makers(site.args[0]).filter_map(moved).collect()
}

fn concat_of_slices(site: &Site) -> Vec<Term> {
    let axis = attrs!(site, Concat).axis;
    let whole = |first: &Slice, x: Id| {
        let mut joined = cuts(first);
        for &part in &site.args[1..] {
            let end = joined[axis].start + joined[axis].count;
            let next = |op: &Slice| {
                let mut expected = joined.clone();
                expected[axis] = Cut { start: end, stride: 1, count: site.shape(part)[axis] };
                cuts(op) == expected
            };
            each!(site, part, Slice).find(|(op, y)| site.same(y[0], x) && next(op))?;
            joined[axis].count += site.shape(part)[axis];
        }
        (joined[axis].stride == 1).then(|| cut(x, site.shape(x), &joined))
    };
    each!(site, site.args[0], Slice).filter_map(|(op, x)| whole(op, x[0])).collect()
}

fn concat_of_concat(site: &Site) -> Vec<Term> {
    let axis = attrs!(site, Concat).axis;
    let parts = |id: Id| each!(site, id, Concat).find(|(op, parts)| op.axis == axis && parts.len() > 1);
    let flatten = |&id: &Id| parts(id).map_or(vec![id.into()], |(_, parts)| parts.iter().map(|&p| p.into()).collect());
    let flat: Vec<Term> = site.args.iter().flat_map(flatten).collect();
    if flat.len() > site.args.len() { vec![Term::op(Concat { axis }, flat)] } else { vec![] }
}

fn reverse_of_reverse(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Reverse);
    each!(site, site.args[0], Reverse).filter(|(op, _)| *op == outer).map(|(_, x)| x[0].into()).collect()
}
