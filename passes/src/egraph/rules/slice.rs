//! Slices, even or by a list of indices, pushed towards their source, and concatenations that a slice or its
//! neighbours undo.
//!
//! What is not used is then never computed: a channel-sparse update needs only its slice of the weight gradient. Of what
//! is needed as a whole anyway, a slice is taken and not computed once more.

use super::contraction::{free_axes, random_dot};
use super::cut::{Cut, counts, cut, regrouped, taken};
use super::reduction::axes_of;
use super::terms::{broadcast, reshape, transpose};
use super::{Sampler, Site, Term};
use crate::axes::{groups, inverse, others};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::ops::{Concat, Convolution, ConvolutionWeightGrad, DotGeneral, Op, ScatterAdd};
use gradc_ir::types::{DType, TypeError};

rules! { Slice, Bitwise;
    "slice-of-slice": "slice{b}(slice{a}(x))" => "slice{a∘b}(x)";
    on [Slice, IndexSelect] by slice_of_slice, as in |s| {
        let x = s.any()?;
        let y = sliced(s, x)?;
        sliced(s, y)
    };

    "slice-of-transpose": "slice(transpose(x))" => "transpose(slice(x))";
    on [Slice, IndexSelect] by slice_of_transpose, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        sliced(s, y)
    };

    "slice-of-broadcast": "slice(broadcast(x))" => "broadcast(slice(x))";
    on [Slice, IndexSelect] by slice_of_broadcast, as in |s| {
        let x = s.any()?;
        let y = s.repeated(x)?;
        sliced(s, y)
    };

    "slice-of-reshape": "slice(reshape(x))" => "reshape(slice(x))" if "blocks that are split or merged are taken whole";
    on [Slice, IndexSelect] by slice_of_reshape, as in |s| {
        let x = s.float(&[4, 3, 4])?;
        // shape, and where blocks of how many indices are taken
        let cases: [(&[usize], usize, usize); 5] =
            [(&[12, 4], 0, 3), (&[12, 4], 0, 1), (&[4, 12], 1, 4), (&[4, 3, 2, 2], 2, 1), (&[4, 3, 2, 2], 1, 1)];
        let (shape, axis, block) = cases[s.below(cases.len())];
        let y = s.reshape(x, shape)?;
        chosen(s, y, axis, block)
    };

    "slice-of-elementwise": "slice(f(x, …))" => "f(slice(x), …)" if "f is elementwise and not needed as a whole";
    on [Slice, IndexSelect] by slice_of_elementwise, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let z = s.mul(x, y)?;
        sliced(s, z)
    };

    "slice-of-concat": "slice(concat(x, y, …))" => "concat(slice(y), …)" if "an operand is not needed";
    on [Slice, IndexSelect] by slice_of_concat, as in |s| {
        let (x, axis) = (s.any()?, 0);
        let (y, z) = (s.like(x)?, s.like(x)?);
        let all = s.concat(&[x, y, z], axis)?;
        sliced(s, all)
    };

    "slice-of-pad": "slice(pad(x))" => "slice(x)" if "no padding is taken";
    on [Slice, IndexSelect] by slice_of_pad, as in |s| {
        let x = s.any()?;
        let rank = s.shape(x).len();
        let (low, high) = (vec![s.below(3); rank], vec![s.below(3); rank]);
        let interior: Vec<usize> = (0..rank).map(|_| s.below(2)).collect();
        let y = s.pad(x, &low, &high, &interior, 0.0)?;
        let stride: Vec<usize> = interior.iter().map(|i| i + 1).collect();
        let limit: Vec<usize> = (0..rank).map(|d| s.shape(y)[d] - high[d]).collect();
        s.slice(y, &low, &limit, &stride)
    };

    "slice-of-dot": "slice(dot_general(x, y))" => "dot_general(slice(x), slice(y))" if "it is not needed as a whole";
    on [Slice, IndexSelect] by slice_of_dot, as in |s| {
        let y = random_dot(s)?;
        sliced(s, y)
    };

    "slice-of-reduce": "slice(reduce(x))" => "reduce(slice(x))" if "it is not needed as a whole";
    on [Slice, IndexSelect] by slice_of_reduce, as in |s| {
        let shape = s.extents(3);
        let x = s.float(&shape)?;
        let axis = s.below(3);
        let y = if s.below(2) == 0 { s.reduce_sum(x, &[axis])? } else { s.reduce_max(x, &[axis])? };
        sliced(s, y)
    };

    "slice-of-convolution-weight-grad": "slice(convolution_weight_grad(x, g))" => "convolution_weight_grad(slice(x), slice(g))"
        if "channels are cut alone, of several groups whole ones; it is not needed as a whole";
    on [Slice, IndexSelect] by slice_of_weight_grad, as in |s| {
        let (y, block) = random_weight_grad(s)?;
        let axis = s.below(2);
        chosen(s, y, axis, if axis == 0 { block } else { 1 })
    };

    "slice-of-scatter-add": "slice(scatter_add(x, i, u))" => "scatter_add(slice(x), i, slice(u))"
        if "the indexed axis and those before it are taken whole; it is not needed as a whole";
    on [Slice, IndexSelect] by slice_of_scatter_add, as in |s| {
        let (n, width) = (1 + s.below(4), 1 + s.below(4));
        let (base, updates) = (s.float(&[n, width])?, s.float(&[3, width])?);
        let indices = s.value(DType::I64, &[3])?;
        let y = s.scatter_add(base, indices, updates, 0)?;
        chosen(s, y, 1, 1)
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

/// A random slice or choice that takes at least one element of every axis.
fn sliced(s: &mut Sampler, x: Value) -> Result<Value, TypeError> {
    let shape = s.shape(x).to_vec();
    if s.below(3) == 0 && !shape.is_empty() {
        let axis = s.below(shape.len());
        return chosen(s, x, axis, 1);
    }
    let start: Vec<usize> = shape.iter().map(|&d| s.below(d)).collect();
    let limit: Vec<usize> = shape.iter().zip(&start).map(|(&d, &from)| from + 1 + s.below(d - from)).collect();
    let stride: Vec<usize> = shape.iter().map(|&d| 1 + s.below(d.min(2))).collect();
    s.slice(x, &start, &limit, &stride)
}

/// Some blocks of `size` indices of an axis, at least one.
fn chosen(s: &mut Sampler, x: Value, axis: usize, size: usize) -> Result<Value, TypeError> {
    let count = (s.shape(x)[axis] / size).max(1);
    let always = s.below(count);
    let blocks: Vec<usize> = (0..count).filter(|&k| k == always || s.below(2) == 0).collect();
    let indices: Vec<usize> = blocks.iter().flat_map(|&k| k * size..(k + 1) * size).collect();
    s.index_select(x, axis, &indices)
}

/// The weight gradient of a random convolution, and how many outputs must be taken together.
fn random_weight_grad(s: &mut Sampler) -> Result<(Value, usize), TypeError> {
    let (groups, outputs, inputs) = (1 + s.below(3), 1 + s.below(3), 1 + s.below(3));
    let (extent, kernel, stride, pad) = (3 + s.below(3), 1 + s.below(3), 1 + s.below(2), s.below(2));
    let positions = (extent + 2 * pad - kernel) / stride + 1;
    let batch = 1 + s.below(2);
    let x = s.float(&[batch, groups * inputs, extent])?;
    let g = s.float(&[batch, groups * outputs, positions])?;
    let [stride, pad_low, dilation] = [stride, pad, 1].map(|v| vec![v]);
    let convolution = Convolution { stride, pad_high: pad_low.clone(), pad_low, dilation, groups };
    Ok((s.convolution_weight_grad(x, g, convolution.weight_grad(&[kernel]))?, if groups == 1 { 1 } else { outputs }))
}

/// What a slice takes; the rule's root promises that it does.
macro_rules! outer {
    ($site:expr) => {
        match taken($site) {
            Some(cuts) => cuts,
            None => return vec![],
        }
    };
}

/// The same of something that is computed, unless all of it is needed anyway.
macro_rules! computed_outer {
    ($site:expr) => {
        match taken($site) {
            Some(cuts) if !$site.is_needed($site.args[0]) => cuts,
            _ => return vec![],
        }
    };
}

fn slice_of_slice(site: &Site) -> Vec<Term> {
    let outer = outer!(site);
    let composed = |inner: Site| {
        let both: Vec<Cut> = outer.iter().zip(taken(&inner)?).map(|(o, i)| o.of(&i)).collect();
        let x = inner.args[0];
        Some(cut(x, site.shape(x), &both))
    };
    site.makers(site.args[0]).filter_map(composed).collect()
}

fn slice_of_transpose(site: &Site) -> Vec<Term> {
    let outer = outer!(site);
    let moved = |perm: &[usize], x: Id| {
        let inner: Vec<Cut> = inverse(perm).into_iter().map(|d| outer[d].clone()).collect();
        transpose(cut(x, site.shape(x), &inner), perm.to_vec())
    };
    each!(site, site.args[0], Transpose).map(|(op, x)| moved(&op.perm, x[0])).collect()
}

fn slice_of_broadcast(site: &Site) -> Vec<Term> {
    let outer = outer!(site);
    let moved = |dims: &[usize], x: Id| {
        let inner: Vec<Cut> = dims.iter().map(|&d| outer[d].clone()).collect();
        broadcast(cut(x, site.shape(x), &inner), &site.ty.shape, dims.to_vec())
    };
    each!(site, site.args[0], Broadcast).map(|(op, x)| moved(&op.dims, x[0])).collect()
}

fn slice_of_reshape(site: &Site) -> Vec<Term> {
    let outer = outer!(site);
    let moved = |x: Id, to: &[usize]| {
        let from = site.shape(x);
        let mut inner: Vec<Cut> = Vec::with_capacity(from.len());
        for group in groups(from, to)? {
            inner.extend(regrouped(&group, from, to, &outer)?);
        }
        Some(reshape(cut(x, from, &inner), &counts(&inner), &site.ty.shape))
    };
    each!(site, site.args[0], Reshape).filter_map(|(op, x)| moved(x[0], &op.shape)).collect()
}

fn slice_of_elementwise(site: &Site) -> Vec<Term> {
    let outer = computed_outer!(site);
    let inside = |f: Site| Term::op(f.op.clone(), f.args.iter().map(|&x| cut(x, f.shape(x), &outer)));
    site.makers(site.args[0]).filter(Site::is_elementwise).map(inside).collect()
}

fn slice_of_concat(site: &Site) -> Vec<Term> {
    let outer = outer!(site);
    let narrowed = |axis: usize, parts: &[Id]| {
        let (mut at, mut kept) = (0usize, Vec::new());
        for &part in parts {
            let extent = site.shape(part)[axis];
            let mut inner = outer.clone();
            inner[axis] = outer[axis].within(at..at + extent);
            if inner[axis].count() > 0 {
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
    let outer = outer!(site);
    let moved = |low: &[usize], interior: &[usize], x: Id| {
        let shape = site.shape(x);
        let inner = (0..shape.len()).map(|d| outer[d].of_spread(shape[d], low[d], interior[d] + 1));
        Some(cut(x, shape, &inner.collect::<Option<Vec<_>>>()?))
    };
    let some = counts(&outer).iter().all(|&count| count > 0);
    let pads = each!(site, site.args[0], Pad).filter(|_| some);
    pads.filter_map(|(op, x)| moved(&op.low, &op.interior, x[0])).collect()
}

fn slice_of_dot(site: &Site) -> Vec<Term> {
    let outer = computed_outer!(site);
    let moved = |op: &DotGeneral, args: &[Id]| {
        let shapes = [site.shape(args[0]), site.shape(args[1])];
        let [left, right] = free_axes(op, shapes.map(<[usize]>::len));
        let (of_left, of_right) = outer[op.lhs_batch.len()..].split_at(left.len());
        let inner = |side: usize, batch: &[usize], free: &[usize], of_free: &[Cut]| {
            let mut inner: Vec<Cut> = shapes[side].iter().map(|&d| Cut::all(d)).collect();
            batch.iter().zip(&outer).for_each(|(&d, c)| inner[d] = c.clone());
            free.iter().zip(of_free).for_each(|(&d, c)| inner[d] = c.clone());
            cut(args[side], shapes[side], &inner)
        };
        let operands = [inner(0, &op.lhs_batch, &left, of_left), inner(1, &op.rhs_batch, &right, of_right)];
        Term::op(op.clone(), operands)
    };
    each!(site, site.args[0], DotGeneral).map(|(op, args)| moved(op, args)).collect()
}

fn slice_of_reduce(site: &Site) -> Vec<Term> {
    let outer = computed_outer!(site);
    let moved = |f: Site| {
        let axes = axes_of(f.op)?;
        let shape = site.shape(f.args[0]);
        let mut inner: Vec<Cut> = shape.iter().map(|&d| Cut::all(d)).collect();
        others(shape.len(), axes).into_iter().zip(&outer).for_each(|(d, c)| inner[d] = c.clone());
        Some(Term::op(f.op.clone(), [cut(f.args[0], shape, &inner)]))
    };
    site.makers(site.args[0]).filter_map(moved).collect()
}

fn slice_of_weight_grad(site: &Site) -> Vec<Term> {
    let outer = computed_outer!(site);
    let moved = |op: &ConvolutionWeightGrad, x: Id, g: Id| {
        let of_taps = site.shape(site.args[0])[2..].iter().zip(&outer[2..]);
        let whole_taps = of_taps.into_iter().all(|(&extent, cut)| cut.is_all(extent));
        if !whole_taps || counts(&outer).contains(&0) {
            return None;
        }
        let (groups, [of_inputs, of_outputs]) = channels(op, [site.shape(x), site.shape(g)], &outer)?;
        let on_channels = |value: Id, channels: Cut| {
            let mut cuts: Vec<Cut> = site.shape(value).iter().map(|&d| Cut::all(d)).collect();
            cuts[1] = channels;
            cut(value, site.shape(value), &cuts)
        };
        let op = ConvolutionWeightGrad { groups, ..op.clone() };
        Some(Term::op(op, [on_channels(x, of_inputs), on_channels(g, of_outputs)]))
    };
    each!(site, site.args[0], ConvolutionWeightGrad).filter_map(|(op, args)| moved(op, args[0], args[1])).collect()
}

/// The groups that are left of a convolution of which some outputs and, in every group, some inputs are taken, and the
/// channels of its input and of its output.
fn channels(op: &ConvolutionWeightGrad, [x, g]: [&[usize]; 2], outer: &[Cut]) -> Option<(usize, [Cut; 2])> {
    let (inputs, outputs) = (x[1] / op.groups, g[1] / op.groups);
    if op.groups == 1 {
        return Some((1, [outer[1].clone(), outer[0].clone()]));
    }
    let groups = outer[0].blocks(outputs)?;
    let of_inputs = outer[1].is_all(inputs).then(|| groups.expanded(inputs))?;
    Some((groups.count(), [of_inputs, outer[0].clone()]))
}

fn slice_of_scatter_add(site: &Site) -> Vec<Term> {
    let outer = computed_outer!(site);
    let moved = |op: &ScatterAdd, args: &[Id]| {
        let base = site.shape(args[0]);
        let (fixed, rest) = outer.split_at(op.batch + 1);
        if !fixed.iter().zip(base).all(|(cut, &extent)| cut.is_all(extent)) {
            return None;
        }
        let updates = site.shape(args[2]);
        let mut of_updates: Vec<Cut> = updates.iter().map(|&d| Cut::all(d)).collect();
        of_updates.splice(updates.len() - rest.len().., rest.iter().cloned());
        let operands = [cut(args[0], base, &outer), args[1].into(), cut(args[2], updates, &of_updates)];
        Some(Term::op(op.clone(), operands))
    };
    each!(site, site.args[0], ScatterAdd).filter_map(|(op, args)| moved(op, args)).collect()
}

fn concat_of_slices(site: &Site) -> Vec<Term> {
    let axis = attrs!(site, Concat).axis;
    let whole = |first: Site| {
        let Op::Slice(_) = first.op else { return None };
        let (mut joined, x) = (taken(&first)?, first.args[0]);
        let Cut::Even { start, stride: 1, mut count } = joined[axis] else { return None };
        for &part in &site.args[1..] {
            let extent = site.shape(part)[axis];
            let mut next = joined.clone();
            next[axis] = Cut::even(start + count, 1, extent);
            let follows = |slice: Site| taken(&slice).is_some_and(|cuts| site.same(slice.args[0], x) && cuts == next);
            site.makers(part).any(follows).then_some(())?;
            count += extent;
        }
        joined[axis] = Cut::even(start, 1, count);
        Some(cut(x, site.shape(x), &joined))
    };
    site.makers(site.args[0]).filter_map(whole).collect()
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
