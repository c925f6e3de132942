//! `max_pool`: largest element of each window, and where it is.

use super::windows::{Slide, Windows};
use crate::lower::{Access, Affine, BinaryFn, Body, Combine, CompareFn, Lowering, Nest, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

op_struct! {
    /// Results: `max over k of x[n, c, p·stride + k·dilation − pad_low]`, and its i64 index, flat in the plane `S…`.
    ///
    /// `x` is `[N, C, S…]` of a float dtype, both results are `[N, C, P…]`. Padding never wins: every window must hold an
    /// element. The first of equal maxima wins; if there is a NaN, the first NaN does.
    /// Source: PyTorch `torch.nn.functional.max_pool2d` with `return_indices`.
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
    fn windows(&self, x: &[usize]) -> Result<Windows, TypeError> {
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
        let indices = values.with_dtype(DType::I64);
        Ok(vec![values, indices])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![Cotangent::Zero]) };
        let (x, indices) = (cx.inputs[0], cx.outputs[1]);
        Ok(vec![cx.flow(0, |b| {
            let ty = b.ty(x).clone();
            let flat = |shape: &[usize]| with_plane(shape, &[shape[2..].iter().product()]);
            let positions = flat(b.shape(g));
            let zeros = b.splat(&ty.with_shape(flat(&ty.shape)), 0.0)?;
            let (indices, g) = (b.reshape(indices, &positions)?, b.reshape(g, &positions)?);
            let dx = b.scatter_add(zeros, indices, g, 2)?;
            b.reshape(dx, &ty.shape)
        })?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let types = self.infer(&[&inputs[0].ty])?;
        let windows = self.windows(&inputs[0].ty.shape)?;
        let plane = windows.input.iter().product::<usize>();
        let mut values = vec![f64::NEG_INFINITY; types[0].elements()];
        let mut indices = vec![-1; types[0].elements()];
        windows.for_each_meeting(inputs[0].ty.shape[..2].iter().product(), |from, to| {
            let (x, best) = (inputs[0].floats()[from], values[to]);
            if indices[to] < 0 || x > best || (x.is_nan() && !best.is_nan()) {
                (values[to], indices[to]) = (x, (from % plane) as i64);
            }
        });
        Ok(vec![Tensor::float(types[0].clone(), values), Tensor::int(types[1].clone(), indices)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let x = inputs[0];
        let windows = self.windows(&x.shape).expect("inference accepted the operand");
        let space = &outputs[0].shape;
        let rank = space.len() + windows.rank();
        let mut indices = vec![Affine::dim(rank, 0), Affine::dim(rank, 1)];
        indices.extend(windows.input_indices(rank, 2, space.len()));
        let access = Access::new(0, &x.shape, indices.clone());
        let access = if windows.any_padded() { access.filled(f64::NEG_INFINITY) } else { access };
        let values = Nest::reduction(space, &windows.kernel, Combine::Max, |body| body.load(x.dtype, access.clone()));
        let places = Nest::reduction(space, &windows.kernel, Combine::Min, |body| {
            let tap = body.load(x.dtype, access);
            let largest = body.load(x.dtype, Access::identity(1, space, rank));
            let wins = tap_wins(body, tap, largest);
            place_of_tap(body, &windows, &indices[2..], wins)
        });
        Lowering::Nests(vec![values, places])
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
            plane([[2, 2], [2, 2], [0, 0], [0, 0], [1, 1]]).distinct(&[2, 2, 4, 6], -1.0..1.0),
            plane([[3, 3], [2, 2], [1, 1], [1, 1], [1, 1]]).distinct(&[1, 2, 5, 6], -1.0..1.0),
            plane([[3, 2], [1, 2], [2, 0], [0, 1], [1, 2]]).distinct(&[1, 1, 5, 5], -1.0..1.0),
        ]
    }
}

/// Whether the tap is a largest element: equal to it, or NaN (no other value is equal to a NaN maximum).
fn tap_wins(body: &mut Body, tap: ScalarId, largest: ScalarId) -> ScalarId {
    let equal = body.compare(CompareFn::Eq, tap, largest);
    let nan = body.compare(CompareFn::Ne, tap, tap);
    body.binary(BinaryFn::Or, equal, nan)
}

/// Flat index in the plane where the tap wins and is not padding, else larger than any; the least is the first maximum.
fn place_of_tap(body: &mut Body, windows: &Windows, indices: &[Affine], mut wins: ScalarId) -> ScalarId {
    let mut place = body.constant(DType::I64, 0.0);
    for (d, stride) in row_major_strides(&windows.input).into_iter().enumerate() {
        let at = body.affine(&indices[d]);
        if windows.padded(d) {
            let (zero, end) = (body.constant(DType::I64, 0.0), body.constant(DType::I64, windows.input[d] as f64));
            for inside in [body.compare(CompareFn::Ge, at, zero), body.compare(CompareFn::Lt, at, end)] {
                wins = body.binary(BinaryFn::And, wins, inside);
            }
        }
        let stride = body.constant(DType::I64, stride as f64);
        let term = body.binary(BinaryFn::Mul, at, stride);
        place = body.binary(BinaryFn::Add, place, term);
    }
    let none = body.constant(DType::I64, windows.input.iter().product::<usize>() as f64);
    body.select(wins, place, none)
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
        assert_eq!(results[1].ints(), [0, 2, 4]);
        assert!(results[0].floats()[1].is_nan());
        let shifted = pool(2, [2, 1, 1, 1]).eval(&[&x]).unwrap();
        assert_eq!(shifted[1].ints(), [0, 2, 3, 5]);
        assert_eq!(shifted[0].floats()[3], f64::NEG_INFINITY);
    }

    #[test]
    fn lowered_indices_never_point_at_padding() {
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
