//! The derivative of a fixed point: `(I − Φᵀ)v = g`, then `Ψᵀv` (implicit function theorem).
//!
//! The fixed-point iteration `v ← Φᵀv + g` makes at most as many steps as the loop; what it has not solved by then,
//! GMRES goes on with. Every row of `g` is divided by its largest element before and multiplied by it after, so that
//! rows of zeros and of tiny numbers are solved as any other. Initial carries get no gradient: a fixed point does not
//! depend on them.

use super::activity::Activity;
use super::gmres::{self, System};
use super::guard::{Whole, arrived, cotangents, or_exact, where_holds};
use super::linearised::Linearised;
use super::policy::Tolerance;
use super::rows::{Rows, all_at_most, column, norms};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::op::{Cotangent, VjpContext};
use gradc_ir::ops::Scan;
use gradc_ir::types::{TensorType, TypeError};

/// Largest contraction per step that is trusted: at 1 and above, a fixed point repels and its gradient means nothing.
const MOST_CONTRACTION: f64 = 0.999;

/// Increments over which the contraction is measured.
const WINDOW: usize = 4;

/// The answers of a loop of steps `scan` for its operands, under a guard; `whole` is the loop.
pub(super) fn backward(
    scan: &Scan,
    whole: &Whole,
    activity: &Activity,
    tolerance: &Tolerance,
    cx: &mut VjpContext,
) -> Result<Vec<Cotangent>, TypeError> {
    let (outputs, inputs) = (cx.outputs, cx.inputs);
    let consts = activity.consts(scan);
    let at = Linearised::new(cx.builder, scan, activity, &outputs[..scan.carries], &inputs[scan.carries..])?;
    let rows = Rows::new(&scan.body, scan.carries, &at.types());
    let g = cotangents(cx, activity)?;
    let given = [&g[..], &at.given].concat();
    let b = &mut *cx.builder;
    let (arrived, same) = (arrived(b, &at, &rows, tolerance.forward)?, at.same_piece(b)?);
    let worth_solving = b.and(arrived, same)?;
    let solved = where_holds(b, worth_solving, &given, |b, x| {
        let (g, given) = x.split_at(g.len());
        gradients(b, &rows, &at.given(given), g, scan.length, tolerance)
    })?;
    let (&holds, gradients) = solved.split_last().expect("the solver says whether it has solved");
    let gradients = or_exact(cx, whole, activity, &consts, holds, gradients)?;
    let mut answers = vec![Cotangent::Zero; inputs.len()];
    consts.iter().zip(gradients).for_each(|(&k, gradient)| answers[k] = Cotangent::Flows(gradient));
    Ok(answers)
}

/// The gradients of the constants for the cotangent `g`, and whether they may be used.
fn gradients(
    b: &mut Builder,
    rows: &Rows,
    at: &Linearised,
    g: &[Value],
    steps: usize,
    tolerance: &Tolerance,
) -> Result<Vec<Value>, TypeError> {
    let g = rows.join(b, g)?;
    let scale = scale(b, g)?;
    let (scaled, system) = (b.div(g, scale)?, system(b, rows, at, tolerance.backward)?);
    let solution = solve(b, rows, &system, scaled, steps, tolerance)?;
    let v = b.mul(solution.v, scale)?;
    let v = rows.split(b, v)?;
    Ok([at.const_gradients(b, &v)?, vec![solution.holds]].concat())
}

/// The largest size of an element of every row, 1 for rows of zeros; a column.
fn scale(b: &mut Builder, g: Value) -> Result<Value, TypeError> {
    let size = b.abs(g)?;
    let largest = b.reduce_max(size, &[1])?;
    let (zero, one) = (b.full_like(largest, 0.0)?, b.full_like(largest, 1.0)?);
    let is_zero = b.compare(CompareFn::Eq, largest, zero)?;
    let scale = b.select(is_zero, one, largest)?;
    column(b, scale)
}

/// The linear system as closed functions over matrices.
fn system(b: &mut Builder, rows: &Rows, at: &Linearised, tolerance: f64) -> Result<System, TypeError> {
    let transposed = at.transposed(b)?;
    let given: Vec<TensorType> = at.given.iter().map(|&v| b.ty(v).clone()).collect();
    let apply = Builder::function("transposed step", &[vec![rows.matrix()], given].concat(), |b, x| {
        let parts = rows.split(b, x[0])?;
        let next = b.inline(&transposed, &[&parts[..], &x[1..]].concat())?;
        Ok(vec![rows.join(b, &next)?])
    })?;
    Ok(System { apply, given: at.given.clone(), matrix: rows.matrix(), tolerance })
}

