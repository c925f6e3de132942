//! A loop kernel made ready for emission: accesses flattened to offsets, loops merged, vector loop chosen.

use super::parts::Stage;
use super::pieces::Piece;
use gradc_ir::kernel::{Accumulate, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, Contraction, Index, Scalar, ScalarId, UnaryFn};
use gradc_ir::types::{DType, row_major_strides};

/// A set of loops, one bit each.
pub(crate) type LoopSet = u32;

/// Stands for "after the accumulation" in the loops a scalar depends on.
pub(crate) const AFTER_ACCUMULATION: LoopSet = 1 << 31;

/// Terms from which on a sum of f32 is kept in f64.
const LONG_SUM: usize = 64;

/// A loop kernel with flat addresses and as few loops as its accesses allow.
#[derive(Clone, Debug)]
pub(crate) struct LoopPlan {
    /// Trip counts: the space, then what is reduced over; none is 1.
    pub extents: Vec<usize>,
    /// How many of the loops are the space's.
    pub space: usize,
    /// What is accumulated per point.
    pub reduction: Option<Reduction>,
    /// Code per point.
    pub body: BodyPlan,
    /// One scalar of `body` per result.
    pub stores: Vec<ScalarId>,
    /// Offset of a point's results in elements.
    pub result: Affine,
    /// The loop that runs in vectors: the last of the space or the last reduced.
    pub vector: Option<usize>,
    /// The plan for the part of the vector loop where guards moving with it hold, and that part.
    pub interior: Option<Box<(LoopPlan, (i64, i64))>>,
    /// Which share of the accumulation is done.
    pub stage: Stage,
}

/// An accumulation.
#[derive(Clone, Debug)]
pub(crate) struct Reduction {
    /// How values meet.
    pub combine: Combine,
    /// Code per point and reduced index.
    pub body: BodyPlan,
    /// What is combined, each value by itself.
    pub values: Vec<ScalarId>,
    /// Nothing is reduced over: the result is the combination's start.
    pub empty: bool,
}

impl Reduction {
    /// Dtype of what is combined.
    pub fn dtype(&self) -> DType {
        self.body.dtype(self.values[0])
    }
}

/// Scalar code with its loads flattened.
#[derive(Clone, Debug)]
pub(crate) struct BodyPlan {
    /// The computations; a [`Scalar::Load`] is described by the entry of `loads` at its place.
    pub scalars: Vec<(Scalar, DType)>,
    /// Addresses of the loads.
    pub loads: Vec<Option<LoadPlan>>,
    /// Loops each scalar depends on.
    pub loops: Vec<LoopSet>,
}

/// Where a load reads: `flat` elements into its operand plus what its axes add.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    /// Which operand.
    pub operand: usize,
    /// Offset of the axes that are in bounds and undivided, in elements.
    pub flat: Affine,
    /// The other axes.
    pub axes: Vec<AxisPlan>,
    /// What is read out of bounds.
    pub fill: Option<f64>,
}

/// An axis whose index is divided, guarded or loaded.
#[derive(Clone, Debug)]
pub(crate) struct AxisPlan {
    /// The index.
    pub index: Index,
    /// Extent of the axis.
    pub extent: usize,
    /// Elements from one index to the next.
    pub stride: i64,
}

/// Smallest and largest value of an affine over loops of the given extents, none of which is 0.
pub(crate) fn range(affine: &Affine, extents: &[usize]) -> (i64, i64) {
    affine.coeffs.iter().zip(extents).fold((affine.base, affine.base), |(low, high), (&c, &n)| {
        let last = c * (n as i64 - 1);
        (low + last.min(0), high + last.max(0))
    })
}

