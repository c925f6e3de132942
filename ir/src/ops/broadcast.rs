//! `broadcast`: repetition along new axes.

use super::Op;
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{Access, Affine, Lowering, Nest};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError, row_major_strides};

op_struct! {
    /// `y[i] = x[i restricted to the axes in dims]`.
    ///
    /// `dims[k]` is the axis of the result that axis `k` of the operand becomes; ascending, extents equal.
    /// All other axes of the result repeat. Source: XLA `BroadcastInDim`, without its size-1 expansion.
    pub struct Broadcast = "broadcast" {
        /// Shape of the result.
        shape: Vec<usize>,
        /// Result axis of each operand axis.
        dims: Vec<usize>,
    }
}

impl Broadcast {
    /// Axes of the result that repeat.
    pub fn repeated_axes(&self) -> Vec<usize> {
        (0..self.shape.len()).filter(|d| !self.dims.contains(d)).collect()
    }

    /// `g` summed over the axes that repeat. A factor of `g` that repeats along these too is taken out of the sum, which
    /// then may be one that exists: the gradients of shift and of centre are the same sum but for the scale.
    fn sum_of_repeats(&self, b: &mut Builder, g: Value) -> Result<Value, TypeError> {
        let Some((term, factor, dims)) = self.repeated_factor(b, g) else {
            return b.reduce_sum(g, &self.repeated_axes());
        };
        let sum = self.sum_of_repeats(b, term)?;
        let shape = b.shape(sum).to_vec();
        let factor = b.broadcast(factor, &shape, &dims)?;
        b.mul(sum, factor)
    }

    /// `g` as a term times a smaller factor that is the same along the axes that repeat; with the factor come the
    /// operand's axes that are its own.
    fn repeated_factor(&self, b: &Builder, g: Value) -> Option<(Value, Value, Vec<usize>)> {
        let Some(Op::Mul(_)) = b.graph().op(g.node) else { return None };
        let &[left, right] = &b.graph().node(g.node).operands[..] else { return None };
        [(left, right), (right, left)].into_iter().find_map(|(term, factor)| {
            let Some(Op::Broadcast(repeat)) = b.graph().op(factor.node) else { return None };
            let axis = |d: &usize| self.dims.iter().position(|own| own == d);
            let dims = repeat.dims.iter().map(axis).collect::<Option<Vec<_>>>()?;
            Some((term, b.graph().node(factor.node).operands[0], dims))
        })
    }
}

impl OpDef for Broadcast {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        let ascending = self.dims.windows(2).all(|w| w[0] < w[1]) && self.dims.iter().all(|&d| d < self.shape.len());
        require(ascending, "`dims` must name axes of the result in ascending order", format!("axes of {:?}", self.shape), format!("{:?}", self.dims))?;
        let kept: Vec<usize> = self.dims.iter().map(|&d| self.shape[d]).collect();
        require(kept == x.shape, "the operand must have the extents of the axes it becomes", format!("{kept:?}"), x)?;
        Ok(vec![TensorType::checked(x.dtype, self.shape.clone())?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |b| self.sum_of_repeats(b, g))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let (from, to) = (row_major_strides(&x.ty.shape), row_major_strides(&self.shape));
        let source = |k: usize| self.dims.iter().zip(&from).map(|(&d, s)| k / to[d] % self.shape[d] * s).sum();
        Ok(vec![x.gather_flat(x.ty.with_shape(self.shape.clone()), source)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let indices = self.dims.iter().map(|&d| Affine::dim(self.shape.len(), d)).collect();
        let access = Access::new(0, &inputs[0].shape, indices);
        Lowering::Nests(vec![Nest::map(&self.shape, |body| body.load(inputs[0].dtype, access))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let to = |shape: &[usize], dims: &[usize]| Sample::new(Broadcast { shape: shape.to_vec(), dims: dims.to_vec() });
        vec![
            to(&[2, 3, 4], &[1]).float(&[3], -1.0..1.0),
            to(&[2, 3, 4], &[0, 2]).float(&[2, 4], -1.0..1.0),
            to(&[5], &[]).float(&[], -1.0..1.0),
        ]
    }
}
