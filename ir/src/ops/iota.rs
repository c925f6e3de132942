//! `iota`: the index along an axis.

use crate::lower::{Lowering, Nest, Scalar};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::scalar::Number;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

op_struct! {
    /// `y[i] = i[axis]`; no operands. Converted to `dtype` as by `cast`; booleans are refused. Source: XLA `Iota`.
    pub struct Iota = "iota" {
        /// Element type of the result.
        dtype: DType,
        /// Shape of the result.
        shape: Vec<usize>,
        /// Axis along which the values count.
        axis: usize,
    }
}

impl OpDef for Iota {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [] = arity(inputs)?;
        require(self.dtype != DType::Bool, "an index is no boolean", "a number", self.dtype)?;
        let axes = format!("an axis of {:?}", self.shape);
        require(self.axis < self.shape.len(), "`axis` is out of range", axes, self.axis)?;
        Ok(vec![TensorType::checked(self.dtype, self.shape.clone())?])
    }

    fn vjp(&self, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![])
    }

    fn eval(&self, _: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[])?.remove(0);
        let (extent, stride) = (self.shape[self.axis], row_major_strides(&self.shape)[self.axis]);
        let index = |k: usize| Number::Int((k / stride % extent) as i64).cast(self.dtype);
        let count = ty.elements();
        Ok(vec![Tensor::from_numbers(ty, (0..count).map(index))])
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Nests(vec![Nest::map(&self.shape, |body| {
            let index = body.push(Scalar::LoopIndex(self.axis), DType::I64);
            body.cast(self.dtype, index)
        })])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let along = |dtype, axis| Sample::new(Iota { dtype, shape: vec![3, 4, 2], axis });
        vec![along(DType::I64, 0), along(DType::F32, 1), along(DType::I32, 2)]
    }
}
