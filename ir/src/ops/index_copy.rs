//! `index_copy`: a tensor with others of its elements at fixed indices of an axis.

use super::index_runs::{indices_of, listed_index, runs, with_extent};
use crate::lower::{Access, Affine, Body, Index, Lowering, Meeting, Scatter};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct, require};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides, unravel};

op_struct! {
    /// `y = base`, but `y[…, indices[j], …] = source[…, j, …]` along `axis`; all of one dtype other than bool.
    ///
    /// What is not named stays as it is, so that in place nothing else is written. Source: PyTorch
    /// `Tensor.index_copy` with indices that are known and ascending, so that no two are equal.
    pub struct IndexCopy = "index_copy" {
        /// Axis of the indices.
        axis: usize,
        /// Ascending indices of that axis.
        indices: Vec<usize>,
    }
}

impl OpDef for IndexCopy {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [base, source] = arity(inputs)?;
        indices_of(base, self.axis, &self.indices)?;
        require(base.dtype != DType::Bool, "booleans cannot be scattered", "a numeric dtype", base)?;
        let expected = with_extent(base, self.axis, self.indices.len());
        require(*source == expected, "the source must have one index per place", &expected, source)?;
        Ok(vec![base.clone()])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, source) = (cx.grad(), cx.inputs[1]);
        let dbase = cx.flow(0, |b| {
            let zeros = b.splat(&b.ty(source).clone(), 0.0)?;
            b.index_copy(g, zeros, self.axis, &self.indices)
        })?;
        let dsource = cx.flow(1, |b| b.index_select(g, self.axis, &self.indices))?;
        Ok(vec![dbase, dsource])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let (base, source) = (inputs[0], inputs[1]);
        let strides = row_major_strides(&base.ty.shape);
        let mut out: Vec<_> = (0..base.ty.elements()).map(|k| base.number(k)).collect();
        for k in 0..source.ty.elements() {
            let mut place = unravel(k, &source.ty.shape);
            place[self.axis] = self.indices[place[self.axis]];
            out[place.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>()] = source.number(k);
        }
        Ok(vec![Tensor::from_numbers(base.ty.clone(), out)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let (base, source) = (inputs[0], inputs[1]);
        let (rank, mut body) = (base.rank(), Body::default());
        let mut indices: Vec<Index> = (0..rank).map(|d| Affine::dim(rank, d).into()).collect();
        if !self.indices.is_empty() {
            indices[self.axis] = listed_index(&mut body, &runs(&self.indices), rank, self.axis);
        }
        let update = body.load(source.dtype, Access::identity(1, &source.shape, rank));
        let (space, target) = (source.shape.clone(), base.shape.clone());
        Lowering::Scatter(Scatter { space, target, indices, body, update, meeting: Meeting::Replace })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let of = |axis, indices: &[usize]| Sample::new(IndexCopy { axis, indices: indices.to_vec() });
        let r = -1.0..1.0;
        vec![
            of(0, &[0, 2, 3]).float(&[5, 3], r.clone()).float(&[3, 3], r.clone()),
            of(1, &[1, 2, 5, 6, 7]).float(&[2, 9, 4], r.clone()).float(&[2, 5, 4], r.clone()),
            of(1, &[2, 3, 4, 5, 6, 7, 8]).float(&[3, 18], r.clone()).float(&[3, 7], r.clone()),
            of(1, &[0, 3, 17]).float(&[3, 18], r.clone()).float(&[3, 3], r.clone()),
            of(0, &[1, 3]).other(DType::I64, &[4, 2], -9.0..9.0).other(DType::I64, &[2, 2], -9.0..9.0),
            of(0, &[]).float(&[4, 2], r.clone()).float(&[0, 2], r),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_indices_that_are_not_ascending_or_outside() {
        let infer = |indices: &[usize], source: &[usize]| {
            let op = IndexCopy { axis: 0, indices: indices.to_vec() };
            op.infer(&[&TensorType::f32([4, 2]), &TensorType::f32(source)])
        };
        assert!(infer(&[1, 3], &[2, 2]).is_ok());
        assert!(infer(&[3, 1], &[2, 2]).is_err());
        assert!(infer(&[1, 1], &[2, 2]).is_err());
        assert!(infer(&[1, 4], &[2, 2]).is_err());
        assert!(infer(&[1, 3], &[3, 2]).is_err());
    }
}
