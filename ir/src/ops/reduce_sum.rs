//! `reduce_sum`: sum over axes.

use super::reduction::{Fold, eval_reduction, infer_reduction, kept_axes, reduction_nest};
use crate::lower::{Combine, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = Σ x` over `axes` (ascending), which the result does not have. Integers wrap.
    pub struct ReduceSum = "reduce_sum" {
        /// Axes reduced over.
        axes: Vec<usize>,
    }
}

impl OpDef for ReduceSum {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_reduction(inputs, &self.axes)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, shape) = (cx.grad(), cx.builder.shape(cx.inputs[0]).to_vec());
        let kept = kept_axes(shape.len(), &self.axes);
        Ok(vec![cx.flow(0, |b| b.broadcast(g, &shape, &kept))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let float = Fold { start: 0.0, combine: |a, b| a + b };
        let int = Fold { start: 0, combine: i64::wrapping_add };
        eval_reduction(inputs[0], &self.axes, float, int)
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        reduction_nest(inputs[0], &self.axes, Combine::Sum)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let over = |axes: &[usize]| Sample::new(ReduceSum { axes: axes.to_vec() });
        vec![
            over(&[1]).float(&[3, 37], -1.0..1.0),
            over(&[0]).float(&[5, 9], -1.0..1.0),
            over(&[0, 2]).float(&[2, 3, 4], -1.0..1.0),
            over(&[0, 1]).float(&[4, 4], -1.0..1.0),
        ]
    }
}
