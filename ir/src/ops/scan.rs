//! `scan`: a closed function applied along the leading axis, carrying values from step to step.

use super::Op;
use super::region::{body_results, check_unrolled, list, owned};
use crate::builder::Builder;
use crate::graph::{Function, Value};
use crate::interpret;
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct, require};
use crate::region::{Loop, Region, RegionForm};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};

op_struct! {
    /// `(carries…, ys[t]…) = body(carries…, xs[t]…, consts…)` for `t` in `0..length`.
    ///
    /// Operands: initial carries, scanned `xs` with leading axis `length`, constants. The body takes the carries, one slice
    /// of each `xs` (without the leading axis) and the constants; it returns the next carries and one slice of each `ys`.
    /// Results: final carries, then `ys` with leading axis `length`. There is at least one step.
    /// How a loop is differentiated is up to who differentiates the graph: [`vjp_loop`](crate::op::DifferentiateBody::vjp_loop).
    /// Source: JAX `lax.scan`.
    pub struct Scan = "scan" {
        /// One step.
        body: Function,
        /// Number of carries.
        carries: usize,
        /// Number of scanned operands.
        scanned: usize,
        /// Number of steps.
        length: usize,
        /// From the last slice to the first.
        reverse: bool,
        /// Whether sums over steps, its own and those of its gradient, keep the order of the steps.
        in_order: bool,
    }
}

impl Scan {
    pub(super) fn as_loop(&self) -> Loop {
        Loop {
            body: self.body.clone(),
            carries: self.carries,
            scanned: self.scanned,
            steps: self.length,
            reverse: self.reverse,
            until_done: false,
            blocks: 1,
            blocked: 0,
        }
    }

    /// The steps in the order they are made.
    fn steps(&self) -> impl Iterator<Item = usize> + use<> {
        let (length, reverse) = (self.length, self.reverse);
        (0..length).map(move |t| if reverse { length - 1 - t } else { t })
    }

