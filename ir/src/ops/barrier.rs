//! `barrier`: identity that keeps equal computations apart.

use crate::lower::{Access, Lowering, Nest};
use crate::op::{arity, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = x`, in the same storage, once `token` has been computed; both of any type.
    ///
    /// What is computed from `y` is another value than the same computed from `x`, so that nothing takes one for the
    /// other, and is computed after the token. Source: StableHLO `optimization_barrier`.
    pub struct Barrier = "barrier" {}
}

impl OpDef for Barrier {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x, _] = arity(inputs)?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |_| Ok(g))?, Cotangent::Zero])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let (x, rank) = (inputs[0], inputs[0].rank());
        Lowering::Nests(vec![Nest::map(&x.shape, |body| body.load(x.dtype, Access::identity(0, &x.shape, rank)))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Barrier {}).float(&[3, 5], -2.0..2.0).float(&[2], -2.0..2.0)]
    }
}
