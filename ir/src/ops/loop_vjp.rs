//! Reverse-mode derivative of loops: stack the carries going forward, then scan the body's derivative going back.

use super::Scan;
use super::region::wanted_floats;
use crate::builder::Builder;
use crate::graph::{Function, Graph, Value};
use crate::op::{Cotangent, VjpContext};
use crate::types::{TensorType, TypeError};

/// Which values of a loop carry gradients; operands and results by their position in the scan.
struct LoopVjp<'a> {
    scan: &'a Scan,
    /// Types of the body's arguments.
    arguments: Vec<TensorType>,
    /// Types of the body's results.
    results: Vec<TensorType>,
    /// Carries that have cotangents.
    carries: Vec<usize>,
    /// Scanned operands whose gradient is wanted.
    xs: Vec<usize>,
    /// Constants whose gradient is wanted; the steps' contributions are summed in a carry.
    consts: Vec<usize>,
    /// Stacked results that have cotangents.
    ys: Vec<usize>,
}

/// The answers of a scan for its operands.
pub(super) fn loop_vjp(scan: &Scan, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
    let plan = LoopVjp::new(scan, cx)?;
    let through = [&plan.carries[..], &plan.xs, &plan.consts].concat();
    let step = plan.backward_step(&cx.bodies.vjp_body(&scan.body, &through)?)?;
    let saved = plan.saved_carries(cx.builder, cx.inputs)?;
    let op = Scan {
        body: step,
        carries: plan.carries.len() + plan.consts.len(),
        scanned: scan.carries + scan.scanned + plan.ys.len(),
        length: scan.length,
        reverse: !scan.reverse,
    };
    let operands = plan.backward_operands(cx, &saved)?;
    let gradients = cx.builder.apply(op, &operands)?;
    let mut answers = vec![Cotangent::Zero; cx.inputs.len()];
    let order = plan.carries.iter().chain(&plan.consts).chain(&plan.xs);
    order.zip(gradients).for_each(|(&operand, gradient)| answers[operand] = Cotangent::Flows(gradient));
    Ok(answers)
}

impl<'a> LoopVjp<'a> {
    fn new(scan: &'a Scan, cx: &VjpContext) -> Result<Self, TypeError> {
        let operands: Vec<TensorType> = cx.inputs.iter().map(|&v| cx.builder.ty(v).clone()).collect();
        let arguments = scan.argument_types(&operands)?;
        let results: Vec<TensorType> = scan.body.outputs().iter().map(|o| scan.body.ty(o.value).clone()).collect();
        let (wanted, first_const) = (wanted_floats(cx), scan.carries + scan.scanned);
        let wanted_in = |range: std::ops::Range<usize>| wanted.iter().copied().filter(|k| range.contains(k)).collect();
        Ok(LoopVjp {
            carries: (0..scan.carries).filter(|&k| arguments[k].dtype.is_float()).collect(),
            xs: wanted_in(scan.carries..first_const),
            consts: wanted_in(first_const..operands.len()),
            ys: (scan.carries..results.len()).filter(|&k| cx.cotangents[k].is_some()).collect(),
            scan,
            arguments,
            results,
        })
    }

    /// The carries that every step starts from, stacked.
    fn saved_carries(&self, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
        let (scan, carries) = (self.scan, self.scan.carries);
        if carries == 0 {
            return Ok(vec![]);
        }
        let body = Builder::function(&format!("{} carries", scan.body.name), &self.arguments, |b, x| {
            let results = b.inline(&scan.body, x)?;
            Ok([&results[..carries], &x[..carries]].concat())
        })?;
        let mut results = b.apply(Scan { body, ..scan.clone() }, operands)?;
        Ok(results.split_off(carries))
    }

    fn types(&self, arguments: &[usize]) -> Vec<TensorType> {
        arguments.iter().map(|&k| self.arguments[k].clone()).collect()
    }

    /// `(dcarries…, sums…, carries…, x…, dy…, consts…) → (dcarries…, sums…, dx…)` from the body's derivative `vjp`.
    fn backward_step(&self, vjp: &Graph) -> Result<Function, TypeError> {
        let first_const = self.scan.carries + self.scan.scanned;
        let dys = self.ys.iter().map(|&k| self.results[k].clone()).collect();
        let (forward, consts) = self.arguments.split_at(first_const);
        let types =
            [self.types(&self.carries), self.types(&self.consts), forward.to_vec(), dys, consts.to_vec()].concat();
        Builder::function(&vjp.name, &types, |b, x| {
            let (dcarries, x) = x.split_at(self.carries.len());
            let (sums, x) = x.split_at(self.consts.len());
            let (forward, x) = x.split_at(first_const);
            let (dys, consts) = x.split_at(self.ys.len());
            let dys = self.dense_slices(b, dys)?;
            let gradients = b.inline(vjp, &[forward, consts, dcarries, &dys].concat())?;
            let (dcarries, gradients) = gradients.split_at(dcarries.len());
            let (dxs, dconsts) = gradients.split_at(self.xs.len());
            let sums = sums.iter().zip(dconsts).map(|(&sum, &d)| b.add(sum, d)).collect::<Result<Vec<_>, _>>()?;
            Ok([dcarries, &sums, dxs].concat())
        })
    }

    /// One cotangent per float slice that the body returns, zeros written out.
    fn dense_slices(&self, b: &mut Builder, dys: &[Value]) -> Result<Vec<Value>, TypeError> {
        let floats = (self.scan.carries..self.results.len()).filter(|&k| self.results[k].dtype.is_float());
        let cotangent = |k: usize| match self.ys.iter().position(|&y| y == k) {
            Some(at) => Ok(dys[at]),
            None => b.splat(&self.results[k], 0.0),
        };
        floats.map(cotangent).collect()
    }

    /// What [`backward_step`](Self::backward_step) starts from and reads.
    fn backward_operands(&self, cx: &mut VjpContext, saved: &[Value]) -> Result<Vec<Value>, TypeError> {
        let first_const = self.scan.carries + self.scan.scanned;
        let mut operands = Vec::new();
        for &k in &self.carries {
            operands.push(cx.cotangents[k].map_or_else(|| cx.builder.splat(&self.arguments[k], 0.0), Ok)?);
        }
        for &k in &self.consts {
            operands.push(cx.builder.splat(&self.arguments[k], 0.0)?);
        }
        operands.extend(saved);
        operands.extend(&cx.inputs[self.scan.carries..first_const]);
        operands.extend(self.ys.iter().filter_map(|&k| cx.cotangents[k]));
        operands.extend(&cx.inputs[first_const..]);
        Ok(operands)
    }
}
