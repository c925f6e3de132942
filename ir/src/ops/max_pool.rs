//! `max_pool`: largest element of each window, and which of its taps that is.

use super::MaxPoolGrad;
use super::windows::{Meeting, Slide, Windows};
use crate::lower::{Access, Affine, BinaryFn, Body, Combine, CompareFn, Lowering, Nest, Scalar, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};
use std::ops::Range;

op_struct! {
    /// Results: `max over k of x[n, c, p·stride + k·dilation − pad_low]`, and the number of the tap `k` it is at as i32,
    /// taps counted in row-major order.
    ///
    /// `x` is `[N, C, S…]` of a float dtype, both results are `[N, C, P…]`. Padding never wins: every window must hold an
    /// element. The first of equal maxima wins; if there is a NaN, the first NaN does.
    /// Source: PyTorch `torch.nn.functional.max_pool2d` with `return_indices`; [`Builder::max_pool`] has its indices.
    ///
    /// [`Builder::max_pool`]: crate::builder::Builder::max_pool
    pub struct MaxPool = "max_pool" {
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
    }
}

/// Two axes and at least one spatial axis.
pub(super) fn require_pooled(x: &TensorType) -> Result<(), TypeError> {
    require(x.dtype.is_float() && x.rank() >= 3, "pooling takes [N, C, S…] of floats", "rank of at least 3", x)
}

/// `[N, C]` followed by the spatial extents.
pub(super) fn with_plane(x: &[usize], plane: &[usize]) -> Vec<usize> {
    [&x[..2], plane].concat()
}

impl MaxPool {
    /// The op that makes the gradient of an input with spatial extents `input`.
    pub fn grad(&self, input: &[usize]) -> MaxPoolGrad {
        let MaxPool { window, stride, pad_low, pad_high, dilation } = self.clone();
        MaxPoolGrad { window, stride, pad_low, pad_high, dilation, input: input.to_vec() }
    }

    /// The window on an input of shape `[N, C, S…]`.
    pub(super) fn windows(&self, x: &[usize]) -> Result<Windows, TypeError> {
        let slide =
            Slide { stride: &self.stride, pad_low: &self.pad_low, pad_high: &self.pad_high, dilation: &self.dilation };
        let windows = Windows::new(slide, &x[2..], &self.window)?;
        // With taps no further apart than the input is long, a window that starts in the low padding cannot step over the input.
        let low = (0..windows.rank()).all(|d| {
            let reach = self.dilation[d] * (self.window[d] - 1);
            self.pad_low[d] == 0 || (self.pad_low[d] <= reach && self.dilation[d] <= x[2 + d])
        });
        let high = (0..windows.rank()).all(|d| (windows.output[d] - 1) * self.stride[d] < x[2 + d] + self.pad_low[d]);
        require(low && high, "a window holds only padding", "an element in every window", format!("{self:?}"))?;
        Ok(windows)
    }
}

