//! `cast`: conversion of the element type.

use super::elementwise::map_nest;
use crate::lower::Lowering;
use crate::op::{arity, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `x` converted to `dtype`, elementwise.
    ///
    /// Float to integer truncates and saturates (NaN gives 0), integer to integer wraps, boolean to number
    /// gives 0 or 1, number to boolean is `≠ 0`. Gradients flow only from float to float.
    pub struct Cast = "cast" {
        /// Element type of the result.
        dtype: DType,
    }
}

impl OpDef for Cast {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        Ok(vec![x.with_dtype(self.dtype)])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, from) = (cx.grad(), cx.builder.ty(cx.inputs[0]).dtype);
        let smooth = from.is_float() && self.dtype.is_float();
        Ok(vec![if smooth { cx.flow(0, |b| b.cast(g, from))? } else { Cotangent::Zero }])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let cast = |k: usize| x.number(k).cast(self.dtype);
        Ok(vec![Tensor::from_numbers(x.ty.with_dtype(self.dtype), (0..x.ty.elements()).map(cast))])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        map_nest(inputs, |body, x| body.cast(self.dtype, x[0]))
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let to = |dtype| Sample::new(Cast { dtype });
        vec![
            to(DType::F64).float(&[3, 5], -2.0..2.0),
            to(DType::I64).fixed(&[3, 5], -9.0..9.0),
            to(DType::U8).fixed(&[3, 5], -300.0..300.0),
            to(DType::Bool).other(DType::I64, &[7], -1.0..2.0),
            to(DType::F32).other(DType::Bool, &[7], 0.0..2.0),
            to(DType::F32).other(DType::I64, &[7], -9.0..9.0),
            to(DType::U8).other(DType::I32, &[7], -300.0..300.0),
        ]
    }
}
