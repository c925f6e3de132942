//! `reduce_max`: maximum over axes.

use super::reduction::{Fold, eval_reduction, infer_reduction, extremum_gradient, reduction_nest};
use crate::lower::{Combine, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::scalar::maximum;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = max x` over `axes` (ascending), which the result does not have; NaN if any is.
    ///
    /// Over nothing: −∞, or the least value of an integer dtype.
    /// The gradient is shared evenly by the elements equal to `y` (as PyTorch's `amax`).
    pub struct ReduceMax = "reduce_max" {
        /// Axes reduced over.
        axes: Vec<usize>,
    }
}

impl OpDef for ReduceMax {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_reduction(inputs, &self.axes)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x, y) = (cx.grad(), cx.inputs[0], cx.outputs[0]);
        Ok(vec![cx.flow(0, |b| extremum_gradient(b, &self.axes, g, x, y))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let float = Fold { start: f64::NEG_INFINITY, combine: maximum };
        let int = Fold { start: inputs[0].ty.dtype.least(), combine: i64::max };
        eval_reduction(inputs[0], &self.axes, float, int)
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        reduction_nest(inputs[0], &self.axes, Combine::Max)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let over = |axes: &[usize]| Sample::new(ReduceMax { axes: axes.to_vec() });
        vec![
            over(&[1]).distinct(&[3, 37], -2.0..2.0),
            over(&[0]).distinct(&[5, 9], -2.0..2.0),
            over(&[0, 2]).distinct(&[2, 3, 4], -2.0..2.0),
            over(&[0, 1]).distinct(&[4, 4], -2.0..2.0),
            over(&[0]).other(DType::I64, &[5, 2], -9.0..9.0),
        ]
    }
}
