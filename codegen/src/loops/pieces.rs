//! Loops cut where what a kernel asks at every point changes its answer: where a comparison of a loop index with a
//! constant does, and by the remainder where an index is divided.
//!
//! A concatenation, and whatever was fused with it, asks at every point which part it is in, and the adjoint of a strided
//! window which taps meet the point. In a box of points, or in every second point of one, where all answers are known,
//! nothing is asked: the other parts are not read, nothing is divided, and the guards of this one hold.

use super::lines::by_lines;
use super::plan::range;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, CompareFn, Index, Scalar, ScalarId};
use gradc_ir::types::{DType, row_major_strides};
use std::collections::{BTreeSet, HashMap};

/// Most boxes a kernel is cut into.
const MOST_PIECES: usize = 64;

/// A part of a kernel's points, as a kernel of its own.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The kernel, its space being the box.
    pub kernel: LoopKernel,
    /// Offset of a point's results in elements.
    pub result: Affine,
}

/// Some indices of a loop: `count` from `start` on, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: usize,
    step: usize,
    count: usize,
}

impl Part {
    /// One more than the last index.
    fn end(self) -> usize {
        self.start + self.count.saturating_sub(1) * self.step + usize::from(self.count > 0)
    }
}

impl Piece {
    /// A kernel in one piece.
    pub fn whole(kernel: &LoopKernel) -> Piece {
        let whole: Vec<Part> = kernel.space.iter().map(|&count| Part { start: 0, step: 1, count }).collect();
        Piece { kernel: kernel.clone(), result: result_offset(&kernel.space, &whole) }
    }
}

/// Where the points of a box are in a dense result of extents `space`.
fn result_offset(space: &[usize], parts: &[Part]) -> Affine {
    let strides = row_major_strides(space);
    let coeffs = strides.iter().zip(parts).map(|(&s, p)| (s * p.step) as i64).collect();
    let base = strides.iter().zip(parts).map(|(&s, p)| (s * p.start) as i64).sum();
    Affine { base, coeffs }
}

/// The pieces of a kernel: one where nothing is to be gained.
pub(crate) fn pieces(kernel: &LoopKernel) -> Vec<Piece> {
    let parts: Vec<Vec<Part>> = parts(kernel);
    let count = parts.iter().map(Vec::len).product::<usize>();
    if kernel.accumulate.is_some() || !(2..=MOST_PIECES).contains(&count) {
        return vec![by_lines(kernel).unwrap_or_else(|| Piece::whole(kernel))];
    }
    let mut boxes: Vec<Vec<Part>> = vec![vec![]];
    for of_loop in &parts {
        boxes = boxes.iter().flat_map(|b| of_loop.iter().map(move |&part| [&b[..], &[part]].concat())).collect();
    }
    boxes.iter().map(|parts| piece(kernel, parts)).collect()
}

fn piece(kernel: &LoopKernel, parts: &[Part]) -> Piece {
    let mut known = Known::new(&kernel.body, parts);
    let stores = kernel.stores.iter().map(|&id| known.place(id)).collect();
    let (result, space, body) = (result_offset(&kernel.space, parts), known.space, known.body);
    Piece { kernel: LoopKernel { space, accumulate: None, body, stores }, result }
}

/// Per loop the parts it is cut into: between its cuts, one for each remainder.
fn parts(kernel: &LoopKernel) -> Vec<Vec<Part>> {
    let of_loop = |(dim, ends): (usize, Vec<usize>)| {
        let step = remainders(kernel, dim);
        let starts = ends.windows(2).flat_map(|w| (w[0]..w[1].min(w[0] + step)).map(|start| (start, w[1])));
        starts.map(|(start, end)| Part { start, step, count: (end - start).div_ceil(step) }).collect()
    };
    cuts(kernel).into_iter().enumerate().map(of_loop).collect()
}