impl OpDef for MaxPool {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        require_pooled(x)?;
        let values = TensorType::checked(x.dtype, with_plane(&x.shape, &self.windows(&x.shape)?.output))?;
        let taps = values.with_dtype(DType::I32);
        Ok(vec![values, taps])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![Cotangent::Zero]) };
        let (x, taps) = (cx.inputs[0], cx.outputs[1]);
        Ok(vec![cx.flow(0, |b| b.max_pool_grad(taps, g, self.grad(&b.shape(x)[2..])))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let types = self.infer(&[&inputs[0].ty])?;
        let windows = self.windows(&inputs[0].ty.shape)?;
        let mut values = vec![f64::NEG_INFINITY; types[0].elements()];
        let mut taps = vec![-1; types[0].elements()];
        windows.for_each_meeting(inputs[0].ty.shape[..2].iter().product(), |Meeting { input, tap, position }| {
            let (x, best) = (inputs[0].floats()[input], values[position]);
            if taps[position] < 0 || x > best || (x.is_nan() && !best.is_nan()) {
                (values[position], taps[position]) = (x, tap as i64);
            }
        });
        Ok(vec![Tensor::float(types[0].clone(), values), Tensor::int(types[1].clone(), taps)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let windows = self.windows(&inputs[0].shape).expect("inference accepted the operand");
        let pooling = Pooling { windows, x: inputs[0], space: &outputs[0].shape };
        Lowering::Nests(if pooling.windows.is_spelled_out() { pooling.spelled_out() } else { pooling.reductions() })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let line = |window: usize, [stride, low, high, dilation]: [usize; 4]| {
            let [window, stride, pad_low, pad_high, dilation] = [window, stride, low, high, dilation].map(|v| vec![v]);
            Sample::new(MaxPool { window, stride, pad_low, pad_high, dilation })
        };
        let plane = |[window, stride, pad_low, pad_high, dilation]: [[usize; 2]; 5]| {
            let [window, stride, pad_low, pad_high, dilation] =
                [window, stride, pad_low, pad_high, dilation].map(|v| v.to_vec());
            Sample::new(MaxPool { window, stride, pad_low, pad_high, dilation })
        };
        vec![
            line(3, [1, 0, 0, 1]).distinct(&[2, 2, 7], -1.0..1.0),
            line(3, [2, 2, 1, 2]).distinct(&[1, 2, 8], -1.0..1.0),
            plane([[2, 2], [2, 2], [0, 0], [0, 0], [1, 1]]).distinct(&[1, 6, 4, 6], -1.0..1.0),
            plane([[3, 3], [2, 2], [1, 1], [1, 1], [1, 1]]).distinct(&[1, 5, 5, 6], -1.0..1.0),
            plane([[3, 2], [1, 2], [2, 0], [0, 1], [1, 2]]).distinct(&[1, 1, 5, 5], -1.0..1.0),
        ]
    }
}

/// The nests of a pooling: values, then taps, which read the values as operand 1.
struct Pooling<'a> {
    windows: Windows,
    x: &'a TensorType,
    /// Shape of the results.
    space: &'a [usize],
}

impl Pooling<'_> {
    /// Every tap read by itself.
    fn spelled_out(&self) -> Vec<Nest> {
        let rank = self.space.len();
        let taps = self.windows.taps();
        let reads: Vec<Access> =
            (0..taps).map(|tap| self.read(rank, self.windows.inputs_of_tap(tap, rank, 2))).collect();
        let values = Nest::map(self.space, |body| {
            let loads: Vec<ScalarId> = reads.iter().map(|read| body.load(self.x.dtype, read.clone())).collect();
            loads.into_iter().reduce(|most, tap| body.binary(BinaryFn::Max, most, tap)).expect("a window has taps")
        });
        let winners = Nest::map(self.space, |body| {
            let largest = body.load(self.x.dtype, Access::identity(1, self.space, rank));
            let mut winner = body.constant(DType::I32, 0.0);
            for (tap, read) in reads.into_iter().enumerate().rev() {
                let value = body.load(self.x.dtype, read);
                let wins = tap_wins(body, value, largest);
                let wins = self.inside(body, tap, wins);
                let number = body.constant(DType::I32, tap as f64);
                winner = body.select(wins, number, winner);
            }
            winner
        });
        vec![values, winners]
    }

    /// Loops over the taps.
    fn reductions(&self) -> Vec<Nest> {
        let Windows { kernel, .. } = &self.windows;
        let rank = self.space.len() + kernel.len();
        let indices = self.windows.input_indices(rank, 2, self.space.len());
        let read = self.read(rank, indices.clone());
        let values =
            Nest::reduction(self.space, kernel, Combine::Max, |body| body.load(self.x.dtype, read.clone()));
        let winners = Nest::reduction(self.space, kernel, Combine::Min, |body| {
            let value = body.load(self.x.dtype, read);
            let largest = body.load(self.x.dtype, Access::identity(1, self.space, rank));
            let mut wins = tap_wins(body, value, largest);
            for d in (0..kernel.len()).filter(|&d| self.windows.padded(d)) {
                let at = body.affine(&indices[d]);
                wins = within(body, at, 0..self.windows.input[d], wins);
            }
            let number = (0..kernel.len()).zip(row_major_strides(kernel));
            let number = number.fold(Affine::constant(rank, 0), |sum, (d, stride)| {
                sum.plus(self.space.len() + d, stride as i64)
            });
            let number = body.affine(&number);
            let (number, none) = (body.cast(DType::I32, number), body.constant(DType::I32, self.windows.taps() as f64));
            body.select(wins, number, none)
        });
        vec![values, winners]
    }

    /// The read of an element by its indices in the plane.
    fn read(&self, rank: usize, plane: Vec<Affine>) -> Access {
        let indices = [Affine::dim(rank, 0), Affine::dim(rank, 1)].into_iter().chain(plane).collect();
        let access = Access::new(0, &self.x.shape, indices);
        if self.windows.any_padded() { access.filled(f64::NEG_INFINITY) } else { access }
    }

    /// `wins` where the tap is not in the padding.
    fn inside(&self, body: &mut Body, tap: usize, mut wins: ScalarId) -> ScalarId {
        for d in 0..self.windows.rank() {
            let (positions, inside) = (self.windows.output[d], self.windows.inside(d, tap));
            if inside != (0..positions) {
                let position = body.push(Scalar::LoopIndex(2 + d), DType::I64);
                wins = within(body, position, inside, wins);
            }
        }
        wins
    }
}

