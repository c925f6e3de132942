//! `reduce_prod`: product over axes.

use super::reduction::{Fold, eval_reduction, infer_reduction, kept_axes, reduction_nest};
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{CompareFn, Combine, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = Π x` over `axes` (ascending), which the result does not have. Integers wrap.
    ///
    /// `dx = g ·` the product of the other elements, also where some are 0.
    pub struct ReduceProd = "reduce_prod" {
        /// Axes reduced over.
        axes: Vec<usize>,
    }
}

impl OpDef for ReduceProd {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        infer_reduction(inputs, &self.axes)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x) = (cx.grad(), cx.inputs[0]);
        Ok(vec![cx.flow(0, |b| self.gradient(b, g, x))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let float = Fold { start: 1.0, combine: |a, b| a * b };
        let int = Fold { start: 1, combine: i64::wrapping_mul };
        eval_reduction(inputs[0], &self.axes, float, int)
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        reduction_nest(inputs[0], &self.axes, Combine::Prod)
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let over = |axes: &[usize]| Sample::new(ReduceProd { axes: axes.to_vec() });
        vec![
            over(&[1]).float(&[3, 37], 0.5..1.5),
            over(&[0]).float(&[5, 9], 0.5..1.5),
            over(&[0, 2]).float(&[2, 3, 4], 0.5..1.5),
            over(&[0, 1]).float(&[4, 4], 0.5..1.5),
            over(&[0]).other(DType::I64, &[5, 2], -9.0..9.0),
        ]
    }
}

impl ReduceProd {
    /// With zeros taken out (made 1) `y / x` is safe; the product of the others is then right where none of them is 0.
    fn gradient(&self, b: &mut Builder, g: Value, x: Value) -> Result<Value, TypeError> {
        let ty = b.ty(x).clone();
        let kept = kept_axes(ty.rank(), &self.axes);
        let (zero, one) = (b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
        let is_zero = b.compare(CompareFn::Eq, x, zero)?;
        let nonzero = b.select(is_zero, one, x)?;
        let product = b.reduce_prod(nonzero, &self.axes)?;
        let scaled = b.mul(g, product)?;
        let scaled = b.broadcast(scaled, &ty.shape, &kept)?;
        let others = b.div(scaled, nonzero)?;
        let own_zeros = b.cast(is_zero, ty.dtype)?;
        let zeros = b.reduce_sum(own_zeros, &self.axes)?;
        let zeros = b.broadcast(zeros, &ty.shape, &kept)?;
        let some_other_zero = b.compare(CompareFn::Gt, zeros, own_zeros)?;
        b.select(some_other_zero, zero, others)
    }
}
