//! What follows the sums of a contraction, as a loop nest.

use crate::loops::stores_only_sums;
use gradc_ir::kernel::{Accumulate, LoopKernel};
use gradc_ir::lower::{Access, Affine, Body, Combine, Scalar};
use gradc_ir::types::DType;

/// The body of a contraction as a kernel that reads `partials` sums of every element, one result after the other, as
/// operand `sums`; `None` when there is one and the kernel only stores it.
pub(crate) fn finishing_kernel(kernel: &LoopKernel, sums: usize, partials: usize) -> Option<LoopKernel> {
    if partials > 1 {
        return Some(LoopKernel { accumulate: Some(sum_of_partials(&kernel.space, sums, partials)), ..kernel.clone() });
    }
    if stores_only_sums(kernel) {
        return None;
    }
    let mut body = kernel.body.clone();
    for (scalar, _) in &mut body.scalars {
        if matches!(scalar, Scalar::Accumulated(_)) {
            *scalar = Scalar::Load(Access::identity(sums, &kernel.space, kernel.space.len()));
        }
    }
    Some(LoopKernel { accumulate: None, body, ..kernel.clone() })
}

fn sum_of_partials(space: &[usize], sums: usize, partials: usize) -> Accumulate {
    let rank = space.len() + 1;
    let view = [&[partials], space].concat();
    let indices = std::iter::once(rank - 1).chain(0..rank - 1).map(|d| Affine::dim(rank, d)).collect();
    let mut body = Body::default();
    let value = body.load(DType::F32, Access::new(sums, &view, indices));
    Accumulate::Reduce { extents: vec![partials], combine: Combine::Sum, body, values: vec![value] }
}