/// What solves the system, and whether it may be used.
struct Solution {
    v: Value,
    holds: Value,
}

fn solve(
    b: &mut Builder,
    rows: &Rows,
    system: &System,
    g: Value,
    steps: usize,
    tolerance: &Tolerance,
) -> Result<Solution, TypeError> {
    let (v_k, contraction) = fixed_point(b, rows, system, g, steps)?;
    let solved = system.is_solved(b, v_k, g, &system.given)?;
    let operands = [&[v_k, g], &system.given[..]].concat();
    let types: Vec<TensorType> = operands.iter().map(|&v| b.ty(v).clone()).collect();
    let stay = Builder::function("solved", &types, |_, x| Ok(vec![x[0]]))?;
    let go_on = gmres::solver(system, &types)?;
    let v = b.cond(solved, &stay, &go_on, &operands)?[0];
    let most = b.full_like(contraction, MOST_CONTRACTION)?;
    let contracts = b.compare(CompareFn::Lt, contraction, most)?;
    let expands = b.not(contracts)?;
    let contracts = super::linearised::none(b, expands)?;
    let solved = system.is_solved(b, v, g, &system.given)?;
    let near = near(b, v, v_k, tolerance.gap)?;
    let holds = b.and(contracts, solved)?;
    Ok(Solution { v, holds: b.and(holds, near)? })
}

/// The gap certificate: `‖v − v_K‖ ≤ gap · ‖v‖`, so that the gradient is near that of the loop's own K steps.
fn near(b: &mut Builder, v: Value, v_k: Value, gap: f64) -> Result<Value, TypeError> {
    let difference = b.sub(v, v_k)?;
    let (difference, size) = (norms(b, difference)?, norms(b, v)?);
    let limit = b.scale(size, gap)?;
    all_at_most(b, difference, limit)
}

/// `v ← Φᵀv + g` from 0, until the increments are small or `steps` are made; and the contraction per step at the end.
fn fixed_point(
    b: &mut Builder,
    rows: &Rows,
    system: &System,
    g: Value,
    steps: usize,
) -> Result<(Value, Value), TypeError> {
    let body = fixed_point_step(b, rows, system)?;
    let start = b.splat(&rows.matrix(), 0.0)?;
    let never = b.splat(&rows.numbers(), f64::INFINITY)?;
    let carries = [vec![start], vec![never; WINDOW + 1]].concat();
    let (results, _) = b.iterate_until(&body, steps, &carries, &[&[g], &system.given[..]].concat())?;
    let contraction = contraction(b, results[1], results[1 + WINDOW])?;
    Ok((results[0], contraction))
}

/// `(v, increments…, g, given…) → (v, increments…, done)`, the newest increment first.
fn fixed_point_step(b: &Builder, rows: &Rows, system: &System) -> Result<Function, TypeError> {
    let history = vec![rows.numbers(); WINDOW + 1];
    let given = system.given.iter().map(|&v| b.ty(v).clone()).collect();
    let types = [vec![rows.matrix()], history, vec![rows.matrix()], given].concat();
    Builder::function("fixed-point step", &types, |b, x| {
        let (v, history) = (x[0], &x[1..=WINDOW]);
        let (g, given) = (x[WINDOW + 2], &x[WINDOW + 3..]);
        let turned = system.transposed(b, v, given)?;
        let next = b.add(turned, g)?;
        let increment = b.sub(next, v)?;
        let (increment, size) = (norms(b, increment)?, norms(b, g)?);
        let limit = b.scale(size, system.tolerance)?;
        let large = b.compare(CompareFn::Gt, increment, limit)?;
        let done = super::linearised::none(b, large)?;
        Ok([&[next, increment], history, &[done]].concat())
    })
}

/// `(new / old)^(1/4)` per row; 0 where nothing was left to contract.
fn contraction(b: &mut Builder, new: Value, old: Value) -> Result<Value, TypeError> {
    let zero = b.full_like(old, 0.0)?;
    let moved = b.compare(CompareFn::Gt, old, zero)?;
    let ratio = b.div(new, old)?;
    let ratio = b.select(moved, ratio, zero)?;
    let root = b.sqrt(ratio)?;
    b.sqrt(root)
}