/// How many remainders an index of the loop has where it is divided.
fn remainders(kernel: &LoopKernel, dim: usize) -> usize {
    let indices = kernel.body.scalars.iter().flat_map(|(scalar, _)| match scalar {
        Scalar::Load(access) => &access.indices[..],
        _ => &[],
    });
    let moving = |index: &&Index| index.affine.coeffs.get(dim).is_some_and(|c| c % index.divisor != 0);
    indices.filter(moving).map(|index| index.divisor.unsigned_abs() as usize).max().unwrap_or(1)
}

/// Per loop its ends and where it is cut, ascending.
fn cuts(kernel: &LoopKernel) -> Vec<Vec<usize>> {
    let mut cuts: Vec<BTreeSet<usize>> = kernel.space.iter().map(|&n| BTreeSet::from([0, n])).collect();
    for (scalar, _) in &kernel.body.scalars {
        let Some((dim, at)) = boundary(&kernel.body, scalar) else { continue };
        if let Ok(at) = usize::try_from(at)
            && at < kernel.space[dim]
        {
            cuts[dim].insert(at);
        }
    }
    let ends =
        |(set, &extent): (BTreeSet<usize>, &usize)| if extent == 0 { vec![0, 0] } else { set.into_iter().collect() };
    cuts.into_iter().zip(&kernel.space).map(ends).collect()
}

/// The loop and the first index at which a comparison changes its answer.
fn boundary(body: &Body, scalar: &Scalar) -> Option<(usize, i64)> {
    let &Scalar::Compare(f, a, b) = scalar else { return None };
    let of = |id: ScalarId| &body.scalars[id.0 as usize].0;
    let (Scalar::LoopIndex(dim), Scalar::Const(bound)) = (of(a), of(b)) else { return None };
    let bound = bound.get() as i64;
    match f {
        CompareFn::Lt | CompareFn::Ge => Some((*dim, bound)),
        CompareFn::Le | CompareFn::Gt => Some((*dim, bound + 1)),
        CompareFn::Eq | CompareFn::Ne => None,
    }
}

/// A scalar of the kernel in a box.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Made {
    /// The same at all points, not computed.
    Constant(f64),
    /// A scalar of the box.
    Scalar(ScalarId),
}

/// The body of a box, made of what its stores need.
struct Known<'a> {
    from: &'a Body,
    parts: &'a [Part],
    /// Extents of the box.
    space: Vec<usize>,
    body: Body,
    made: HashMap<ScalarId, Made>,
}

impl<'a> Known<'a> {
    fn new(from: &'a Body, parts: &'a [Part]) -> Self {
        let space = parts.iter().map(|p| p.count).collect();
        Known { from, parts, space, body: Body::default(), made: HashMap::new() }
    }

    fn make(&mut self, id: ScalarId) -> Made {
        if let Some(&made) = self.made.get(&id) {
            return made;
        }
        let (scalar, dtype) = self.from.scalars[id.0 as usize].clone();
        let made = self.build(scalar, dtype);
        self.made.insert(id, made);
        made
    }

    /// As a scalar of the box, whatever it is.
    fn place(&mut self, id: ScalarId) -> ScalarId {
        match self.make(id) {
            Made::Constant(value) => self.body.constant(self.from.dtype(id), value),
            Made::Scalar(scalar) => scalar,
        }
    }

    fn build(&mut self, scalar: Scalar, dtype: DType) -> Made {
        let next = match scalar {
            Scalar::Const(value) => return Made::Constant(value.get()),
            Scalar::LoopIndex(dim) => return Made::Scalar(self.index(dim)),
            Scalar::Load(access) => match self.load(access) {
                Ok(access) => Scalar::Load(access),
                Err(fill) => return Made::Constant(fill),
            },
            Scalar::Compare(f, a, b) => match self.answer(f, a, b) {
                Some(answer) => return Made::Constant(f64::from(u8::from(answer))),
                None => Scalar::Compare(f, self.place(a), self.place(b)),
            },
            Scalar::Select(c, a, b) => match self.make(c) {
                Made::Constant(answer) => return self.make(if answer != 0.0 { a } else { b }),
                Made::Scalar(c) => Scalar::Select(c, self.place(a), self.place(b)),
            },
            Scalar::Binary(f @ (BinaryFn::And | BinaryFn::Or), a, b) if dtype == DType::Bool => {
                return self.logic(f, a, b);
            }
            Scalar::Unary(f, a) => Scalar::Unary(f, self.place(a)),
            Scalar::Binary(f, a, b) => Scalar::Binary(f, self.place(a), self.place(b)),
            Scalar::Cast(a) => Scalar::Cast(self.place(a)),
            Scalar::Accumulated(_) => scalar,
        };
        Made::Scalar(self.body.push(next, dtype))
    }

