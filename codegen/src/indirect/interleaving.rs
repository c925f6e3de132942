//! A copy of a windowed factor in which the same element of several images are neighbours: images meet the same runs of
//! depth, so that vectors of them compute nothing that a guard excludes.

use super::factor::FactorCopy;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, Body, Contraction, Index};
use gradc_ir::types::DType;

/// A contraction on a copy of a factor, with the loop over its images in two: over groups, and over those of a group.
pub(super) struct Interleaved {
    /// The contraction.
    pub contraction: Contraction,
    /// The copy.
    pub copy: FactorCopy,
    /// The loop over groups; that over the images of a group comes next.
    pub groups: usize,
}

/// The contraction on a copy of its factor number `factor`, which becomes operand `copy`, in groups of `lanes` images;
/// `None` unless the factor's outermost axis are images of its own that come in such groups.
pub(super) fn interleaved(contraction: &Contraction, factor: usize, copy: usize, lanes: usize) -> Option<Interleaved> {
    let factors = [&contraction.lhs, &contraction.rhs];
    let (axis, images) = images_of(factors[factor], factors[1 - factor], &contraction.space)?;
    if !contraction.space[images].is_multiple_of(lanes) {
        return None;
    }
    let made = copy_in_groups(factors[factor], contraction.space[images], lanes);
    let mut split = contraction.clone();
    split.space[images] /= lanes;
    split.space.insert(images + 1, lanes);
    let rank = split.space.len() + split.reduce.len();
    for index in split.lhs.indices.iter_mut().chain(&mut split.rhs.indices) {
        split_loop(&mut index.affine, images, lanes);
    }
    let of_copy = if factor == 0 { &mut split.lhs } else { &mut split.rhs };
    of_copy.operand = copy;
    of_copy.view[axis] /= lanes;
    of_copy.view.push(lanes);
    of_copy.indices[axis] = Affine::dim(rank, images).into();
    of_copy.indices.push(Affine::dim(rank, images + 1).into());
    Some(Interleaved { contraction: split, copy: made, groups: images })
}

/// The outermost axis of a factor and the loop of the space that it is: all of it, moved by nothing else, and the loop
/// moves neither another axis nor the other factor.
fn images_of(factor: &Access, other: &Access, space: &[usize]) -> Option<(usize, usize)> {
    let axis = factor.view.iter().position(|&extent| extent > 1)?;
    let moves = |index: &Index, d: usize| index.affine.coeffs[d] != 0;
    let outermost = &factor.indices[axis];
    let images = (0..space.len()).find(|&d| moves(outermost, d))?;
    let rank = outermost.affine.coeffs.len();
    let is_whole = *outermost == Index::from(Affine::dim(rank, images)) && factor.view[axis] == space[images];
    let (before, after) = (&factor.indices[..axis], &factor.indices[axis + 1..]);
    let others = before.iter().chain(after).chain(&other.indices);
    let alone = !others.into_iter().any(|index| moves(index, images));
    (is_whole && alone).then_some((axis, images))
}

/// A kernel that puts the elements of each group of images side by side.
fn copy_in_groups(factor: &Access, images: usize, lanes: usize) -> FactorCopy {
    let elements = factor.view.iter().product::<usize>() / images;
    let image = Affine { base: 0, coeffs: vec![lanes as i64, 0, 1] };
    let indices = vec![image, Affine::dim(3, 1)];
    let mut body = Body::default();
    let value = body.load(DType::F32, Access::new(factor.operand, &[images, elements], indices));
    let space = vec![images / lanes, elements, lanes];
    FactorCopy { kernel: LoopKernel { space, accumulate: None, body, stores: vec![value] } }
}

/// An affine whose loop `dim` is two, the inner one of `inner` steps.
fn split_loop(affine: &mut Affine, dim: usize, inner: usize) {
    let coeff = affine.coeffs[dim];
    affine.coeffs[dim] = coeff * inner as i64;
    affine.coeffs.insert(dim + 1, coeff);
}
