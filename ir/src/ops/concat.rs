//! `concat`: tensors one after the other.

use super::structural::axis_of;
use crate::lower::{Access, Affine, Body, CompareFn, Lowering, Nest, Scalar, ScalarId};
use crate::op::{require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

op_struct! {
    /// The operands one after the other along `axis`; all their other extents, and their dtypes, are equal.
    pub struct Concat = "concat" {
        /// Axis along which extents add up.
        axis: usize,
    }
}

/// For each operand the index along `axis` at which it starts.
fn starts(axis: usize, operands: &[&TensorType]) -> Vec<usize> {
    operands.iter().scan(0, |at, ty| Some(std::mem::replace(at, *at + ty.shape[axis]))).collect()
}

impl OpDef for Concat {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let Some(first) = inputs.first() else {
            return Err(TypeError::new("nothing to concatenate").expected("at least 1 operand").found("none"));
        };
        axis_of(first, self.axis)?;
        let mut result = TensorType::clone(first);
        result.shape[self.axis] = 0;
        for ty in inputs {
            let fits = ty.rank() == first.rank() && {
                let mut probe = first.shape.clone();
                probe[self.axis] = ty.shape[self.axis];
                probe == ty.shape && ty.dtype == first.dtype
            };
            require(fits, "operands may differ only in the extent of `axis`", first, ty)?;
            result.shape[self.axis] = result.shape[self.axis].saturating_add(ty.shape[self.axis]);
        }
        Ok(vec![TensorType::checked(result.dtype, result.shape)?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let g = cx.grad();
        let types: Vec<TensorType> = cx.inputs.iter().map(|&v| cx.builder.ty(v).clone()).collect();
        let begins = starts(self.axis, &types.iter().collect::<Vec<_>>());
        let part = |(k, start): (usize, usize)| {
            cx.flow(k, |b| b.slice_axis(g, self.axis, start, start + types[k].shape[self.axis]))
        };
        begins.into_iter().enumerate().map(part).collect()
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let types: Vec<&TensorType> = inputs.iter().map(|t| &t.ty).collect();
        let ty = self.infer(&types)?.remove(0);
        // Elements below `axis` stay together; an operand brings `block` of them for every index above `axis`.
        let inner = row_major_strides(&ty.shape)[self.axis];
        let outer: usize = ty.shape[..self.axis].iter().product();
        let block = |t: &Tensor| t.ty.shape[self.axis] * inner;
        let numbers = (0..outer).flat_map(|o| inputs.iter().flat_map(move |t| {
            let n = block(t);
            (o * n..(o + 1) * n).map(|k| t.number(k))
        }));
        Ok(vec![Tensor::from_numbers(ty.clone(), numbers)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let begins = starts(self.axis, inputs);
        Lowering::Nests(vec![Nest::map(&outputs[0].shape, |body| {
            let index = body.push(Scalar::LoopIndex(self.axis), DType::I64);
            let last = inputs.len() - 1;
            let end = self.load_part(body, inputs, last, begins[last]);
            (0..last).rev().fold(end, |rest, k| {
                let next = body.constant(DType::I64, begins[k + 1] as f64);
                let inside = body.compare(CompareFn::Lt, index, next);
                let part = self.load_part(body, inputs, k, begins[k]);
                body.select(inside, part, rest)
            })
        })])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let r = -1.0..1.0;
        let along = |axis| Sample::new(Concat { axis });
        vec![
            along(0).float(&[2, 3], r.clone()).float(&[4, 3], r.clone()),
            along(1).float(&[2, 3, 2], r.clone()).float(&[2, 0, 2], r.clone()).float(&[2, 1, 2], r.clone()),
            along(0).other(DType::I64, &[3], -9.0..9.0).other(DType::I64, &[1], -9.0..9.0),
        ]
    }
}

impl Concat {
    /// Reads operand `k` as if it began at index `start` of the result; 0 outside of it.
    fn load_part(&self, body: &mut Body, inputs: &[&TensorType], k: usize, start: usize) -> ScalarId {
        let rank = inputs[k].rank();
        let mut indices: Vec<Affine> = (0..rank).map(|d| Affine::dim(rank, d)).collect();
        indices[self.axis].base -= start as i64;
        body.load(inputs[k].dtype, Access::new(k, &inputs[k].shape, indices).filled(0.0))
    }
}
