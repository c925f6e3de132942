//! How the readers of a product would have it stored.
//!
//! Layouts are assigned in the order of the graph, so what makes a value decides before its readers. A product may as
//! well be stored with the axes of rows and batches in another order. Where that spares a contraction that reads it,
//! through maps in between, from walking several axes instead of one, they ask for it here, in reverse order. A wish
//! counts that no other reader minds.

use super::Stored;
use super::choose::{keeps_order, ordered_as};
use super::reorder::loads;
use super::roles::Roles;
use super::runs::Tensor;
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::layout::Layout;
use gradc_ir::lower::{Lowering, Nest};
use gradc_ir::types::TensorType;
use std::collections::{BTreeMap, BTreeSet};

/// Layouts that all readers of a value like.
#[derive(Default)]
pub(super) struct Wishes(BTreeMap<Value, Layout>);

impl Wishes {
    /// Asks the readers of every value of a graph.
    pub fn of(graph: &Graph) -> Wishes {
        let forms = Forms::of(graph);
        let mut wishes = Wishes::default();
        for value in graph.node_ids().rev().flat_map(|id| graph.results(id)) {
            wishes.0.extend(forms.agreed(value, &wishes).map(|layout| (value, layout)));
        }
        wishes
    }

    /// The layout wished for a value; `None` is row-major.
    pub fn get(&self, value: Value) -> Option<&Layout> {
        self.0.get(&value)
    }
}

/// The lowered forms of a graph, and who reads what.
struct Forms<'a> {
    graph: &'a Graph,
    lowered: Vec<Option<Lowering>>,
    /// The nodes that read each value, and as which operand.
    readers: BTreeMap<Value, Vec<(NodeId, usize)>>,
    outputs: BTreeSet<Value>,
}

impl<'a> Forms<'a> {
    fn of(graph: &'a Graph) -> Self {
        let mut readers: BTreeMap<Value, Vec<(NodeId, usize)>> = BTreeMap::new();
        for id in graph.node_ids() {
            for (k, &value) in graph.node(id).operands.iter().enumerate() {
                readers.entry(value).or_default().push((id, k));
            }
        }
        let lowered = graph.nodes().iter().map(|node| {
            let Def::Op(op) = &node.def else { return None };
            let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
            Some(op.lower(&inputs, &node.types))
        });
        let outputs = graph.outputs().iter().map(|output| output.value).collect();
        Forms { graph, lowered: lowered.collect(), readers, outputs }
    }

    /// What readers of a value wish, if its maker can do so and no reader minds.
    fn agreed(&self, value: Value, wishes: &Wishes) -> Option<Layout> {
        let readers = self.readers.get(&value).filter(|_| !self.outputs.contains(&value))?;
        let layout = readers.iter().find_map(|&reader| self.wanted(reader, wishes))?;
        let all_like_it = readers.iter().all(|&reader| self.likes(reader, &layout, wishes));
        (all_like_it && self.can_make(value, &layout)).then_some(layout)
    }

    fn can_make(&self, value: Value, layout: &Layout) -> bool {
        match &self.lowered[value.node.index()] {
            Some(Lowering::Contraction(contraction)) => {
                Roles::new(contraction).keeps_runs(Tensor::Result, self.shape(value), layout)
            }
            Some(Lowering::Nests(nests)) => nests.iter().all(|nest| nest.combine.is_none()),
            _ => false,
        }
    }

    fn shape(&self, value: Value) -> &'a [usize] {
        &self.graph.ty(value).shape
    }

    fn wanted(&self, (reader, k): (NodeId, usize), wishes: &Wishes) -> Option<Layout> {
        let node = self.graph.node(reader);
        let shape = self.shape(node.operands[k]);
        match self.lowered[reader.index()].as_ref()? {
            Lowering::Contraction(contraction) => {
                Roles::new(contraction).joining_layout(k, shape, &node.types[0].shape)
            }
            Lowering::Nests(nests) => self.graph.results(reader).zip(nests).find_map(|(result, nest)| {
                let wished = wishes.get(result).filter(|_| nest.combine.is_none())?;
                ordered_as(nest, k, shape, wished)
            }),
            _ => None,
        }
    }

    fn likes(&self, (reader, k): (NodeId, usize), layout: &Layout, wishes: &Wishes) -> bool {
        let node = self.graph.node(reader);
        let shape = self.shape(node.operands[k]);
        let follows = |(result, nest): (Value, &Nest)| match (nest.combine, wishes.get(result)) {
            _ if loads(&nest.body).all(|read| read.operand != k) => true,
            (None, Some(wished)) => ordered_as(nest, k, shape, wished).as_ref() == Some(layout),
            (None, None) => false,
            (Some(_), _) => keeps_order(nest, k, Stored { shape, layout: Some(layout) }),
        };
        match &self.lowered[reader.index()] {
            Some(Lowering::Contraction(contraction)) => {
                Roles::new(contraction).keeps_runs(Tensor::Factor(k), shape, layout)
            }
            Some(Lowering::Nests(nests)) => self.graph.results(reader).zip(nests).all(follows),
            _ => false,
        }
    }
}
