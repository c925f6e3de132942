//! `cumulative_sum`: sums of the elements up to each along an axis.

use super::structural::axis_of;
use crate::lower::{LineWork, Lines, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};
use std::ops::Add;

op_struct! {
    /// `y[k] = x[0] + … + x[k]` along `axis`, or `x[k] + … + x[n − 1]` if `reverse`; of numbers.
    ///
    /// `dx` is the sum of `g` from the other end.
    pub struct CumulativeSum = "cumulative_sum" {
        /// The axis along which sums grow.
        axis: usize,
        /// From the last element on.
        reverse: bool,
    }
}

impl CumulativeSum {
    /// The sums along all lines, by one addition after the other.
    fn sums<T: Copy>(&self, shape: &[usize], values: &[T], add: impl Fn(T, T) -> T) -> Vec<T> {
        let (extent, inner) = (shape[self.axis], shape[self.axis + 1..].iter().product::<usize>());
        let mut sums = values.to_vec();
        for line in 0..values.len() / extent.max(1) {
            let element = |k: usize| (line / inner * extent + k) * inner + line % inner;
            let place = |k: usize| element(if self.reverse { extent - 1 - k } else { k });
            for k in 1..extent {
                sums[place(k)] = add(sums[place(k - 1)], sums[place(k)]);
            }
        }
        sums
    }
}

impl OpDef for CumulativeSum {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        axis_of(x, self.axis)?;
        if x.dtype == DType::Bool {
            return Err(TypeError::new("booleans have no sum").expected("numbers").found(x.dtype));
        }
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        Ok(vec![cx.flow(0, |b| b.cumulative_sum(g, self.axis, !self.reverse))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        Ok(vec![match &x.data {
            Data::Float(v) => Tensor::float(x.ty.clone(), self.sums(&x.ty.shape, v, f64::add)),
            Data::Int(v) => Tensor::int(x.ty.clone(), self.sums(&x.ty.shape, v, i64::wrapping_add)),
        }])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let work = LineWork::CumulativeSum { reverse: self.reverse };
        Lowering::Lines(Lines { shape: inputs[0].shape.clone(), axis: self.axis, work })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let along = |axis, reverse| Sample::new(CumulativeSum { axis, reverse });
        vec![
            along(0, false).float(&[7], -1.0..1.0),
            along(1, false).float(&[2, 5, 3], -1.0..1.0),
            along(1, true).float(&[19, 4], -1.0..1.0),
            along(1, false).float(&[3, 2, 20], -1.0..1.0),
            along(0, true).float(&[4, 67], -1.0..1.0),
            along(1, false).other(DType::I64, &[3, 6], -9.0..9.0),
            along(0, true).other(DType::I32, &[5, 2], -9.0..9.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_begin_at_either_end() {
        let x = Tensor::float(TensorType::f32([2, 3]), vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
        let sums = |axis, reverse| CumulativeSum { axis, reverse }.eval(&[&x]).unwrap()[0].floats().to_vec();
        assert_eq!(sums(1, false), [1.0, 3.0, 7.0, 8.0, 24.0, 56.0]);
        assert_eq!(sums(1, true), [7.0, 6.0, 4.0, 56.0, 48.0, 32.0]);
        assert_eq!(sums(0, false), [1.0, 2.0, 4.0, 9.0, 18.0, 36.0]);
    }

    #[test]
    fn refuses_booleans_and_an_axis_out_of_range() {
        let accepts = |axis, dtype| {
            CumulativeSum { axis, reverse: false }.infer(&[&TensorType::new(dtype, [3])]).is_ok()
        };
        let cases = [accepts(0, DType::F32), accepts(0, DType::Bool), accepts(1, DType::F32)];
        assert_eq!(cases, [true, false, false]);
    }
}
