//! Layout assignment: in which order the axes of each stored value stand.
//!
//! Types are logical; what a kernel reads and makes is stored in an order that this pass chooses, from the lowered forms
//! alone ([`choose`]). Inputs and outputs keep row-major order. Where a reader needs another order than its operand has,
//! a `copy` is inserted, one for all readers that need the same. Lowered forms then follow the layouts ([`reorder`]), so
//! that kernels see nothing but dense row-major buffers of the stored shapes.

mod choose;
mod kept;
mod reorder;
mod roles;
mod runs;
mod wishes;

pub use kept::{KeptLayouts, kept_layouts};
pub(crate) use reorder::{loads, reordered};

use crate::micro_batch::takes_parts;
use choose::{Choice, Demand, argument_layouts};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, NodeId, OutputKind, Value};
use gradc_ir::layout::{Layout, Layouts};
use gradc_ir::ops::{Copy, Op};
use gradc_ir::region::{Argument, RegionForm, closed};
use gradc_ir::types::TensorType;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wishes::Wishes;

/// A graph with the layouts of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaidOut {
    /// The graph.
    pub graph: Graph,
    /// How its values are stored.
    pub layouts: Layouts,
    /// The bodies of each region, whose graphs are the region's frames.
    pub bodies: BTreeMap<NodeId, Vec<LaidOut>>,
}

impl LaidOut {
    /// A graph with these layouts; everything in the bodies of its regions is in row-major order.
    pub fn new(graph: Graph, layouts: Layouts) -> Self {
        let bodies =
            |id| Some((id, RegionForm::of_node(&graph, id)?.frames().into_iter().map(LaidOut::from).collect()));
        LaidOut { bodies: graph.node_ids().filter_map(bodies).collect(), graph, layouts }
    }
}

impl From<Graph> for LaidOut {
    /// Everything in row-major order.
    fn from(graph: Graph) -> Self {
        LaidOut::new(graph, Layouts::new())
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

/// Chooses the layouts of a graph's values and inserts the copies they need; what is kept between calls is stored as
/// `kept` says.
pub fn assign_layouts(graph: &Graph, kept: &KeptLayouts) -> LaidOut {
    assign_traced(graph, kept).0
}

/// As [`assign_layouts`], and where the results of each node of the graph are then.
pub(crate) fn assign_traced(graph: &Graph, kept: &KeptLayouts) -> (LaidOut, Vec<Vec<Value>>) {
    let layouts: Vec<Option<Layout>> = graph.inputs().iter().map(|input| kept.get(&input.name).cloned()).collect();
    Assignment::new(graph).with_inputs(&layouts).run()
}

/// The graph laid out so far.
struct Assignment<'a> {
    graph: &'a Graph,
    /// What several contractions ask for.
    demand: Demand,
    /// What readers wish of products.
    wishes: Wishes,
    builder: Builder,
    layouts: Layouts,
    bodies: BTreeMap<NodeId, Vec<LaidOut>>,
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
        let (layouts, bodies) = (Layouts::new(), BTreeMap::new());
        let (demand, wishes) = (Demand::of(graph), Wishes::of(graph));
        Assignment { graph, demand, wishes, builder, layouts, bodies, pinned, values }
    }

    /// Takes inputs to be stored with these layouts.
    fn with_inputs(mut self, layouts: &[Option<Layout>]) -> Self {
        for (input, layout) in self.graph.inputs().iter().zip(layouts) {
            let value = self.value(input.value);
            self.layouts.extend(layout.clone().map(|layout| (value, layout)));
        }
        self
    }

    fn run(mut self) -> (LaidOut, Vec<Vec<Value>>) {
        let graph = self.graph;
        for id in graph.node_ids() {
            if let Def::Op(op) = &graph.node(id).def {
                self.apply(id, op);
            }
        }
        self.finish()
    }

    fn value(&self, old: Value) -> Value {
        self.values[old.node.index()][old.result as usize]
    }

    fn apply(&mut self, id: NodeId, op: &Op) {
        let node = self.graph.node(id);
        self.builder.set_loc(self.graph.loc(id).clone());
        let operands: Vec<Value> = node.operands.iter().map(|&v| self.value(v)).collect();
        if let Some(form) = RegionForm::of_node(self.graph, id) {
            return self.apply_region(id, op, &form, &operands);
        }
        let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| self.graph.ty(v)).collect();
        let stored: Vec<Stored> =
            operands.iter().map(|&v| Stored::new(self.builder.graph(), &self.layouts, v)).collect();
        let pinned: Vec<bool> = operands.iter().map(|v| self.pinned.contains(v)).collect();
        let asked: Vec<_> = node.operands.iter().map(|&v| self.demand.for_value(v)).collect();
        let wished = self.graph.results(id).next().and_then(|result| self.wishes.get(result));
        let from_outside = operands.first().is_some_and(|&v| self.builder.graph().input_of(v).is_some());
        let Choice { operands: wanted, results, pins } =
            Choice::new(&op.lower(&inputs, &node.types), &stored, &pinned, from_outside, &asked, wished, &node.types);
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

    /// Bodies are laid out by themselves; what passes their border is in row-major order, except what every step reads
    /// alike, which is stored before as the steps want it.
    fn apply_region(&mut self, id: NodeId, op: &Op, form: &RegionForm, operands: &[Value]) {
        let frames = form.frames();
        let arguments = if takes_parts(form) {
            self.layouts_of_arguments(form, &frames[0], operands)
        } else {
            argument_layouts(form, &frames)
        };
        let bodies: Vec<LaidOut> =
            frames.iter().map(|frame| Assignment::new(frame).with_inputs(&arguments).run().0).collect();
        let op = op.with_functions(bodies.iter().map(|body| Arc::new(closed(&body.graph))));
        let mut wanted = vec![None; operands.len()];
        arguments.into_iter().enumerate().for_each(|(k, layout)| wanted[form.operand_of(k)] = layout);
        let operands: Vec<Value> = operands.iter().zip(wanted).map(|(&v, layout)| self.stored_as(v, layout)).collect();
        let made = self.builder.apply(op, &operands).expect("bodies keep the types they take and return");
        self.bodies.insert(made[0].node, bodies);
        self.values[id.index()] = made;
    }

    /// The layouts in which a region is given what each step reads alike, by argument: parts of a batch do much with little
    /// memory, so they take it as it is.
    fn layouts_of_arguments(&self, form: &RegionForm, frame: &Graph, operands: &[Value]) -> Vec<Option<Layout>> {
        let is_whole = |k: &usize| form.argument(*k) == Argument::Whole;
        let layout = |k| self.layouts.get(&operands[form.operand_of(k)]).cloned();
        (0..frame.inputs().len()).map(|k| Some(k).filter(is_whole).and_then(layout)).collect()
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

    fn finish(mut self) -> (LaidOut, Vec<Vec<Value>>) {
        for output in self.graph.outputs() {
            let value = self.value(output.value);
            self.builder.set_loc(self.graph.loc(output.value.node).clone());
            let replaced = match output.kind {
                OutputKind::Update(input) => self.layouts.get(&self.value(self.graph.inputs()[input.index()].value)),
                OutputKind::Result | OutputKind::Checked => None,
            };
            let value = self.stored_as(value, replaced.cloned());
            self.builder.output(&output.name, value, output.kind);
        }
        let laid_out = LaidOut { graph: self.builder.finish(), layouts: self.layouts, bodies: self.bodies };
        (laid_out, self.values)
    }
}
