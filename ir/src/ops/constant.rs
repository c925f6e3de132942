//! `constant`: a tensor of one repeated value.

use crate::attr::Float;
use crate::lower::{Lowering, Nest};
use crate::op::{arity, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError, DType};

op_struct! {
    /// `y[i] = value` for all `i` of `shape`; no operands. Integer dtypes take an integral value.
    ///
    /// Tensors that are not one repeated value are inputs of role constant instead.
    pub struct Constant = "constant" {
        /// The value.
        value: Float,
        /// Element type of the result.
        dtype: DType,
        /// Shape of the result.
        shape: Vec<usize>,
    }
}

impl OpDef for Constant {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [] = arity(inputs)?;
        let value = self.value.get();
        if !self.dtype.is_float() && value.fract() != 0.0 {
            return Err(TypeError::new(format!("a {} constant must be integral", self.dtype)).found(value));
        }
        Ok(vec![TensorType::checked(self.dtype, self.shape.clone())?])
    }

    fn vjp(&self, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![])
    }

    fn eval(&self, _: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![Tensor::splat(TensorType::new(self.dtype, self.shape.clone()), self.value.get())])
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Nests(vec![Nest::map(&self.shape, |body| body.constant(self.dtype, self.value.get()))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let splat = |value: f64, dtype, shape: &[usize]| {
            Sample::new(Constant { value: value.into(), dtype, shape: shape.to_vec() })
        };
        vec![splat(0.5, DType::F32, &[2, 3]), splat(f64::NEG_INFINITY, DType::F32, &[]), splat(-7.0, DType::I64, &[4])]
    }
}
