//! What an approximate gradient has to hold, and the exact one where it does not.

use super::activity::Activity;
use super::linearised::Linearised;
use super::rows::{Rows, all_at_most, norms};
use super::segments::segmented;
use super::until::{masked, with_flags};
use super::{Backward, LoopPolicies};
use crate::differentiate::pull_back;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, InputId, NodeId, Role, Value};
use gradc_ir::op::VjpContext;
use gradc_ir::ops::{IterateUntil, Scan};
use gradc_ir::types::{DType, TensorType, TypeError};
use std::ops::Range;

/// Beginning of the name of the state that counts how often a solver's gradient was computed exactly instead.
pub const FALLBACKS: &str = "solver.fallbacks";

/// A loop to be made again where a guard does not hold.
pub(super) enum Whole<'a> {
    /// One of a known number of steps.
    Scan(&'a Scan),
    /// One that ends when it is done.
    Until(&'a IterateUntil),
}

impl Whole<'_> {
    /// Its results made segment by segment, carries first, and the loop over segments.
    fn segmented(&self, b: &mut Builder, operands: &[Value]) -> Result<(Vec<Value>, NodeId), TypeError> {
        match self {
            Whole::Scan(scan) => segmented(b, scan, operands),
            Whole::Until(until) => {
                let types: Vec<TensorType> = operands.iter().map(|&v| b.ty(v).clone()).collect();
                let operands = with_flags(b, until, operands)?;
                segmented(b, &masked(until, &types)?, &operands)
            }
        }
    }
}

/// Whether the loop has arrived: `‖f(x) − x‖ ≤ limit · (1 + ‖x‖)` in every row.
pub(super) fn arrived(b: &mut Builder, at: &Linearised, rows: &Rows, limit: f64) -> Result<Value, TypeError> {
    let (x, image) = (rows.join(b, &at.point())?, rows.join(b, &at.image())?);
    let step = b.sub(image, x)?;
    let (step, size) = (norms(b, step)?, norms(b, x)?);
    let (one, limit) = (b.full_like(size, 1.0)?, b.full_like(size, limit)?);
    let size = b.add(size, one)?;
    let limit = b.mul(size, limit)?;
    all_at_most(b, step, limit)
}

/// What `make` makes of `given` where `holds`, else zeros: where the guard does not hold nothing is approximated.
pub(super) fn where_holds(
    b: &mut Builder,
    holds: Value,
    given: &[Value],
    make: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>,
) -> Result<Vec<Value>, TypeError> {
    let types: Vec<TensorType> = given.iter().map(|&v| b.ty(v).clone()).collect();
    let make = Builder::function("approximate gradient", &types, make)?;
    let results: Vec<TensorType> = make.outputs().iter().map(|o| make.ty(o.value).clone()).collect();
    let skip = Builder::function("skipped", &types, |b, _| results.iter().map(|ty| b.splat(ty, 0.0)).collect())?;
    b.cond(holds, &make, &skip, given)
}

/// The gradients of the arguments `of` where `holds`, else the exact ones; counts the exceptions.
pub(super) fn or_exact(
    cx: &mut VjpContext,
    whole: &Whole,
    activity: &Activity,
    of: &[usize],
    holds: Value,
    gradients: &[Value],
) -> Result<Vec<Value>, TypeError> {
    let cotangents = cotangents(cx, activity)?;
    let operands = [gradients, cx.inputs, &cotangents].concat();
    let types: Vec<TensorType> = operands.iter().map(|&v| cx.builder.ty(v).clone()).collect();
    let kept = Builder::function("guarded gradient", &types, |_, x| Ok(x[..gradients.len()].to_vec()))?;
    let arguments = gradients.len()..gradients.len() + cx.inputs.len();
    let exact = exact(whole, activity, of, arguments, &types)?;
    count(cx, holds)?;
    cx.builder.cond(holds, &kept, &exact, &operands)
}

/// The cotangents of the loop's results, zeros written out.
pub(super) fn cotangents(cx: &mut VjpContext, activity: &Activity) -> Result<Vec<Value>, TypeError> {
    let mut dense = vec![];
    for &k in &activity.seeds {
        let ty = cx.builder.ty(cx.outputs[k]).clone();
        dense.push(cx.cotangents[k].map_or_else(|| cx.builder.splat(&ty, 0.0), Ok)?);
    }
    Ok(dense)
}

/// `(gradients…, operands…, cotangents…) → (gradients…)`: makes the steps again from checkpoint to checkpoint.
fn exact(
    whole: &Whole,
    activity: &Activity,
    of: &[usize],
    arguments: Range<usize>,
    types: &[TensorType],
) -> Result<Function, TypeError> {
    Builder::function("exact gradient", types, |b, x| {
        let (operands, cotangents) = (&x[arguments.clone()], &x[arguments.end..]);
        let (results, outer) = whole.segmented(b, operands)?;
        let seeds: Vec<_> = activity.seeds.iter().map(|&k| results[k]).zip(cotangents.iter().copied()).collect();
        let wrt: Vec<Value> = of.iter().map(|&k| operands[k]).collect();
        let policies = LoopPolicies::from([(outer, Backward::Checkpoint)]);
        let gradients = pull_back(b, &seeds, &[], &wrt, &policies).map_err(|d| TypeError::new(d.to_string()))?;
        let written = gradients.into_iter().zip(&wrt).map(|(gradient, &of)| match gradient {
            Some(gradient) => Ok(gradient),
            None => b.full_like(of, 0.0),
        });
        written.collect()
    })
}

/// Adds one to the solver's counter where its guard does not hold.
fn count(cx: &mut VjpContext, holds: Value) -> Result<(), TypeError> {
    let b = &mut *cx.builder;
    let name = counter(b, &b.graph().loc(cx.outputs[0].node).layer);
    let before = b.declare(&name, Role::State, TensorType::new(DType::I64, []), Some(0.0))?;
    let state = InputId(b.graph().inputs().len() as u32 - 1);
    let failed = b.not(holds)?;
    let more = b.cast(failed, DType::I64)?;
    let after = b.add(before, more)?;
    b.update(state, after)
}

/// A name that no input has yet.
fn counter(b: &Builder, layer: &str) -> String {
    let name = if layer.is_empty() { FALLBACKS.to_string() } else { format!("{FALLBACKS}.{layer}") };
    let taken = |name: &str| b.graph().input_named(name).is_some();
    let numbered = (1..).map(|k| if k == 1 { name.clone() } else { format!("{name}.{k}") });
    numbered.into_iter().find(|name| !taken(name)).expect("there are fewer inputs than numbers")
}
