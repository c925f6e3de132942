//! `reduce_min`: minimum over axes.

use super::reduction::{Fold, eval_reduction, infer_reduction, extremum_gradient, reduction_nest};
use crate::lower::{Combine, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::scalar::minimum;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = min x` over `axes` (ascending), which the result does not have; NaN if any is.
    ///
    /// Over nothing: +∞, or the greatest value of an integer dtype.
    /// The gradient is shared evenly by the elements equal to `y` (as PyTorch's `amin`).
    pub struct ReduceMin = "reduce_min" {
        /// Axes reduced over.
        axes: Vec<usize>,
    }
}

impl OpDef for ReduceMin {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_reduction(inputs, &self.axes)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x, y) = (cx.grad(), cx.inputs[0], cx.outputs[0]);
        Ok(vec![cx.flow(0, |b| extremum_gradient(b, &self.axes, g, x, y))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let float = Fold { start: f64::INFINITY, combine: minimum };
        let int = Fold { start: inputs[0].ty.dtype.greatest(), combine: i64::min };
        eval_reduction(inputs[0], &self.axes, float, int)
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        reduction_nest(inputs[0], &self.axes, Combine::Min)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let over = |axes: &[usize]| Sample::new(ReduceMin { axes: axes.to_vec() });
        vec![
            over(&[1]).distinct(&[3, 37], -2.0..2.0),
            over(&[0]).distinct(&[5, 9], -2.0..2.0),
            over(&[0, 2]).distinct(&[2, 3, 4], -2.0..2.0),
            over(&[0, 1]).distinct(&[4, 4], -2.0..2.0),
            over(&[0]).other(DType::I64, &[5, 2], -9.0..9.0),
        ]
    }
}