impl LoadPlan {
    /// Flattens an access under loops of the given extents.
    pub fn new(access: &Access, extents: &[usize]) -> LoadPlan {
        let mut plan = LoadPlan {
            operand: access.operand,
            flat: Affine::constant(extents.len(), 0),
            axes: vec![],
            fill: access.fill.map(|f| f.get()),
        };
        for ((index, &extent), stride) in access.indices.iter().zip(&access.view).zip(row_major_strides(&access.view)) {
            let mut affine = index.affine.clone();
            affine.coeffs.resize(extents.len(), 0);
            let (low, high) = range(&affine, extents);
            let in_bounds = access.fill.is_none() || (low >= 0 && high < extent as i64);
            if index.divisor == 1 && index.loaded.is_none() && in_bounds {
                add_scaled(&mut plan.flat, &affine, stride as i64);
            } else {
                let index = Index { affine, ..index.clone() };
                plan.axes.push(AxisPlan { index, extent, stride: stride as i64 });
            }
        }
        plan
    }

    fn affines(&self) -> impl Iterator<Item = &Affine> {
        std::iter::once(&self.flat).chain(self.axes.iter().map(|a| &a.index.affine))
    }

    fn affines_mut(&mut self) -> impl Iterator<Item = &mut Affine> {
        std::iter::once(&mut self.flat).chain(self.axes.iter_mut().map(|a| &mut a.index.affine))
    }

    /// Whether an axis other than the flat ones moves with the loop.
    pub fn axes_move_with(&self, scalars: &BodyPlan, dim: usize) -> bool {
        self.axes
            .iter()
            .any(|a| a.index.affine.coeffs[dim] != 0 || a.index.loaded.is_some_and(|s| scalars.depends_on(s, dim)))
    }

    /// The load where every guarded axis that moves with the loop is known to be in bounds.
    ///
    /// `None` when such an axis is divided or loaded.
    fn interior(&self, scalars: &BodyPlan, dim: usize) -> Option<LoadPlan> {
        let mut plan = LoadPlan { axes: vec![], ..self.clone() };
        for axis in &self.axes {
            let loaded_moves = axis.index.loaded.is_some_and(|s| scalars.depends_on(s, dim));
            if axis.index.affine.coeffs[dim] == 0 && !loaded_moves {
                plan.axes.push(axis.clone());
            } else if axis.index.divisor == 1 && axis.index.loaded.is_none() {
                add_scaled(&mut plan.flat, &axis.index.affine, axis.stride);
            } else {
                return None;
            }
        }
        Some(plan)
    }
}

/// A guarded read of an operand without elements gives its fill.
fn without_empty_reads(scalar: &Scalar) -> Scalar {
    match scalar {
        Scalar::Load(Access { view, fill: Some(fill), .. }) if view.contains(&0) => Scalar::Const(*fill),
        _ => scalar.clone(),
    }
}

fn add_scaled(to: &mut Affine, affine: &Affine, by: i64) {
    to.base += affine.base * by;
    to.coeffs.iter_mut().zip(&affine.coeffs).for_each(|(t, c)| *t += c * by);
}

impl BodyPlan {
    fn new(body: &Body, extents: &[usize]) -> BodyPlan {
        let load = |scalar: &Scalar| match scalar {
            Scalar::Load(access) => Some(LoadPlan::new(access, extents)),
            _ => None,
        };
        let scalars: Vec<(Scalar, DType)> = body.scalars.iter().map(|(s, d)| (without_empty_reads(s), *d)).collect();
        let loads = scalars.iter().map(|(s, _)| load(s)).collect();
        BodyPlan { scalars, loads, loops: vec![] }
    }

    /// Whether a scalar depends on a loop.
    pub fn depends_on(&self, id: ScalarId, dim: usize) -> bool {
        self.loops[id.0 as usize] & (1 << dim) != 0
    }

    /// Dtype of a scalar.
    pub fn dtype(&self, id: ScalarId) -> DType {
        self.scalars[id.0 as usize].1
    }

    fn affines(&self) -> impl Iterator<Item = &Affine> {
        self.loads.iter().flatten().flat_map(LoadPlan::affines)
    }

    fn uses_index(&self, dim: usize) -> bool {
        self.scalars.iter().any(|(s, _)| *s == Scalar::LoopIndex(dim))
    }

