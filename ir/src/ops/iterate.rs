//! `iterate`: a closed function applied to its own results a fixed number of times.

use super::region::{body_results, check_unrolled, list, owned};
use super::scan::require_same_carries;
use super::{Op, Scan};
use crate::builder::Builder;
use crate::graph::{Function, Value};
use crate::interpret;
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct, require};
use crate::region::{Region, RegionForm};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// `(carries…) = body(carries…, consts…)`, `count` times.
    ///
    /// Operands: initial carries, then constants. Results: final carries. There is at least one step. The derivative is
    /// that of a [`Scan`] without scanned operands.
    pub struct Iterate = "iterate" {
        /// One step.
        body: Function,
        /// Number of steps.
        count: usize,
        /// Number of carries.
        carries: usize,
        /// Whether its gradient keeps the order of sums that unrolled steps have.
        in_order: bool,
    }
}

impl Iterate {
    /// The same loop as a scan.
    pub fn scan(&self) -> Scan {
        Scan { body: self.body.clone(), carries: self.carries, scanned: 0, length: self.count, reverse: false, in_order: self.in_order }
    }
}

fn expand(op: &Op, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let Op::Iterate(iterate) = op else { unreachable!("an expansion is applied to the op it belongs to") };
    check_unrolled(iterate.count, &iterate.body)?;
    let (carries, consts) = operands.split_at(iterate.carries);
    let mut carries = carries.to_vec();
    for _ in 0..iterate.count {
        carries = b.inline(&iterate.body, &[&carries, consts].concat())?;
    }
    Ok(carries)
}

impl OpDef for Iterate {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        require(self.count > 0, "an iteration has at least one step", "a positive count", self.count)?;
        let arguments = owned(inputs);
        require(self.carries <= inputs.len(), "fewer operands than carries", self.carries, list(&arguments))?;
        let results = body_results(&self.body, &arguments)?;
        require_same_carries(&arguments[..self.carries], &results)?;
        require(
            results.len() == self.carries,
            "the body must return nothing but the carries",
            self.carries,
            list(&results),
        )?;
        Ok(results)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        cx.bodies.vjp_loop(&self.scan(), cx)
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let (carries, consts) = inputs.split_at(self.carries);
        let mut carries: Vec<Tensor> = carries.iter().map(|&c| c.clone()).collect();
        for _ in 0..self.count {
            let arguments: Vec<&Tensor> = carries.iter().chain(consts.iter().copied()).collect();
            carries = interpret::apply(&self.body, &arguments)?;
        }
        Ok(carries)
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Region(Region { form: RegionForm::Loop(self.scan().as_loop()), expand })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let types = [TensorType::f32([3]), TensorType::f32([3]), TensorType::f32([3, 3])];
        let body = Builder::function("fixed point", &types, |b, x| {
            let product = b.dot_general(x[2], x[0], [&[], &[]], [&[1], &[0]])?;
            let sum = b.add(product, x[1])?;
            Ok(vec![b.tanh(sum)?])
        });
        let op = Iterate { body: body.expect("the sample is well typed"), count: 3, carries: 1, in_order: false };
        vec![Sample::new(op).float(&[3], -1.0..1.0).float(&[3], -1.0..1.0).float(&[3, 3], -1.0..1.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_fit_the_body() {
        let ty = TensorType::f32([2]);
        let types = [ty.clone(), ty.clone()];
        let body = Builder::function("sum", &types, |b, x| Ok(vec![b.add(x[0], x[1])?])).unwrap();
        let op = Iterate { body, count: 2, carries: 1, in_order: false };
        assert!(op.infer(&[&ty, &ty]).is_ok());
        assert!(Iterate { count: 0, ..op.clone() }.infer(&[&ty, &ty]).is_err());
        assert!(Iterate { carries: 0, ..op.clone() }.infer(&[&ty, &ty]).is_err(), "a result that is no carry");
        assert!(Iterate { carries: 2, ..op.clone() }.infer(&[&ty, &ty]).is_err(), "a carry that is not returned");
        assert!(Iterate { carries: 3, ..op }.infer(&[&ty, &ty]).is_err());
    }
}
