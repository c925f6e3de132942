//! Transposes, reshapes and broadcasts: they meet and vanish, or move to where they can.

use super::terms::{broadcast, constant, reshape, transpose};
use super::{Site, Term};
use crate::axes::{groups, inverse, is_run, pick, ranks};
use egg::Id;
use gradc_ir::ops::Concat;

rules! { Layout, Bitwise;
    "transpose-of-transpose": "transpose{q}(transpose{p}(x))" => "transpose{p∘q}(x)";
    on [Transpose] by transpose_of_transpose, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        s.transposed(y)
    };

    "reshape-of-reshape": "reshape{s}(reshape(x))" => "reshape{s}(x)";
    on [Reshape] by reshape_of_reshape, as in |s| {
        let x = s.any()?;
        let y = s.reshaped(x)?;
        s.reshaped(y)
    };

    "broadcast-of-broadcast": "broadcast{s, q}(broadcast{p}(x))" => "broadcast{s, q∘p}(x)";
    on [Broadcast] by broadcast_of_broadcast, as in |s| {
        let x = s.any()?;
        let y = s.repeated(x)?;
        s.repeated(y)
    };

    "transpose-of-broadcast": "transpose(broadcast(x))" => "broadcast(transpose(x))";
    on [Transpose] by transpose_of_broadcast, as in |s| {
        let x = s.any()?;
        let y = s.repeated(x)?;
        s.transposed(y)
    };

    "reshape-of-broadcast": "reshape(broadcast(x))" => "broadcast(reshape(x))"
        if "no repeated axis is merged with a kept one";
    on [Reshape] by reshape_of_broadcast, as in |s| {
        let x = s.any()?;
        let y = s.repeated(x)?;
        s.reshaped(y)
    };

    "transpose-of-reshape": "transpose(reshape(x))" => "reshape(transpose(x))"
        if "axes split by the reshape stay together";
    on [Transpose] by transpose_of_reshape, as in |s| {
        let x = s.any()?;
        let y = s.reshaped(x)?;
        s.transposed(y)
    };

    "reshape-of-transpose": "reshape(transpose(x))" => "transpose(reshape(x))"
        if "axes merged by the reshape are neighbours in x";
    on [Reshape] by reshape_of_transpose, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        s.reshaped(y)
    };

    "transpose-into-elementwise": "transpose{p}(f(x, …))" => "f(transpose{p}(x), …)" if "f is elementwise";
    on [Transpose] by transpose_into_elementwise, as in |s| {
        let x = s.any()?;
        let (y, z) = (s.neg(x)?, s.like(x)?);
        let sum = s.add(y, z)?;
        s.transposed(sum)
    };

    "transpose-out-of-elementwise": "f(transpose{p}(x), y, …)" => "transpose{p}(f(x, transpose{p⁻¹}(y), …))"
        if "f is elementwise";
    on [] by transpose_out_of_elementwise, as in |s| {
        let x = s.any()?;
        let y = s.transposed(x)?;
        let z = s.like(y)?;
        s.add(y, z)
    };

    "reshape-into-elementwise": "reshape{s}(f(reshape(x), y, …))" => "f(x, reshape{s}(y), …)"
        if "f is elementwise and x has shape s";
    on [Reshape] by reshape_into_elementwise, as in |s| {
        let x = s.any()?;
        let y = s.reshaped(x)?;
        let z = s.like(y)?;
        let sum = s.add(z, y)?;
        let shape = s.shape(x).to_vec();
        s.reshape(sum, &shape)
    };

    "reshape-out-of-elementwise": "f(reshape(x), reshape(y), …)" => "reshape(f(x, y, …))"
        if "f is elementwise; other operands are reshaped from the same shape, broadcasts or constants";
    on [] by reshape_out_of_elementwise, as in |s| {
        let x = s.any()?;
        let shape = s.regrouped(x);
        let y = s.like(x)?;
        let (x, y) = (s.reshape(x, &shape)?, s.reshape(y, &shape)?);
        let half = s.constant_like(x, 0.5)?;
        let sum = s.add(x, if shape.len() % 2 == 0 { half } else { y })?;
        s.neg(sum)
    };

    "broadcast-out-of-elementwise": "f(broadcast{p}(x), broadcast{p}(y), …)" => "broadcast{p}(f(x, y, …))"
        if "f is elementwise; constants stand for any broadcast";
    on [] by broadcast_out_of_elementwise, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let (shape, dims) = s.repetition(x);
        let (x, y) = (s.broadcast(x, &shape, &dims)?, s.broadcast(y, &shape, &dims)?);
        let half = s.constant_like(x, 0.5)?;
        if dims.len() == 1 { s.mul(x, half) } else { s.mul(x, y) }
    };

    "transpose-out-of-concat": "concat(transpose{p}(x), transpose{p}(y), …)" => "transpose{p}(concat(x, y, …))";
    on [Concat] by transpose_out_of_concat, as in |s| {
        let x = s.any()?;
        let rank = s.shape(x).len();
        let (perm, axis) = (s.permutation(rank), s.below(rank));
        let (y, z) = (s.like(x)?, s.like(x)?);
        let parts = [s.transpose(x, &perm)?, s.transpose(y, &perm)?, s.transpose(z, &perm)?];
        s.concat(&parts, axis)
    };

    "reshape-out-of-concat": "concat(reshape(x), reshape(y), …)" => "reshape(concat(x, y, …))"
        if "what the axis is made of differs in the first factor alone";
    on [Concat] by reshape_out_of_concat, as in |s| {
        let case = s.below(5);
        let mut part = || {
            let n = 1 + s.below(3);
            // From which shape to which; in the last two cases the parts are not reshaped alike, or not outermost.
            let (from, to) = match case {
                0 | 1 => (vec![2, n, 3, 2], vec![2, 3 * n, 2]),
                2 => (vec![2, n, 3, 2], vec![2, 6 * n]),
                3 => (vec![2, n, 4 - n], vec![2, n * (4 - n)]),
                _ => (vec![2, 3 * n], vec![2, 3, n]),
            };
            let x = s.float(&from)?;
            Ok((s.reshape(x, &to)?, to.len()))
        };
        let [(x, rank), (y, _), (z, _)] = [part()?, part()?, part()?];
        s.concat(&[x, y, z], if case == 4 { rank - 1 } else { 1 })
    };
}

