//! `call`: application of a closed function.

use super::Op;
use super::region::{answers, body_results, dense_cotangents, owned, wanted_floats};
use crate::builder::Builder;
use crate::graph::{Function, Value};
use crate::interpret;
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};
use std::sync::Arc;

op_struct! {
    /// `(y…) = body(x…)`; operands and results are those of the body.
    ///
    /// The derivative calls the derivative of the body, which computes the body's forward part again.
    pub struct Call = "call" {
        /// The function.
        body: Function,
    }
}

fn expand(op: &Op, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let Op::Call(call) = op else { unreachable!("an expansion is applied to the op it belongs to") };
    b.inline(&call.body, operands)
}

impl OpDef for Call {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        body_results(&self.body, &owned(inputs))
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let wanted = wanted_floats(cx);
        let body = Arc::new(cx.bodies.vjp_body(&self.body, &wanted)?);
        let operands = [cx.inputs, &dense_cotangents(cx)?].concat();
        let gradients = cx.builder.call(&body, &operands)?;
        Ok(answers(cx.inputs.len(), &wanted, &gradients))
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        interpret::apply(&self.body, inputs)
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Expand(expand)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let types = [TensorType::f32([2, 3]), TensorType::f32([3, 2])];
        let body = Builder::function("product", &types, |b, x| {
            let product = b.dot_general(x[0], x[1], [&[], &[]], [&[1], &[0]])?;
            Ok(vec![b.tanh(product)?, x[0], product])
        });
        let body = body.expect("the sample is well typed");
        vec![Sample::new(Call { body }).float(&[2, 3], -1.0..1.0).float(&[3, 2], -1.0..1.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{OutputKind, Role};

    #[test]
    fn refuses_arguments_of_other_types_and_open_bodies() {
        let ty = TensorType::f32([2]);
        let body = Builder::function("double", std::slice::from_ref(&ty), |b, x| Ok(vec![b.add(x[0], x[0])?])).unwrap();
        let call = Call { body };
        assert_eq!(call.infer(&[&ty]).unwrap(), std::slice::from_ref(&ty));
        assert!(call.infer(&[]).is_err());
        assert!(call.infer(&[&ty, &ty]).is_err());
        assert!(call.infer(&[&TensorType::f32([3])]).is_err());

        let mut open = Builder::new("open");
        let w = open.declare("w", Role::Parameter, ty.clone(), None).unwrap();
        open.output("y", w, OutputKind::Result);
        assert!(Call { body: Arc::new(open.finish()) }.infer(&[&ty]).is_err());
    }
}
