//! `scatter_add`: rows added at computed indices.

use super::gather::Picked;
use crate::lower::{Access, Body, Lowering, Meeting, Scatter};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::op::{arity, require};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = base`, then for each `b…, i…, r…` in row-major order `y[b…, indices[b…, i…], r…] += updates[b…, i…, r…]`.
    ///
    /// `base` and `y` are `[B…, N, R…]`, `indices` is `[B…, I…]` of an integer dtype, `updates` is `[B…, I…, R…]` of the dtype
    /// of `base` (integers wrap). Updates whose index is outside `0..N` are dropped (XLA `Scatter`); the derivative is
    /// defined for indices in range only.
    pub struct ScatterAdd = "scatter_add" {
        /// Number of leading axes that base and indices share; the indexed axis follows them.
        batch: usize,
    }
}

impl OpDef for ScatterAdd {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [base, indices, updates] = arity(inputs)?;
        let expected = base.with_shape(Picked::new(base, indices, self.batch)?.rows());
        require(base.dtype != DType::Bool, "booleans cannot be added", "a numeric dtype", base)?;
        require(*updates == expected, "updates must have the indices' and the rows' axes", &expected, updates)?;
        Ok(vec![base.clone()])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, indices) = (cx.grad(), cx.inputs[1]);
        let dupdates = cx.flow(2, |b| b.gather(g, indices, self.batch))?;
        Ok(vec![Cotangent::Flows(g), Cotangent::Zero, dupdates])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let picked = Picked::new(&inputs[0].ty, &inputs[1].ty, self.batch)?;
        let in_range = |index: i64, n: usize| usize::try_from(index).ok().filter(|&at| at < n);
        let places = picked.places(inputs[1].ints(), in_range);
        let mut out = inputs[0].clone();
        for (k, place) in places.into_iter().enumerate() {
            match (place, &mut out.data) {
                (Some(at), Data::Float(values)) => values[at] += inputs[2].floats()[k],
                (Some(at), Data::Int(values)) => values[at] = values[at].wrapping_add(inputs[2].ints()[k]),
                (None, _) => {}
            }
        }
        Ok(vec![out])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        let picked = Picked::new(inputs[0], inputs[1], self.batch).expect("inference accepted the operands");
        let (rows, mut body) = (picked.rows(), Body::default());
        let index = picked.load_index(&mut body, 1, inputs[1].dtype);
        let update = body.load(inputs[2].dtype, Access::identity(2, &rows, rows.len()));
        let indices = picked.operand_indices(index);
        Lowering::Scatter(Scatter { space: rows, target: picked.operand, indices, body, update, meeting: Meeting::Add })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let batch = |batch| Sample::new(ScatterAdd { batch });
        let r = -1.0..1.0;
        vec![
            batch(0).float(&[5, 3], r.clone()).other(DType::I64, &[2, 4], 0.0..5.0).float(&[2, 4, 3], r.clone()),
            batch(0).float(&[7], r.clone()).other(DType::I32, &[], 0.0..7.0).float(&[], r.clone()),
            batch(1).float(&[3, 6], r.clone()).other(DType::I64, &[3], 0.0..6.0).float(&[3], r.clone()),
            batch(2).float(&[2, 3, 4], r.clone()).other(DType::I64, &[2, 3, 7], 0.0..4.0).float(&[2, 3, 7], r.clone()),
            batch(0).fixed(&[4, 2], r.clone()).other(DType::I64, &[6], -2.0..7.0).fixed(&[6, 2], r),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_updates_out_of_range_and_adds_repeated_ones() {
        let base = Tensor::float(TensorType::f32([2]), vec![1.0, 2.0]);
        let at = Tensor::int(TensorType::new(DType::I64, [4]), vec![1, -1, 1, 2]);
        let updates = Tensor::float(TensorType::f32([4]), vec![10.0, 20.0, 30.0, 40.0]);
        let out = ScatterAdd { batch: 0 }.eval(&[&base, &at, &updates]).unwrap();
        assert_eq!(out[0].floats(), [1.0, 42.0]);
    }

    #[test]
    fn refuses_updates_of_another_shape() {
        let infer = |updates: &[usize]| {
            let types = [TensorType::f32([4, 2]), TensorType::new(DType::I64, [3]), TensorType::f32(updates)];
            ScatterAdd { batch: 0 }.infer(&types.each_ref())
        };
        assert!(infer(&[3, 2]).is_ok());
        assert!(infer(&[3]).is_err());
        assert!(infer(&[2, 3]).is_err());
    }
}