/// Operands and permutations of the transposes known to make a value.
fn transposes<'a>(site: &Site<'a>, id: Id) -> impl Iterator<Item = (Id, &'a [usize])> + use<'a> {
    each!(site, id, Transpose).map(|(op, x)| (x[0], op.perm.as_slice()))
}

fn transpose_of_transpose(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Transpose);
    transposes(site, site.args[0]).map(|(x, inner)| transpose(x, pick(inner, &outer.perm))).collect()
}

fn reshape_of_reshape(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Reshape);
    each!(site, site.args[0], Reshape).map(|(_, x)| reshape(x[0], site.shape(x[0]), &outer.shape)).collect()
}

fn broadcast_of_broadcast(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Broadcast);
    each!(site, site.args[0], Broadcast)
        .map(|(inner, x)| broadcast(x[0], &outer.shape, pick(&outer.dims, &inner.dims)))
        .collect()
}

fn transpose_of_broadcast(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Transpose);
    let moved = |dims: &[usize], x: Id| {
        // result axes that are kept, ascending, and the operand axis each of them comes from
        let kept: Vec<usize> = (0..outer.perm.len()).filter(|&d| dims.contains(&outer.perm[d])).collect();
        let order = ranks(&pick(&outer.perm, &kept));
        broadcast(transpose(x, order), &site.ty.shape, kept)
    };
    each!(site, site.args[0], Broadcast).map(|(op, x)| moved(&op.dims, x[0])).collect()
}

fn reshape_of_broadcast(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Reshape);
    let moved = |dims: &[usize], from: &[usize], x: Id| {
        let (mut kept, mut shape) = (Vec::new(), Vec::new());
        for group in groups(from, &outer.shape)? {
            let of_x = group.from.clone().filter(|d| dims.contains(d)).count();
            if of_x > 0 && of_x == group.from.len() {
                shape.extend_from_slice(&outer.shape[group.to.clone()]);
                kept.extend(group.to);
            } else if of_x > 0 {
                return None;
            }
        }
        Some(broadcast(reshape(x, site.shape(x), &shape), &outer.shape, kept))
    };
    each!(site, site.args[0], Broadcast).filter_map(|(op, x)| moved(&op.dims, &op.shape, x[0])).collect()
}

