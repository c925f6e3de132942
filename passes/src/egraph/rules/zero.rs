//! Constants, units and identities.
//!
//! Symbolic zeros never reach the graph, so what this family prunes is what is left behind them. `x·0 → 0` is not
//! here: it is wrong for NaN, infinities and the sign of zero. `x + 0 → x` holds for −0 only.

use super::terms::{constant, reshape};
use super::{Site, Term};
use egg::Id;
use gradc_ir::lower::{Access, Lowering, Nest, Scalar};
use gradc_ir::ops::{Add, Mul, Sub};
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType, row_major_strides};

rules! { Zero, Bitwise;
    "renaming-is-reshape": "f(x)" => "reshape(x)" if "f moves no element; x itself where the shape is the same";
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

    "elementwise-of-constants": "f(constant{a}, …)" => "constant{f(a, …)}"
        if "f is elementwise; operands and result are exact in their dtypes";
    on [] by elementwise_of_constants, as in |s| {
        let x = s.any()?;
        let (a, b) = (s.constant_like(x, 0.5)?, s.constant_like(x, -3.0)?);
        if s.below(2) == 0 { s.mul(a, b) } else { s.neg(b) }
    };

    "mul-one": "mul(x, 1)" => "x";
    on [Mul] by |site| beside_splat(site, 1.0), as in |s| {
        let x = s.any()?;
        let one = s.constant_like(x, 1.0)?;
        if s.below(2) == 0 { s.mul(x, one) } else { s.mul(one, x) }
    };

    "add-negative-zero": "add(x, -0)" => "x" if "the zero is negative, or the dtype an integer's";
    on [Add] by |site| beside_splat(site, -0.0), as in |s| {
        let x = s.any()?;
        let zero = s.constant_like(x, -0.0)?;
        if s.below(2) == 0 { s.add(x, zero) } else { s.add(zero, x) }
    };

    "sub-zero": "sub(x, 0)" => "x" if "the zero is positive, or the dtype an integer's";
    on [Sub] by |site| before_splat(site, 0.0), as in |s| {
        let x = s.any()?;
        let zero = s.constant_like(x, 0.0)?;
        s.sub(x, zero)
    };

    "div-one": "div(x, 1)" => "x";
    on [Div] by |site| before_splat(site, 1.0), as in |s| {
        let x = s.any()?;
        let one = s.constant_like(x, 1.0)?;
        s.div(x, one)
    };

    "pow-one": "pow(x, 1)" => "x" if "the dtype is a float";
    on [Pow] by pow_one, as in |s| {
        let x = s.any()?;
        let one = s.constant_like(x, 1.0)?;
        s.pow(x, one)
    };

    "select-constant": "select(constant{c}, x, y)" => "x where c, else y";
    on [Select] by select_constant, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let (truth, ty) = (s.below(2) as f64, s.ty(x).with_dtype(DType::Bool));
        let c = s.splat(&ty, truth)?;
        s.select(c, x, y)
    };

    "select-same": "select(c, x, x)" => "x";
    on [Select] by select_same, as in |s| {
        let x = s.any()?;
        let shape = s.shape(x).to_vec();
        let c = s.value(DType::Bool, &shape)?;
        s.select(c, x, x)
    };

    "sub-of-neg": "sub(x, neg(y))" => "add(x, y)";
    on [Sub] by sub_of_neg, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let y = s.neg(y)?;
        s.sub(x, y)
    };

    "add-of-neg": "add(x, neg(y))" => "sub(x, y)" if "either operand";
    on [Add] by add_of_neg, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let negated = s.neg(y)?;
        if s.below(2) == 0 { s.add(x, negated) } else { s.add(negated, x) }
    };

    "not-of-not": "not(not(x))" => "x";
    on [Not] by |site| each!(site, site.args[0], Not).map(|(_, x)| x[0].into()).collect(), as in |s| {
        let x = s.value(DType::Bool, &[2, 3])?;
        let y = s.not(x)?;
        s.not(y)
    };

    "neg-of-neg": "neg(neg(x))" => "x";
    on [Neg] by |site| each!(site, site.args[0], Neg).map(|(_, x)| x[0].into()).collect(), as in |s| {
        let x = s.any()?;
        let y = s.neg(x)?;
        s.neg(y)
    };

    "mul-of-negs": "mul(neg(x), neg(y))" => "mul(x, y)";
    on [Mul] by mul_of_negs, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        let (x, y) = (s.neg(x)?, s.neg(y)?);
        s.mul(x, y)
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

