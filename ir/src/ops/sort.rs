//! `sort`: elements in order along an axis, and where they were.

use super::structural::axis_of;
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// Results: the elements of `x` in order along `axis`, and their i64 indices along it before.
    ///
    /// Stable: equal elements keep their order, also when descending. NaN is greater than all else.
    /// Source: PyTorch `torch.sort` with `stable`.
    pub struct Sort = "sort" {
        /// The axis along which elements are put in order.
        axis: usize,
        /// Largest first.
        descending: bool,
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
        Ok(vec![x.clone(), x.with_dtype(DType::I64)])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![Cotangent::Zero]) };
        let indices = cx.outputs[1];
        Ok(vec![cx.flow(0, |b| {
            let (g, indices) = (self.axis_last(b, g)?, self.axis_last(b, indices)?);
            let zeros = b.splat(&b.ty(g).clone(), 0.0)?;
            let dx = b.scatter_add(zeros, indices, g, b.shape(g).len() - 1)?;
            self.axis_last(b, dx)
        })?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let (extent, inner) = (x.ty.shape[self.axis], x.ty.shape[self.axis + 1..].iter().product::<usize>());
        let mut sources = vec![0; x.ty.elements()];
        for line in 0..x.ty.elements() / extent.max(1) {
            let element = |k: usize| (line / inner * extent + k) * inner + line % inner;
            let order = self.order(extent, |k| match &x.data {
                Data::Float(v) => key_of_float(v[element(k)]),
                Data::Int(v) => key_of_int(v[element(k)]),
            });
            order.iter().enumerate().for_each(|(k, &(_, from))| sources[element(k)] = element(from));
        }
        let indices = sources.iter().map(|&s| (s / inner % extent) as i64).collect();
        let values = x.gather_flat(x.ty.clone(), |k| sources[k]);
        Ok(vec![values, Tensor::int(x.ty.with_dtype(DType::I64), indices)])
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Host
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let along = |axis, descending| Sample::new(Sort { axis, descending });
        vec![
            along(0, false).distinct(&[7], -1.0..1.0),
            along(1, true).distinct(&[2, 5, 3], -1.0..1.0),
            along(0, true).distinct(&[4, 3], -1.0..1.0),
            along(1, false).other(DType::I64, &[3, 6], 0.0..4.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(x: Tensor, descending: bool) -> Vec<i64> {
        Sort { axis: 0, descending }.eval(&[&x]).unwrap()[1].ints().to_vec()
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
        assert!(Sort { axis: 1, descending: true }.eval(&[&x]).is_ok());
        assert!(Sort { axis: 2, descending: true }.eval(&[&x]).is_ok());
    }

    #[test]
    fn refuses_an_axis_out_of_range() {
        assert!(Sort { axis: 1, descending: false }.infer(&[&TensorType::f32([3])]).is_err());
    }
}