    fn index(&mut self, dim: usize) -> ScalarId {
        let Part { start, step, .. } = self.parts[dim];
        let mut index = self.body.push(Scalar::LoopIndex(dim), DType::I64);
        if step != 1 {
            let step = self.body.constant(DType::I64, step as f64);
            index = self.body.binary(BinaryFn::Mul, index, step);
        }
        if start != 0 {
            let start = self.body.constant(DType::I64, start as f64);
            index = self.body.binary(BinaryFn::Add, index, start);
        }
        index
    }

    /// `and` or `or` of booleans: the other side where one is known and does not decide.
    fn logic(&mut self, f: BinaryFn, a: ScalarId, b: ScalarId) -> Made {
        let sides = [self.make(a), self.make(b)];
        for (known, other) in [(sides[0], sides[1]), (sides[1], sides[0])] {
            if let Made::Constant(x) = known {
                return if (x != 0.0) == (f == BinaryFn::Or) { known } else { other };
            }
        }
        let (a, b) = (self.place(a), self.place(b));
        Made::Scalar(self.body.binary(f, a, b))
    }

    /// The answer to a comparison that is the same for all points of the box.
    fn answer(&mut self, f: CompareFn, a: ScalarId, b: ScalarId) -> Option<bool> {
        if let Some((dim, first)) = boundary(self.from, &Scalar::Compare(f, a, b)) {
            let (low, end) = (self.parts[dim].start as i64, self.parts[dim].end() as i64);
            let below = matches!(f, CompareFn::Lt | CompareFn::Le);
            return match (end <= first, low >= first) {
                (true, _) => Some(below),
                (_, true) => Some(!below),
                _ => None,
            };
        }
        // Integers only: constants of floats are rounded to their type when they are used.
        match (self.from.dtype(a).is_float(), self.make(a), self.make(b)) {
            (false, Made::Constant(x), Made::Constant(y)) => Some(holds(f, x, y)),
            _ => None,
        }
    }

    /// The access from the box's own indices; what fills it where it is out of bounds throughout.
    fn load(&mut self, mut access: Access) -> Result<Access, f64> {
        let mut outside = false;
        for (index, &extent) in access.indices.iter_mut().zip(&access.view) {
            index.affine = self.of_box(&index.affine);
            let remainder = divided(index);
            let (low, high) = range(&index.affine, &self.space);
            outside |= remainder == Remainder::Always
                || (index.loaded.is_none() && (high < 0 || low >= extent as i64 * index.divisor));
        }
        if let Some(fill) = access.fill.filter(|_| outside) {
            return Err(fill.get());
        }
        for index in &mut access.indices {
            index.loaded = index.loaded.map(|id| self.place(id));
        }
        Ok(access)
    }

    /// An affine function of the kernel's indices as one of the box's.
    fn of_box(&self, affine: &Affine) -> Affine {
        let part = |(&c, p): (&i64, &Part)| (c * p.step as i64, c * p.start as i64);
        let (coeffs, shifts): (Vec<i64>, Vec<i64>) = affine.coeffs.iter().zip(self.parts).map(part).unzip();
        Affine { base: affine.base + shifts.iter().sum::<i64>(), coeffs }
    }
}

/// At which points a division leaves a remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remainder {
    Never,
    Always,
    Sometimes,
}

/// Does the division of an index whose dividend has the same remainder everywhere.
fn divided(index: &mut Index) -> Remainder {
    let divisor = index.divisor;
    if index.affine.coeffs.iter().any(|c| c % divisor != 0) {
        return Remainder::Sometimes;
    }
    if index.affine.base % divisor != 0 {
        return Remainder::Always;
    }
    index.affine.base /= divisor;
    index.affine.coeffs.iter_mut().for_each(|c| *c /= divisor);
    index.divisor = 1;
    Remainder::Never
}

