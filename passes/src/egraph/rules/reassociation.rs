//! Sums and products in another order: what rounding changes, within a bound.
//!
//! Additions are seen as sums of any number of terms, so that no rule has to permute or group them.

use super::contraction::random_dot;
use super::einsum::{Factor, product, result_labels};
use super::terms::{broadcast, constant};
use super::{Sampler, Site, Term};
use egg::Id;
use gradc_ir::graph::Value;
use gradc_ir::ops::{Concat, DotGeneral, Mul, Sub};
use gradc_ir::types::{TensorType, TypeError};

rules! { Reassociation, Reassociation;
    "add-is-sum": "add(x, y)" => "sum(x, y)" if "of floats";
    on [Add] by add_is_sum, as in |s| {
        let x = s.any()?;
        let y = s.like(x)?;
        s.add(x, y)
    };

    "sum-of-sums": "sum(sum(x, y), z)" => "sum(x, y, z)";
    on sum by sum_of_sums, as in |s| {
        let x = s.any()?;
        let (y, z, w) = (s.like(x)?, s.like(x)?, s.like(x)?);
        let (left, right) = (s.add(x, y)?, s.add(z, w)?);
        s.add(left, right)
    };

    "dot-of-dot": "dot_general(dot_general(x, y), z)" => "dot_general(x, dot_general(y, z)) and with y and x exchanged"
        if "either operand; the factors multiplied first share an axis";
    on [DotGeneral] by dot_of_dot, as in |s| {
        let x = random_dot(s)?;
        multiplied(s, x)
    };

    "dot-of-sum": "dot_general(sum(x, y), z)" => "sum(dot_general(x, z), dot_general(y, z))"
        if "either operand; a term is a product that has more elements than its factors, or one with a factor that is \
            the same in every step of a loop, as z is";
    on [DotGeneral] by dot_of_sum, as in |s| {
        let [w, low_rank] = low_rank_example(s)?;
        let x = s.add(w, low_rank)?;
        multiplied(s, x)
    };

    "dot-of-difference": "dot_general(sub(x, y), z)" => "sub(dot_general(x, z), dot_general(y, z))"
        if "as for sums";
    on [DotGeneral] by dot_of_difference, as in |s| {
        let [w, low_rank] = low_rank_example(s)?;
        let x = if s.below(2) == 0 { s.sub(w, low_rank)? } else { s.sub(low_rank, w)? };
        multiplied(s, x)
    };

    "sum-of-dots-sharing": "sum(dot_general(x, y), dot_general(x, z))" => "dot_general(x, sum(y, z))"
        if "either operand; y and z have one type";
    on sum by sum_of_dots_sharing, as in |s| {
        let [a, b, c] = [s.float(&[3, 4])?, s.float(&[4, 2])?, s.float(&[4, 2])?];
        let (x, y) = (s.dot_general(a, b, [&[], &[]], [&[1], &[0]])?, s.dot_general(a, c, [&[], &[]], [&[1], &[0]])?);
        let x = s.add(x, y)?;
        let z = s.like(x)?;
        s.add(z, x)
    };

    "sum-of-dots": "sum(dot_general(x, y), dot_general(z, w))" => "dot_general(concat(x, z), concat(y, w))"
        if "equal but for the extent of the first contracted axis";
    on sum by sum_of_dots, as in |s| {
        let (k, n) = (1 + s.below(3), 1 + s.below(3));
        let mut dot = |k: usize| {
            let (a, b) = (s.float(&[k, 2, 3])?, s.float(&[4, k, 2])?);
            s.dot_general(a, b, [&[], &[]], [&[0, 1], &[1, 2]])
        };
        let (x, y, z) = (dot(k)?, dot(n)?, dot(2)?);
        let x = s.add(x, y)?;
        s.add(x, z)
    };

    "scale-out-of-product": "f(mul(x, s), …)" => "mul(f(x, …), s)"
        if "f is a product, a convolution or a sum; s is one number repeated";
    on [DotGeneral, Convolution, ConvolutionInputGrad, ConvolutionWeightGrad, ReduceSum] by scale_out_of_product,
    as in |s| {
        let shape = s.extents(2);
        let x = s.float(&shape)?;
        let x = scaled_example(s, x)?;
        if s.below(3) == 0 { s.reduce_sum(x, &[1]) } else { multiplied(s, x) }
    };

    "scale-into-product": "mul(dot_general(x, y), s)" => "dot_general(mul(x, s), y)"
        if "either operand; s is one number repeated, x has fewer elements than the product or is the same in every \
            step of a loop";
    on [Mul] by scale_into_product, as in |s| {
        let (x, y) = (s.float(&[4, 1])?, s.float(&[1, 3])?);
        let x = s.dot_general(x, y, [&[], &[]], [&[1], &[0]])?;
        scaled_example(s, x)
    };
}

