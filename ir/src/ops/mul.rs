//! `mul`: elementwise product.

use super::elementwise::{binary_nest, infer_binary, zip};
use crate::lower::{BinaryFn, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = a · b`, elementwise; both operands and the result have one type. Integers wrap.
    pub struct Mul = "mul" {}
}

impl OpDef for Mul {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_binary(inputs)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, a, b) = (cx.grad(), cx.inputs[0], cx.inputs[1]);
        Ok(vec![cx.flow(0, |x| x.mul(g, b))?, cx.flow(1, |x| x.mul(g, a))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(zip(inputs[0], inputs[1], |a, b| a * b, i64::wrapping_mul))
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        binary_nest(inputs, BinaryFn::Mul)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Rounding
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Mul {}).float(&[3, 5], -2.0..2.0).float(&[3, 5], -2.0..2.0)]
    }
}
