//! `sum_pool`: sum of each window.

use super::SumPoolGrad;
use super::max_pool::{require_pooled, with_plane};
use super::windows::{Slide, Windows};
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{Access, Affine, Combine, Lowering, Nest};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y[n, c, p] = Σ over k of x[n, c, p·stride + k − pad_low]`.
    ///
    /// `x` is `[N, C, S…]` of a float dtype, `y` is `[N, C, P…]`; elements out of bounds count as zero. An average divides the
    /// sum by its number of elements. Source: XLA `ReduceWindow` with addition.
    pub struct SumPool = "sum_pool" {
        /// Extents of the window.
        window: Vec<usize>,
        /// Step of the window, per spatial axis.
        stride: Vec<usize>,
        /// Zeros before the first element, per spatial axis.
        pad_low: Vec<usize>,
        /// Zeros after the last element, per spatial axis.
        pad_high: Vec<usize>,
    }
}

impl SumPool {
    /// The window on an input of shape `[N, C, S…]`.
    pub(super) fn windows(&self, x: &[usize]) -> Result<Windows, TypeError> {
        let dense = vec![1; self.window.len()];
        let slide = Slide { stride: &self.stride, pad_low: &self.pad_low, pad_high: &self.pad_high, dilation: &dense };
        Windows::new(slide, &x[2..], &self.window)
    }

    /// The op that makes the gradient of an input with spatial extents `input`.
    pub fn grad(&self, input: &[usize]) -> SumPoolGrad {
        let SumPool { window, stride, pad_low, pad_high } = self.clone();
        SumPoolGrad { window, stride, pad_low, pad_high, input: input.to_vec() }
    }

    /// Whether each element of an input with these spatial extents is in exactly one window.
    fn tiles(&self, input: &[usize]) -> bool {
        let SumPool { window, stride, pad_low, pad_high } = self;
        let dense = window == stride && [pad_low, pad_high].into_iter().flatten().all(|&pad| pad == 0);
        dense && input.iter().zip(window).all(|(extent, window)| extent.is_multiple_of(*window))
    }

    /// Each element of `g` at all places of its window, where windows tile the input.
    fn repeat(&self, b: &mut Builder, g: Value) -> Result<Value, TypeError> {
        let (leading, positions) = b.shape(g).split_at(2);
        let places = positions.iter().zip(&self.window);
        let split: Vec<usize> = places.clone().flat_map(|(&position, &window)| [position, window]).collect();
        let whole: Vec<usize> = places.map(|(position, window)| position * window).collect();
        let [split, whole] = [split, whole].map(|spatial| [leading, &spatial].concat());
        let dims: Vec<usize> = [0, 1].into_iter().chain((2..split.len()).step_by(2)).collect();
        let repeated = b.broadcast(g, &split, &dims)?;
        b.reshape(repeated, &whole)
    }
}

/// Geometries on which pooling and its adjoint are checked, with the shape of `x`.
pub(super) fn sample_geometries() -> Vec<(SumPool, Vec<usize>)> {
    let pool = |[window, stride, pad_low, pad_high]: [&[usize]; 4], x: &[usize]| {
        let [window, stride, pad_low, pad_high] = [window, stride, pad_low, pad_high].map(|v| v.to_vec());
        (SumPool { window, stride, pad_low, pad_high }, x.to_vec())
    };
    vec![
        pool([&[3], &[1], &[0], &[0]], &[2, 2, 7]),
        pool([&[3], &[2], &[2], &[1]], &[1, 2, 8]),
        pool([&[2, 2], &[2, 2], &[0, 0], &[0, 0]], &[2, 2, 4, 6]),
        pool([&[3, 3], &[2, 2], &[1, 1], &[1, 1]], &[1, 2, 5, 6]),
        pool([&[3, 1], &[1, 3], &[2, 0], &[0, 1]], &[1, 1, 5, 5]),
        pool([&[4, 3], &[4, 3], &[0, 0], &[0, 0]], &[2, 3, 4, 3]),
        pool([&[2], &[1], &[0], &[0]], &[1, 2, 6]),
        pool([&[5, 4], &[2, 3], &[1, 0], &[0, 2]], &[1, 2, 7, 8]),
    ]
}

impl OpDef for SumPool {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        require_pooled(x)?;
        Ok(vec![TensorType::checked(x.dtype, with_plane(&x.shape, &self.windows(&x.shape)?.output))?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x) = (cx.grad(), cx.inputs[0]);
        Ok(vec![cx.flow(0, |b| match self.tiles(&b.shape(x)[2..]) {
            true => self.repeat(b, g),
            false => b.sum_pool_grad(g, self.grad(&b.shape(x)[2..])),
        })?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty])?.remove(0);
        let windows = self.windows(&inputs[0].ty.shape)?;
        let mut out = vec![0.0; ty.elements()];
        windows.for_each_meeting(ty.shape[0] * ty.shape[1], |m| out[m.position] += inputs[0].floats()[m.input]);
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let windows = self.windows(&inputs[0].shape).expect("inference accepted the operand");
        let space = &outputs[0].shape;
        let rank = space.len() + windows.rank();
        let mut indices = vec![Affine::dim(rank, 0), Affine::dim(rank, 1)];
        indices.extend(windows.input_indices(rank, 2, space.len()));
        let access = Access::new(0, &inputs[0].shape, indices);
        let access = if windows.any_padded() { access.filled(0.0) } else { access };
        let sum = Nest::reduction(space, &windows.kernel, Combine::Sum, |body| body.load(inputs[0].dtype, access));
        Lowering::Nests(vec![sum])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        sample_geometries().into_iter().map(|(op, x)| Sample::new(op).float(&x, -1.0..1.0)).collect()
    }
}
