//! `index_select`: elements at fixed indices of an axis.

use super::index_runs::{Run, indices_of, listed_index, of_run, runs, with_extent};
use crate::lower::{Access, Affine, Body, Index, Lowering, Nest, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, arity, op_struct};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

/// Runs up to which every run is a read of its own, from which code generation makes a copy of its own.
const SEPARATE_RUNS: usize = 32;

op_struct! {
    /// `y[…, j, …] = x[…, indices[j], …]` along `axis`, for any dtype.
    ///
    /// Source: PyTorch `torch.index_select` with indices that are known and ascending, so that no two are equal.
    pub struct IndexSelect = "index_select" {
        /// Axis of the indices.
        axis: usize,
        /// Ascending indices of that axis.
        indices: Vec<usize>,
    }
}

impl OpDef for IndexSelect {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        indices_of(x, self.axis, &self.indices)?;
        Ok(vec![with_extent(x, self.axis, self.indices.len())])
    }

    /// Puts the cotangent among zeros.
    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x) = (cx.grad(), cx.inputs[0]);
        let dx = cx.flow(0, |b| {
            let zeros = b.splat(&b.ty(x).clone(), 0.0)?;
            b.index_copy(zeros, g, self.axis, &self.indices)
        })?;
        Ok(vec![dx])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let ty = with_extent(&x.ty, self.axis, self.indices.len());
        let (from, to) = (row_major_strides(&x.ty.shape), row_major_strides(&ty.shape));
        let along = |k: usize, d: usize| {
            let at = k / to[d] % ty.shape[d];
            if d == self.axis { self.indices[at] } else { at }
        };
        Ok(vec![x.gather_flat(ty.clone(), |k| (0..from.len()).map(|d| along(k, d) * from[d]).sum())])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let (x, runs) = (inputs[0], runs(&self.indices));
        Lowering::Nests(vec![Nest::map(&outputs[0].shape, |body| match runs.len() {
            0 => body.constant(x.dtype, 0.0),
            2..=SEPARATE_RUNS => of_run(body, &runs, self.axis, |body, run| self.load_run(body, x, run)),
            _ => {
                let index = listed_index(body, &runs, x.rank(), self.axis);
                let access = Access { operand: 0, view: x.shape.clone(), indices: self.with_index(x, index), fill: None };
                body.load(x.dtype, access)
            }
        })])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let of = |axis, indices: &[usize]| Sample::new(IndexSelect { axis, indices: indices.to_vec() });
        let scattered: Vec<usize> = (0..80).map(|k| k * k % 7 + 7 * k).collect();
        vec![
            of(0, &[0, 2, 3]).float(&[5, 3], -1.0..1.0),
            of(1, &[1, 2, 5, 6, 7]).float(&[2, 9, 4], -1.0..1.0),
            of(1, &[0, 3, 17]).float(&[3, 18], -1.0..1.0),
            of(1, &[1, 4, 7]).float(&[3, 9], -1.0..1.0),
            of(1, &scattered).float(&[2, 570], -1.0..1.0),
            of(0, &scattered).other(DType::I64, &[570, 3], -9.0..9.0),
            of(0, &[]).float(&[4, 2], -1.0..1.0),
        ]
    }
}

impl IndexSelect {
    /// The operand's indices of a point, `index` being that of the axis.
    fn with_index(&self, x: &TensorType, index: Index) -> Vec<Index> {
        let mut indices: Vec<Index> = (0..x.rank()).map(|d| Affine::dim(x.rank(), d).into()).collect();
        indices[self.axis] = index;
        indices
    }

    /// Reads as if all indices were in this run; 0 where that leaves the operand.
    fn load_run(&self, body: &mut Body, x: &TensorType, run: &Run) -> ScalarId {
        let indices = self.with_index(x, run.affine(x.rank(), self.axis).into());
        let access = Access { operand: 0, view: x.shape.clone(), indices, fill: None };
        body.load(x.dtype, access.filled(0.0))
    }
}