/// A value, and one of its type that is a product of low rank, perhaps scaled.
fn low_rank_example(s: &mut Sampler) -> Result<[Value; 2], TypeError> {
    let [n, m] = [3 + s.below(2), 3 + s.below(2)];
    let (a, b, w) = (s.float(&[n, 1])?, s.float(&[1, m])?, s.float(&[n, m])?);
    let low_rank = s.dot_general(a, b, [&[], &[]], [&[1], &[0]])?;
    Ok([w, if s.below(2) == 0 { s.scale(low_rank, 3.0)? } else { low_rank }])
}

/// A product of `x`, on a random side, with a new input that one axis of it is paired with.
fn multiplied(s: &mut Sampler, x: Value) -> Result<Value, TypeError> {
    let shape = s.shape(x).to_vec();
    if shape.is_empty() {
        let y = s.float(&[2])?;
        return s.dot_general(x, y, [&[], &[]], [&[], &[]]);
    }
    let axis = s.below(shape.len());
    let y = s.float(&[2, shape[axis]])?;
    let (axes, paired): (&[usize], &[usize]) = (&[axis], &[1]);
    match s.below(4) {
        0 => s.dot_general(x, y, [axes, paired], [&[], &[]]),
        1 => s.dot_general(y, x, [&[], &[]], [paired, axes]),
        _ => s.dot_general(x, y, [&[], &[]], [axes, paired]),
    }
}

fn scaled_example(s: &mut Sampler, x: Value) -> Result<Value, TypeError> {
    if s.below(2) == 0 {
        return s.scale(x, -2.5);
    }
    let shape = s.shape(x).to_vec();
    let factor = s.float(&[])?;
    let factor = s.broadcast(factor, &shape, &[])?;
    if s.below(2) == 0 { s.mul(x, factor) } else { s.mul(factor, x) }
}

fn add_is_sum(site: &Site) -> Vec<Term> {
    let is_float = site.ty.dtype.is_float();
    if is_float { vec![Term::sum(site.args.iter().map(|&x| x.into()).collect())] } else { vec![] }
}

/// Every term that is itself a sum is replaced by that sum's terms, by the most terms known.
fn sum_of_sums(site: &Site) -> Vec<Term> {
    let longest = |id: Id| site.sums(id).filter(|terms| !terms.contains(&id)).max_by_key(|terms| terms.len());
    let parts = |&id: &Id| longest(id).map_or(vec![id], |terms| terms.to_vec());
    let flat: Vec<Term> = site.args.iter().flat_map(parts).map(Term::from).collect();
    if flat.len() > site.args.len() { vec![Term::sum(flat)] } else { vec![] }
}

fn dot_of_dot(site: &Site) -> Vec<Term> {
    let op = attrs!(site, DotGeneral);
    let of_side = |side: usize| each!(site, site.args[side], DotGeneral).map(move |(inner, args)| (side, inner, args));
    [0, 1]
        .into_iter()
        .flat_map(of_side)
        .flat_map(|(side, inner, args)| regrouped(site, op, side, inner, args))
        .collect()
}

/// The product of `x`, `y` and the other operand, where operand `side` is the product `inner` of `x` and `y`, with
/// `x` or `y` multiplied by the other operand first.
fn regrouped(site: &Site, op: &DotGeneral, side: usize, inner: &DotGeneral, args: &[Id]) -> Vec<Term> {
    let rank = |id: Id| site.shape(id).len();
    let other = site.args[1 - side];
    let x = Factor::new(args[0], rank(args[0]), 0);
    let mut y = Factor::new(args[1], rank(args[1]), x.labels.len());
    y.pair(inner, 1, &x.labels);
    let xy = result_labels(inner, &x.labels, &y.labels);
    let mut z = Factor::new(other, rank(other), rank(args[0]) + rank(args[1]));
    z.pair(op, 1 - side, &xy);
    let [left, right] = if side == 0 { [&xy, &z.labels] } else { [&z.labels, &xy] };
    let result = result_labels(op, left, right);
    let multiplied = |first: &Factor, last: &Factor| {
        let kept = [&last.labels[..], &result].concat();
        let pair = if side == 0 { first.times(&z, &kept)? } else { z.times(first, &kept)? };
        product(&pair, last, &result)
    };
    multiplied(&x, &y).into_iter().chain(multiplied(&y, &x)).collect()
}

