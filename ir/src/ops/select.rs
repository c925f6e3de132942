//! `select`: elementwise choice.

use super::elementwise::{binary_type, map_nest};
use crate::lower::Lowering;
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `y = c ? a : b`, elementwise; `c` is boolean of the shape that `a`, `b` and `y` have, these being of one type.
    pub struct Select = "select" {}
}

impl OpDef for Select {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [condition, a, b] = arity(inputs)?;
        let ty = binary_type(&[a, b])?;
        let expected = ty.with_dtype(DType::Bool);
        require(*condition == expected, "the condition must be boolean and of the others' shape", &expected, condition)?;
        Ok(vec![ty])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, condition) = (cx.grad(), cx.inputs[0]);
        let da = cx.flow(1, |x| {
            let zero = x.full_like(g, 0.0)?;
            x.select(condition, g, zero)
        })?;
        let db = cx.flow(2, |x| {
            let zero = x.full_like(g, 0.0)?;
            x.select(condition, zero, g)
        })?;
        Ok(vec![Cotangent::Zero, da, db])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let (condition, ty) = (inputs[0].ints(), inputs[1].ty.clone());
        Ok(vec![match (&inputs[1].data, &inputs[2].data) {
            (Data::Float(a), Data::Float(b)) => Tensor::float(ty, choose(condition, a, b)),
            _ => Tensor::int(ty, choose(condition, inputs[1].ints(), inputs[2].ints())),
        }])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        map_nest(inputs, |body, x| body.select(x[0], x[1], x[2]))
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let on = |condition: &[usize]| Sample::new(Select {}).other(DType::Bool, condition, 0.0..2.0);
        vec![
            on(&[3, 5]).float(&[3, 5], -2.0..2.0).float(&[3, 5], -2.0..2.0),
            on(&[7]).other(DType::I64, &[7], -9.0..9.0).other(DType::I64, &[7], -9.0..9.0),
        ]
    }
}

fn choose<T: Copy>(condition: &[i64], a: &[T], b: &[T]) -> Vec<T> {
    condition.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect()
}
