//! Ops that move no element, and moved constants.

use super::terms::{constant, reshape};
use super::{Site, Term};
use gradc_ir::lower::{Access, Lowering, Nest, Scalar};
use gradc_ir::ops::Op;
use gradc_ir::types::{TensorType, row_major_strides};

rules! { Layout, Bitwise;
    "renaming-is-reshape": "f(x)" => "reshape(x)"
        if "f moves no element and no gradient is to stop at it; x itself where the shape is the same";
    on [] by renaming_is_reshape, as in |s| {
        let (n, m) = (1 + s.below(3), 1 + s.below(3));
        let x = s.float(&[n, 1, m])?;
        if s.below(2) == 0 { s.transpose(x, &[1, 0, 2]) } else { s.broadcast(x, &[n, 1, 1, m], &[0, 2, 3]) }
    };

    "movement-of-constant": "f(constant{c})" => "constant{c}" if "f only moves elements";
    on [] by movement_of_constant, as in |s| {
        let x = s.any()?;
        let c = s.constant_like(x, 0.5)?;
        match s.below(3) { 0 => s.transposed(c), 1 => s.reshaped(c), _ => s.repeated(c) }
    };
}

fn nest_of(site: &Site) -> Option<Nest> {
    let inputs: Vec<&TensorType> = site.args.iter().map(|&a| site.type_of(a)).collect();
    match site.op.lower(&inputs, std::slice::from_ref(site.ty)) {
        Lowering::Nests(mut nests) if nests.len() == 1 && nests[0].combine.is_none() => nests.pop(),
        _ => None,
    }
}

/// Whether an access reads the elements of a tensor as large as `space` in their order, axes of extent 1 aside.
fn is_renaming(access: &Access, space: &[usize]) -> bool {
    let Some(flat) = access.flat() else { return false };
    let same_size = access.view.iter().product::<usize>() == space.iter().product::<usize>();
    let in_order = |d: usize, stride: usize| space[d] <= 1 || flat.coeffs.get(d) == Some(&(stride as i64));
    same_size && flat.base == 0 && row_major_strides(space).into_iter().enumerate().all(|(d, s)| in_order(d, s))
}

fn renaming_is_reshape(site: &Site) -> Vec<Term> {
    let &[x] = site.args else { return vec![] };
    let (from, to) = (site.shape(x), &site.ty.shape);
    if site.is_differentiable() && matches!(site.op, Op::StopGradient(_)) {
        return vec![];
    }
    if site.type_of(x).dtype != site.ty.dtype || site.type_of(x).elements() != site.ty.elements() {
        return vec![];
    }
    let Some(nest) = nest_of(site) else { return vec![] };
    match &nest.body.scalars[nest.result.0 as usize].0 {
        Scalar::Load(access) if is_renaming(access, to) => vec![reshape(x, from, to)],
        _ => vec![],
    }
}

fn movement_of_constant(site: &Site) -> Vec<Term> {
    let Some(value) = common_splat(site) else { return vec![] };
    let moves = |nest: Nest| {
        let mut scalars = nest.body.scalars.iter();
        scalars.all(|(s, _)| matches!(s, Scalar::Load(access) if access.fill.is_none()))
    };
    if nest_of(site).is_some_and(moves) { vec![constant(site.ty, value)] } else { vec![] }
}

/// The one value of all elements of all operands, bit for bit.
fn common_splat(site: &Site) -> Option<f64> {
    let first = site.splat(*site.args.first()?)?;
    let same = |id| site.splat(id).is_some_and(|v: f64| v.to_bits() == first.to_bits());
    site.args.iter().all(|&id| same(id)).then_some(first)
}
