//! Products without a sum, such as the gradient of a weight by one example: what follows them is done where they are made.

use gradc_ir::kernel::{Accumulate, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Contraction, Index, Scalar};
use gradc_ir::types::DType;

/// A kernel of f32 products of which none are added, as one that multiplies at each point; `None` for other kernels.
pub(crate) fn multiplied_at_each_point(kernel: &LoopKernel, operands: &[DType]) -> Option<LoopKernel> {
    let Some(Accumulate::Contract(c)) = &kernel.accumulate else { return None };
    if c.reduce.iter().any(|&extent| extent != 1) || operands[c.lhs.operand] != DType::F32 {
        return None;
    }
    let mut body = Body::default();
    let [left, right] = [&c.lhs, &c.rhs].map(|factor| body.load(DType::F32, at_points(factor, c)));
    let product = body.binary(BinaryFn::Mul, left, right);
    // Sums start from zero, which makes a difference to the sign of zeros.
    let zero = body.constant(DType::F32, 0.0);
    let sum = body.binary(BinaryFn::Add, zero, product);
    let mut names = vec![];
    for (scalar, dtype) in &kernel.body.scalars {
        names.push(match scalar {
            Scalar::Accumulated(_) => sum,
            scalar => body.push(scalar.renamed(&names), *dtype),
        });
    }
    let stores = kernel.stores.iter().map(|store| names[store.0 as usize]).collect();
    Some(LoopKernel { accumulate: None, body, stores, ..kernel.clone() })
}

/// An access by the loops of the space alone: the others make one step.
fn at_points(access: &Access, contraction: &Contraction) -> Access {
    let rank = contraction.space.len();
    let of_space = |affine: &Affine| Affine { coeffs: affine.coeffs[..rank].to_vec(), ..affine.clone() };
    let indices = access.indices.iter().map(|index| Index { affine: of_space(&index.affine), ..index.clone() });
    Access { indices: indices.collect(), ..access.clone() }
}
