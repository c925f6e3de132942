//! Builder methods for windows over spatial axes.

use super::Builder;
use crate::graph::Value;
use crate::ops::{Convolution, ConvolutionInputGrad, ConvolutionWeightGrad, MaxPool, SumPool, SumPoolGrad};
use crate::types::TypeError;

impl Builder {
    /// Grouped cross-correlation of an input `[N, C, S…]` with a weight `[O, C/groups, K…]`.
    pub fn convolution(&mut self, x: Value, w: Value, op: Convolution) -> Result<Value, TypeError> {
        self.op(op, &[x, w])
    }

    /// Adjoint of a convolution in its input, from its cotangent and weight.
    pub fn convolution_input_grad(&mut self, g: Value, w: Value, op: ConvolutionInputGrad) -> Result<Value, TypeError> {
        self.op(op, &[g, w])
    }

    /// Adjoint of a convolution in its weight, from its input and cotangent.
    pub fn convolution_weight_grad(
        &mut self,
        x: Value,
        g: Value,
        op: ConvolutionWeightGrad,
    ) -> Result<Value, TypeError> {
        self.op(op, &[x, g])
    }

    /// Largest element of each window, and its index in the spatial plane.
    pub fn max_pool(&mut self, x: Value, op: MaxPool) -> Result<[Value; 2], TypeError> {
        let results = self.apply(op, &[x])?;
        Ok([results[0], results[1]])
    }

    /// Sum of each window.
    pub fn sum_pool(&mut self, x: Value, op: SumPool) -> Result<Value, TypeError> {
        self.op(op, &[x])
    }

    /// Adjoint of the sum of each window.
    pub fn sum_pool_grad(&mut self, g: Value, op: SumPoolGrad) -> Result<Value, TypeError> {
        self.op(op, &[g])
    }
}
