//! `exp`: `y = eˣ`.

use super::elementwise::{infer_float_unary, map_floats, unary_nest};
use crate::lower::{Lowering, UnaryFn};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = eˣ`, elementwise on floats.
    pub struct Exp = "exp" {}
}

impl OpDef for Exp {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_float_unary(inputs)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, y) = (cx.grad(), cx.outputs[0]);
        Ok(vec![cx.flow(0, |b| b.mul(g, y))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(map_floats(inputs[0], f64::exp))
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        unary_nest(inputs, UnaryFn::Exp)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Rounding
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Exp {}).float(&[3, 5], -2.0..2.0)]
    }
}
