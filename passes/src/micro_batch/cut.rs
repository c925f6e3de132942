//! Loops of lowered forms cut into blocks.

use super::linear::is_linear;
use gradc_ir::lower::{Access, Affine, Combine, Contraction, Lines, Lowering, Nest, Scalar};

/// What the value that a part of the batch has is to the value of the whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flow {
    /// The same.
    Whole,
    /// One of the blocks of equal length that this axis is cut into: that with the number of the part.
    Block(usize),
    /// A term: the values of all parts add up to it.
    Sum,
}

/// The lowered form of an op on a part of the batch.
#[derive(Clone, Debug)]
pub(super) struct CutForm {
    /// The form.
    pub form: Form,
    /// What each operand has to be; a [`Flow::Whole`] one may be needed as a block.
    pub operands: Vec<Flow>,
    /// What each result is.
    pub results: Vec<Flow>,
}

/// The forms that can be cut.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// One nest per result.
    Nests(Vec<Nest>),
    /// A sum of products.
    Contraction(Contraction),
    /// Work along lines.
    Lines(Lines),
}

impl Form {
    /// Whether an op is lowered to this.
    pub fn is(&self, lowering: &Lowering) -> bool {
        match (self, lowering) {
            (Form::Nests(cut), Lowering::Nests(nests)) => cut == nests,
            (Form::Contraction(cut), Lowering::Contraction(contraction)) => cut == contraction,
            (Form::Lines(cut), Lowering::Lines(lines)) => cut == lines,
            _ => false,
        }
    }
}

/// Tensors that a form reads, and into how many parts they are cut.
#[derive(Clone)]
pub(super) struct Cutter<'a> {
    /// Shape of each operand, then of each result made so far.
    pub shapes: Vec<&'a [usize]>,
    /// What each of them is.
    pub flows: Vec<Flow>,
    /// Number of parts.
    pub parts: usize,
    /// An axis of the result that is to be cut, whether or not what is read is.
    pub axis: Option<usize>,
}

impl<'a> Cutter<'a> {
    /// The form on a part of the batch; `None` where parts mix.
    pub fn cut(mut self, lowering: &Lowering, results: &'a [Vec<usize>]) -> Option<CutForm> {
        let operands = self.shapes.len();
        let form = match lowering {
            Lowering::Nests(nests) => {
                let cut = nests.iter().zip(results).map(|(nest, result)| {
                    let (nest, flow) = self.nest(nest)?;
                    self.shapes.push(result);
                    self.flows.push(flow);
                    Some(nest)
                });
                Form::Nests(cut.collect::<Option<_>>()?)
            }
            Lowering::Contraction(contraction) => {
                let (contraction, flow) = self.contraction(contraction, &results[0])?;
                self.flows.push(flow);
                Form::Contraction(contraction)
            }
            Lowering::Lines(lines) => {
                let (lines, flow) = self.lines(lines)?;
                self.flows.extend(results.iter().map(|_| flow));
                Form::Lines(lines)
            }
            _ => return None,
        };
        let results = self.flows.split_off(operands);
        Some(CutForm { form, operands: self.flows, results })
    }

    fn nest(&mut self, nest: &Nest) -> Option<(Nest, Flow)> {
        let accesses: Vec<&Access> = nest.body.scalars.iter().filter_map(|(s, _)| read(s)).collect();
        if self.reads_sums(&accesses) {
            let sums = |access: &Access| self.flows[access.operand] == Flow::Sum;
            return is_linear(nest, &sums).then(|| (nest.clone(), Flow::Sum));
        }
        let uses = |d: usize| nest.body.scalars.iter().any(|(s, _)| *s == Scalar::LoopIndex(d));
        let adds = nest.combine == Some(Combine::Sum);
        let (d, views) =
            self.find(&nest.space, &nest.reduce, &accesses, |d, reduced| !uses(d) && (adds || !reduced))?;
        let mut cut = nest.clone();
        let loads =
            cut.body.scalars.iter_mut().filter_map(|(s, _)| if let Scalar::Load(a) = s { Some(a) } else { None });
        loads.zip(views).for_each(|(access, view)| access.view = view);
        shorten(&mut cut.space, &mut cut.reduce, d, self.parts);
        Some((cut, if d < nest.space.len() { Flow::Block(d) } else { Flow::Sum }))
    }

    fn contraction(&mut self, contraction: &Contraction, result: &[usize]) -> Option<(Contraction, Flow)> {
        let Contraction { space, reduce, lhs, rhs, .. } = contraction;
        if self.reads_sums(&[lhs, rhs]) {
            let sums = [lhs, rhs].into_iter().filter(|access| self.flows[access.operand] == Flow::Sum).count();
            return (sums == 1).then(|| (contraction.clone(), Flow::Sum));
        }
        let (d, views) = self.find(space, reduce, &[lhs, rhs], |_, _| true)?;
        let mut cut = contraction.clone();
        [&mut cut.lhs, &mut cut.rhs].into_iter().zip(views).for_each(|(access, view)| access.view = view);
        shorten(&mut cut.space, &mut cut.reduce, d, self.parts);
        let flow = if d < space.len() { Flow::Block(same_axis(space, d, result, self.parts)?) } else { Flow::Sum };
        Some((cut, flow))
    }

