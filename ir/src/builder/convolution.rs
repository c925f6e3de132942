//! Builder methods for windows over spatial axes.

use super::Builder;
use crate::graph::Value;
use crate::ops::{
    Convolution, ConvolutionInputGrad, ConvolutionWeightGrad, MaxPool, MaxPoolGrad, SumPool, SumPoolGrad,
};
use crate::types::{DType, TypeError, row_major_strides};

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

    /// Largest element of each window, and its index (i64) in the spatial plane, flat.
    pub fn max_pool(&mut self, x: Value, op: MaxPool) -> Result<[Value; 2], TypeError> {
        let results = self.apply(op.clone(), &[x])?;
        let plane = self.shape(x)[2..].to_vec();
        Ok([results[0], self.max_pool_indices(results[1], &op, &plane)?])
    }

    /// Indices (i64) in the plane, flat, of the elements that taps `[N, C, P…]` of windows on an input meet.
    pub fn max_pool_indices(&mut self, taps: Value, op: &MaxPool, plane: &[usize]) -> Result<Value, TypeError> {
        let taps = self.cast(taps, DType::I64)?;
        let ty = self.ty(taps).clone();
        let mut flat = self.full_like(taps, 0.0)?;
        let (plane_strides, tap_strides) = (row_major_strides(plane), row_major_strides(&op.window));
        for d in 0..plane.len() {
            let (before, extent) =
                (self.full_like(taps, tap_strides[d] as f64)?, self.full_like(taps, op.window[d] as f64)?);
            let tap = self.div(taps, before)?;
            let tap = self.rem(tap, extent)?;
            let tap = self.scale(tap, op.dilation[d] as f64)?;
            let start = self.iota(DType::I64, &ty.shape, 2 + d)?;
            let start = self.scale(start, op.stride[d] as f64)?;
            let at = self.add(start, tap)?;
            let low = self.full_like(taps, op.pad_low[d] as f64)?;
            let at = self.sub(at, low)?;
            let step = self.scale(at, plane_strides[d] as f64)?;
            flat = self.add(flat, step)?;
        }
        Ok(flat)
    }

    /// Adjoint of the largest element of each window, from the taps that won and the cotangent.
    pub fn max_pool_grad(&mut self, taps: Value, g: Value, op: MaxPoolGrad) -> Result<Value, TypeError> {
        self.op(op, &[taps, g])
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
