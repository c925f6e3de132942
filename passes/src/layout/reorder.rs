//! Lowered forms on tensors as they are stored: loops and accesses follow the layouts, so that what comes out reads
//! and makes dense row-major buffers of the stored shapes.

use super::Stored;
use crate::axes::{groups, pick};
use gradc_ir::layout::Layout;
use gradc_ir::lower::{Access, Affine, Body, Contraction, Index, Lowering, Nest, Scalar, Scatter};
use gradc_ir::region::{Argument, RegionForm};
use gradc_ir::types::DType;

/// The loops of a reordered form: each is a loop of the form it was made from, or a new one of extent 1.
type Loops = [Option<usize>];

impl Stored<'_> {
    /// The axes of `view`, a reshape of the tensor, in the order in which they are stored.
    ///
    /// `None` when axes that `view` merges are not stored next to each other.
    pub fn view_order(&self, view: &[usize]) -> Option<Vec<usize>> {
        match self.layout {
            None => Some((0..view.len()).collect()),
            Some(layout) if self.shape == view => Some(layout.order().to_vec()),
            Some(layout) => reshaped_order(self.shape, layout, view),
        }
    }

    /// Its extents in the order in which its axes are stored.
    pub fn stored_shape(&self) -> Vec<usize> {
        self.layout.map_or_else(|| self.shape.to_vec(), |layout| layout.stored_shape(self.shape))
    }

    /// The loops over the stored tensor, of which `space`, a reshape of its shape, are the loops over the tensor.
    ///
    /// As many as the tensor has axes, where no more than one loop over each is longer than 1.
    fn loops(&self, space: &[usize]) -> Option<Vec<Option<usize>>> {
        let whole: Option<Vec<Option<usize>>> = groups(self.shape, space).and_then(|groups| {
            let loop_of = |axis: usize| {
                let group = groups.iter().find(|g| g.from.contains(&axis)).expect("every axis is in a group");
                let mut long = group.to.clone().filter(|&d| space[d] != 1);
                match (long.next(), long.next()) {
                    (first, None) if first.is_none_or(|d| space[d] == self.shape[axis]) => Some(first),
                    _ => None,
                }
            };
            match self.layout {
                None => (0..self.shape.len()).map(loop_of).collect(),
                Some(layout) => layout.order().iter().map(|&axis| loop_of(axis)).collect(),
            }
        });
        whole.or_else(|| Some(self.view_order(space)?.into_iter().map(Some).collect()))
    }
}

fn reshaped_order(shape: &[usize], layout: &Layout, view: &[usize]) -> Option<Vec<usize>> {
    let is_long = |axis: &usize| shape[*axis] != 1;
    let groups = groups(shape, view)?;
    let short = groups.iter().filter(|g| !g.from.clone().any(|axis| is_long(&axis)));
    let mut order: Vec<usize> = short.flat_map(|g| g.to.clone()).collect();
    let mut stored: Vec<usize> = layout.order().iter().copied().filter(is_long).collect();
    while let Some(first) = stored.first() {
        let group = groups.iter().find(|g| g.from.contains(first)).expect("every axis is in a group");
        let together: Vec<usize> = group.from.clone().filter(is_long).collect();
        if !stored.starts_with(&together) {
            return None;
        }
        stored.drain(..together.len());
        order.extend(group.to.clone());
    }
    Some(order)
}

fn affine(affine: &Affine, loops: &Loops) -> Affine {
    let coeff = |d: &Option<usize>| d.and_then(|d| affine.coeffs.get(d).copied()).unwrap_or(0);
    Affine { base: affine.base, coeffs: loops.iter().map(coeff).collect() }
}

fn access(access: &Access, loops: &Loops, tensors: &[Stored]) -> Option<Access> {
    let order = tensors[access.operand].view_order(&access.view)?;
    let index =
        |&axis: &usize| Index { affine: affine(&access.indices[axis].affine, loops), ..access.indices[axis].clone() };
    Some(Access { view: pick(&access.view, &order), indices: order.iter().map(index).collect(), ..access.clone() })
}

/// Scalars keep their numbers.
fn body(body: &Body, loops: &Loops, tensors: &[Stored]) -> Option<Body> {
    let scalar = |(scalar, dtype): &(Scalar, DType)| {
        let scalar = match scalar {
            Scalar::Load(read) => Scalar::Load(access(read, loops, tensors)?),
            Scalar::LoopIndex(dim) => match loops.iter().position(|d| *d == Some(*dim)) {
                Some(at) => Scalar::LoopIndex(at),
                None => Scalar::Const(0.0.into()),
            },
            other => other.clone(),
        };
        Some((scalar, *dtype))
    };
    Some(Body { scalars: body.scalars.iter().map(scalar).collect::<Option<_>>()? })
}

/// Extents of reordered loops.
fn extents(loops: &Loops, extents: &[usize]) -> Vec<usize> {
    loops.iter().map(|d| d.map_or(1, |d| extents[d])).collect()
}

