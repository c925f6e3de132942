//! Layout assignment: in which order the axes of each stored value stand.
//!
//! Types are logical; what a kernel reads and makes is stored in an order that this pass chooses, from the lowered forms
//! alone ([`choose`]). Inputs and outputs keep row-major order. Where a reader needs another order than its operand has,
//! a `copy` is inserted, one for all readers that need the same. Lowered forms then follow the layouts ([`reorder`]), so
//! that kernels see nothing but dense row-major buffers of the stored shapes.

mod choose;
mod reorder;
mod roles;

pub(crate) use reorder::{loads, reordered};

use choose::{Choice, Demand};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::layout::{Layout, Layouts};
use gradc_ir::ops::{Copy, Op};
use gradc_ir::types::TensorType;
use std::collections::BTreeSet;

/// A graph with the layouts of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaidOut {
    /// The graph.
    pub graph: Graph,
    /// How its values are stored.
    pub layouts: Layouts,
}

impl From<Graph> for LaidOut {
    /// Everything in row-major order.
    fn from(graph: Graph) -> Self {
        LaidOut { graph, layouts: Layouts::new() }
    }
}

/// A tensor and how it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    /// Its logical extents.
    pub shape: &'a [usize],
    /// Its layout; `None` is row-major.
    pub layout: Option<&'a Layout>,
}

impl<'a> Stored<'a> {
    /// A value of a graph.
    pub fn new(graph: &'a Graph, layouts: &'a Layouts, value: Value) -> Self {
        Stored { shape: &graph.ty(value).shape, layout: layouts.get(&value) }
    }
}

/// Chooses the layouts of a graph's values and inserts the copies they need.
pub fn assign_layouts(graph: &Graph) -> LaidOut {
    let mut assignment = Assignment::new(graph);
    for id in graph.node_ids() {
        if let Def::Op(op) = &graph.node(id).def {
            assignment.apply(id, op);
        }
    }
    assignment.finish()
}

/// The graph laid out so far.
struct Assignment<'a> {
    graph: &'a Graph,
    /// What several contractions ask for.
    demand: Demand,
    builder: Builder,
    layouts: Layouts,
    /// Values of the new graph that are computed element by element from persistent tensors, which they may replace.
    pinned: BTreeSet<Value>,
    /// The new values of each node.
    values: Vec<Vec<Value>>,
}

impl<'a> Assignment<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut builder = Builder::new(&graph.name);
        let mut values = vec![vec![]; graph.nodes().len()];
        let mut pinned = BTreeSet::new();
        for input in graph.inputs() {
            builder.set_loc(graph.loc(input.value.node).clone());
            let default = input.default.map(|d| d.get());
            let value = builder.declare(&input.name, input.role, graph.ty(input.value).clone(), default);
            let value = value.expect("the inputs of a graph have unique names");
            values[input.value.node.index()] = vec![value];
            if input.role.is_persistent() {
                pinned.insert(value);
            }
        }
        Assignment { graph, demand: Demand::of(graph), builder, layouts: Layouts::new(), pinned, values }
    }

    fn value(&self, old: Value) -> Value {
        self.values[old.node.index()][old.result as usize]
    }

    fn apply(&mut self, id: NodeId, op: &Op) {
        let node = self.graph.node(id);
        self.builder.set_loc(self.graph.loc(id).clone());
        let operands: Vec<Value> = node.operands.iter().map(|&v| self.value(v)).collect();
        let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| self.graph.ty(v)).collect();
        let stored: Vec<Stored> =
            operands.iter().map(|&v| Stored::new(self.builder.graph(), &self.layouts, v)).collect();
        let pinned: Vec<bool> = operands.iter().map(|v| self.pinned.contains(v)).collect();
        let asked: Vec<_> = node.operands.iter().map(|&v| self.demand.for_value(v)).collect();
        let from_outside = operands.first().is_some_and(|&v| self.builder.graph().input_of(v).is_some());
        let Choice { operands: wanted, results, pins } =
            Choice::new(&op.lower(&inputs, &node.types), &stored, &pinned, from_outside, &asked, &node.types);
        let operands: Vec<Value> = operands.iter().zip(wanted).map(|(&v, layout)| self.stored_as(v, layout)).collect();
        let made = self.builder.apply(op.clone(), &operands).expect("a node applies to operands of the same types");
        for (&value, layout) in made.iter().zip(results) {
            self.layouts.extend(layout.map(|layout| (value, layout)));
            if pins {
                self.pinned.insert(value);
            }
        }
        self.values[id.index()] = made;
    }

    /// The value stored with a layout: itself, or a copy.
    fn stored_as(&mut self, value: Value, layout: Option<Layout>) -> Value {
        if self.layouts.get(&value) == layout.as_ref() {
            return value;
        }
        let rank = self.builder.shape(value).len();
        let order = layout.as_ref().map_or_else(|| (0..rank).collect(), |layout| layout.order().to_vec());
        let copy = self.builder.op(Copy { order }, &[value]).expect("a layout orders the axes of its value");
        self.layouts.extend(layout.map(|layout| (copy, layout)));
        copy
    }

    fn finish(mut self) -> LaidOut {
        for output in self.graph.outputs() {
            let value = self.value(output.value);
            self.builder.set_loc(self.graph.loc(output.value.node).clone());
            let value = self.stored_as(value, None);
            self.builder.output(&output.name, value, output.kind);
        }
        LaidOut { graph: self.builder.finish(), layouts: self.layouts }
    }
}