    /// Lines are cut between them.
    fn lines(&mut self, lines: &Lines) -> Option<(Lines, Flow)> {
        let cut_by_operand = match self.flows[0] {
            Flow::Block(axis) => Some(axis),
            Flow::Whole => self.axis,
            Flow::Sum => None,
        };
        let axis =
            cut_by_operand.filter(|axis| *axis != lines.axis && self.axis.is_none_or(|wanted| wanted == *axis))?;
        let mut cut = lines.clone();
        cut.shape[axis] = lines.shape[axis].is_multiple_of(self.parts).then(|| lines.shape[axis] / self.parts)?;
        self.flows[0] = Flow::Block(axis);
        Some((cut, Flow::Block(axis)))
    }

    /// Whether a sum over parts is read, and nothing else that goes with the part.
    fn reads_sums(&self, accesses: &[&Access]) -> bool {
        let mut flows = accesses.iter().map(|access| self.flows[access.operand]);
        flows.clone().any(|flow| flow == Flow::Sum) && flows.all(|flow| !matches!(flow, Flow::Block(_)))
    }

    /// A loop that can be cut, and the views of the accesses then; notes which operands have to be blocks.
    fn find(
        &mut self,
        space: &[usize],
        reduce: &[usize],
        accesses: &[&Access],
        allowed: impl Fn(usize, bool) -> bool,
    ) -> Option<(usize, Vec<Vec<usize>>)> {
        let extents = [space, reduce].concat();
        let wanted = |d: usize| self.axis.is_none_or(|axis| axis == d);
        let loops = (0..extents.len()).filter(|&d| wanted(d) && allowed(d, d >= space.len()));
        let is_whole = |d: &usize| extents[*d].is_multiple_of(self.parts) && extents[*d] > 0;
        let found = loops.filter(is_whole).find_map(|d| Some((d, self.views(accesses, d, &extents)?)));
        let (d, (flows, views)) = found?;
        self.flows = flows;
        Some((d, views))
    }

    /// What operands have to be, and the views of the accesses, where loop `d` is cut.
    fn views(&self, accesses: &[&Access], d: usize, extents: &[usize]) -> Option<(Vec<Flow>, Vec<Vec<usize>>)> {
        let (mut flows, mut views) = (self.flows.clone(), vec![]);
        let mut reads_block = self.axis.is_some();
        for access in accesses {
            let (flow, shape) = (self.flows[access.operand], self.shapes[access.operand]);
            let mut view = access.view.clone();
            let cut = match flow {
                Flow::Sum => return None,
                Flow::Block(axis) => Some(same_axis(shape, axis, &access.view, self.parts)?),
                Flow::Whole if is_free_of(access, d) => None,
                Flow::Whole => Some((0..view.len()).find(|&v| self.stays_in_block(access, v, d, extents))?),
            };
            if let Some(axis) = cut {
                if !self.stays_in_block(access, axis, d, extents) {
                    return None;
                }
                reads_block |= flow != Flow::Whole;
                flows[access.operand] = Flow::Block(same_axis(&access.view, axis, shape, self.parts)?);
                view[axis] /= self.parts;
            }
            views.push(view);
        }
        // One operand is read as a block everywhere or nowhere.
        let agree = accesses
            .iter()
            .zip(&views)
            .all(|(access, view)| (flows[access.operand] == Flow::Whole) == (access.view == *view));
        (reads_block && agree).then_some((flows, views))
    }

    /// Whether, with loop `d` cut, every step of a block reads axis `axis` of the view in the block of the same number,
    /// and the same there as the steps of every other block.
    fn stays_in_block(&self, access: &Access, axis: usize, d: usize, extents: &[usize]) -> bool {
        let others_free = (0..access.indices.len()).all(|v| v == axis || access.indices[v].affine.coeffs[d] == 0);
        let index = &access.indices[axis];
        let (steps, block) = (extents[d] / self.parts, access.view[axis] / self.parts);
        let whole = access.view[axis].is_multiple_of(self.parts) && index.divisor == 1 && index.loaded.is_none();
        if !others_free || !whole || index.affine.coeffs[d] * steps as i64 != block as i64 || block == 0 {
            return false;
        }
        let mut within = extents.to_vec();
        within[d] = steps;
        let (low, high) = range(&index.affine, &within);
        low >= 0 && high < block as i64
    }
}

fn read(scalar: &Scalar) -> Option<&Access> {
    if let Scalar::Load(access) = scalar { Some(access) } else { None }
}

/// Whether an access reads the same in every step of a loop.
fn is_free_of(access: &Access, d: usize) -> bool {
    access.indices.iter().all(|index| index.affine.coeffs[d] == 0)
}

/// Smallest and largest value over the loops of some extents, none of which is 0.
fn range(affine: &Affine, extents: &[usize]) -> (i64, i64) {
    let spans = affine.coeffs.iter().zip(extents).map(|(&c, &n)| c * (n as i64 - 1));
    spans.fold((affine.base, affine.base), |(low, high), span| (low + span.min(0), high + span.max(0)))
}

fn shorten(space: &mut [usize], reduce: &mut [usize], d: usize, parts: usize) {
    match d.checked_sub(space.len()) {
        None => space[d] /= parts,
        Some(k) => reduce[k] /= parts,
    }
}

/// The axis of a view whose blocks hold what the blocks of an axis of a shape hold.
fn same_axis(shape: &[usize], axis: usize, view: &[usize], parts: usize) -> Option<usize> {
    if shape == view {
        return Some(axis);
    }
    let before = |shape: &[usize], axis: usize| shape[..axis].iter().product::<usize>();
    let is_cut = |v: &usize| before(view, *v) == before(shape, axis) && view[*v].is_multiple_of(parts) && view[*v] > 1;
    (0..view.len()).find(is_cut)
}