fn holds(f: CompareFn, x: f64, y: f64) -> bool {
    match f {
        CompareFn::Eq => x == y,
        CompareFn::Ne => x != y,
        CompareFn::Lt => x < y,
        CompareFn::Le => x <= y,
        CompareFn::Gt => x > y,
        CompareFn::Ge => x >= y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::lower::Lowering;
    use gradc_ir::op::OpDef;
    use gradc_ir::ops::{Concat, MaxPoolGrad};
    use gradc_ir::types::TensorType;

    fn concatenation(extents: &[usize]) -> LoopKernel {
        let inputs: Vec<TensorType> = extents.iter().map(|&n| TensorType::f32([2, n, 3])).collect();
        let inputs: Vec<&TensorType> = inputs.iter().collect();
        let op = Concat { axis: 1 };
        let outputs = op.infer(&inputs).expect("the operands fit");
        let Lowering::Nests(mut nests) = op.lower(&inputs, &outputs) else { panic!("a concatenation is a nest") };
        let nest = nests.remove(0);
        LoopKernel { space: nest.space, accumulate: None, body: nest.body, stores: vec![nest.result] }
    }

    #[test]
    fn a_concatenation_becomes_copies() {
        let pieces = pieces(&concatenation(&[4, 1, 5]));
        let spaces: Vec<&[usize]> = pieces.iter().map(|p| &p.kernel.space[..]).collect();
        assert_eq!(spaces, [[2, 4, 3], [2, 1, 3], [2, 5, 3]]);
        assert_eq!(pieces.iter().map(|p| p.result.base).collect::<Vec<_>>(), [0, 12, 15]);
        for piece in &pieces {
            assert!(matches!(&piece.kernel.body.scalars[..], [(Scalar::Load(_), DType::F32)]), "{piece:?}");
        }
    }

    #[test]
    fn the_adjoint_of_a_strided_window_divides_nothing() {
        let op = MaxPoolGrad {
            window: vec![2, 2],
            stride: vec![2, 2],
            pad_low: vec![0, 0],
            pad_high: vec![0, 0],
            dilation: vec![1, 1],
            input: vec![4, 7],
        };
        let inputs = [TensorType::new(DType::I32, [1, 5, 2, 3]), TensorType::f32([1, 5, 2, 3])];
        let outputs = op.infer(&inputs.each_ref()).expect("the operands fit");
        let Lowering::Nests(mut nests) = op.lower(&inputs.each_ref(), &outputs) else { panic!("an adjoint is a nest") };
        let nest = nests.remove(0);
        let kernel = LoopKernel { space: nest.space, accumulate: None, body: nest.body, stores: vec![nest.result] };
        let pieces = pieces(&kernel);
        let spaces: Vec<&[usize]> = pieces.iter().map(|p| &p.kernel.space[..]).collect();
        assert_eq!(spaces, [[1, 5, 2, 4], [1, 5, 2, 3], [1, 5, 2, 4], [1, 5, 2, 3]]);
        assert_eq!(pieces.iter().map(|p| p.result.base).collect::<Vec<_>>(), [0, 1, 7, 8]);
        for piece in &pieces {
            assert_eq!(piece.result.coeffs, [140, 28, 14, 2]);
            let reads = piece.kernel.body.scalars.iter().filter(|(s, _)| matches!(s, Scalar::Load(_)));
            assert_eq!(reads.count(), 2, "one tap meets each point: {piece:?}");
            let divides =
                |(s, _): &(Scalar, DType)| matches!(s, Scalar::Load(a) if a.indices.iter().any(|i| i.divisor != 1));
            assert!(!piece.kernel.body.scalars.iter().any(divides), "{piece:?}");
        }
    }

    #[test]
    fn a_kernel_that_compares_nothing_stays_whole() {
        assert_eq!(pieces(&concatenation(&[4])).len(), 1);
    }
}