    /// Replaces the loops by those in `kept`, the first `space` of which are the space's; a merged loop counts with the
    /// coefficients of its innermost part.
    fn keep_loops(&mut self, kept: &[usize], space: usize) {
        for affine in self.loads.iter_mut().flatten().flat_map(LoadPlan::affines_mut) {
            affine.coeffs = kept.iter().map(|&d| affine.coeffs[d]).collect();
        }
        for (scalar, _) in &mut self.scalars {
            if let Scalar::LoopIndex(dim) = scalar {
                *scalar = match kept.iter().position(|k| k == dim) {
                    Some(at) => Scalar::LoopIndex(at),
                    None => Scalar::Const(0.0.into()),
                };
            }
        }
        self.loops = Vec::with_capacity(self.scalars.len());
        for at in 0..self.scalars.len() {
            let loops = self.loops_of(at, space);
            self.loops.push(loops);
        }
    }

    fn loops_of(&self, at: usize, space: usize) -> LoopSet {
        let of = |ids: &[ScalarId]| ids.iter().fold(0, |set, id| set | self.loops[id.0 as usize]);
        match &self.scalars[at].0 {
            Scalar::Const(_) => 0,
            Scalar::LoopIndex(dim) => 1 << dim,
            Scalar::Load(_) => {
                let load = self.loads[at].as_ref().expect("every load has a plan");
                let moving = |a: &Affine| (0..a.coeffs.len()).filter(|&d| a.coeffs[d] != 0).fold(0, |s, d| s | 1 << d);
                let loaded: Vec<ScalarId> = load.axes.iter().filter_map(|a| a.index.loaded).collect();
                load.affines().fold(of(&loaded), |set, a| set | moving(a))
            }
            Scalar::Unary(_, a) | Scalar::Cast(a) => of(&[*a]),
            Scalar::Binary(_, a, b) | Scalar::Compare(_, a, b) => of(&[*a, *b]),
            Scalar::Select(c, a, b) => of(&[*c, *a, *b]),
            Scalar::Accumulated(_) => AFTER_ACCUMULATION | ((1 << space) - 1),
        }
    }

    /// Static part of the loop in which every guard that moves with it holds, if all can be given up there.
    fn interior_range(&self, dim: usize, extents: &[usize]) -> Option<(i64, i64)> {
        let mut range_of_all = (0, extents[dim] as i64);
        for load in self.loads.iter().flatten() {
            for axis in load.axes.iter().filter(|a| a.index.affine.coeffs[dim] != 0) {
                let (low, high) = guard_range(axis, dim, extents)?;
                range_of_all = (range_of_all.0.max(low), range_of_all.1.min(high));
            }
        }
        Some(range_of_all)
    }

    fn interior(&self, dim: usize) -> Option<BodyPlan> {
        let loads = self.loads.iter().map(|l| match l {
            Some(load) => load.interior(self, dim).map(Some),
            None => Some(None),
        });
        Some(BodyPlan { loads: loads.collect::<Option<Vec<_>>>()?, ..self.clone() })
    }
}

/// Values of loop `dim` for which the axis is in bounds whatever the other loops are at.
fn guard_range(axis: &AxisPlan, dim: usize, extents: &[usize]) -> Option<(i64, i64)> {
    let affine = &axis.index.affine;
    if affine.coeffs[dim] < 0 {
        return None;
    }
    let mut others = affine.clone();
    others.coeffs[dim] = 0;
    let (low, high) = range(&others, extents);
    let step = affine.coeffs[dim];
    let first = (-low).max(0).unsigned_abs().div_ceil(step.unsigned_abs()) as i64;
    let end = (axis.extent as i64 - high).max(0).unsigned_abs().div_ceil(step.unsigned_abs()) as i64;
    Some((first, end))
}

impl LoopPlan {
    /// Plans a kernel whose operands have the given dtypes.
    pub fn new(kernel: &LoopKernel, operands: &[DType]) -> LoopPlan {
        LoopPlan::of_piece(&Piece::whole(kernel), operands)
    }

