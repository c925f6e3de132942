//! `iterate_until`: a closed function applied to its own results until it says that it is done.

use super::Op;
use super::region::{body_results, check_unrolled, list, owned};
use super::scan::require_same_carries;
use crate::builder::Builder;
use crate::graph::{Function, Value};
use crate::interpret;
use crate::lower::{CompareFn, Lowering};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct, require};
use crate::region::{Loop, Region, RegionForm};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `(carries…, done) = body(carries…, consts…)`, again while `done` is false, at most `max` times.
    ///
    /// Operands: initial carries, then constants. The body returns the next carries and a boolean scalar. Results: the
    /// carries of the last step made (the one that said it is done, or the `max`-th), then the number of steps made, an i64
    /// scalar between 1 and `max`. How often the body is applied changes in jumps, of which a derivative knows nothing; how
    /// it is had is up to who differentiates the graph: [`vjp_until`](crate::op::DifferentiateBody::vjp_until). Source: JAX `lax.while_loop`, with the test after the body and a bound.
    pub struct IterateUntil = "iterate_until" {
        /// One step.
        body: Function,
        /// Largest number of steps.
        max: usize,
        /// Number of carries.
        carries: usize,
    }
}

/// All `max` steps are made; those after the last one that counts keep the carries.
fn expand(op: &Op, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let Op::IterateUntil(iterate) = op else { unreachable!("an expansion is applied to the op it belongs to") };
    check_unrolled(iterate.max, &iterate.body)?;
    let (first, consts) = operands.split_at(iterate.carries);
    let mut carries = first.to_vec();
    let mut done = b.scalar(DType::Bool, 0.0)?;
    let mut steps = b.scalar(DType::I64, 0.0)?;
    for _ in 0..iterate.max {
        let mut next = b.inline(&iterate.body, &[&carries, consts].concat())?;
        let stops = next.pop().expect("the body returns whether it is done");
        for (carry, next) in carries.iter_mut().zip(next) {
            *carry = b.select(done, *carry, next)?;
        }
        let running = b.not(done)?;
        let made = b.cast(running, DType::I64)?;
        steps = b.add(steps, made)?;
        done = b.or(done, stops)?;
    }
    carries.push(steps);
    Ok(carries)
}

impl OpDef for IterateUntil {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        require(self.max > 0, "an iteration has at least one step", "a positive maximum", self.max)?;
        let arguments = owned(inputs);
        require(self.carries <= inputs.len(), "fewer operands than carries", self.carries, list(&arguments))?;
        let mut results = body_results(&self.body, &arguments)?;
        require_same_carries(&arguments[..self.carries], &results)?;
        let flag = TensorType::new(DType::Bool, []);
        let ends_with_flag = results.len() == self.carries + 1 && results[self.carries] == flag;
        require(ends_with_flag, "the body must return the carries and whether it is done", &flag, list(&results))?;
        results[self.carries] = TensorType::new(DType::I64, []);
        Ok(results)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        cx.bodies.vjp_until(self, cx)
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let (carries, consts) = inputs.split_at(self.carries);
        let mut carries: Vec<Tensor> = carries.iter().map(|&c| c.clone()).collect();
        let mut steps = 0;
        for _ in 0..self.max {
            let arguments: Vec<&Tensor> = carries.iter().chain(consts.iter().copied()).collect();
            let mut next = interpret::apply(&self.body, &arguments)?;
            let done = next.pop().is_some_and(|done| done.ints()[0] != 0);
            (carries, steps) = (next, steps + 1);
            if done {
                break;
            }
        }
        carries.push(Tensor::splat(TensorType::new(DType::I64, []), steps as f64));
        Ok(carries)
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        let looped = Loop {
            body: self.body.clone(),
            carries: self.carries,
            scanned: 0,
            steps: self.max,
            reverse: false,
            until_done: true,
            blocks: 1,
            blocked: 0,
        };
        Lowering::Region(Region { form: RegionForm::Loop(looped), expand })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        // Halves x until no element is above the threshold; how often depends on x.
        let types = [TensorType::f32([3]), TensorType::f32([])];
        let body = Builder::function("halve", &types, |b, x| {
            let half = b.full_like(x[0], 0.5)?;
            let next = b.mul(x[0], half)?;
            let largest = b.reduce_max(next, &[0])?;
            Ok(vec![next, b.compare(CompareFn::Le, largest, x[1])?])
        });
        let body = body.expect("the sample is well typed");
        let halving = |max| Sample::new(IterateUntil { body: body.clone(), max, carries: 1 });
        vec![
            halving(6).fixed(&[3], 1.0..8.0).fixed(&[], 0.9..1.0),
            halving(3).fixed(&[3], 100.0..200.0).fixed(&[], 0.5..1.0),
            halving(4).fixed(&[3], -2.0..-1.0).fixed(&[], 0.5..1.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubling(max: usize) -> IterateUntil {
        let scalar = TensorType::f32([]);
        let body = Builder::function("double", &[scalar.clone(), scalar], |b, x| {
            let next = b.add(x[0], x[0])?;
            Ok(vec![next, b.compare(CompareFn::Gt, next, x[1])?])
        });
        IterateUntil { body: body.expect("it is well typed"), max, carries: 1 }
    }

    #[test]
    fn counts_the_steps_it_makes() {
        let scalar = |v| Tensor::splat(TensorType::f32([]), v);
        let run = |max, above| doubling(max).eval(&[&scalar(1.0), &scalar(above)]).expect("it evaluates");
        let found = |max, above| (run(max, above)[0].floats()[0], run(max, above)[1].ints()[0]);
        assert_eq!(found(10, 7.0), (8.0, 3), "stops when it is done");
        assert_eq!(found(2, 7.0), (4.0, 2), "stops at the maximum");
        assert_eq!(found(10, 0.0), (2.0, 1), "makes a step before it asks");
    }

    #[test]
    fn refuses_what_does_not_fit_the_body() {
        let (scalar, flag) = (TensorType::f32([]), TensorType::new(DType::Bool, []));
        let op = doubling(2);
        assert_eq!(op.infer(&[&scalar, &scalar]).unwrap(), [scalar.clone(), TensorType::new(DType::I64, [])]);
        assert!(IterateUntil { max: 0, ..op.clone() }.infer(&[&scalar, &scalar]).is_err());
        assert!(IterateUntil { carries: 2, ..op.clone() }.infer(&[&scalar, &scalar]).is_err(), "no flag is left");
        assert!(IterateUntil { carries: 3, ..op.clone() }.infer(&[&scalar, &scalar]).is_err());
        assert!(op.infer(&[&scalar, &flag]).is_err());
        let same = Builder::function("same", std::slice::from_ref(&scalar), |_, x| Ok(vec![x[0], x[0]])).unwrap();
        assert!(IterateUntil { body: same, max: 2, carries: 1 }.infer(&[&scalar]).is_err(), "the flag is a number");
    }

    #[test]
    fn refuses_to_unroll_without_end() {
        let mut b = Builder::new("long");
        let x = b.input("x", TensorType::f32([])).unwrap();
        assert!(expand(&doubling(1 << 40).into(), &mut b, &[x, x]).is_err());
    }
}
