//! `transpose`: permutation of axes.

use crate::lower::{Access, Affine, Lowering, Nest};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError, row_major_strides};

op_struct! {
    /// Axis `k` of the result is axis `perm[k]` of the operand.
    pub struct Transpose = "transpose" {
        /// A permutation of the axes.
        perm: Vec<usize>,
    }
}

impl Transpose {
    /// The permutation that undoes this one.
    pub fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.perm.len()];
        self.perm.iter().enumerate().for_each(|(k, &p)| inverse[p] = k);
        inverse
    }
}

impl OpDef for Transpose {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        let axes: Vec<usize> = (0..x.rank()).collect();
        require(sorted == axes, "`perm` must be a permutation of the operand's axes", format!("{axes:?}"), format!("{:?}", self.perm))?;
        Ok(vec![x.with_shape(self.perm.iter().map(|&p| x.shape[p]).collect::<Vec<_>>())])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |b| b.transpose(g, &self.inverse()))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty])?.remove(0);
        let (from, to) = (row_major_strides(&inputs[0].ty.shape), row_major_strides(&ty.shape));
        let extents = ty.shape.clone();
        let source = |k: usize| self.perm.iter().enumerate().map(|(d, &p)| k / to[d] % extents[d] * from[p]).sum();
        Ok(vec![inputs[0].gather_flat(ty, source)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let rank = self.perm.len();
        let indices = self.inverse().into_iter().map(|d| Affine::dim(rank, d)).collect();
        let access = Access::new(0, &inputs[0].shape, indices);
        Lowering::Nests(vec![Nest::map(&outputs[0].shape, |body| body.load(inputs[0].dtype, access))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        vec![
            Sample::new(Transpose { perm: vec![1, 0] }).float(&[2, 3], -1.0..1.0),
            Sample::new(Transpose { perm: vec![2, 0, 1] }).float(&[2, 3, 4], -1.0..1.0),
        ]
    }
}
