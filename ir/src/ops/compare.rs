//! `compare`: elementwise comparison.

use super::elementwise::{binary_type, map_nest};
use crate::lower::{CompareFn, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = a ⋈ b` as booleans, elementwise; both operands have one type. NaN is unequal to everything.
    pub struct Compare = "compare" {
        /// Which comparison.
        kind: CompareFn,
    }
}

impl OpDef for Compare {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        Ok(vec![binary_type(inputs)?.with_dtype(DType::Bool)])
    }

    fn vjp(&self, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![Cotangent::Zero, Cotangent::Zero])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let holds: Vec<i64> = match (&inputs[0].data, &inputs[1].data) {
            (Data::Float(a), Data::Float(b)) => a.iter().zip(b).map(|(x, y)| self.kind.holds(x, y) as i64).collect(),
            _ => inputs[0].ints().iter().zip(inputs[1].ints()).map(|(x, y)| self.kind.holds(x, y) as i64).collect(),
        };
        Ok(vec![Tensor::int(inputs[0].ty.with_dtype(DType::Bool), holds)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        map_nest(inputs, |body, x| body.compare(self.kind, x[0], x[1]))
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let floats = |&kind: &CompareFn| Sample::new(Compare { kind }).fixed(&[3, 5], -2.0..2.0).fixed(&[3, 5], -2.0..2.0);
        let ints = |&kind: &CompareFn| {
            Sample::new(Compare { kind }).other(DType::I64, &[9], 0.0..3.0).other(DType::I64, &[9], 0.0..3.0)
        };
        CompareFn::ALL.iter().flat_map(|kind| [floats(kind), ints(kind)]).collect()
    }
}
