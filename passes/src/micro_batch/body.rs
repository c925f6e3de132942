//! Passes over the part of the batch that a step is made of.

use crate::loops::rebuild;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Function, Graph, NodeId, Output, OutputKind};
use gradc_ir::region::{RegionForm, closed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the function that adds what a part of the batch contributes.
pub(super) const PART: &str = "part of the batch";

/// Whether a region takes the batch in parts.
pub fn takes_parts(form: &RegionForm) -> bool {
    matches!(form, RegionForm::Loop(looped) if looped.body.name == PART)
}

fn form_of_parts(graph: &Graph, id: NodeId) -> Option<RegionForm> {
    RegionForm::of_node(graph, id).filter(takes_parts)
}

/// The graph with what `pass` makes of the part of a step that takes the batch in parts, if it is one.
///
/// `pass` sees a training step: sums are buffers that it updates, and the sum of the losses is its checked output.
pub fn map_parts<E: From<Diagnostic>>(
    graph: &Graph,
    mut pass: impl FnMut(&Graph) -> Result<Graph, E>,
) -> Result<Graph, E> {
    let mut bodies: BTreeMap<NodeId, Function> = BTreeMap::new();
    for id in graph.node_ids() {
        if let Some(form) = form_of_parts(graph, id) {
            bodies.insert(id, Arc::new(map_frame(&form, &mut pass)?));
        }
    }
    let replaced = rebuild(graph, |b, id, op, operands| match bodies.get(&id) {
        Some(body) => b.apply(op.with_functions([body.clone()]), operands),
        None => b.apply(op.clone(), operands),
    });
    Ok(replaced.map_err(|e| Diagnostic::from_type_error("internal-body", e, Loc::default()))?)
}

fn map_frame<E>(form: &RegionForm, pass: &mut impl FnMut(&Graph) -> Result<Graph, E>) -> Result<Graph, E> {
    let frame = form.frames().remove(0);
    let sum_of_losses = frame.outputs()[0].value;
    let checked = Output { name: String::new(), value: sum_of_losses, kind: OutputKind::Checked };
    let outputs = [frame.outputs(), &[checked]].concat();
    let made = pass(&frame.with_outputs(outputs))?;
    let carried = made.outputs()[..made.outputs().len() - 1].to_vec();
    Ok(closed(&made.with_outputs(carried)))
}
