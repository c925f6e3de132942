//! `reshape`: the same elements in the same row-major order under another shape.

use crate::lower::{Access, Lowering, Nest};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y` has the elements of `x` in row-major order under `shape`, which has as many elements.
    pub struct Reshape = "reshape" {
        /// Shape of the result.
        shape: Vec<usize>,
    }
}

impl OpDef for Reshape {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        let y = TensorType::checked(x.dtype, self.shape.clone())?;
        require(x.elements() == y.elements(), "reshape must keep the number of elements", format!("{} elements", x.elements()), &y)?;
        Ok(vec![y])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, shape) = (cx.grad(), cx.builder.shape(cx.inputs[0]).to_vec());
        Ok(vec![cx.flow(0, |b| b.reshape(g, &shape))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![inputs[0].gather_flat(inputs[0].ty.with_shape(self.shape.clone()), |k| k)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let access = Access::identity(0, &self.shape, self.shape.len());
        Lowering::Nests(vec![Nest::map(&self.shape, |body| body.load(inputs[0].dtype, access))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        vec![Sample::new(Reshape { shape: vec![3, 4] }).float(&[2, 6], -1.0..1.0)]
    }
}
