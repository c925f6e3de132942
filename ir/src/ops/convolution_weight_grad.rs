//! `convolution_weight_grad`: adjoint of convolution in its weight.

use super::Convolution;
use super::conv_shape::ConvShape;
use super::convolution::{require_one_float_dtype, sample_geometries};
use crate::lower::{Access, Affine, Contraction, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `dw` such that `⟨dw, w⟩ = ⟨g, convolution(x, w)⟩` for all `w`.
    ///
    /// `x` is `[N, C, S…]`, `g` is `[N, O, P…]`, `dw` is `[O, C/groups, kernel…]`. Attributes as of [`Convolution`];
    /// `kernel` is needed because a strided window may leave elements at the end unvisited.
    pub struct ConvolutionWeightGrad = "convolution_weight_grad" {
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
        /// Spatial extents of the convolution's weight.
        kernel: Vec<usize>,
    }
}

impl ConvolutionWeightGrad {
    /// The convolution this is an adjoint of.
    pub fn convolution(&self) -> Convolution {
        let Self { stride, pad_low, pad_high, dilation, groups, .. } = self.clone();
        Convolution { stride, pad_low, pad_high, dilation, groups }
    }

    /// Shape of `dw`, and the convolution's extents, from the shapes of `x` and `g`.
    fn shape(&self, x: &[usize], g: &[usize]) -> Result<(Vec<usize>, ConvShape), TypeError> {
        require(
            x.len() == g.len() && x.len() >= 3,
            "input and cotangent must have equal ranks of at least 3",
            format!("{x:?}"),
            format!("{g:?}"),
        )?;
        let divides = self.groups > 0 && x[1].is_multiple_of(self.groups);
        require(divides, "channels must be divisible by `groups`", format!("a multiple of {}", self.groups), x[1])?;
        let w = [&[g[1], x[1] / self.groups][..], &self.kernel].concat();
        let shape = self.convolution().shape(x, &w)?;
        require(
            shape.output() == g,
            "the cotangent must have the convolution's shape",
            format!("{:?}", shape.output()),
            format!("{g:?}"),
        )?;
        Ok((w, shape))
    }
}

impl OpDef for ConvolutionWeightGrad {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x, g] = arity(inputs)?;
        require_one_float_dtype(x, g)?;
        Ok(vec![TensorType::checked(x.dtype, self.shape(&x.shape, &g.shape)?.0)?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (u, x, g) = (cx.grad(), cx.inputs[0], cx.inputs[1]);
        let dx = cx.flow(0, |b| b.convolution_input_grad(g, u, self.convolution().input_grad(&b.shape(x)[2..])))?;
        let dg = cx.flow(1, |b| b.convolution(x, u, self.convolution()))?;
        Ok(vec![dx, dg])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty, &inputs[1].ty])?.remove(0);
        let (x, g) = (inputs[0].floats(), inputs[1].floats());
        let mut out = vec![0.0; ty.elements()];
        let (_, shape) = self.shape(&inputs[0].ty.shape, &inputs[1].ty.shape)?;
        shape.for_each_term(|xi, wi, yi| out[wi] += x[xi] * g[yi]);
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let (_, shape) = self.shape(&inputs[0].shape, &inputs[1].shape).expect("inference accepted the operands");
        let (rank, loops) = (shape.windows.rank(), shape.loops());
        // Loop indices: group, o, c, k… | n, p…
        let (group, o, c, k, n, p) = (0, 1, 2, 3, 3 + rank, 4 + rank);
        let mut x_indices = [n, group, c].map(|d| Affine::dim(loops, d)).to_vec();
        x_indices.extend(shape.windows.input_indices(loops, p, k));
        let lhs = Access::new(0, &shape.x_view(), x_indices);
        Lowering::Contraction(Contraction {
            space: shape.w_view(),
            reduce: [&[shape.n][..], &shape.windows.output].concat(),
            lhs: if shape.windows.any_padded() { lhs.filled(0.0) } else { lhs },
            rhs: Access::new(1, &shape.y_view(), shape.loop_dims([n, group, o], p)),
            bands: vec![],
        })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let sample = |(op, x, w): (Convolution, Vec<usize>, Vec<usize>)| {
            let g = op.shape(&x, &w).expect("samples are valid").output();
            Sample::new(op.weight_grad(&w[2..])).float(&x, -1.0..1.0).float(&g, -1.0..1.0)
        };
        sample_geometries().into_iter().map(sample).collect()
    }
}
