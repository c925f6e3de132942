//! From a graph to one that takes the batch in parts: of a training step, or of an entry without gradients.

use super::apply::over_parts;
use super::cut::Flow;
use super::split::{Split, internal, split};
use crate::differentiate::differentiate_loops;
use crate::loops::{Backward, LoopPolicies, merge_loops, segment_loops};
use crate::optimizers::Trained;
use crate::train::{LOSS, TrainSpec, Trainable, append_updates, find_parameters};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::types::TypeError;

/// As [`derive_step`](crate::train::derive_step), with the loss and the gradients summed over `parts` equal parts of a
/// batch of `size` examples, one after the other.
///
/// # Errors
/// `examples-mix` where an op mixes what different examples make other than by a sum that the loss is linear in.
pub fn derive_step_in_parts(
    forward: &Graph,
    spec: &TrainSpec,
    loops: &LoopPolicies,
    size: usize,
    parts: usize,
) -> Result<Graph, Diagnostics> {
    if loops.values().any(|policy| matches!(policy, Backward::Frozen(_) | Backward::Implicit(_))) {
        return Err(Diagnostic::new("examples-mix", "the guard of a solver judges the whole batch").into());
    }
    let (forward, loops) = segment_loops(forward, loops).map_err(internal)?;
    let forward = &forward;
    let parameters = find_parameters(forward, &spec.trainable)?;
    let wrt: Vec<Value> = parameters.iter().map(|id| forward.inputs()[id.index()].value).collect();
    let Split { whole, part, taken, trained, nodes, outputs } = split(forward, &wrt, size, parts)?;
    if outputs != [Err(Flow::Sum)] {
        return Err(Diagnostic::new("examples-mix", "the loss is no sum of what the examples contribute").into());
    }
    let loops = loops.into_iter().filter_map(|(id, policy)| Some((nodes[id.index()]?, policy))).collect();
    let gradients = part_gradients(part, &trained, &spec.trainable, &loops)?;
    let step = || -> Result<Graph, TypeError> {
        let mut b = whole;
        let sums = over_parts(&mut b, &gradients, &vec![Flow::Sum; gradients.outputs().len()], &taken, parts)?;
        b.output(LOSS, sums[0], OutputKind::Result);
        let trained = parameters.iter().zip(&spec.trainable);
        let trained =
            trained.map(|(&id, of)| Trained::new(&mut b, id, of.part.as_ref())).collect::<Result<Vec<_>, _>>()?;
        append_updates(&mut b, spec, &trained, &sums[1..])?;
        Ok(b.finish().with_checked(LOSS).without_dead_nodes())
    };
    Ok(step().map_err(internal)?)
}

/// From the forward pass of a part to its loss and what trains of each gradient.
fn part_gradients(
    mut b: Builder,
    wrt: &[Value],
    trainable: &[Trainable],
    loops: &LoopPolicies,
) -> Result<Graph, Diagnostic> {
    let loss = b.graph().output_named(LOSS).expect("a part has a loss").value;
    let gradients = differentiate_loops(&mut b, loss, wrt, loops)?;
    for (of, gradient) in trainable.iter().zip(gradients) {
        let message = || Diagnostic::new("no-gradient", format!("no gradient reaches parameter `{}`", of.parameter));
        let whole = gradient.ok_or_else(message)?;
        let trained = Trained::select(&mut b, of.part.as_ref(), whole);
        let trained = trained.map_err(internal)?;
        b.output(&format!("grad.{}", of.parameter), trained, OutputKind::Result);
    }
    merge_loops(&b.finish().without_dead_nodes()).map_err(internal)
}

/// An entry without gradients that takes a batch of `size` examples in `parts` equal parts, one after the other: results
/// of examples are put together, sums over them are added up.
///
/// # Errors
/// `examples-mix` where a result depends on several examples otherwise.
pub fn evaluate_in_parts(graph: &Graph, size: usize, parts: usize) -> Result<Graph, Diagnostic> {
    let Split { whole: mut b, part, taken, outputs, .. } = split(graph, &[], size, parts)?;
    let part = part.finish().without_dead_nodes();
    let flows: Vec<Flow> = outputs.iter().filter_map(|output| output.as_ref().err().copied()).collect();
    let apply =
        |b: &mut Builder| if flows.is_empty() { Ok(vec![]) } else { over_parts(b, &part, &flows, &taken, parts) };
    let mut made = apply(&mut b).map_err(internal)?.into_iter();
    let results = graph.outputs().iter().filter(|o| !matches!(o.kind, OutputKind::Update(_)));
    for (output, of_whole) in results.zip(outputs) {
        let value = of_whole.unwrap_or_else(|_| made.next().expect("what is not made of the whole is made of parts"));
        b.output(&output.name, value, output.kind);
    }
    Ok(b.finish().without_dead_nodes())
}
