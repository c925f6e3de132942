//! `slice`: a strided box cut out of a tensor.

use crate::lower::{Access, Affine, Lowering, Nest};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError, row_major_strides};

op_struct! {
    /// `y[i] = x[start + i · stride]` as long as the index is below `limit`; one entry per axis. Source: XLA `Slice`.
    pub struct Slice = "slice" {
        /// First index taken.
        start: Vec<usize>,
        /// End of the indices taken, exclusive.
        limit: Vec<usize>,
        /// Distance of the indices taken, from 1 to the extent.
        stride: Vec<usize>,
    }
}

impl Slice {
    fn extents(&self) -> Vec<usize> {
        (0..self.start.len()).map(|d| (self.limit[d] - self.start[d]).div_ceil(self.stride[d])).collect()
    }
}

impl OpDef for Slice {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        let lengths = [self.start.len(), self.limit.len(), self.stride.len()];
        require(lengths == [x.rank(); 3], "attributes need one entry per axis", x.rank(), format!("{lengths:?}"))?;
        let inside = (0..x.rank()).all(|d| self.start[d] <= self.limit[d] && self.limit[d] <= x.shape[d]);
        let found = || format!("{:?}..{:?}", self.start, self.limit);
        require(inside, "the slice must lie inside the operand", format!("start ≤ limit ≤ {:?}", x.shape), found())?;
        let steps = (0..x.rank()).all(|d| (1..=x.shape[d].max(1)).contains(&self.stride[d]));
        require(steps, "strides must stay inside the operand", format!("1 to {:?}", x.shape), format!("{:?}", self.stride))?;
        Ok(vec![x.with_shape(self.extents())])
    }

    /// Pads what was cut off with zeros.
    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, shape) = (cx.grad(), cx.builder.shape(cx.inputs[0]).to_vec());
        let interior: Vec<usize> = self.stride.iter().map(|s| s - 1).collect();
        let spanned = |d: usize| self.extents()[d].checked_sub(1).map_or(0, |last| last * self.stride[d] + 1);
        let high: Vec<usize> = (0..shape.len()).map(|d| shape[d] - self.start[d] - spanned(d)).collect();
        Ok(vec![cx.flow(0, |b| b.pad(g, &self.start, &high, &interior, 0.0))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let extents = self.extents();
        let (from, to) = (row_major_strides(&x.ty.shape), row_major_strides(&extents));
        let along = |k: usize, d: usize| self.start[d] + k / to[d] % extents[d] * self.stride[d];
        let source = |k: usize| (0..from.len()).map(|d| along(k, d) * from[d]).sum();
        Ok(vec![x.gather_flat(x.ty.with_shape(extents.clone()), source)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let rank = self.start.len();
        let along = |d: usize| Affine::constant(rank, self.start[d] as i64).plus(d, self.stride[d] as i64);
        let access = Access::new(0, &inputs[0].shape, (0..rank).map(along).collect());
        Lowering::Nests(vec![Nest::map(&outputs[0].shape, |body| body.load(inputs[0].dtype, access))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let cut = |start: &[usize], limit: &[usize], stride: &[usize]| {
            Sample::new(Slice { start: start.to_vec(), limit: limit.to_vec(), stride: stride.to_vec() })
        };
        vec![
            cut(&[1, 0], &[3, 5], &[1, 1]).float(&[4, 5], -1.0..1.0),
            cut(&[0, 1], &[4, 6], &[3, 2]).float(&[4, 7], -1.0..1.0),
            cut(&[2], &[2], &[1]).float(&[4], -1.0..1.0),
        ]
    }
}
