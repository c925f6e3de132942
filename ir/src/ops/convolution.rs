//! `convolution`: grouped, strided, padded, dilated cross-correlation.

use super::conv_shape::ConvShape;
use super::windows::Slide;
use super::{ConvolutionInputGrad, ConvolutionWeightGrad};
use crate::lower::{Access, Affine, Contraction, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `y[n, o, p] = Σ over c, k of x[n, group(o)·C/groups + c, p·stride + k·dilation − pad_low] · w[o, c, k]`.
    ///
    /// `x` is `[N, C, S…]`, `w` is `[O, C/groups, K…]`, `y` is `[N, O, P…]`, all of one float dtype; there is at least one
    /// spatial axis, and elements of `x` out of bounds count as zero. Source: PyTorch `torch.nn.functional.conv2d`,
    /// with padding on each side apart.
    pub struct Convolution = "convolution" {
        /// Step of the window, per spatial axis.
        stride: Vec<usize>,
        /// Zeros before the first element, per spatial axis.
        pad_low: Vec<usize>,
        /// Zeros after the last element, per spatial axis.
        pad_high: Vec<usize>,
        /// Distance of taps, per spatial axis.
        dilation: Vec<usize>,
        /// Number of groups that channels are split into.
        groups: usize,
    }
}

impl Convolution {
    pub(super) fn shape(&self, x: &[usize], w: &[usize]) -> Result<ConvShape, TypeError> {
        let slide =
            Slide { stride: &self.stride, pad_low: &self.pad_low, pad_high: &self.pad_high, dilation: &self.dilation };
        ConvShape::new(slide, self.groups, x, w)
    }

    /// The op that makes the gradient of an input with spatial extents `input`.
    pub fn input_grad(&self, input: &[usize]) -> ConvolutionInputGrad {
        let Convolution { stride, pad_low, pad_high, dilation, groups } = self.clone();
        ConvolutionInputGrad { stride, pad_low, pad_high, dilation, groups, input: input.to_vec() }
    }

    /// The op that makes the gradient of a weight with spatial extents `kernel`.
    pub fn weight_grad(&self, kernel: &[usize]) -> ConvolutionWeightGrad {
        let Convolution { stride, pad_low, pad_high, dilation, groups } = self.clone();
        ConvolutionWeightGrad { stride, pad_low, pad_high, dilation, groups, kernel: kernel.to_vec() }
    }
}

/// The common dtype of two operands, which must be a float dtype.
pub(super) fn require_one_float_dtype(a: &TensorType, b: &TensorType) -> Result<(), TypeError> {
    require(a.dtype.is_float() && a.dtype == b.dtype, "operands must have one float dtype", a.dtype, b.dtype)
}

/// Geometries on which all three convolution ops are checked, with the shapes of `x` and `w`.
pub(super) fn sample_geometries() -> Vec<(Convolution, Vec<usize>, Vec<usize>)> {
    let line = |[stride, low, high, dilation, groups]: [usize; 5], x: &[usize], w: &[usize]| {
        let [stride, pad_low, pad_high, dilation] = [stride, low, high, dilation].map(|v| vec![v]);
        (Convolution { stride, pad_low, pad_high, dilation, groups }, x.to_vec(), w.to_vec())
    };
    let plane = |[stride, low, high, dilation]: [[usize; 2]; 4], groups, x: &[usize], w: &[usize]| {
        let [stride, pad_low, pad_high, dilation] = [stride, low, high, dilation].map(|v| v.to_vec());
        (Convolution { stride, pad_low, pad_high, dilation, groups }, x.to_vec(), w.to_vec())
    };
    vec![
        line([1, 0, 0, 1, 1], &[2, 3, 7], &[4, 3, 3]),
        line([2, 1, 0, 1, 1], &[1, 2, 8], &[3, 2, 3]),
        line([3, 2, 1, 2, 2], &[2, 4, 9], &[6, 2, 3]),
        plane([[1, 1], [1, 1], [1, 1], [1, 1]], 1, &[2, 3, 5, 6], &[4, 3, 3, 3]),
        plane([[2, 1], [0, 1], [1, 2], [1, 2]], 1, &[1, 2, 6, 5], &[3, 2, 2, 3]),
        plane([[2, 2], [1, 1], [1, 1], [1, 1]], 3, &[2, 3, 5, 6], &[6, 1, 3, 3]),
        plane([[1, 1], [0, 0], [0, 0], [1, 1]], 1, &[2, 5, 3, 4], &[6, 5, 1, 1]),
        plane([[2, 2], [0, 0], [0, 0], [1, 1]], 2, &[1, 4, 4, 5], &[4, 2, 1, 1]),
    ]
}