    /// Types of the body's arguments, from those of the operands.
    pub fn argument_types(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, TypeError> {
        Self::slice_types(operands, self.carries, self.scanned, self.length)
    }

    /// Types of the arguments of the body of a scan, from those of its operands.
    pub fn slice_types(
        operands: &[TensorType],
        carries: usize,
        scanned: usize,
        length: usize,
    ) -> Result<Vec<TensorType>, TypeError> {
        let last = carries.checked_add(scanned).filter(|&end| end <= operands.len());
        let Some(last) = last else {
            return Err(TypeError::new("fewer operands than carries and scanned ones").found(list(operands)));
        };
        let mut arguments = operands.to_vec();
        for x in &mut arguments[carries..last] {
            let sliced = x.shape.first() == Some(&length);
            require(sliced, "scanned operands must have the leading axis", length, &*x)?;
            x.shape.remove(0);
        }
        Ok(arguments)
    }

    fn stacked(&self, slice: &TensorType) -> Result<TensorType, TypeError> {
        TensorType::checked(slice.dtype, [&[self.length], &slice.shape[..]].concat())
    }
}

/// Fails unless the body returns carries of the types it takes them with.
pub(super) fn require_same_carries(taken: &[TensorType], returned: &[TensorType]) -> Result<(), TypeError> {
    require(returned.starts_with(taken), "the body must return the carries it takes", list(taken), list(returned))
}

fn expand(op: &Op, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let Op::Scan(scan) = op else { unreachable!("an expansion is applied to the op it belongs to") };
    unroll(scan, b, operands)
}

/// The steps of a scan one after the other.
pub(super) fn unroll(scan: &Scan, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    check_unrolled(scan.length, &scan.body)?;
    let (carries, rest) = operands.split_at(scan.carries);
    let (xs, consts) = rest.split_at(scan.scanned);
    let mut carries = carries.to_vec();
    let mut ys = vec![vec![]; scan.length];
    for t in scan.steps() {
        let slices = xs.iter().map(|&x| unrolled_slice(b, x, t)).collect::<Result<Vec<_>, _>>()?;
        let mut results = b.inline(&scan.body, &[&carries, &slices[..], consts].concat())?;
        ys[t] = results.split_off(scan.carries);
        carries = results;
    }
    for k in 0..ys[0].len() {
        let slices =
            ys.iter().map(|y| b.reshape(y[k], &[&[1], b.shape(y[k])].concat())).collect::<Result<Vec<_>, _>>()?;
        carries.push(b.concat(&slices, 0)?);
    }
    Ok(carries)
}

fn unrolled_slice(b: &mut Builder, x: Value, step: usize) -> Result<Value, TypeError> {
    let shape = b.shape(x)[1..].to_vec();
    let slice = b.slice_axis(x, 0, step, step + 1)?;
    b.reshape(slice, &shape)
}

impl OpDef for Scan {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        require(self.length > 0, "a scan has at least one step", "a positive length", self.length)?;
        let arguments = self.argument_types(&owned(inputs))?;
        let mut results = body_results(&self.body, &arguments)?;
        require_same_carries(&arguments[..self.carries], &results)?;
        for y in &mut results[self.carries..] {
            *y = self.stacked(y)?;
        }
        Ok(results)
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        cx.bodies.vjp_loop(self, cx)
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let (carries, rest) = inputs.split_at(self.carries);
        let (xs, consts) = rest.split_at(self.scanned);
        let mut carries: Vec<Tensor> = carries.iter().map(|&c| c.clone()).collect();
        let mut ys = vec![vec![]; self.length];
        for t in self.steps() {
            let slices: Vec<Tensor> = xs.iter().map(|x| x.slice(t)).collect();
            let arguments: Vec<&Tensor> = carries.iter().chain(&slices).chain(consts.iter().copied()).collect();
            let mut results = interpret::apply(&self.body, &arguments)?;
            ys[t] = results.split_off(self.carries);
            carries = results;
        }
        for k in 0..ys[0].len() {
            carries.push(Tensor::stack(self.stacked(&ys[0][k].ty)?, ys.iter().map(|y| &y[k])));
        }
        Ok(carries)
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Region(Region { form: RegionForm::Loop(self.as_loop()), expand })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let r = -1.0..1.0;
        let cell = |reverse| {
            let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3]), TensorType::f32([3, 3])];
            let body = Builder::function("cell", &types, |b, x| {
                let hidden = b.dot_general(x[0], x[2], [&[], &[]], [&[1], &[0]])?;
                let sum = b.add(hidden, x[1])?;
                let next = b.tanh(sum)?;
                Ok(vec![next, b.mul(next, x[1])?])
            });
            let body = body.expect("the sample is well typed");
            Scan { body, carries: 1, scanned: 1, length: 4, reverse, in_order: false }
        };
        let recurrent = |reverse| {
            Sample::new(cell(reverse)).float(&[2, 3], r.clone()).float(&[4, 2, 3], r.clone()).float(&[3, 3], r.clone())
        };
        let counter = TensorType::new(DType::I64, []);
        // carries: a counter that has no gradient and a product; scanned: integers; results: the counter and the product.
        let types = [counter.clone(), TensorType::f32([2]), counter, TensorType::f32([2])];
        let counting = Builder::function("counting", &types, |b, x| {
            let count = b.add(x[0], x[2])?;
            let weight = b.cast(count, DType::F32)?;
            let scaled = b.mul(x[3], weight)?;
            Ok(vec![count, b.mul(x[1], scaled)?, count, x[1]])
        });
        let counting = counting.expect("the sample is well typed");
        let counting = Scan { body: counting, carries: 2, scanned: 1, length: 3, reverse: true, in_order: false };
        let square = Builder::function("square", &[TensorType::f32([2])], |b, x| Ok(vec![b.mul(x[0], x[0])?]));
        let square = square.expect("the sample is well typed");
        let square = Scan { body: square, carries: 0, scanned: 1, length: 1, reverse: false, in_order: false };
        vec![
            recurrent(false),
            recurrent(true),
            Sample::new(counting)
                .other(DType::I64, &[], 0.0..3.0)
                .float(&[2], r.clone())
                .other(DType::I64, &[3], 0.0..2.0)
                .float(&[2], r.clone()),
            Sample::new(square).float(&[1, 2], r),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_fit_the_body() {
        let (carry, xs) = (TensorType::f32([2]), TensorType::f32([3, 2]));
        let types = [carry.clone(), carry.clone()];
        let body = Builder::function("sum", &types, |b, x| Ok(vec![b.add(x[0], x[1])?, x[0]])).unwrap();
        let scan = Scan { body, carries: 1, scanned: 1, length: 3, reverse: false, in_order: false };
        assert_eq!(scan.infer(&[&carry, &xs]).unwrap(), [carry.clone(), xs.clone()]);
        assert!(scan.infer(&[&carry]).is_err(), "no scanned operand");
        assert!(scan.infer(&[&carry, &carry]).is_err(), "no leading axis");
        assert!(scan.infer(&[&carry, &TensorType::f32([4, 2])]).is_err(), "another length");
        assert!(scan.infer(&[&carry, &TensorType::f32([])]).is_err(), "a scalar has no slices");
        assert!(Scan { length: 0, ..scan.clone() }.infer(&[&carry, &TensorType::f32([0, 2])]).is_err());
        assert!(Scan { carries: usize::MAX, ..scan.clone() }.infer(&[&carry, &xs]).is_err());
        assert!(Scan { carries: 0, scanned: 0, ..scan }.infer(&[&carry, &carry]).is_ok(), "two constants");
    }

    #[test]
    fn refuses_a_body_that_changes_the_carry() {
        let body =
            Builder::function("sum", &[TensorType::f32([2])], |b, x| Ok(vec![b.reduce_sum(x[0], &[0])?])).unwrap();
        let scan = Scan { body, carries: 1, scanned: 0, length: 2, reverse: false, in_order: false };
        assert!(scan.infer(&[&TensorType::f32([2])]).is_err());
    }

    #[test]
    fn refuses_to_unroll_without_end() {
        let mut b = Builder::new("long");
        let x = b.input("x", TensorType::f32([])).unwrap();
        let body = Builder::function("same", &[TensorType::f32([])], |b, x| Ok(vec![b.neg(x[0])?])).unwrap();
        let op = Op::from(Scan { body, carries: 1, scanned: 0, length: 1 << 40, reverse: false, in_order: false });
        assert!(expand(&op, &mut b, &[x]).is_err());
    }
}
