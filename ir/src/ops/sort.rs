//! `sort`: elements in order along an axis, or the first of these, and where they were.

use super::structural::axis_of;
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{LineWork, Lines, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// Results: the first `count` elements of `x` in order along `axis`, and their i64 indices along it before.
    ///
    /// Stable: equal elements keep their order, also when descending. NaN is greater than all else.
    /// Source: PyTorch `torch.sort` with `stable`.
    pub struct Sort = "sort" {
        /// The axis along which elements are put in order.
        axis: usize,
        /// Largest first.
        descending: bool,
        /// How many elements of a line the results have, at most all.
        count: usize,
    }
}

const SIGN: u64 = 1 << 63;

/// Numbers in the order of floats: by value, NaN last, the zeros equal.
fn key_of_float(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    match x.is_nan() {
        true => u64::MAX,
        false if bits & SIGN == 0 => bits | SIGN,
        false => !bits,
    }
}

fn key_of_int(x: i64) -> u64 {
    x.cast_unsigned() ^ SIGN
}

impl Sort {
    /// Puts positions along the axis in sorted order, given the keys by which they are compared.
    fn order(&self, extent: usize, key: impl Fn(usize) -> u64) -> Vec<(u64, usize)> {
        let key = |k: usize| if self.descending { !key(k) } else { key(k) };
        let mut order: Vec<(u64, usize)> = (0..extent).map(|k| (key(k), k)).collect();
        order.sort_unstable(); // Positions decide between equal keys.
        order.truncate(self.count);
        order
    }

    fn axis_last(&self, b: &mut Builder, x: Value) -> Result<Value, TypeError> {
        let last = b.shape(x).len() - 1;
        b.swap_axes(x, self.axis, last)
    }
}

impl OpDef for Sort {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        axis_of(x, self.axis)?;
        let extent = x.shape[self.axis];
        if self.count > extent {
            let message = "more elements are asked for than a line has";
            return Err(TypeError::new(message).expected(format!("at most {extent}")).found(self.count));
        }
        let mut sorted = x.clone();
        sorted.shape[self.axis] = self.count;
        Ok(vec![sorted.clone(), sorted.with_dtype(DType::I64)])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![Cotangent::Zero]) };
        let (x, indices) = (cx.inputs[0], cx.outputs[1]);
        Ok(vec![cx.flow(0, |b| {
            let (x, g, indices) = (self.axis_last(b, x)?, self.axis_last(b, g)?, self.axis_last(b, indices)?);
            let zeros = b.splat(&b.ty(x).clone(), 0.0)?;
            let dx = b.scatter_add(zeros, indices, g, b.shape(g).len() - 1)?;
            self.axis_last(b, dx)
        })?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let types = self.infer(&[&x.ty])?;
        let (extent, inner) = (x.ty.shape[self.axis], x.ty.shape[self.axis + 1..].iter().product::<usize>());
        let mut sources = vec![0; types[0].elements()];
        for line in 0..x.ty.elements() / extent.max(1) {
            let element = |k: usize| (line / inner * extent + k) * inner + line % inner;
            let sorted = |k: usize| (line / inner * self.count + k) * inner + line % inner;
            let order = self.order(extent, |k| match &x.data {
                Data::Float(v) => key_of_float(v[element(k)]),
                Data::Int(v) => key_of_int(v[element(k)]),
            });
            order.iter().enumerate().for_each(|(k, &(_, from))| sources[sorted(k)] = element(from));
        }
        let indices = sources.iter().map(|&s| (s / inner % extent) as i64).collect();
        let values = x.gather_flat(types[0].clone(), |k| sources[k]);
        Ok(vec![values, Tensor::int(types[1].clone(), indices)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let work = LineWork::Sort { descending: self.descending, count: self.count };
        Lowering::Lines(Lines { shape: inputs[0].shape.clone(), axis: self.axis, work })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let along = |axis, descending, count| Sample::new(Sort { axis, descending, count });
        vec![
            along(0, false, 7).distinct(&[7], -1.0..1.0),
            along(1, true, 5).distinct(&[2, 5, 3], -1.0..1.0),
            along(0, true, 4).distinct(&[4, 3], -1.0..1.0),
            along(1, true, 3).distinct(&[2, 40], -1.0..1.0),
            along(1, false, 2).distinct(&[2, 5, 3], -1.0..1.0),
            along(1, false, 6).other(DType::I64, &[3, 6], 0.0..4.0),
            along(0, true, 2).other(DType::I32, &[6, 2], -4.0..4.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(x: Tensor, descending: bool) -> Vec<i64> {
        let count = x.ty.shape[0];
        Sort { axis: 0, descending, count }.eval(&[&x]).unwrap()[1].ints().to_vec()
    }

    fn sort(values: &[f64], descending: bool) -> Vec<i64> {
        places(Tensor::float(TensorType::f32([values.len()]), values.to_vec()), descending)
    }

    #[test]
    fn ties_keep_their_order_and_nan_is_greatest() {
        let x = [1.0, f64::NAN, -0.0, 1.0, 0.0, f64::INFINITY, -f64::NAN, -3.0, f64::NEG_INFINITY];
        assert_eq!(sort(&x, false), [8, 7, 2, 4, 0, 3, 5, 1, 6]);
        assert_eq!(sort(&x, true), [1, 6, 5, 0, 3, 2, 4, 7, 8]);
        let x = Tensor::int(TensorType::new(DType::I64, [4]), vec![0, -1, i64::MIN, i64::MAX]);
        assert_eq!(places(x, false), [2, 1, 0, 3]);
    }

    #[test]
    fn empty_axes_sort_to_nothing() {
        assert_eq!(sort(&[], false), [0i64; 0]);
        let x = Tensor::float(TensorType::f32([2, 0, 3]), vec![]);
        assert!(Sort { axis: 1, descending: true, count: 0 }.eval(&[&x]).is_ok());
        assert!(Sort { axis: 2, descending: true, count: 3 }.eval(&[&x]).is_ok());
    }

    #[test]
    fn refuses_an_axis_out_of_range_and_more_than_a_line_has() {
        let accepts = |axis, count| Sort { axis, descending: false, count }.infer(&[&TensorType::f32([3])]).is_ok();
        assert_eq!([accepts(0, 3), accepts(1, 1), accepts(0, 4)], [true, false, false]);
    }
}
