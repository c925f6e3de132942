//! `logistic`: the logistic function, also called sigmoid.

use super::elementwise::{float_type, map_nest};
use crate::lower::{BinaryFn, Lowering, UnaryFn};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = 1 / (1 + e⁻ˣ)`, elementwise on floats. `dx = g y (1 − y)`. Source: StableHLO `logistic`.
    ///
    /// An op of its own because its derivative needs nothing but the result.
    pub struct Logistic = "logistic" {}
}

impl OpDef for Logistic {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        Ok(vec![float_type(inputs)?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, y) = (cx.grad(), cx.outputs[0]);
        let gradient = cx.flow(0, |b| {
            let one = b.full_like(y, 1.0)?;
            let rest = b.sub(one, y)?;
            let slope = b.mul(y, rest)?;
            b.mul(g, slope)
        })?;
        Ok(vec![gradient])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let [x] = inputs else { unreachable!("inference asks for one operand") };
        Ok(vec![Tensor::float(x.ty.clone(), x.floats().iter().map(|&v| 1.0 / (1.0 + (-v).exp())).collect())])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        map_nest(inputs, |body, x| {
            let negative = body.unary(UnaryFn::Neg, x[0]);
            // Infinite where x is far below 0; its reciprocal is the 0 that the function has there.
            let exp = body.unary(UnaryFn::Exp, negative);
            let one = body.constant(inputs[0].dtype, 1.0);
            let sum = body.binary(BinaryFn::Add, exp, one);
            body.unary(UnaryFn::Recip, sum)
        })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Rounding
    }

    fn samples() -> Vec<Sample> {
        let sample = || Sample::new(Logistic {});
        vec![sample().float(&[3, 5], -2.0..2.0), sample().fixed(&[3, 5], -200.0..200.0)]
    }
}
