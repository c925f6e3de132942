//! Maps that read a large operand against the order of their results, as the update of a convolution's weights reads a
//! gradient that is stored in the order in which it was multiplied.
//!
//! Point by point, each element of such an operand would bring a line of the cache that is gone before its next element is
//! asked for. So the loop along which that operand's elements are neighbours is cut into lines, of which each is read from
//! end to end in the innermost loop; the other operands, and the results, are as many streams.

use super::pieces::Piece;
use super::plan::LoadPlan;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, Body, Scalar};

/// Elements of a line.
const LINE: usize = 16;

/// Elements of an operand from which on lines do not wait in the second-level cache.
const LARGE: usize = 1 << 18;

/// Elements from one read to the next from which on these compete for few places in the caches. Closer lines do wait until
/// they are asked for again, which takes less time than as many streams.
const FAR: u64 = 512;

/// The kernel by lines of an operand that is read against the order of the results; `None` where there is none.
pub(super) fn by_lines(kernel: &LoopKernel) -> Option<Piece> {
    if kernel.accumulate.is_some() {
        return None;
    }
    let innermost = kernel.space.iter().rposition(|&extent| extent > 1)?;
    let dim = kernel.body.scalars.iter().find_map(|(scalar, _)| against(scalar, &kernel.space, innermost))?;
    let is_asked = |scalar: &Scalar| *scalar == Scalar::LoopIndex(dim);
    let divides = kernel.space[dim].is_multiple_of(LINE) && !kernel.body.scalars.iter().any(|(s, _)| is_asked(s));
    divides.then(|| cut(kernel, dim))
}

/// The loop along which a large operand is contiguous, if it is another one than the innermost, which leads far away.
fn against(scalar: &Scalar, space: &[usize], innermost: usize) -> Option<usize> {
    let Scalar::Load(access) = scalar else { return None };
    let load = LoadPlan::new(access, space);
    let is_large = access.view.iter().product::<usize>() >= LARGE && load.axes.is_empty();
    let leads_far = load.flat.coeffs[innermost].unsigned_abs() >= FAR;
    (is_large && leads_far).then(|| load.flat.coeffs.iter().position(|&step| step == 1))?
}

/// The loop in two: over lines where it was, and within each innermost.
fn cut(kernel: &LoopKernel, dim: usize) -> Piece {
    let whole = Piece::whole(kernel);
    let mut space = kernel.space.clone();
    space[dim] /= LINE;
    space.push(LINE);
    let rank = kernel.space.len();
    let load = |access: &Access| {
        let mut access = access.clone();
        access.indices.iter_mut().for_each(|index| index.affine = cut_affine(&index.affine, dim, rank));
        access
    };
    let scalars = kernel.body.scalars.iter().map(|(scalar, dtype)| match scalar {
        Scalar::Load(access) => (Scalar::Load(load(access)), *dtype),
        other => (other.clone(), *dtype),
    });
    let body = Body { scalars: scalars.collect() };
    let kernel = LoopKernel { space, accumulate: None, body, stores: kernel.stores.clone() };
    Piece { kernel, result: cut_affine(&whole.result, dim, rank) }
}

fn cut_affine(from: &Affine, dim: usize, rank: usize) -> Affine {
    let mut to = from.clone();
    to.coeffs.resize(rank + 1, 0);
    to.coeffs[rank] = to.coeffs[dim];
    to.coeffs[dim] *= LINE as i64;
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::types::DType;

    /// A copy of `[o, i]` from `[i, o]`.
    fn transposed(o: usize, i: usize) -> LoopKernel {
        let mut body = Body::default();
        let made = body.load(DType::F32, Access::new(0, &[i, o], vec![Affine::dim(2, 1), Affine::dim(2, 0)]));
        LoopKernel { space: vec![o, i], accumulate: None, body, stores: vec![made] }
    }

    #[test]
    fn large_operands_are_read_by_lines() {
        let piece = by_lines(&transposed(512, 1000)).expect("half a million elements");
        assert_eq!(piece.kernel.space, [32, 1000, 16]);
        assert_eq!(piece.result.coeffs, [16_000, 1, 1000]);
        let Scalar::Load(access) = &piece.kernel.body.scalars[0].0 else { panic!("a load") };
        assert_eq!(LoadPlan::new(access, &piece.kernel.space).flat.coeffs, [16, 512, 1]);
    }

    #[test]
    fn small_operands_close_lines_and_broken_ones_are_left() {
        assert!(by_lines(&transposed(512, 500)).is_none());
        assert!(by_lines(&transposed(256, 2000)).is_none());
        assert!(by_lines(&transposed(520, 1000)).is_none());
    }
}