fn dot_of_sum(site: &Site) -> Vec<Term> {
    let sums = |side: usize| site.sums(site.args[side]).filter(move |terms| distributes(site, side, terms));
    let found = [0, 1].into_iter().flat_map(|side| sums(side).map(move |terms| multiplied_each(site, side, terms)));
    found.map(Term::sum).collect()
}

fn dot_of_difference(site: &Site) -> Vec<Term> {
    let differences =
        |side: usize| each!(site, site.args[side], Sub).filter(move |(_, xs)| distributes(site, side, xs));
    let found =
        [0, 1].into_iter().flat_map(|side| differences(side).map(move |(_, xs)| multiplied_each(site, side, xs)));
    found.map(|terms| Term::op(Sub {}, terms)).collect()
}

/// The product with each of `terms` in place of operand `side`.
fn multiplied_each(site: &Site, side: usize, terms: &[Id]) -> Vec<Term> {
    let with = |&x: &Id| {
        let mut args = [site.args[0], site.args[1]];
        args[side] = x;
        Term::op(site.op.clone(), args.map(Term::from))
    };
    terms.iter().map(with).collect()
}

/// Whether it may pay to multiply each of `terms` instead of what is made of them, operand `side` of a product.
fn distributes(site: &Site, side: usize, terms: &[Id]) -> bool {
    let meets = site.is_invariant(site.args[1 - side]);
    terms.iter().any(|&id| is_low_rank(site, id) || meets && has_invariant_factor(site, id))
}

/// Whether a value is a product one factor of which is the same in every step of a loop.
fn has_invariant_factor(site: &Site, id: Id) -> bool {
    each!(site, id, DotGeneral).any(|(_, factors)| factors.iter().any(|&factor| site.is_invariant(factor)))
}

/// Whether a value is a product, perhaps scaled, that has more elements than its factors together.
fn is_low_rank(site: &Site, id: Id) -> bool {
    let size = |id: Id| site.type_of(id).elements();
    let is_outer = |x: Id| each!(site, x, DotGeneral).any(|(_, args)| size(args[0]) + size(args[1]) < size(x));
    is_outer(id) || scaled(site, id).any(|(x, _)| is_outer(x))
}

/// Terms of a sum that belong together, each as two values, and those that do not.
struct Grouped {
    members: Vec<[Id; 2]>,
    rest: Vec<Id>,
}

impl Grouped {
    /// Groups what `member` finds two values for; `None` where it is not the first such group of two or more, `first`
    /// being the term it was found from.
    fn new(site: &Site, first: usize, member: impl Fn(Id) -> Option<[Id; 2]>) -> Option<Grouped> {
        let (mut members, mut rest) = (vec![], vec![]);
        for (k, &id) in site.args.iter().enumerate() {
            match member(id) {
                Some(_) if k < first => return None,
                Some(pair) => members.push(pair),
                None => rest.push(id),
            }
        }
        (members.len() > 1).then_some(Grouped { members, rest })
    }

    /// Values number `k` of the members.
    fn column(&self, k: usize) -> Vec<Term> {
        self.members.iter().map(|pair| pair[k].into()).collect()
    }

    /// The sum, what belongs together replaced by `joined`.
    fn sum(&self, joined: Term) -> Term {
        Term::sum(self.rest.iter().map(|&id| id.into()).chain([joined]).collect())
    }
}

/// All products that are terms of a sum: position of the term, product, operands.
fn dots<'a>(site: &'a Site<'a>) -> impl Iterator<Item = (usize, &'a DotGeneral, &'a [Id])> {
    let of_term = move |(k, &id): (usize, &Id)| each!(site, id, DotGeneral).map(move |(op, args)| (k, op, args));
    site.args.iter().enumerate().flat_map(of_term)
}