fn transpose_of_reshape(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Transpose);
    let moved = |x: Id, to: &[usize]| {
        let landed = inverse(&outer.perm);
        let order = blocks(groups(site.shape(x), to)?.into_iter().map(|g| (g.to, g.from)), &landed)?;
        Some(reshape(transpose(x, order.clone()), &pick(site.shape(x), &order), &site.ty.shape))
    };
    each!(site, site.args[0], Reshape).filter_map(|(op, x)| moved(x[0], &op.shape)).collect()
}

fn reshape_of_transpose(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Reshape);
    let moved = |x: Id, perm: &[usize]| {
        let from = pick(site.shape(x), perm);
        let order = blocks(groups(&from, &outer.shape)?.into_iter().map(|g| (g.from, g.to)), perm)?;
        Some(transpose(reshape(x, site.shape(x), &pick(&outer.shape, &order)), inverse(&order)))
    };
    transposes(site, site.args[0]).filter_map(|(x, perm)| moved(x, perm)).collect()
}

type Axes = std::ops::Range<usize>;

/// Orders groups by where their near axes go (`at[axis]`) and returns their far axes in that order.
///
/// `None` when the near axes of a group do not stay neighbours in order. A group without near axes holds only axes
/// of extent 1 and stays behind the group before it.
fn blocks(groups: impl Iterator<Item = (Axes, Axes)>, at: &[usize]) -> Option<Vec<usize>> {
    let (mut place, mut order) = (0, Vec::new());
    for (near, far) in groups {
        let landed = &at[near];
        if !is_run(landed) {
            return None;
        }
        place = landed.first().map_or(place, |&p| p + 1);
        order.push((place, far));
    }
    order.sort_by_key(|(place, _)| *place);
    Some(order.into_iter().flat_map(|(_, far)| far).collect())
}

fn transpose_into_elementwise(site: &Site) -> Vec<Term> {
    let outer = attrs!(site, Transpose);
    let inside = |f: Site| Term::op(f.op.clone(), f.args.iter().map(|&x| transpose(x, outer.perm.clone())));
    site.makers(site.args[0]).filter(Site::is_elementwise).map(inside).collect()
}

fn transpose_out_of_elementwise(site: &Site) -> Vec<Term> {
    let perms = distinct(site.args.iter().flat_map(|&a| transposes(site, a)).map(|(_, perm)| perm));
    if perms.is_empty() || !site.is_elementwise() {
        return vec![];
    }
    let untransposed = |id: Id, perm: &[usize]| {
        let source = transposes(site, id).find(|(_, p)| *p == perm);
        source.map_or_else(|| transpose(id, inverse(perm)), |(x, _)| x.into())
    };
    let outside = |perm: &[usize]| {
        transpose(Term::op(site.op.clone(), site.args.iter().map(|&a| untransposed(a, perm))), perm.to_vec())
    };
    perms.into_iter().map(outside).collect()
}

/// Operands of the reshapes known to make a value.
fn reshape_sources<'a>(site: &Site<'a>, id: Id) -> impl Iterator<Item = Id> + use<'a> {
    each!(site, id, Reshape).map(|(_, x)| x[0])
}

fn reshape_into_elementwise(site: &Site) -> Vec<Term> {
    let shape = &site.ty.shape;
    let source = |id: Id| reshape_sources(site, id).find(|&x| site.shape(x) == shape);
    let inside = |f: Site| {
        let args = f.args.iter().map(|&a| source(a).map_or_else(|| reshape(a, f.shape(a), shape), Term::Value));
        Term::op(f.op.clone(), args)
    };
    site.makers(site.args[0])
        .filter(|f| f.args.iter().any(|&a| source(a).is_some()) && f.is_elementwise())
        .map(inside)
        .collect()
}

