//! The lowered form of every node of a graph, and which values share storage.

use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::lower::{Access, Contraction, Lowering, Nest, Scalar, Scatter};
use gradc_ir::ops::Op;
use gradc_ir::types::TensorType;

/// What a node is to the scheduler.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// A value from outside.
    Input,
    /// The same elements as another value in the same order: shares its storage.
    Alias(Value),
    /// One nest without reduction.
    Map(Nest),
    /// One nest with a reduction.
    Reduce(Nest),
    /// Several nests, later ones reading the results of earlier ones.
    Nests(Vec<Nest>),
    /// A sum of products.
    Contract(Contraction),
    /// An update of computed places.
    Scatter(Scatter),
    /// Reference semantics.
    Host,
    /// A region that was not expanded.
    Region,
}

/// A graph with the lowered form of every node.
pub(crate) struct Forms<'a> {
    pub graph: &'a Graph,
    forms: Vec<Form>,
}

impl<'a> Forms<'a> {
    pub fn new(graph: &'a Graph) -> Self {
        Forms { graph, forms: graph.node_ids().map(|id| form(graph, id)).collect() }
    }

    pub fn get(&self, id: NodeId) -> &Form {
        &self.forms[id.index()]
    }

    /// The value whose storage holds `value`.
    pub fn root(&self, mut value: Value) -> Value {
        while let Form::Alias(of) = self.get(value.node) {
            value = *of;
        }
        value
    }

    /// The tokens of the barriers through which a value renames another.
    pub fn tokens(&self, mut value: Value) -> Vec<Value> {
        let mut tokens = vec![];
        while let Form::Alias(of) = self.get(value.node) {
            if matches!(self.graph.op(value.node), Some(Op::Barrier(_))) {
                tokens.push(self.graph.node(value.node).operands[1]);
            }
            value = *of;
        }
        tokens
    }

    /// The only nest of a map or reduction.
    pub fn nest(&self, id: NodeId) -> Option<&Nest> {
        match self.get(id) {
            Form::Map(nest) | Form::Reduce(nest) => Some(nest),
            _ => None,
        }
    }

    /// Extents a map, reduction or contraction runs over; `None` for other forms.
    pub fn space(&self, id: NodeId) -> Option<&[usize]> {
        match self.get(id) {
            Form::Map(nest) | Form::Reduce(nest) => Some(&nest.space),
            Form::Contract(contraction) => Some(&contraction.space),
            _ => None,
        }
    }

    /// Whether the node runs as a loop with at most one accumulation, so that maps can join its kernel.
    pub fn accumulates(&self, id: NodeId) -> bool {
        matches!(self.get(id), Form::Reduce(_) | Form::Contract(_))
    }
}

fn form(graph: &Graph, id: NodeId) -> Form {
    let node = graph.node(id);
    let Def::Op(op) = &node.def else { return Form::Input };
    let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    match op.lower(&inputs, &node.types) {
        Lowering::Nests(mut nests) if nests.len() == 1 => {
            let nest = nests.remove(0);
            match nest.alias_of() {
                Some(operand) => Form::Alias(node.operands[operand]),
                None if nest.combine.is_none() => Form::Map(nest),
                None => Form::Reduce(nest),
            }
        }
        Lowering::Nests(nests) => Form::Nests(nests),
        Lowering::Contraction(contraction) => Form::Contract(contraction),
        Lowering::Scatter(scatter) => Form::Scatter(scatter),
        Lowering::Host => Form::Host,
        Lowering::Expand(_) => Form::Region,
    }
}

/// The reads of a nest.
pub(crate) fn accesses(nest: &Nest) -> impl Iterator<Item = &Access> {
    nest.body.scalars.iter().filter_map(|(scalar, _)| match scalar {
        Scalar::Load(access) => Some(access),
        _ => None,
    })
}

/// Whether every index is affine and in bounds, so that a producer can be computed in place of the read.
pub(crate) fn is_plain(access: &Access) -> bool {
    access.fill.is_none() && access.indices.iter().all(|i| i.divisor == 1 && i.loaded.is_none())
}