fn elementwise_of_constants(site: &Site) -> Vec<Term> {
    let scalar = |ty: &TensorType| ty.with_shape([]);
    let operands: Option<Vec<Tensor>> =
        site.args.iter().map(|&a| Some(Tensor::splat(scalar(site.type_of(a)), site.splat(a)?))).collect();
    let Some(operands) = operands.filter(|o| o.iter().all(is_exact) && site.is_elementwise()) else { return vec![] };
    match site.op.eval(&operands.iter().collect::<Vec<_>>()).as_deref() {
        Ok([result]) if is_exact(result) => vec![constant(site.ty, only_element(result))],
        _ => vec![],
    }
}

/// Whether neither storing the tensor in its dtype nor writing it as a constant loses anything.
fn is_exact(tensor: &Tensor) -> bool {
    let (stored, value) = (only_element(&tensor.rounded()), only_element(tensor));
    stored.to_bits() == value.to_bits() && (tensor.ty.dtype.is_float() || value.abs() < (1u64 << 53) as f64)
}

fn only_element(tensor: &Tensor) -> f64 {
    match &tensor.data {
        Data::Float(v) => v[0],
        Data::Int(v) => v[0] as f64,
    }
}

/// The other operand, where one of two is `unit` everywhere.
fn beside_splat(site: &Site, unit: f64) -> Vec<Term> {
    let &[a, b] = site.args else { return vec![] };
    if is_splat(site, a, unit) { vec![b.into()] } else { before_splat(site, unit) }
}

/// The left operand, where the right one is `unit` everywhere.
fn before_splat(site: &Site, unit: f64) -> Vec<Term> {
    let &[a, b] = site.args else { return vec![] };
    if is_splat(site, b, unit) { vec![a.into()] } else { vec![] }
}

fn is_splat(site: &Site, id: Id, value: f64) -> bool {
    let exactly = |v: f64| v.to_bits() == value.to_bits() || (!site.ty.dtype.is_float() && v == value);
    site.splat(id).is_some_and(exactly)
}

fn pow_one(site: &Site) -> Vec<Term> {
    if site.ty.dtype.is_float() { before_splat(site, 1.0) } else { vec![] }
}

fn select_constant(site: &Site) -> Vec<Term> {
    match site.splat(site.args[0]) {
        Some(truth) => vec![site.args[if truth != 0.0 { 1 } else { 2 }].into()],
        None => vec![],
    }
}

fn select_same(site: &Site) -> Vec<Term> {
    if site.same(site.args[1], site.args[2]) { vec![site.args[1].into()] } else { vec![] }
}

fn sub_of_neg(site: &Site) -> Vec<Term> {
    let added = |y: Id| Term::op(Add {}, [site.args[0].into(), y.into()]);
    each!(site, site.args[1], Neg).map(|(_, y)| added(y[0])).collect()
}

fn add_of_neg(site: &Site) -> Vec<Term> {
    let difference = |k: usize| {
        let minuend = site.args[1 - k];
        each!(site, site.args[k], Neg).map(move |(_, y)| Term::op(Sub {}, [minuend.into(), y[0].into()]))
    };
    difference(0).chain(difference(1)).collect()
}

fn mul_of_negs(site: &Site) -> Vec<Term> {
    let negs = |id| each!(site, id, Neg).map(|(_, x)| x[0]);
    negs(site.args[0]).flat_map(|x| negs(site.args[1]).map(move |y| Term::op(Mul {}, [x.into(), y.into()]))).collect()
}
