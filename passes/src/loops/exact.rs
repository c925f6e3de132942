//! The exact derivative: the forward loop hands out what the backward one reads, stacked.

use super::activity::Activity;
use super::split::{Again, Residual, Split};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Value};
use gradc_ir::op::{Cotangent, VjpContext};
use gradc_ir::ops::Scan;
use gradc_ir::types::{TensorType, TypeError};

/// The answers of a loop for its operands; `again` says what is not kept of its steps.
pub(super) fn backward(
    scan: &Scan,
    activity: &Activity,
    again: Again,
    cx: &mut VjpContext,
) -> Result<Vec<Cotangent>, TypeError> {
    let split = Split::new(scan, activity, again)?;
    let forward = Scan { body: split.forward.clone(), ..scan.clone() };
    let results = cx.builder.apply(forward, cx.inputs)?;
    let plan = Plan::new(scan, activity, &split);
    let op = Scan {
        body: plan.step()?,
        carries: plan.carries.len() + plan.consts.len() + plan.next.len(),
        scanned: plan.stacked.len() + plan.xs.len() + plan.ys.len(),
        length: scan.length,
        reverse: !scan.reverse,
        in_order: scan.in_order,
    };
    let operands = plan.operands(cx, &results)?;
    let gradients = cx.builder.apply(op, &operands)?;
    Ok(plan.answers(cx, &gradients))
}

/// The backward loop; arguments and results of the body by their positions.
struct Plan<'a> {
    scan: &'a Scan,
    activity: &'a Activity,
    split: &'a Split,
    /// Carries that have cotangents.
    carries: Vec<usize>,
    /// Constants that a gradient reaches; the steps' contributions are summed in a carry.
    consts: Vec<usize>,
    /// Carries of the forward loop that a step hands on to the step before it.
    next: Vec<usize>,
    /// Results of the forward loop that are read step by step.
    stacked: Vec<usize>,
    /// Scanned operands that are read again.
    xs: Vec<usize>,
    /// Stacked results that have cotangents.
    ys: Vec<usize>,
    /// Constants that are read again.
    invariant: Vec<usize>,
}

impl<'a> Plan<'a> {
    fn new(scan: &'a Scan, activity: &'a Activity, split: &'a Split) -> Self {
        let (xs, invariant) = split.arguments.iter().partition(|&&k| k < scan.carries + scan.scanned);
        let (mut next, mut stacked) = (vec![], vec![]);
        split.residuals.iter().for_each(|residual| match *residual {
            Residual::NextCarry(carry) => next.push(carry),
            Residual::Result(result) => stacked.push(result),
        });
        Plan {
            carries: activity.carries(scan),
            consts: activity.consts(scan),
            ys: activity.stacked(scan),
            next,
            stacked,
            xs,
            invariant,
            scan,
            activity,
            split,
        }
    }

    fn argument(&self, k: usize) -> TensorType {
        let body = &self.scan.body;
        body.ty(body.inputs()[k].value).clone()
    }

    fn result(&self, k: usize) -> TensorType {
        let body = &self.split.forward;
        body.ty(body.outputs()[k].value).clone()
    }

    /// `(dcarries…, sums…, next carries…, stacked…, xs…, dys…, consts…) → (dcarries…, sums…, carries…, dxs…)`.
    fn step(&self) -> Result<Function, TypeError> {
        let arguments = |which: &[usize]| which.iter().map(|&k| self.argument(k)).collect::<Vec<_>>();
        let results = |which: &[usize]| which.iter().map(|&k| self.result(k)).collect::<Vec<_>>();
        let carried = [arguments(&self.carries), arguments(&self.consts), arguments(&self.next)].concat();
        let scanned = [results(&self.stacked), arguments(&self.xs), results(&self.ys)].concat();
        let types = [carried, scanned, arguments(&self.invariant)].concat();
        Builder::function(&self.split.backward.name, &types, |b, x| {
            let mut x = x;
            let mut take = |count: usize| {
                let (taken, rest) = x.split_at(count);
                x = rest;
                taken
            };
            let (dcarries, sums, next) = (take(self.carries.len()), take(self.consts.len()), take(self.next.len()));
            let (stacked, xs, dys) = (take(self.stacked.len()), take(self.xs.len()), take(self.ys.len()));
            let residuals = self.residuals(next, stacked);
            let arguments = [&residuals[..], xs, take(self.invariant.len()), dcarries, dys, sums].concat();
            let gradients = b.inline(&self.split.backward, &arguments)?;
            self.returned(b, stacked, &gradients)
        })
    }

