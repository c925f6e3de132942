//! The op that does to a part of the batch what an op does to all of it.

use super::cut::{Cutter, Flow};
use super::loops::fit_loop;
use gradc_ir::attr::Attr;
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::lower::Lowering;
use gradc_ir::ops::Op;
use gradc_ir::types::TensorType;

/// An op on a part of the batch.
pub(super) struct Fitted {
    /// The op.
    pub op: Op,
    /// What each operand has to be.
    pub operands: Vec<Flow>,
    /// What each result is.
    pub results: Vec<Flow>,
}

/// The op of a node on a part of the batch, if it is one; with `axis`, with that axis of its only result cut.
pub(super) fn fit(graph: &Graph, id: NodeId, flows: &[Flow], axis: Option<usize>, parts: usize) -> Option<Fitted> {
    let node = graph.node(id);
    let op = graph.op(id)?;
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    let lowering = op.lower(&operands, &node.types);
    if let Lowering::Region(region) = &lowering {
        let fitted = fit_loop(op, &region.form, flows, parts).filter(|_| axis.is_none())?;
        let (small, made) = types_of_part(&operands, &node.types, (&fitted.operands, &fitted.results), parts);
        return makes(&fitted.op, &small, &made).then_some(fitted);
    }
    let shapes: Vec<Vec<usize>> = node.types.iter().map(|ty| ty.shape.clone()).collect();
    let cutter =
        Cutter { shapes: operands.iter().map(|ty| &ty.shape[..]).collect(), flows: flows.to_vec(), parts, axis };
    let cut = cutter.cut(&lowering, &shapes)?;
    let (small, made) = types_of_part(&operands, &node.types, (&cut.operands, &cut.results), parts);
    let does = |op: &Op| makes(op, &small, &made) && cut.form.is(&op.lower(&small.iter().collect::<Vec<_>>(), &made));
    let op = smaller(op, parts).into_iter().find(does)?;
    Some(Fitted { op, operands: cut.operands, results: cut.results })
}

/// Types of operands and results on a part of the batch.
fn types_of_part(
    operands: &[&TensorType],
    results: &[TensorType],
    flows: (&[Flow], &[Flow]),
    parts: usize,
) -> (Vec<TensorType>, Vec<TensorType>) {
    let operands = operands.iter().zip(flows.0).map(|(ty, &flow)| part_type(ty, flow, parts));
    let results = results.iter().zip(flows.1).map(|(ty, &flow)| part_type(ty, flow, parts));
    (operands.collect(), results.collect())
}

/// Whether an op makes those types of these.
fn makes(op: &Op, operands: &[TensorType], results: &[TensorType]) -> bool {
    op.infer(&operands.iter().collect::<Vec<_>>()).is_ok_and(|types| types == results)
}

/// The type of a value on a part of the batch.
pub(super) fn part_type(ty: &TensorType, flow: Flow, parts: usize) -> TensorType {
    let mut shape = ty.shape.clone();
    if let Flow::Block(axis) = flow {
        shape[axis] /= parts;
    }
    ty.with_shape(shape)
}

/// The op, and the ops that have one number among their attributes divided: the extent of an axis that is cut.
fn smaller(op: &Op, parts: usize) -> Vec<Op> {
    let attrs: Vec<(String, Attr)> = op.attrs().into_iter().map(|(name, attr)| (name.to_string(), attr)).collect();
    let mut found = vec![op.clone()];
    for (k, (_, attr)) in attrs.iter().enumerate() {
        let Attr::Ints(numbers) = attr else { continue };
        for (at, number) in numbers.iter().enumerate().filter(|(_, n)| **n > 1 && **n % parts as i64 == 0) {
            let mut attrs = attrs.clone();
            let mut numbers = numbers.clone();
            numbers[at] = number / parts as i64;
            attrs[k].1 = Attr::Ints(numbers);
            found.extend(Op::parse(op.name(), attrs).and_then(Result::ok));
        }
    }
    found
}
