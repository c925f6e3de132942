//! `convolution_input_grad`: adjoint of convolution in its input (transposed convolution).

use super::Convolution;
use super::conv_shape::ConvShape;
use super::convolution::{require_one_float_dtype, sample_geometries};
use crate::lower::{Access, Affine, Contraction, Index, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `dx` such that `⟨dx, x⟩ = ⟨g, convolution(x, w)⟩` for all `x`.
    ///
    /// `g` is `[N, O, P…]`, `w` is `[O, C/groups, K…]`, `dx` is `[N, C, input…]`. Attributes as of
    /// [`Convolution`]; `input` is needed because a strided window may leave elements at the end unvisited.
    pub struct ConvolutionInputGrad = "convolution_input_grad" {
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
        /// Spatial extents of the convolution's input.
        input: Vec<usize>,
    }
}

impl ConvolutionInputGrad {
    /// The convolution this is an adjoint of.
    pub fn convolution(&self) -> Convolution {
        let Self { stride, pad_low, pad_high, dilation, groups, .. } = self.clone();
        Convolution { stride, pad_low, pad_high, dilation, groups }
    }

    /// Shape of `dx`, and the convolution's extents, from the shapes of `g` and `w`.
    fn shape(&self, g: &[usize], w: &[usize]) -> Result<(Vec<usize>, ConvShape), TypeError> {
        require(
            g.len() == w.len() && g.len() >= 3,
            "cotangent and weight must have equal ranks of at least 3",
            format!("{w:?}"),
            format!("{g:?}"),
        )?;
        let channels = w[1].checked_mul(self.groups).ok_or_else(|| TypeError::new("too many channels"))?;
        let x = [&[g[0], channels][..], &self.input].concat();
        let shape = self.convolution().shape(&x, w)?;
        require(
            shape.output() == g,
            "the cotangent must have the convolution's shape",
            format!("{:?}", shape.output()),
            format!("{g:?}"),
        )?;
        Ok((x, shape))
    }
}

impl OpDef for ConvolutionInputGrad {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [g, w] = arity(inputs)?;
        require_one_float_dtype(g, w)?;
        Ok(vec![TensorType::checked(g.dtype, self.shape(&g.shape, &w.shape)?.0)?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (u, g, w) = (cx.grad(), cx.inputs[0], cx.inputs[1]);
        let dg = cx.flow(0, |b| b.convolution(u, w, self.convolution()))?;
        let dw = cx.flow(1, |b| b.convolution_weight_grad(u, g, self.convolution().weight_grad(&b.shape(w)[2..])))?;
        Ok(vec![dg, dw])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty, &inputs[1].ty])?.remove(0);
        let (g, w) = (inputs[0].floats(), inputs[1].floats());
        let mut out = vec![0.0; ty.elements()];
        let (_, shape) = self.shape(&inputs[0].ty.shape, &inputs[1].ty.shape)?;
        shape.for_each_term(|xi, wi, yi| out[xi] += g[yi] * w[wi]);
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let (_, shape) = self.shape(&inputs[0].shape, &inputs[1].shape).expect("inference accepted the operands");
        let (rank, loops) = (shape.windows.rank(), shape.loops());
        // Loop indices: n, group, c, s… | o, k…
        let (n, group, c, s, o, k) = (0, 1, 2, 3, 3 + rank, 4 + rank);
        let leading = [n, group, o].map(|d| Index::from(Affine::dim(loops, d)));
        let indices = leading.into_iter().chain(shape.windows.position_indices(loops, s, k)).collect();
        let lhs = Access { operand: 0, view: shape.y_view(), indices, fill: None };
        Lowering::Contraction(Contraction {
            space: shape.x_view(),
            reduce: [&[shape.outputs][..], &shape.windows.kernel].concat(),
            lhs: if shape.windows.is_pointwise() { lhs } else { lhs.filled(0.0) },
            rhs: Access::new(1, &shape.w_view(), shape.loop_dims([group, o, c], k)),
            bands: vec![],
        })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let sample = |(op, x, w): (Convolution, Vec<usize>, Vec<usize>)| {
            let g = op.shape(&x, &w).expect("samples are valid").output();
            Sample::new(op.input_grad(&x[2..])).float(&g, -1.0..1.0).float(&w, -1.0..1.0)
        };
        sample_geometries().into_iter().map(sample).collect()
    }
}
