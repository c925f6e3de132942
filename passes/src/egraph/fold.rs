//! Steps of loops written so that most of what they do can be done once, before the loop.
//!
//! A step `x ← f(x·Dᵀ·D)` costs two products; `Dᵀ·D` is the same in every step, and where it is made once one is left.
//! The body of a loop is optimized like any graph, at a price for one step: what follows from constants of the loop
//! alone costs a share of one in so many steps. What became the same in every step is then [moved out](hoist_here).
//!
//! This happens to the model, before gradients are taken: the derivative of the folded step is folded too, and nothing
//! is kept of a step for factors that have gone. A loop that ends when it is done is left as it is, for nobody knows how
//! many steps would share the cost.

use super::explain::{OptimizeReport, WindowReport};
use super::frame::Frame;
use super::{OptimizeOptions, optimize_in, totals};
use crate::loops::{hoist_here, rebuild};
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Function, Graph};
use gradc_ir::ops::Op;
use gradc_ir::region::{Argument, Loop, RegionForm};
use gradc_ir::types::TypeError;
use std::sync::Arc;

/// What folding must save at least, of the estimated time of a step. Estimates are not more exact than that, and what is
/// made of invariant factors has a gradient to be kept and digits to lose.
const LEAST_GAIN: f64 = 0.05;

/// The graph with the steps of its loops folded as far as `options` allow, and what was done to get there.
///
/// Inputs, outputs and places stay, and so does every gradient but for the order of sums and products.
pub fn fold_loops(graph: &Graph, options: &OptimizeOptions) -> Result<(Graph, OptimizeReport), Diagnostic> {
    let mut windows = vec![];
    let folded = of_graph(graph, options, &mut windows)
        .map_err(|e| Diagnostic::from_type_error("internal-fold", e, Loc::default()))?;
    let [before, after] = [graph, &folded].map(|graph| totals(graph, &Frame::default(), &options.target));
    Ok((folded, OptimizeReport { before, after, windows }))
}

/// Innermost loops first: what leaves a loop may leave the loop around it as well.
fn of_graph(graph: &Graph, options: &OptimizeOptions, windows: &mut Vec<WindowReport>) -> Result<Graph, TypeError> {
    let folded = rebuild(graph, |b, id, op, operands| {
        let form = RegionForm::of_node(graph, id);
        b.apply(with_folded_bodies(op, form.as_ref(), options, windows)?, operands)
    })?;
    hoist_here(&folded)
}

fn with_folded_bodies(
    op: &Op,
    form: Option<&RegionForm>,
    options: &OptimizeOptions,
    windows: &mut Vec<WindowReport>,
) -> Result<Op, TypeError> {
    let bodies = op.functions();
    if bodies.is_empty() {
        return Ok(op.clone());
    }
    let mut folded: Vec<Function> = Vec::with_capacity(bodies.len());
    for body in &bodies {
        let body = of_graph(body, options, windows)?;
        folded.push(Arc::new(match form {
            Some(RegionForm::Loop(looped)) if !looped.until_done => of_step(&body, looped, options, windows)?,
            _ => body,
        }));
    }
    Ok(op.with_functions(folded))
}

/// The step of a loop, cheapest when what is the same in all steps is made once.
fn of_step(
    body: &Graph,
    looped: &Loop,
    options: &OptimizeOptions,
    windows: &mut Vec<WindowReport>,
) -> Result<Graph, TypeError> {
    let invariant = (0..body.inputs().len()).map(|k| looped.argument(k) == Argument::Whole).collect();
    let frame = Frame { steps: looped.steps, invariant, differentiable: true };
    let (step, report) = optimize_in(body, &frame, options)?;
    let [before_ns, after_ns] = [report.before, report.after].map(|totals| totals.cost.time_ns);
    if after_ns > (1.0 - LEAST_GAIN) * before_ns {
        return Ok(body.clone());
    }
    windows.extend(report.windows);
    Ok(step)
}