    /// Plans a part of a kernel whose operands have the given dtypes.
    pub fn of_piece(piece: &Piece, operands: &[DType]) -> LoopPlan {
        LoopPlan::grouped(piece, operands, &[]).0
    }

    /// As [`of_piece`](Self::of_piece), with the loops of the space in groups that stay apart: one begins at each of
    /// `firsts`.
    ///
    /// Also gives the last of the kernel's loops that each loop of the plan is made of.
    pub fn grouped(Piece { kernel, result }: &Piece, operands: &[DType], firsts: &[usize]) -> (LoopPlan, Vec<usize>) {
        let (reduced, reduction) = match &kernel.accumulate {
            None => (vec![], None),
            Some(Accumulate::Reduce { extents, combine, body, values }) => {
                (extents.clone(), Some((*combine, body.clone(), values.clone())))
            }
            Some(Accumulate::Contract(c)) => (c.reduce.clone(), Some(sum_of_products(c, operands))),
        };
        let extents = [&kernel.space[..], &reduced].concat();
        let mut plan = LoopPlan {
            space: kernel.space.len(),
            reduction: reduction.map(|(combine, body, values)| {
                let empty = reduced.contains(&0);
                Reduction { combine, body: BodyPlan::new(&body, &extents), values, empty }
            }),
            body: BodyPlan::new(&kernel.body, &extents),
            stores: kernel.stores.clone(),
            result: Affine { base: result.base, coeffs: [&result.coeffs[..], &vec![0; reduced.len()]].concat() },
            vector: None,
            interior: None,
            stage: Stage::Whole,
            extents,
        };
        let apart = [firsts, &[plan.space]].concat();
        let kept = plan.merge_loops(&apart);
        plan.vector = plan.choose_vector_loop();
        plan.interior = plan.find_interior().map(Box::new);
        (plan, kept)
    }

    /// Gives up vectors.
    pub fn run_by_points(&mut self) {
        (self.vector, self.interior) = (None, None);
    }

    /// Whether partial results are kept in f64: by shape alone, so that results never depend on how work is cut.
    pub fn is_long_sum(&self) -> bool {
        let terms: usize = self.reduced().iter().product();
        self.reduction
            .as_ref()
            .is_some_and(|r| r.combine == Combine::Sum && r.dtype() == DType::F32 && terms >= LONG_SUM)
    }

    /// Number of points.
    pub fn points(&self) -> usize {
        self.extents[..self.space].iter().product()
    }

    /// Trip counts of the reduced loops.
    pub fn reduced(&self) -> &[usize] {
        &self.extents[self.space..]
    }

    fn bodies(&self) -> impl Iterator<Item = &BodyPlan> {
        self.reduction.iter().map(|r| &r.body).chain([&self.body])
    }

