//! `sum_pool_grad`: adjoint of the sum of each window.

use super::SumPool;
use super::max_pool::{require_pooled, with_plane};
use super::sum_pool::sample_geometries;
use super::windows::Windows;
use crate::lower::{Access, Affine, BinaryFn, Combine, Index, Lowering, Nest, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct, require};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `dx` such that `⟨dx, x⟩ = ⟨g, sum_pool(x)⟩` for all `x`: each element gets the sum of `g` over the windows that hold it.
    ///
    /// `g` is `[N, C, P…]` of a float dtype, `dx` is `[N, C, input…]`. Attributes as of [`SumPool`]; `input` is needed because a
    /// strided window may leave elements at the end unvisited.
    pub struct SumPoolGrad = "sum_pool_grad" {
        /// Extents of the window.
        window: Vec<usize>,
        /// Step of the window, per spatial axis.
        stride: Vec<usize>,
        /// Zeros before the first element, per spatial axis.
        pad_low: Vec<usize>,
        /// Zeros after the last element, per spatial axis.
        pad_high: Vec<usize>,
        /// Spatial extents of the pooling's input.
        input: Vec<usize>,
    }
}

impl SumPoolGrad {
    /// The pooling this is the adjoint of.
    pub fn sum_pool(&self) -> SumPool {
        let Self { window, stride, pad_low, pad_high, .. } = self.clone();
        SumPool { window, stride, pad_low, pad_high }
    }

    fn windows(&self, g: &TensorType) -> Result<Windows, TypeError> {
        require_pooled(g)?;
        let windows = self.sum_pool().windows(&with_plane(&g.shape, &self.input))?;
        let expected = g.with_shape(with_plane(&g.shape, &windows.output));
        require(*g == expected, "the cotangent must have the pooling's shape", &expected, g)?;
        Ok(windows)
    }
}

impl OpDef for SumPoolGrad {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [g] = arity(inputs)?;
        Ok(vec![TensorType::checked(g.dtype, with_plane(&g.shape, &self.windows(g)?.input))?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |b| b.sum_pool(g, self.sum_pool()))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty])?.remove(0);
        let windows = self.windows(&inputs[0].ty)?;
        let mut out = vec![0.0; ty.elements()];
        windows.for_each_meeting(ty.shape[0] * ty.shape[1], |m| out[m.input] += inputs[0].floats()[m.position]);
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let windows = self.windows(inputs[0]).expect("inference accepted the operand");
        let (g, space) = (inputs[0], &outputs[0].shape[..]);
        let read = |rank: usize, position: Vec<Index>| {
            let leading = [0, 1].map(|d| Index::from(Affine::dim(rank, d)));
            let indices = leading.into_iter().chain(position).collect();
            let access = Access { operand: 0, view: g.shape.clone(), indices, fill: None };
            if windows.is_pointwise() { access } else { access.filled(0.0) }
        };
        let rank = space.len();
        let nest = if windows.is_spelled_out() {
            Nest::map(space, |body| {
                // In ascending order of windows.
                let taps = (0..windows.taps()).rev();
                let terms: Vec<ScalarId> = taps
                    .map(|tap| body.load(g.dtype, read(rank, windows.positions_of_tap(tap, rank, 2))))
                    .collect();
                terms.into_iter().reduce(|sum, term| body.binary(BinaryFn::Add, sum, term)).expect("a window has taps")
            })
        } else {
            let loops = rank + windows.rank();
            let access = read(loops, windows.position_indices(loops, 2, rank));
            Nest::reduction(space, &windows.kernel, Combine::Sum, |body| body.load(g.dtype, access))
        };
        Lowering::Nests(vec![nest])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let sample = |(op, x): (SumPool, Vec<usize>)| {
            let g = with_plane(&x, &op.windows(&x).expect("samples are valid").output);
            Sample::new(op.grad(&x[2..])).float(&g, -1.0..1.0)
        };
        sample_geometries().into_iter().map(sample).collect()
    }
}
