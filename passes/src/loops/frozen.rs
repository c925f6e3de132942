//! Frozen-K: as many steps of `w ← Φᵀw` as the loop has, all with the derivative at the loop's result.
//!
//! `v = Σ w` over the steps gives the constants' gradients `Ψᵀv`, the last `w` that of the initial carries. Nothing is
//! kept of the loop's steps, so memory does not depend on their number.

use super::activity::Activity;
use super::guard::{Whole, arrived, cotangents, or_exact, where_holds};
use super::linearised::Linearised;
use super::policy::Tolerance;
use super::rows::Rows;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::op::{Cotangent, VjpContext};
use gradc_ir::ops::Scan;
use gradc_ir::types::TypeError;

/// The answers of a loop for its operands, under a guard where the derivative depends on where it is taken.
pub(super) fn backward(
    scan: &Scan,
    activity: &Activity,
    tolerance: &Tolerance,
    cx: &mut VjpContext,
) -> Result<Vec<Cotangent>, TypeError> {
    let (outputs, inputs) = (cx.outputs, cx.inputs);
    let at = Linearised::new(cx.builder, scan, activity, outputs, &inputs[scan.carries..])?;
    let start = cotangents(cx, activity)?;
    let operands = [&start[..], &at.given].concat();
    let approximate = |b: &mut Builder, x: &[Value]| {
        let (start, given) = x.split_at(start.len());
        gradients(b, scan, activity, &at.given(given), start)
    };
    let gradients = match at.is_constant() {
        true => approximate(cx.builder, &operands)?,
        false => {
            let holds = guard(cx.builder, scan, &at, tolerance)?;
            let gradients = where_holds(cx.builder, holds, &operands, approximate)?;
            or_exact(cx, &Whole::Scan(scan), activity, &activity.reached, holds, &gradients)?
        }
    };
    let mut answers = vec![Cotangent::Zero; inputs.len()];
    activity.reached.iter().zip(gradients).for_each(|(&k, gradient)| answers[k] = Cotangent::Flows(gradient));
    Ok(answers)
}

/// The gradients of the arguments that they reach, for the cotangent `start`.
fn gradients(
    b: &mut Builder,
    scan: &Scan,
    activity: &Activity,
    at: &Linearised,
    start: &[Value],
) -> Result<Vec<Value>, TypeError> {
    let (sum, last) = steps(b, scan.length, at, start)?;
    let carries = activity.seeds.iter().zip(last).filter(|(k, _)| activity.reached.contains(k)).map(|(_, w)| w);
    let mut gradients: Vec<Value> = carries.collect();
    gradients.extend(at.const_gradients(b, &sum)?);
    Ok(gradients)
}

/// Whether the loop has arrived, on one piece of a step that is made of pieces.
fn guard(b: &mut Builder, scan: &Scan, at: &Linearised, tolerance: &Tolerance) -> Result<Value, TypeError> {
    let rows = Rows::new(&scan.body, scan.carries, &at.types());
    let (arrived, same) = (arrived(b, at, &rows, tolerance.forward)?, at.same_piece(b)?);
    b.and(arrived, same)
}

/// `Σ (Φᵀ)ʲ start` for `j` below `count`, and `(Φᵀ)^count start`.
fn steps(
    b: &mut Builder,
    count: usize,
    at: &Linearised,
    start: &[Value],
) -> Result<(Vec<Value>, Vec<Value>), TypeError> {
    let (transposed, vector) = (at.transposed(b)?, at.types());
    let given = at.given.iter().map(|&v| b.ty(v).clone()).collect();
    let body = Builder::function("frozen step", &[vector.clone(), vector.clone(), given].concat(), |b, x| {
        let (w, rest) = x.split_at(vector.len());
        let (sum, given) = rest.split_at(vector.len());
        let next = b.inline(&transposed, &[w, given].concat())?;
        let sum = sum.iter().zip(w).map(|(&sum, &w)| b.add(sum, w)).collect::<Result<Vec<_>, _>>()?;
        Ok([next, sum].concat())
    })?;
    let zeros = vector.iter().map(|ty| b.splat(ty, -0.0)).collect::<Result<Vec<_>, _>>()?;
    let mut results = b.iterate(&body, count, &[start, &zeros].concat(), &at.given)?;
    let sum = results.split_off(vector.len());
    Ok((sum, results))
}
