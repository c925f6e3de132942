//! `copy`: the same value, stored once more.

use super::elementwise::map_nest;
use crate::lower::Lowering;
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y = x`, for storage that suits the readers of `y` better than that of `x`.
    pub struct Copy = "copy" {
        /// Axes of `y` in the order in which they are meant to be stored, outermost first.
        order: Vec<usize>,
    }
}

impl OpDef for Copy {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        let axes: Vec<usize> = (0..x.rank()).collect();
        require(sorted == axes, "`order` must be a permutation of the operand's axes", format!("{axes:?}"), format!("{:?}", self.order))?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![Cotangent::Flows(cx.grad())])
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
        vec![
            Sample::new(Copy { order: vec![1, 0] }).float(&[5, 7], -2.0..2.0),
            Sample::new(Copy { order: vec![0, 2, 1] }).float(&[2, 3, 4], -2.0..2.0),
        ]
    }
}