fn sum_of_dots_sharing(site: &Site) -> Vec<Term> {
    let shared = |(first, op, args): (usize, &DotGeneral, &[Id]), side: usize| {
        let (common, ty) = (args[side], site.type_of(args[1 - side]));
        let alike = |xs: &[Id]| site.same(xs[side], common) && site.type_of(xs[1 - side]) == ty;
        let partner = |id: Id| each!(site, id, DotGeneral).find(|(o, xs)| *o == op && alike(xs));
        let group = Grouped::new(site, first, |id| partner(id).map(|(_, xs)| [xs[0], xs[1]]))?;
        let mut operands = [common.into(), common.into()];
        operands[1 - side] = Term::sum(group.column(1 - side));
        Some(group.sum(Term::op(op.clone(), operands)))
    };
    dots(site).flat_map(|dot| [shared(dot, 0), shared(dot, 1)]).flatten().collect()
}

fn sum_of_dots(site: &Site) -> Vec<Term> {
    let joined = |(first, op, args): (usize, &DotGeneral, &[Id])| {
        let axes = [*op.lhs_contract.first()?, *op.rhs_contract.first()?];
        let without = |id: Id, axis: usize| {
            let mut shape = site.shape(id).to_vec();
            shape.remove(axis);
            shape
        };
        let alike = |xs: &[Id]| (0..2).all(|k| without(xs[k], axes[k]) == without(args[k], axes[k]));
        let partner = |id: Id| each!(site, id, DotGeneral).find(|(o, xs)| *o == op && alike(xs));
        let group = Grouped::new(site, first, |id| partner(id).map(|(_, xs)| [xs[0], xs[1]]))?;
        let operands = [0, 1].map(|k| Term::op(Concat { axis: axes[k] }, group.column(k)));
        Some(group.sum(Term::op(op.clone(), operands)))
    };
    dots(site).filter_map(joined).collect()
}

/// One number that fills a tensor.
#[derive(Clone, Copy)]
enum Uniform {
    Known(f64),
    Scalar(Id),
}

impl Uniform {
    /// What a value repeats, if it repeats one number.
    fn of(site: &Site, id: Id) -> Option<Uniform> {
        let scalar =
            || each!(site, id, Broadcast).find(|(op, _)| op.dims.is_empty()).map(|(_, x)| Uniform::Scalar(x[0]));
        site.splat(id).map(Uniform::Known).or_else(scalar)
    }

    /// A tensor filled with it.
    fn filling(self, ty: &TensorType) -> Term {
        match self {
            Uniform::Known(value) => constant(ty, value),
            Uniform::Scalar(id) => broadcast(id, &ty.shape, vec![]),
        }
    }
}

/// The ways in which a value is another one times one number.
fn scaled<'a>(site: &'a Site<'a>, id: Id) -> impl Iterator<Item = (Id, Uniform)> + 'a {
    let factors = |args: &'a [Id]| [(args[0], args[1]), (args[1], args[0])];
    each!(site, id, Mul).flat_map(move |(_, args)| factors(args)).filter_map(|(x, s)| Some((x, Uniform::of(site, s)?)))
}

fn scale_out_of_product(site: &Site) -> Vec<Term> {
    let moved = |k: usize, x: Id, scale: Uniform| {
        let mut args: Vec<Term> = site.args.iter().map(|&a| a.into()).collect();
        args[k] = x.into();
        Term::op(Mul {}, [Term::op(site.op.clone(), args), scale.filling(site.ty)])
    };
    let of_operand = |k: usize| scaled(site, site.args[k]).map(move |(x, scale)| (k, x, scale));
    (0..site.args.len()).flat_map(of_operand).map(|(k, x, scale)| moved(k, x, scale)).collect()
}

fn scale_into_product(site: &Site) -> Vec<Term> {
    let moved = |op: &DotGeneral, args: &[Id], k: usize, scale: Uniform| {
        let ty = site.type_of(args[k]);
        let mut operands = [args[0].into(), args[1].into()];
        operands[k] = Term::op(Mul {}, [args[k].into(), scale.filling(ty)]);
        let is_cheap = ty.elements() < site.ty.elements() || site.is_invariant(args[k]);
        is_cheap.then(|| Term::op(op.clone(), operands))
    };
    let factors = [(site.args[0], site.args[1]), (site.args[1], site.args[0])];
    let scaled_dots = factors.into_iter().filter_map(|(x, s)| Some((x, Uniform::of(site, s)?)));
    let found = scaled_dots.flat_map(|(x, scale)| each!(site, x, DotGeneral).map(move |(op, args)| (op, args, scale)));
    found.flat_map(|(op, args, scale)| [0, 1].map(|k| moved(op, args, k, scale))).flatten().collect()
}
