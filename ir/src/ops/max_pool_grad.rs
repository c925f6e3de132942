//! `max_pool_grad`: adjoint of the largest element of each window.

use super::MaxPool;
use super::max_pool::{require_pooled, with_plane};
use super::windows::Windows;
use crate::lower::{Access, Affine, BinaryFn, Body, Combine, CompareFn, Index, Lowering, Nest, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct, require};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

op_struct! {
    /// `dx[n, c, i] = Σ g[n, c, p]` over the windows `p` whose winning tap meets element `i`.
    ///
    /// `taps` are the winning taps of [`MaxPool`] as i32 `[N, C, P…]`, `g` is `[N, C, P…]` of a float dtype, `dx` is
    /// `[N, C, input…]`. What a tap gets that does not exist or meets padding is dropped; the derivative is defined for
    /// taps that `max_pool` makes. Attributes as of [`MaxPool`]; `input` is needed because a strided window may leave
    /// elements at the end unvisited.
    pub struct MaxPoolGrad = "max_pool_grad" {
        /// Extents of the window, in taps.
        window: Vec<usize>,
        /// Step of the window, per spatial axis.
        stride: Vec<usize>,
        /// Padding before the first element, per spatial axis.
        pad_low: Vec<usize>,
        /// Padding after the last element, per spatial axis.
        pad_high: Vec<usize>,
        /// Distance of taps, per spatial axis.
        dilation: Vec<usize>,
        /// Spatial extents of the pooling's input.
        input: Vec<usize>,
    }
}

impl MaxPoolGrad {
    /// The pooling this is the adjoint of.
    pub fn max_pool(&self) -> MaxPool {
        let Self { window, stride, pad_low, pad_high, dilation, .. } = self.clone();
        MaxPool { window, stride, pad_low, pad_high, dilation }
    }

    fn windows(&self, taps: &TensorType, g: &TensorType) -> Result<Windows, TypeError> {
        require_pooled(g)?;
        let windows = self.max_pool().windows(&with_plane(&g.shape, &self.input))?;
        let expected = g.with_shape(with_plane(&g.shape, &windows.output));
        require(*g == expected, "the cotangent must have the pooling's shape", &expected, g)?;
        let expected = g.with_dtype(DType::I32);
        require(*taps == expected, "there must be a tap for each element of the cotangent", &expected, taps)?;
        Ok(windows)
    }
}

impl OpDef for MaxPoolGrad {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [taps, g] = arity(inputs)?;
        Ok(vec![TensorType::checked(g.dtype, with_plane(&g.shape, &self.windows(taps, g)?.input))?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, taps) = (cx.grad(), cx.inputs[0]);
        let dg = cx.flow(1, |b| {
            let indices = b.max_pool_indices(taps, &self.max_pool(), &self.input)?;
            let shape = b.shape(taps).to_vec();
            let flat = |shape: &[usize]| with_plane(shape, &[shape[2..].iter().product()]);
            let indices = b.reshape(indices, &flat(&shape))?;
            let plane = b.reshape(g, &flat(b.shape(g)))?;
            let picked = b.gather(plane, indices, 2)?;
            b.reshape(picked, &shape)
        })?;
        Ok(vec![Cotangent::Zero, dg])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let ty = self.infer(&[&inputs[0].ty, &inputs[1].ty])?.remove(0);
        let windows = self.windows(&inputs[0].ty, &inputs[1].ty)?;
        let mut out = vec![0.0; ty.elements()];
        windows.for_each_meeting(ty.shape[0] * ty.shape[1], |m| {
            if inputs[0].ints()[m.position] == m.tap as i64 {
                out[m.input] += inputs[1].floats()[m.position];
            }
        });
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let windows = self.windows(inputs[0], inputs[1]).expect("inference accepted the operands");
        let adjoint = Adjoint { windows, g: inputs[1], space: &outputs[0].shape };
        let spelled_out = adjoint.windows.is_spelled_out();
        Lowering::Nests(vec![if spelled_out { adjoint.spelled_out() } else { adjoint.reduction() }])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let sample = |[window, stride, pad_low, pad_high, dilation]: [&[usize]; 5], input: &[usize], g: &[usize]| {
            let taps = window.iter().product::<usize>() as f64;
            let [window, stride, pad_low, pad_high, dilation, input] =
                [window, stride, pad_low, pad_high, dilation, input].map(|list| list.to_vec());
            Sample::new(MaxPoolGrad { window, stride, pad_low, pad_high, dilation, input })
                .other(DType::I32, g, 0.0..taps)
                .float(g, -1.0..1.0)
        };
        vec![
            sample([&[3], &[1], &[0], &[0], &[1]], &[7], &[2, 2, 5]),
            sample([&[2], &[3], &[0], &[0], &[2]], &[8], &[1, 2, 2]),
            sample([&[2, 2], &[2, 2], &[0, 0], &[0, 0], &[1, 1]], &[4, 7], &[2, 6, 2, 3]),
            sample([&[3, 2], &[2, 1], &[0, 0], &[0, 0], &[1, 2]], &[5, 5], &[1, 5, 2, 3]),
            sample([&[5, 4], &[5, 4], &[0, 0], &[0, 0], &[1, 1]], &[5, 8], &[1, 3, 1, 2]),
        ]
    }
}