/// `also` where an integer is in a range.
fn within(body: &mut Body, at: ScalarId, range: Range<usize>, also: ScalarId) -> ScalarId {
    let [start, end] = [range.start, range.end].map(|bound| body.constant(DType::I64, bound as f64));
    let [above, below] = [body.compare(CompareFn::Ge, at, start), body.compare(CompareFn::Lt, at, end)];
    let both = body.binary(BinaryFn::And, above, below);
    body.binary(BinaryFn::And, also, both)
}

/// Whether the tap is a largest element: equal to it, or NaN (no other value is equal to a NaN maximum).
fn tap_wins(body: &mut Body, tap: ScalarId, largest: ScalarId) -> ScalarId {
    let equal = body.compare(CompareFn::Eq, tap, largest);
    let nan = body.compare(CompareFn::Ne, tap, tap);
    body.binary(BinaryFn::Or, equal, nan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpret_lowered;

    fn pool(window: usize, [stride, low, high, dilation]: [usize; 4]) -> MaxPool {
        let [window, stride, pad_low, pad_high, dilation] = [window, stride, low, high, dilation].map(|v| vec![v]);
        MaxPool { window, stride, pad_low, pad_high, dilation }
    }

    #[test]
    fn first_maximum_and_first_nan_win() {
        let x = Tensor::float(TensorType::f32([1, 1, 6]), vec![2.0, 2.0, f64::NAN, f64::NAN, 1.0, f64::NEG_INFINITY]);
        let results = pool(2, [2, 0, 0, 1]).eval(&[&x]).unwrap();
        assert_eq!(results[1].ints(), [0, 0, 0]);
        assert!(results[0].floats()[1].is_nan());
        let shifted = pool(2, [2, 1, 1, 1]).eval(&[&x]).unwrap();
        assert_eq!(shifted[1].ints(), [1, 1, 0, 0]);
        assert_eq!(shifted[0].floats()[3], f64::NEG_INFINITY);
    }

    #[test]
    fn lowered_taps_never_meet_padding() {
        let nan = f64::NAN;
        for values in [[nan, 1.0, nan, 2.0], [f64::NEG_INFINITY; 4], [f64::INFINITY; 4], [0.0, -0.0, 0.0, nan]] {
            let x = Tensor::float(TensorType::f32([1, 1, 4]), values.to_vec());
            let op = pool(2, [1, 1, 1, 1]);
            let (expected, lowered) =
                (op.eval(&[&x]).unwrap(), interpret_lowered::evaluate(&op.into(), &[&x]).unwrap());
            assert_eq!(lowered[1], expected[1], "{values:?}");
            let same = |(e, l): (&f64, &f64)| e == l || (e.is_nan() && l.is_nan());
            assert!(expected[0].floats().iter().zip(lowered[0].floats()).all(same), "{values:?}");
        }
    }

    #[test]
    fn refuses_windows_of_padding_only() {
        let infer = |pool: MaxPool, n: usize| pool.infer(&[&TensorType::f32([1, 1, n])]);
        assert!(infer(pool(2, [1, 1, 1, 1]), 3).is_ok());
        assert!(infer(pool(2, [1, 2, 0, 1]), 3).is_err(), "the first window ends before the input");
        assert!(infer(pool(2, [1, 0, 2, 1]), 3).is_err(), "the last window starts behind the input");
        assert!(infer(pool(2, [1, 1, 1, 2]), 1).is_err(), "the taps step over the input");
        assert!(pool(2, [1, 0, 0, 1]).infer(&[&TensorType::f32([3, 3])]).is_err(), "no spatial axis");
    }
}