/// The reduced loops of `reads` in the order in which the largest tensor read is stored; as they are where no tensor
/// has a layout.
fn reduced_loops<'a>(
    reads: impl Iterator<Item = &'a Access>,
    reduced: std::ops::Range<usize>,
    tensors: &[Stored],
) -> Vec<usize> {
    let mut loops: Vec<usize> = reduced.clone().collect();
    if tensors.iter().any(|t| t.layout.is_some()) {
        let largest = reads.max_by_key(|a| a.view.iter().product::<usize>());
        let places = largest.and_then(|read| stored_places(read, reduced.end, tensors));
        loops.sort_by_key(|&d| places.as_ref().map(|places| places[d]));
    }
    loops
}

/// For each of a number of loops the stored axis along which it moves first; the number of axes if along none.
///
/// `None` when the access cannot be made to the tensor as it is stored.
pub(crate) fn stored_places(access: &Access, loops: usize, tensors: &[Stored]) -> Option<Vec<usize>> {
    let order = tensors[access.operand].view_order(&access.view)?;
    let moves = |axis: usize, d: usize| access.indices[axis].affine.coeffs.get(d).is_some_and(|&c| c != 0);
    let place = |d: usize| order.iter().position(|&axis| moves(axis, d)).unwrap_or(order.len());
    Some((0..loops).map(place).collect())
}

/// The reads of a body.
pub(crate) fn loads(body: &Body) -> impl Iterator<Item = &Access> {
    body.scalars.iter().filter_map(|(scalar, _)| match scalar {
        Scalar::Load(access) => Some(access),
        _ => None,
    })
}

/// The lowered form of a node on its tensors as they are stored; `None` where an access cannot follow their layouts.
pub(crate) fn reordered(lowering: Lowering, operands: &[Stored], results: &[Stored]) -> Option<Lowering> {
    let tensors = [operands, results].concat();
    Some(match lowering {
        Lowering::Nests(nests) => {
            let nests = nests.iter().zip(results).map(|(n, &result)| nest(n, result, &tensors));
            Lowering::Nests(nests.collect::<Option<_>>()?)
        }
        Lowering::Contraction(c) => Lowering::Contraction(contraction(&c, results[0], &tensors)?),
        Lowering::Scatter(s) => Lowering::Scatter(scatter(&s, results[0], &tensors)?),
        Lowering::Lines(_) | Lowering::Expand(_) if tensors.iter().any(|t| t.layout.is_some()) => return None,
        Lowering::Region(region) if !passes_border(&region.form, operands, results) => return None,
        as_it_is => as_it_is,
    })
}

/// Whether what a region takes and makes step by step is in row-major order.
fn passes_border(form: &RegionForm, operands: &[Stored], results: &[Stored]) -> bool {
    let arguments = (0..operands.len() - form.operand_of(0)).filter(|&k| form.argument(k) != Argument::Whole);
    let mut tensors = arguments.map(|k| &operands[form.operand_of(k)]).chain(results);
    tensors.all(|tensor| tensor.layout.is_none())
}

fn nest(nest: &Nest, result: Stored, tensors: &[Stored]) -> Option<Nest> {
    let space = result.view_order(&nest.space)?;
    let reduced = reduced_loops(loads(&nest.body), nest.space.len()..nest.rank(), tensors);
    let all = [&nest.space[..], &nest.reduce].concat();
    let loops: Vec<Option<usize>> = space.iter().chain(&reduced).copied().map(Some).collect();
    Some(Nest {
        space: pick(&all, &space),
        reduce: pick(&all, &reduced),
        body: body(&nest.body, &loops, tensors)?,
        ..nest.clone()
    })
}

/// Its space has the stored shape of `result` where it is not finer.
fn contraction(contraction: &Contraction, result: Stored, tensors: &[Stored]) -> Option<Contraction> {
    let all = [&contraction.space[..], &contraction.reduce].concat();
    let reads = std::iter::once(&contraction.lhs);
    let reduced = reduced_loops(reads, contraction.space.len()..all.len(), tensors);
    let space = result.loops(&contraction.space)?;
    let loops: Vec<Option<usize>> = space.iter().copied().chain(reduced.iter().copied().map(Some)).collect();
    Some(Contraction {
        space: extents(&space, &all),
        reduce: pick(&all, &reduced),
        lhs: access(&contraction.lhs, &loops, tensors)?,
        rhs: access(&contraction.rhs, &loops, tensors)?,
        bands: vec![],
    })
}

/// Updates run in the order in which they are stored.
fn scatter(scatter: &Scatter, result: Stored, tensors: &[Stored]) -> Option<Scatter> {
    if tensors[0].layout != result.layout {
        return None;
    }
    let reads = loads(&scatter.body);
    let loops: Vec<Option<usize>> =
        reduced_loops(reads, 0..scatter.space.len(), tensors).into_iter().map(Some).collect();
    let target = result.view_order(&scatter.target)?;
    let index = |&axis: &usize| Index {
        affine: affine(&scatter.indices[axis].affine, &loops),
        ..scatter.indices[axis].clone()
    };
    Some(Scatter {
        space: extents(&loops, &scatter.space),
        target: pick(&scatter.target, &target),
        indices: target.iter().map(index).collect(),
        body: body(&scatter.body, &loops, tensors)?,
        update: scatter.update,
        meeting: scatter.meeting,
    })
}
