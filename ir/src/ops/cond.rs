//! `cond`: one of two closed functions, by a predicate.

use super::Op;
use super::region::{answers, body_results, dense_cotangents, list, owned, wanted_floats};
use crate::builder::Builder;
use crate::graph::{Function, Value};
use crate::interpret;
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct, require};
use crate::region::{Region, RegionForm};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};
use std::sync::Arc;

op_struct! {
    /// `(y…) = then_body(x…)` if the predicate holds, else `else_body(x…)`.
    ///
    /// Operands: a boolean scalar, then `x…`, which both bodies take; both have the same result types. The derivative is
    /// a `cond` over the derivatives of the bodies, which compute the forward part again. Expanded, both are computed
    /// and one is selected, which bodies without effects allow.
    pub struct Cond = "cond" {
        /// Applied where the predicate holds.
        then_body: Function,
        /// Applied where it does not.
        else_body: Function,
    }
}

fn expand(op: &Op, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let Op::Cond(cond) = op else { unreachable!("an expansion is applied to the op it belongs to") };
    let then = b.inline(&cond.then_body, &operands[1..])?;
    let otherwise = b.inline(&cond.else_body, &operands[1..])?;
    then.into_iter().zip(otherwise).map(|(t, e)| b.select(operands[0], t, e)).collect()
}

impl OpDef for Cond {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let scalar = TensorType::new(DType::Bool, []);
        let predicate = inputs.first().is_some_and(|&p| *p == scalar);
        require(predicate, "the first operand must be the predicate", &scalar, list(&owned(inputs)))?;
        let arguments = owned(&inputs[1..]);
        let (then, otherwise) =
            (body_results(&self.then_body, &arguments)?, body_results(&self.else_body, &arguments)?);
        require(then == otherwise, "both bodies must have the same results", list(&then), list(&otherwise))?;
        Ok(then)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let wanted = wanted_floats(cx);
        let arguments: Vec<usize> = wanted.iter().map(|k| k - 1).collect();
        let op = Cond {
            then_body: Arc::new(cx.bodies.vjp_body(&self.then_body, &arguments)?),
            else_body: Arc::new(cx.bodies.vjp_body(&self.else_body, &arguments)?),
        };
        let operands = [cx.inputs, &dense_cotangents(cx)?].concat();
        let gradients = cx.builder.apply(op, &operands)?;
        Ok(answers(cx.inputs.len(), &wanted, &gradients))
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let body = if inputs[0].ints()[0] != 0 { &self.then_body } else { &self.else_body };
        interpret::apply(body, &inputs[1..])
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        let form = RegionForm::Branch([self.then_body.clone(), self.else_body.clone()]);
        Lowering::Region(Region { form, expand })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3])];
        let then_body = Builder::function("product", &types, |b, x| Ok(vec![b.mul(x[0], x[1])?, x[0]]));
        let else_body = Builder::function("tanh", &types, |b, x| Ok(vec![b.tanh(x[0])?, x[1]]));
        let then_body = then_body.expect("the sample is well typed");
        let else_body = else_body.expect("the sample is well typed");
        let sample = |predicate: f64| {
            Sample::new(Cond { then_body: then_body.clone(), else_body: else_body.clone() })
                .other(DType::Bool, &[], predicate..predicate + 1.0)
                .float(&[2, 3], -1.0..1.0)
                .float(&[2, 3], -1.0..1.0)
        };
        vec![sample(0.0), sample(1.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_bad_predicate_and_unequal_results() {
        let ty = TensorType::f32([2]);
        let predicate = TensorType::new(DType::Bool, []);
        let same = Builder::function("same", std::slice::from_ref(&ty), |_, x| Ok(vec![x[0]])).unwrap();
        let sum =
            Builder::function("sum", std::slice::from_ref(&ty), |b, x| Ok(vec![b.reduce_sum(x[0], &[0])?])).unwrap();
        let cond = Cond { then_body: same.clone(), else_body: same.clone() };
        assert!(cond.infer(&[&predicate, &ty]).is_ok());
        assert!(cond.infer(&[&ty, &ty]).is_err());
        assert!(cond.infer(&[]).is_err());
        assert!(Cond { then_body: same, else_body: sum }.infer(&[&predicate, &ty]).is_err());
    }
}