    /// The residuals in the order in which the derivative takes them.
    fn residuals(&self, next: &[Value], stacked: &[Value]) -> Vec<Value> {
        let (mut next, mut stacked) = (next.iter(), stacked.iter());
        let residual = |residual: &Residual| match residual {
            Residual::NextCarry(_) => next.next(),
            Residual::Result(_) => stacked.next(),
        };
        let residuals = self.split.residuals.iter().map(residual);
        residuals.map(|value| *value.expect("both lists are made of the residuals")).collect()
    }

    /// What a step returns, given the gradients of the arguments that they reach.
    fn returned(&self, b: &mut Builder, stacked: &[Value], gradients: &[Value]) -> Result<Vec<Value>, TypeError> {
        let gradient = |k: usize| Some(gradients[self.activity.reached.iter().position(|&r| r == k)?]);
        let mut returned = vec![];
        for &k in &self.carries {
            returned.push(gradient(k).map_or_else(|| b.splat(&self.argument(k), 0.0), Ok)?);
        }
        returned.extend(self.consts.iter().filter_map(|&k| gradient(k)));
        for &k in &self.next {
            let at = self.stacked.iter().position(|&r| self.is_carry(r, k));
            returned.push(stacked[at.expect("a next carry is handed on only where the carry is kept")]);
        }
        returned.extend(self.activity.scanned(self.scan).iter().filter_map(|&k| gradient(k)));
        Ok(returned)
    }

    /// Whether a result of the forward body is carry `k` as the step found it.
    fn is_carry(&self, result: usize, k: usize) -> bool {
        let body = &self.split.forward;
        body.outputs()[result].value == body.inputs()[k].value
    }

    /// What the loop starts from and reads, given the results of the forward loop.
    fn operands(&self, cx: &mut VjpContext, results: &[Value]) -> Result<Vec<Value>, TypeError> {
        let mut operands = vec![];
        for &k in &self.carries {
            operands.push(cx.cotangents[k].map_or_else(|| cx.builder.splat(&self.argument(k), 0.0), Ok)?);
        }
        for &k in &self.consts {
            // Readers after the loop come first, as in the unrolled loop: sums have its order, and its bits.
            let start = cx.take_sum_so_far(k)?;
            // −0 + x = x for every x, −0 included
            operands.push(start.map_or_else(|| cx.builder.splat(&self.argument(k), -0.0), Ok)?);
        }
        operands.extend(self.next.iter().map(|&k| results[k]));
        operands.extend(self.stacked.iter().map(|&k| results[k]));
        operands.extend(self.xs.iter().map(|&k| cx.inputs[k]));
        operands.extend(self.ys.iter().filter_map(|&k| cx.cotangents[k]));
        operands.extend(self.invariant.iter().map(|&k| cx.inputs[k]));
        Ok(operands)
    }

    /// The gradients of the loop's operands, given the results of the backward loop.
    fn answers(&self, cx: &VjpContext, gradients: &[Value]) -> Vec<Cotangent> {
        let mut answers = vec![Cotangent::Zero; cx.inputs.len()];
        let xs = self.activity.scanned(self.scan);
        let order = self.carries.iter().chain(&self.consts);
        let returned = gradients[..order.clone().count()].iter().chain(&gradients[gradients.len() - xs.len()..]);
        for (&k, &gradient) in order.chain(&xs).zip(returned) {
            if self.activity.reached.contains(&k) {
                answers[k] = Cotangent::Flows(gradient);
            }
        }
        answers
    }
}
