//! `not`: boolean negation.

use super::elementwise::map_nest;
use crate::lower::{Lowering, UnaryFn};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = ¬x`, elementwise on booleans.
    pub struct Not = "not" {}
}

impl OpDef for Not {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        require(x.dtype == DType::Bool, "operand must be boolean", DType::Bool, x)?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![Cotangent::Zero])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let negated = inputs[0].ints().iter().map(|&v| (v == 0) as i64).collect();
        Ok(vec![Tensor::int(inputs[0].ty.clone(), negated)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        map_nest(inputs, |body, x| body.unary(UnaryFn::Not, x[0]))
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Not {}).other(DType::Bool, &[3, 5], 0.0..2.0)]
    }
}
