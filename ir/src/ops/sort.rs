//! `sort`: elements in order along an axis, and where they were.

use super::structural::axis_of;
use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};
use std::cmp::Ordering;

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

/// Total preorder of floats: by value, NaN last, the zeros equal.
fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

impl Sort {
    /// Positions along the axis in sorted order, given how two positions compare.
    fn order(&self, extent: usize, compare: impl Fn(usize, usize) -> Ordering) -> Vec<usize> {
        let mut order: Vec<usize> = (0..extent).collect();
        order.sort_by(|&a, &b| if self.descending { compare(b, a) } else { compare(a, b) });
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
            let order = self.order(extent, |a, b| match &x.data {
                Data::Float(v) => compare_floats(v[element(a)], v[element(b)]),
                Data::Int(v) => v[element(a)].cmp(&v[element(b)]),
            });
            order.iter().enumerate().for_each(|(k, &from)| sources[element(k)] = element(from));
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

    fn sort(values: &[f64], descending: bool) -> Vec<i64> {
        let x = Tensor::float(TensorType::f32([values.len()]), values.to_vec());
        Sort { axis: 0, descending }.eval(&[&x]).unwrap()[1].ints().to_vec()
    }

    #[test]
    fn ties_keep_their_order_and_nan_is_greatest() {
        let x = [1.0, f64::NAN, -0.0, 1.0, 0.0, f64::INFINITY];
        assert_eq!(sort(&x, false), [2, 4, 0, 3, 5, 1]);
        assert_eq!(sort(&x, true), [1, 5, 0, 3, 2, 4]);
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