    /// Merges loops unless one of `apart` begins between them; gives the innermost part of each loop that is left.
    fn merge_loops(&mut self, apart: &[usize]) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..self.extents.len()).filter(|&d| self.extents[d] != 1).collect();
        let mut extents: Vec<usize> = kept.iter().map(|&d| self.extents[d]).collect();
        for at in (1..kept.len()).rev() {
            let (outer, inner) = (kept[at - 1], kept[at]);
            let together = !apart.iter().any(|&first| outer < first && first <= inner);
            if together && self.can_merge(outer, inner, extents[at]) {
                extents[at - 1] *= extents[at];
                kept[at - 1] = inner;
                kept.remove(at);
                extents.remove(at);
            }
        }
        self.result.coeffs = kept.iter().map(|&d| self.result.coeffs[d]).collect();
        self.space = kept.iter().filter(|&&d| d < self.space).count();
        self.body.keep_loops(&kept, self.space);
        if let Some(reduction) = &mut self.reduction {
            reduction.body.keep_loops(&kept, self.space);
        }
        self.extents = extents;
        kept
    }

    fn can_merge(&self, outer: usize, inner: usize, inner_extent: usize) -> bool {
        let strided = |a: &Affine| a.coeffs[outer] == a.coeffs[inner] * inner_extent as i64;
        strided(&self.result)
            && self.bodies().all(|b| b.affines().all(strided) && !b.uses_index(outer) && !b.uses_index(inner))
    }

    fn choose_vector_loop(&self) -> Option<usize> {
        let last = |end: usize| end.checked_sub(1).filter(|&d| self.extents[d] >= 4);
        let space = last(self.space);
        let Some(reduction) = &self.reduction else {
            let any_f32 = self.body.scalars.iter().any(|(_, d)| *d == DType::F32);
            return space.filter(|_| any_f32);
        };
        if reduction.dtype() != DType::F32 || reduction.empty {
            return None;
        }
        let reduced = last(self.extents.len()).filter(|&d| d >= self.space);
        [reduced, space].into_iter().flatten().min_by_key(|&d| reduction.body.vector_cost(d))
    }

    fn find_interior(&self) -> Option<(LoopPlan, (i64, i64))> {
        let dim = self.vector?;
        let moves = |b: &BodyPlan| b.loads.iter().flatten().any(|l| l.axes_move_with(b, dim));
        if !self.bodies().any(moves) {
            return None;
        }
        let mut plan = self.clone();
        let mut part = self.body.interior_range(dim, &self.extents)?;
        plan.body = self.body.interior(dim)?;
        if let Some(reduction) = &mut plan.reduction {
            let (low, high) = reduction.body.interior_range(dim, &self.extents)?;
            part = (part.0.max(low), part.1.min(high));
            reduction.body = reduction.body.interior(dim)?;
        }
        (part.1 - part.0 >= 4).then_some((plan, part))
    }

    /// What one run costs, in scalar operations.
    pub fn cost(&self) -> usize {
        let weight = |body: &BodyPlan| body.scalars.iter().map(|(s, _)| scalar_cost(s)).sum::<usize>();
        let reduced = self.reduction.as_ref().map_or(0, |r| weight(&r.body) * self.reduced().iter().product::<usize>());
        self.points().saturating_mul(weight(&self.body) + reduced + self.stores.len())
    }
}

impl BodyPlan {
    /// Rough cost of a step along the loop when it runs in vectors.
    fn vector_cost(&self, dim: usize) -> usize {
        let cost = |load: &LoadPlan| match load.flat.coeffs[dim] {
            _ if load.axes_move_with(self, dim) && self.interior(dim).is_none() => 8,
            0 if !load.axes_move_with(self, dim) => 0,
            _ => match self.interior(dim).map_or(load.flat.coeffs[dim], |_| step(load, dim)) {
                1 => 1,
                _ => 4,
            },
        };
        self.loads.iter().flatten().map(cost).sum()
    }
}

/// Elements a load moves by along a loop.
fn step(load: &LoadPlan, dim: usize) -> i64 {
    load.flat.coeffs[dim] + load.axes.iter().map(|a| a.index.affine.coeffs[dim] * a.stride).sum::<i64>()
}

fn scalar_cost(scalar: &Scalar) -> usize {
    match scalar {
        Scalar::Const(_) | Scalar::LoopIndex(_) | Scalar::Accumulated(_) => 0,
        Scalar::Unary(UnaryFn::Exp | UnaryFn::Log | UnaryFn::Tanh | UnaryFn::Erf | UnaryFn::Sin | UnaryFn::Cos, _) => 8,
        Scalar::Binary(BinaryFn::Pow, ..) => 40,
        Scalar::Binary(BinaryFn::Div | BinaryFn::Rem, ..) => 4,
        _ => 1,
    }
}

/// The body of a contraction as a sum, for where tiles do not pay.
fn sum_of_products(contraction: &Contraction, operands: &[DType]) -> (Combine, Body, Vec<ScalarId>) {
    let mut body = Body::default();
    let [lhs, rhs] =
        [&contraction.lhs, &contraction.rhs].map(|access| body.load(operands[access.operand], access.clone()));
    let product = body.binary(BinaryFn::Mul, lhs, rhs);
    (Combine::Sum, body, vec![product])
}
