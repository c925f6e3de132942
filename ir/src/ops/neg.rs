//! `neg`: `y = −x`.

use super::elementwise::{infer_float_unary, map_floats, unary_nest};
use crate::lower::{Lowering, UnaryFn};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = −x`, elementwise on floats.
    pub struct Neg = "neg" {}
}

impl OpDef for Neg {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_float_unary(inputs)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |b| b.neg(g))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(map_floats(inputs[0], |v| -v))
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        unary_nest(inputs, UnaryFn::Neg)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Neg {}).float(&[3, 5], -2.0..2.0)]
    }
}