/// The nest of an adjoint: taps are operand 0, the cotangent is operand 1.
struct Adjoint<'a> {
    windows: Windows,
    g: &'a TensorType,
    /// Shape of the result.
    space: &'a [usize],
}

impl Adjoint<'_> {
    /// The window that meets an element with each tap, in ascending order of windows.
    fn spelled_out(&self) -> Nest {
        let rank = self.space.len();
        Nest::map(self.space, |body| {
            let terms = (0..self.windows.taps()).rev().map(|tap| {
                let number = body.constant(DType::I32, tap as f64);
                self.term(body, self.windows.positions_of_tap(tap, rank, 2), number)
            });
            let terms: Vec<ScalarId> = terms.collect();
            terms.into_iter().reduce(|sum, term| body.binary(BinaryFn::Add, sum, term)).expect("a window has taps")
        })
    }

    /// A loop over the taps.
    fn reduction(&self) -> Nest {
        let Windows { kernel, .. } = &self.windows;
        let rank = self.space.len() + kernel.len();
        Nest::reduction(self.space, kernel, Combine::Sum, |body| {
            let axes = (0..kernel.len()).zip(row_major_strides(kernel));
            let number = axes.fold(Affine::constant(rank, 0), |sum, (d, stride)| {
                sum.plus(self.space.len() + d, stride as i64)
            });
            let number = body.affine(&number);
            let number = body.cast(DType::I32, number);
            self.term(body, self.windows.position_indices(rank, 2, self.space.len()), number)
        })
    }

    /// The cotangent at a position in the plane if the tap with this number won there.
    fn term(&self, body: &mut Body, position: Vec<Index>, number: ScalarId) -> ScalarId {
        let rank = position[0].affine.coeffs.len();
        let leading = [0, 1].map(|d| Index::from(Affine::dim(rank, d)));
        let read = |operand: usize, fill: f64| {
            let indices = leading.iter().chain(&position).cloned().collect();
            Access { operand, view: self.g.shape.clone(), indices, fill: None }.filled(fill)
        };
        let winner = body.load(DType::I32, read(0, -1.0));
        let wins = body.compare(CompareFn::Eq, winner, number);
        let g = body.load(self.g.dtype, read(1, 0.0));
        let zero = body.constant(self.g.dtype, 0.0);
        body.select(wins, g, zero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_that_meet_padding_or_do_not_exist_are_dropped() {
        let [window, stride, pad_low, pad_high, dilation] = [vec![2], vec![1], vec![1], vec![0], vec![1]];
        let op = MaxPoolGrad { window, stride, pad_low, pad_high, dilation, input: vec![3] };
        let taps = Tensor::int(TensorType::new(DType::I32, [1, 1, 3]), vec![0, 0, 7]);
        let g = Tensor::float(TensorType::f32([1, 1, 3]), vec![1.0, 2.0, 4.0]);
        let expected = [2.0, 0.0, 0.0];
        assert_eq!(op.eval(&[&taps, &g]).unwrap()[0].floats(), expected);
        let lowered = crate::interpret_lowered::evaluate(&op.into(), &[&taps, &g]).unwrap();
        assert_eq!(lowered[0].floats(), expected);
    }
}
