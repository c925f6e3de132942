//! `add`: elementwise sum.

use super::elementwise::{binary_nest, infer_binary, zip};
use crate::lower::{BinaryFn, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = a + b`, elementwise; both operands and the result have one type. Integers wrap.
    pub struct Add = "add" {}
}

impl OpDef for Add {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_binary(inputs)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![Cotangent::Flows(cx.grad()), Cotangent::Flows(cx.grad())])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(zip(inputs[0], inputs[1], |a, b| a + b, i64::wrapping_add))
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        binary_nest(inputs, BinaryFn::Add)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Rounding
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Add {}).float(&[3, 5], -2.0..2.0).float(&[3, 5], -2.0..2.0)]
    }
}