fn reshape_out_of_elementwise(site: &Site) -> Vec<Term> {
    let shapes = distinct(site.args.iter().flat_map(|&a| reshape_sources(site, a)).map(|x| site.shape(x)));
    if shapes.is_empty() || !site.is_elementwise() {
        return vec![];
    }
    let unshaped = |id: Id, shape: &[usize]| {
        let source = reshape_sources(site, id).find(|&x| site.shape(x) == shape).map(Term::Value);
        let yields = site.splat(id).is_some() || each!(site, id, Broadcast).next().is_some();
        source.or_else(|| yields.then(|| reshape(id, site.shape(id), shape)))
    };
    let outside = |shape: &[usize]| {
        let args: Option<Vec<Term>> = site.args.iter().map(|&a| unshaped(a, shape)).collect();
        Some(reshape(Term::op(site.op.clone(), args?), shape, &site.ty.shape))
    };
    shapes.into_iter().filter_map(outside).collect()
}

fn broadcast_out_of_elementwise(site: &Site) -> Vec<Term> {
    let kept = distinct(site.args.iter().flat_map(|&a| broadcasts(site, a)).map(|(_, dims)| dims));
    if kept.is_empty() || !site.is_elementwise() {
        return vec![];
    }
    let source = |id: Id, dims: &[usize]| {
        let same = broadcasts(site, id).find(|(_, d)| *d == dims).map(|(x, _)| Term::Value(x));
        let ty = || site.type_of(id).with_shape(pick(&site.ty.shape, dims));
        same.or_else(|| site.splat(id).map(|value| constant(&ty(), value)))
    };
    let outside = |dims: &[usize]| {
        let args: Option<Vec<Term>> = site.args.iter().map(|&a| source(a, dims)).collect();
        Some(broadcast(Term::op(site.op.clone(), args?), &site.ty.shape, dims.to_vec()))
    };
    kept.into_iter().filter_map(outside).collect()
}

fn transpose_out_of_concat(site: &Site) -> Vec<Term> {
    let axis = attrs!(site, Concat).axis;
    let outside = |perm: &[usize]| {
        let source = |&id: &Id| transposes(site, id).find(|(_, p)| *p == perm).map(|(x, _)| Term::Value(x));
        let parts: Option<Vec<Term>> = site.args.iter().map(source).collect();
        Some(transpose(Term::op(Concat { axis: perm[axis] }, parts?), perm.to_vec()))
    };
    let perms = distinct(site.args.iter().take(1).flat_map(|&a| transposes(site, a)).map(|(_, perm)| perm));
    perms.into_iter().filter_map(outside).collect()
}

fn reshape_out_of_concat(site: &Site) -> Vec<Term> {
    let axis = attrs!(site, Concat).axis;
    let outside = |first: &[usize]| {
        let group = groups(first, site.shape(site.args[0]))?.into_iter().find(|g| g.to.contains(&axis))?;
        let outermost = group.from.start;
        if group.to.start != axis || group.from.is_empty() {
            return None;
        }
        // a part under the shape of the first one, but for the outermost factor of the axis
        let same = |shape: &[usize]| {
            shape.len() == first.len() && (0..first.len()).all(|d| d == outermost || shape[d] == first[d])
        };
        let source = |&id: &Id| reshape_sources(site, id).find(|&x| same(site.shape(x)));
        let parts: Vec<Id> = site.args.iter().map(source).collect::<Option<_>>()?;
        let mut joined = first.to_vec();
        joined[outermost] = parts.iter().map(|&x| site.shape(x)[outermost]).sum();
        let all = Term::op(Concat { axis: outermost }, parts.into_iter().map(Term::Value));
        Some(reshape(all, &joined, &site.ty.shape))
    };
    let shapes = distinct(site.args.iter().take(1).flat_map(|&a| reshape_sources(site, a)).map(|x| site.shape(x)));
    shapes.into_iter().filter_map(outside).collect()
}

fn distinct<'a>(lists: impl Iterator<Item = &'a [usize]>) -> Vec<&'a [usize]> {
    let mut lists: Vec<&[usize]> = lists.collect();
    lists.sort_unstable();
    lists.dedup();
    lists
}

/// Operands and kept axes of the broadcasts known to make a value.
fn broadcasts<'a>(site: &Site<'a>, id: Id) -> impl Iterator<Item = (Id, &'a [usize])> + use<'a> {
    each!(site, id, Broadcast).map(|(op, x)| (x[0], op.dims.as_slice()))
}
