//! Loops cut where a comparison of a loop index with a constant changes its answer.
//!
//! A concatenation, and whatever was fused with it, asks at every point which part it is in. In a box of points where
//! all answers are known, nothing is asked: the other parts are not read, and the guards of this one hold.

use super::plan::range;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, CompareFn, Scalar, ScalarId};
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

impl Piece {
    /// A kernel in one piece.
    pub fn whole(kernel: &LoopKernel) -> Piece {
        Piece { kernel: kernel.clone(), result: result_offset(&kernel.space, &vec![0; kernel.space.len()]) }
    }
}

/// Where point `i` of a box that starts at `start` is in a dense result of extents `space`.
fn result_offset(space: &[usize], start: &[usize]) -> Affine {
    let coeffs: Vec<i64> = row_major_strides(space).into_iter().map(|s| s as i64).collect();
    let base = coeffs.iter().zip(start).map(|(&c, &s)| c * s as i64).sum();
    Affine { base, coeffs }
}

/// The pieces of a kernel: one where nothing is to be gained.
pub(crate) fn pieces(kernel: &LoopKernel) -> Vec<Piece> {
    let cuts: Vec<Vec<usize>> = cuts(kernel);
    let count = cuts.iter().map(|c| c.len() - 1).product::<usize>();
    if kernel.accumulate.is_some() || !(2..=MOST_PIECES).contains(&count) {
        return vec![Piece::whole(kernel)];
    }
    let mut boxes: Vec<Vec<(usize, usize)>> = vec![vec![]];
    for ends in &cuts {
        let parts = ends.windows(2).map(|w| (w[0], w[1]));
        boxes = boxes.iter().flat_map(|b| parts.clone().map(|p| [&b[..], &[p]].concat())).collect();
    }
    boxes.iter().map(|part| piece(kernel, part)).collect()
}

fn piece(kernel: &LoopKernel, part: &[(usize, usize)]) -> Piece {
    let start: Vec<usize> = part.iter().map(|p| p.0).collect();
    let space: Vec<usize> = part.iter().map(|p| p.1 - p.0).collect();
    let mut known = Known::new(&kernel.body, &start, &space);
    let stores = kernel.stores.iter().map(|&id| known.make(id)).collect();
    let result = result_offset(&kernel.space, &start);
    let body = known.body;
    Piece { kernel: LoopKernel { space, accumulate: None, body, stores }, result }
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

/// The body of a box, made of what its stores need.
struct Known<'a> {
    from: &'a Body,
    start: &'a [usize],
    space: &'a [usize],
    body: Body,
    made: HashMap<ScalarId, ScalarId>,
}

impl<'a> Known<'a> {
    fn new(from: &'a Body, start: &'a [usize], space: &'a [usize]) -> Self {
        Known { from, start, space, body: Body::default(), made: HashMap::new() }
    }

    fn make(&mut self, id: ScalarId) -> ScalarId {
        if let Some(&made) = self.made.get(&id) {
            return made;
        }
        let (scalar, dtype) = self.from.scalars[id.0 as usize].clone();
        let made = self.build(scalar, dtype);
        self.made.insert(id, made);
        made
    }

    fn build(&mut self, scalar: Scalar, dtype: DType) -> ScalarId {
        let next = match scalar {
            Scalar::LoopIndex(dim) => return self.index(dim),
            Scalar::Load(access) => self.load(access),
            Scalar::Compare(f, a, b) => match self.answer(f, a, b) {
                Some(answer) => Scalar::Const(f64::from(u8::from(answer)).into()),
                None => Scalar::Compare(f, self.make(a), self.make(b)),
            },
            Scalar::Select(c, a, b) => match self.truth(c) {
                Some(answer) => return self.make(if answer { a } else { b }),
                None => Scalar::Select(self.make(c), self.make(a), self.make(b)),
            },
            Scalar::Unary(f, a) => Scalar::Unary(f, self.make(a)),
            Scalar::Binary(f, a, b) => Scalar::Binary(f, self.make(a), self.make(b)),
            Scalar::Cast(a) => Scalar::Cast(self.make(a)),
            Scalar::Const(_) | Scalar::Accumulated => scalar,
        };
        self.body.push(next, dtype)
    }

    fn index(&mut self, dim: usize) -> ScalarId {
        let index = self.body.push(Scalar::LoopIndex(dim), DType::I64);
        if self.start[dim] == 0 {
            return index;
        }
        let start = self.body.constant(DType::I64, self.start[dim] as f64);
        self.body.binary(BinaryFn::Add, index, start)
    }

    fn truth(&self, condition: ScalarId) -> Option<bool> {
        match self.from.scalars[condition.0 as usize].0 {
            Scalar::Compare(f, a, b) => self.answer(f, a, b),
            _ => None,
        }
    }

    /// The answer to a comparison that is the same for all points of the box.
    fn answer(&self, f: CompareFn, a: ScalarId, b: ScalarId) -> Option<bool> {
        let (dim, first) = boundary(self.from, &Scalar::Compare(f, a, b))?;
        let (low, end) = (self.start[dim] as i64, (self.start[dim] + self.space[dim]) as i64);
        let below = matches!(f, CompareFn::Lt | CompareFn::Le);
        if end <= first {
            Some(below)
        } else if low >= first {
            Some(!below)
        } else {
            None
        }
    }

    /// The access from the box's own indices; its fill where it is out of bounds throughout.
    fn load(&mut self, mut access: Access) -> Scalar {
        for index in &mut access.indices {
            let shift = |(&c, &s): (&i64, &usize)| c * s as i64;
            index.affine.base += index.affine.coeffs.iter().zip(self.start).map(shift).sum::<i64>();
            index.loaded = index.loaded.map(|id| self.make(id));
        }
        let outside = access.indices.iter().zip(&access.view).any(|(index, &extent)| {
            let (low, high) = range(&index.affine, self.space);
            index.loaded.is_none() && (high < 0 || low >= extent as i64 * index.divisor)
        });
        match access.fill {
            Some(fill) if outside => Scalar::Const(fill),
            _ => Scalar::Load(access),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::lower::Lowering;
    use gradc_ir::op::OpDef;
    use gradc_ir::ops::Concat;
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
    fn a_kernel_that_compares_nothing_stays_whole() {
        assert_eq!(pieces(&concatenation(&[4])).len(), 1);
    }
}
