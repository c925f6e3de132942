//! `reverse`: axes run backwards.

use super::structural::ascending_axes_of;
use crate::lower::{Access, Affine, Lowering, Nest};
use crate::op::{arity, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

op_struct! {
    /// `y[i] = x[j]` with `j = n − 1 − i` along `axes` (ascending) and `j = i` along the others.
    pub struct Reverse = "reverse" {
        /// Axes that run backwards.
        axes: Vec<usize>,
    }
}

impl OpDef for Reverse {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        ascending_axes_of(x, &self.axes)?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |b| b.reverse(g, &self.axes))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = &inputs[0].ty;
        let strides = row_major_strides(&ty.shape);
        let flip = |k: usize, d: usize| {
            let i = k / strides[d] % ty.shape[d];
            if self.axes.contains(&d) { ty.shape[d] - 1 - i } else { i }
        };
        let source = |k: usize| (0..ty.rank()).map(|d| flip(k, d) * strides[d]).sum();
        Ok(vec![inputs[0].gather_flat(ty.clone(), source)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let (x, rank) = (inputs[0], inputs[0].rank());
        let along = |d: usize| match self.axes.contains(&d) {
            true => Affine::constant(rank, x.shape[d] as i64 - 1).plus(d, -1),
            false => Affine::dim(rank, d),
        };
        let access = Access::new(0, &x.shape, (0..rank).map(along).collect());
        Lowering::Nests(vec![Nest::map(&x.shape, |body| body.load(x.dtype, access))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let over = |axes: &[usize]| Sample::new(Reverse { axes: axes.to_vec() });
        vec![
            over(&[0]).float(&[5], -1.0..1.0),
            over(&[0, 2]).float(&[2, 3, 4], -1.0..1.0),
            over(&[1]).other(DType::I64, &[2, 3], -9.0..9.0),
        ]
    }
}
