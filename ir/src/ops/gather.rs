//! `gather`: rows picked by computed indices.

use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{Access, Affine, Body, CompareFn, Index, Lowering, Nest, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y[b…, i…, r…] = x[b…, indices[b…, i…], r…]`, where `b…` are the first `batch` axes.
    ///
    /// `x` is `[B…, N, R…]` of any dtype, `indices` is `[B…, I…]` of an integer dtype, `y` is `[B…, I…, R…]`. Indices outside
    /// `0..N` are clamped into it (XLA `Gather`); the derivative is defined for indices in range only.
    pub struct Gather = "gather" {
        /// Number of leading axes that operand and indices share; the axis picked from follows them.
        batch: usize,
    }
}

/// How `[B…, N, R…]` and `[B…, I…]` fall apart.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    /// Shape `B… N R…`.
    pub operand: Vec<usize>,
    /// Shape `B… I…`.
    pub indices: Vec<usize>,
    /// Number of axes in `B…`.
    pub batch: usize,
}

impl Picked {
    pub fn new(operand: &TensorType, indices: &TensorType, batch: usize) -> Result<Self, TypeError> {
        let integer = !indices.dtype.is_float() && indices.dtype != DType::Bool;
        require(integer, "indices must be integers", "an integer dtype", indices)?;
        let shared =
            batch < operand.rank() && batch <= indices.rank() && operand.shape[..batch] == indices.shape[..batch];
        require(
            shared,
            "operand and indices must share the batch axes",
            format!("{batch} equal leading axes"),
            format!("{operand} and {indices}"),
        )?;
        let nothing = operand.shape[batch] == 0 && indices.elements() > 0;
        require(!nothing, "the indexed axis is empty", "at least one element", operand)?;
        Ok(Picked { operand: operand.shape.clone(), indices: indices.shape.clone(), batch })
    }

    /// Shape `B… I… R…`.
    pub fn rows(&self) -> Vec<usize> {
        [&self.indices[..], &self.operand[self.batch + 1..]].concat()
    }

    /// Extents of the indexed axis and of the axes after it, flattened.
    fn extents(&self) -> [usize; 2] {
        [self.operand[self.batch], self.operand[self.batch + 1..].iter().product()]
    }

    /// Flat operand element of every flat row element; `locate(index, n)` makes the place in `0..n`, or `None`.
    pub fn places(&self, indices: &[i64], locate: impl Fn(i64, usize) -> Option<usize>) -> Vec<Option<usize>> {
        let [n, row] = self.extents();
        let per_batch: usize = self.indices[self.batch..].iter().product();
        let place = |k: usize| {
            let (which, r) = (k / row, k % row);
            locate(indices[which], n).map(|at| (which / per_batch * n + at) * row + r)
        };
        (0..self.rows().iter().product()).map(place).collect()
    }

    /// The index of a row element, in a body whose first loop indices are `B… I…`; i64.
    pub fn load_index(&self, body: &mut Body, operand: usize, dtype: DType) -> ScalarId {
        let rank = self.rows().len();
        let index = body.load(dtype, Access::identity(operand, &self.indices, rank));
        body.cast(DType::I64, index)
    }

    /// The operand's element for a row element, given its index.
    pub fn operand_indices(&self, index: ScalarId) -> Vec<Index> {
        let (rank, row_axes) = (self.rows().len(), self.operand.len() - self.batch - 1);
        let along = |d: usize| Index::from(Affine::dim(rank, d));
        let picked = Index { affine: Affine::constant(rank, 0), divisor: 1, loaded: Some(index) };
        (0..self.batch).map(along).chain([picked]).chain((rank - row_axes..rank).map(along)).collect()
    }
}

impl Gather {
    /// `base` with `g` at the one index that each of the first axes has: what a map can do that others are fused with,
    /// while a scatter needs its base stored.
    fn spread(&self, b: &mut Builder, g: Value, index: Value, base: Value) -> Result<Value, TypeError> {
        let shape = b.shape(base).to_vec();
        let [mut of_index, mut of_g] = [vec![1; shape.len()], shape.clone()];
        of_index[..self.batch].copy_from_slice(&shape[..self.batch]);
        of_g[self.batch] = 1;
        let index_dtype = DType::index_of(shape[self.batch]);
        let (index, g) = (b.reshape(index, &of_index)?, b.reshape(g, &of_g)?);
        let (index, place) = (b.cast(index, index_dtype)?, b.iota(index_dtype, &shape, self.batch)?);
        let (index, g) = (b.broadcast_to(index, &shape)?, b.broadcast_to(g, &shape)?);
        let hit = b.compare(CompareFn::Eq, place, index)?;
        b.select(hit, g, base)
    }
}

impl OpDef for Gather {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x, indices] = arity(inputs)?;
        Ok(vec![TensorType::checked(x.dtype, Picked::new(x, indices, self.batch)?.rows())?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, x, indices) = (cx.grad(), cx.inputs[0], cx.inputs[1]);
        let dx = cx.flow(0, |b| {
            let zeros = b.splat(&b.ty(x).clone(), 0.0)?;
            let picks_one = b.shape(indices)[self.batch..].iter().product::<usize>() == 1;
            if self.batch > 0 && picks_one {
                return self.spread(b, g, indices, zeros);
            }
            b.scatter_add(zeros, indices, g, self.batch)
        })?;
        Ok(vec![dx, Cotangent::Zero])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let picked = Picked::new(&inputs[0].ty, &inputs[1].ty, self.batch)?;
        let clamped = |index: i64, n: usize| Some(index.clamp(0, n as i64 - 1) as usize);
        let places = picked.places(inputs[1].ints(), clamped);
        let ty = inputs[0].ty.with_shape(picked.rows());
        Ok(vec![inputs[0].gather_flat(ty, |k| places[k].expect("a clamped index has a place"))])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let picked = Picked::new(inputs[0], inputs[1], self.batch).expect("inference accepted the operands");
        Lowering::Nests(vec![Nest::map(&picked.rows(), |body| {
            let index = picked.load_index(body, 1, inputs[1].dtype);
            let indices = picked.operand_indices(index);
            body.load(inputs[0].dtype, Access { operand: 0, view: picked.operand.clone(), indices, fill: None })
        })])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let batch = |batch| Sample::new(Gather { batch });
        vec![
            batch(0).float(&[5, 3], -1.0..1.0).other(DType::I64, &[2, 4], 0.0..5.0),
            batch(0).float(&[7], -1.0..1.0).other(DType::I32, &[], 0.0..7.0),
            batch(1).float(&[3, 6], -1.0..1.0).other(DType::I64, &[3], 0.0..6.0),
            batch(2).float(&[2, 3, 4, 5], -1.0..1.0).other(DType::I64, &[2, 3, 2], 0.0..4.0),
            batch(2).float(&[2, 3, 4, 5], -1.0..1.0).other(DType::I64, &[2, 3, 1], 0.0..4.0),
            batch(0).fixed(&[4, 2], -1.0..1.0).other(DType::I64, &[6], -2.0..7.0),
            batch(0).other(DType::I64, &[5], -9.0..9.0).other(DType::U8, &[3], 0.0..5.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamps_indices_out_of_range() {
        let x = Tensor::float(TensorType::f32([3]), vec![1.0, 2.0, 3.0]);
        let at = Tensor::int(TensorType::new(DType::I64, [3]), vec![-100, 1, i64::MAX]);
        assert_eq!(Gather { batch: 0 }.eval(&[&x, &at]).unwrap()[0].floats(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn refuses_bad_operands() {
        let infer = |batch, x: &[usize], dtype, i: &[usize]| {
            Gather { batch }.infer(&[&TensorType::f32(x), &TensorType::new(dtype, i)])
        };
        assert!(infer(0, &[3], DType::I64, &[2]).is_ok());
        assert!(infer(0, &[3], DType::F32, &[2]).is_err(), "float indices");
        assert!(infer(0, &[3], DType::Bool, &[2]).is_err(), "a mask is no index");
        assert!(infer(1, &[3], DType::I64, &[3]).is_err(), "no axis left to pick from");
        assert!(infer(1, &[3, 4], DType::I64, &[2]).is_err(), "unequal batch");
        assert!(infer(0, &[0], DType::I64, &[2]).is_err(), "nothing to pick from");
        assert!(infer(0, &[0], DType::I64, &[0]).is_ok());
    }
}
