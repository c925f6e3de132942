//! The derivative of a loop that ends when it is done.
//!
//! The number of steps is no function to differentiate: it is taken as it was. So the exact gradient is that of as many
//! steps as were made. For it the loop is written as one of all steps it may make, of which those after the end keep
//! what they are handed; a branch makes them cheap. The derivative of a fixed point needs no steps at all: where a
//! recipe asks for it, the loop stays as it is.

use super::extract::extract;
use super::rebuild::rebuild;
use super::{Backward, LoopPolicies};
use crate::differentiate::dependents;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, Value};
use gradc_ir::ops::{IterateUntil, Op, Scan};
use gradc_ir::types::{DType, TensorType, TypeError};

/// The graph with loops that end when they are done as loops of all steps: those that depend on `wrt`, and those in
/// bodies; those stay whose gradient is that of their fixed point. With the policies of the new graph.
pub fn bounded_loops(
    graph: &Graph,
    policies: &LoopPolicies,
    wrt: &[Value],
) -> Result<(Graph, LoopPolicies), TypeError> {
    let depends = dependents(graph, wrt);
    let mut renamed = LoopPolicies::new();
    let bounded = rebuild(graph, |b, id, op, operands| {
        let policy = policies.get(&id).copied();
        let results = match with_bounded_bodies(op)? {
            Op::IterateUntil(until) if depends[id.index()] && !matches!(policy, Some(Backward::Implicit(_))) => {
                all_steps(b, &until, operands)?
            }
            op => b.apply(op, operands)?,
        };
        renamed.extend(policy.map(|policy| (results[0].node, policy)));
        Ok(results)
    })?;
    Ok((bounded, renamed))
}

fn with_bounded_bodies(op: &Op) -> Result<Op, TypeError> {
    let bodies = op.functions();
    let bounded = |body: &Function| {
        let arguments: Vec<Value> = body.inputs().iter().map(|i| i.value).collect();
        Ok(Function::new(bounded_loops(body, &LoopPolicies::new(), &arguments)?.0))
    };
    let all = bodies.iter().map(bounded).collect::<Result<Vec<_>, TypeError>>()?;
    Ok(if bodies.is_empty() { op.clone() } else { op.with_functions(all) })
}

/// The results of the loop, from all steps it may make.
fn all_steps(b: &mut Builder, until: &IterateUntil, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let (scan, operands) = (masked(until, &types(b, operands))?, with_flags(b, until, operands)?);
    let mut results = b.apply(scan, &operands)?;
    results.remove(until.carries);
    Ok(results)
}

fn types(b: &Builder, values: &[Value]) -> Vec<TensorType> {
    values.iter().map(|&v| b.ty(v).clone()).collect()
}

/// Operands of [`masked`]: not done, and no step made.
pub(super) fn with_flags(b: &mut Builder, until: &IterateUntil, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let flags = [b.scalar(DType::Bool, 0.0)?, b.scalar(DType::I64, 0.0)?];
    let (carries, consts) = operands.split_at(until.carries);
    Ok([carries, &flags, consts].concat())
}

/// A loop of all steps over `(carries…, done, count)` whose steps keep what they are handed once it is done.
pub(super) fn masked(until: &IterateUntil, operands: &[TensorType]) -> Result<Scan, TypeError> {
    let carries = until.carries;
    let flags = [TensorType::new(DType::Bool, []), TensorType::new(DType::I64, [])];
    let (first, consts) = operands.split_at(carries);
    let types = [first, &flags, consts].concat();
    let go = Builder::function(&until.body.name, &types, |b, x| {
        let mut next = b.inline(&until.body, &[&x[..carries], &x[carries + 2..]].concat())?;
        let one = b.scalar(DType::I64, 1.0)?;
        next.push(b.add(x[carries + 1], one)?);
        Ok(next)
    })?;
    let keep = Builder::function("done", &types, |_, x| Ok(x[..carries + 2].to_vec()))?;
    let body = Builder::function(&until.body.name, &types, |b, x| b.cond(x[carries], &keep, &go, x))?;
    Ok(Scan { body, carries: carries + 2, scanned: 0, length: until.max, reverse: false, in_order: false })
}

/// The step as one map, without whether it is the last.
pub(super) fn one_map(until: &IterateUntil) -> Result<Scan, TypeError> {
    let body = &until.body;
    let arguments: Vec<Value> = body.inputs().iter().map(|i| i.value).collect();
    let results: Vec<Value> = body.outputs()[..until.carries].iter().map(|o| o.value).collect();
    let body: Function = extract(&body.name, body, &arguments, &results)?;
    Ok(Scan { body, carries: until.carries, scanned: 0, length: until.max, reverse: false, in_order: false })
}
