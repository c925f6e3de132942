//! `stop_gradient`: identity without a gradient.

use super::elementwise::map_nest;
use crate::lower::Lowering;
use crate::op::{arity, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = x` for any dtype; no gradient flows back. Source: JAX `lax.stop_gradient`.
    pub struct StopGradient = "stop_gradient" {}
}

impl OpDef for StopGradient {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![Cotangent::Zero])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        map_nest(inputs, |_, x| x[0])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(StopGradient {}).fixed(&[3, 5], -2.0..2.0)]
    }
}