impl OpDef for Convolution {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x, w] = arity(inputs)?;
        require_one_float_dtype(x, w)?;
        Ok(vec![TensorType::checked(x.dtype, self.shape(&x.shape, &w.shape)?.output())?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x, w) = (cx.grad(), cx.inputs[0], cx.inputs[1]);
        let dx = cx.flow(0, |b| b.convolution_input_grad(g, w, self.input_grad(&b.shape(x)[2..])))?;
        let dw = cx.flow(1, |b| b.convolution_weight_grad(x, g, self.weight_grad(&b.shape(w)[2..])))?;
        Ok(vec![dx, dw])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty, &inputs[1].ty])?.remove(0);
        let (x, w) = (inputs[0].floats(), inputs[1].floats());
        let mut out = vec![0.0; ty.elements()];
        let shape = self.shape(&inputs[0].ty.shape, &inputs[1].ty.shape)?;
        shape.for_each_term(|xi, wi, yi| out[yi] += x[xi] * w[wi]);
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let shape = self.shape(&inputs[0].shape, &inputs[1].shape).expect("inference accepted the operands");
        let (rank, loops) = (shape.windows.rank(), shape.loops());
        // Loop indices: n, group, o, p… | c, k…
        let (n, group, o, p, c, k) = (0, 1, 2, 3, 3 + rank, 4 + rank);
        let mut x_indices = [n, group, c].map(|d| Affine::dim(loops, d)).to_vec();
        x_indices.extend(shape.windows.input_indices(loops, p, k));
        let lhs = Access::new(0, &shape.x_view(), x_indices);
        Lowering::Contraction(Contraction {
            space: shape.y_view(),
            reduce: [&[shape.inputs][..], &shape.windows.kernel].concat(),
            lhs: if shape.windows.any_padded() { lhs.filled(0.0) } else { lhs },
            rhs: Access::new(1, &shape.w_view(), shape.loop_dims([group, o, c], k)),
            bands: vec![],
        })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let sample = |(op, x, w): (Convolution, Vec<usize>, Vec<usize>)| {
            Sample::new(op).float(&x, -1.0..1.0).float(&w, -1.0..1.0)
        };
        sample_geometries().into_iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depthwise() -> Convolution {
        let [stride, pad_low, pad_high, dilation] = [1, 1, 1, 1].map(|v| vec![v; 2]);
        Convolution { stride, pad_low, pad_high, dilation, groups: 4 }
    }

    fn used(access: &Access) -> Vec<usize> {
        let rank = access.indices[0].affine.coeffs.len();
        (0..rank).filter(|&d| access.indices.iter().any(|i| i.affine.coeffs[d] != 0)).collect()
    }

    #[test]
    fn refuses_channels_that_do_not_fit_the_groups() {
        let infer = |x: &[usize], w: &[usize]| depthwise().infer(&[&TensorType::f32(x), &TensorType::f32(w)]);
        assert!(infer(&[1, 4, 3, 3], &[4, 1, 3, 3]).is_ok());
        assert!(infer(&[1, 4, 3, 3], &[4, 4, 3, 3]).is_err());
        assert!(infer(&[1, 4, 3, 3], &[6, 1, 3, 3]).is_err());
        assert!(infer(&[1, 4, 3], &[4, 1, 3, 3]).is_err());
        assert!(infer(&[1, 4, 3, 3], &[4, 1, 6, 3]).is_err());
        let no_groups = Convolution { groups: 0, ..depthwise() };
        assert!(no_groups.infer(&[&TensorType::f32([1, 4, 3, 3]), &TensorType::f32([4, 1, 3, 3])]).is_err());
    }

    #[test]
    fn depthwise_loops_are_classified() {
        let types = [TensorType::f32([2, 4, 5, 5]), TensorType::f32([4, 1, 3, 3])];
        let Lowering::Contraction(c) = depthwise().lower(&[&types[0], &types[1]], &[]) else { panic!("a contraction") };
        assert_eq!((c.space.as_slice(), c.reduce.as_slice()), (&[2, 4, 1, 5, 5][..], &[1, 3, 3][..]));
        // n, group, o, p0, p1 | c, k0, k1: group is batch, n and p are M, o is N.
        assert_eq!(used(&c.lhs), [0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(used(&c.rhs), [1, 2, 5, 6, 7]);
    }
}
