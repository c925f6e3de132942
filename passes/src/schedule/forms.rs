//! The lowered form of every node of a graph, and which values share storage.

use crate::layout::{Stored, reordered};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::layout::Layouts;
use gradc_ir::lower::{Access, Affine, Contraction, Lines, Lowering, Nest, Scalar, Scatter};
use gradc_ir::ops::Op;
use gradc_ir::plan::Schedule;
use gradc_ir::region::RegionForm;
use gradc_ir::types::{TensorType, row_major_strides};

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
    /// Work along the lines of an axis.
    Lines(Lines),
    /// Control flow around bodies.
    Region(RegionForm),
    /// An op that stands for others and was not expanded.
    Expandable,
}

/// A graph with the lowered form of every node, on tensors as they are stored.
pub(crate) struct Forms<'a> {
    pub graph: &'a Graph,
    layouts: &'a Layouts,
    forms: Vec<Form>,
}

impl<'a> Forms<'a> {
    /// Fails where a node cannot read or make its tensors as they are stored.
    pub fn new(graph: &'a Graph, layouts: &'a Layouts) -> Result<Self, Diagnostic> {
        let used = used_results(graph);
        let forms = graph.node_ids().map(|id| form(graph, layouts, id, used[id.index()])).collect::<Result<_, _>>()?;
        Ok(Forms { graph, layouts, forms })
    }

    /// The forms of a graph that has no layouts yet.
    pub fn row_major(graph: &'a Graph) -> Self {
        static NONE: Layouts = Layouts::new();
        Forms::new(graph, &NONE).expect("every node can read and make tensors in row-major order")
    }

    /// The forms of a schedule, which exist because it was made of them.
    pub fn of(schedule: &'a Schedule) -> Self {
        let forms = Forms::new(&schedule.graph, &schedule.layouts);
        let mut forms = forms.expect("a schedule's layouts suit its nodes");
        for (id, bands) in &schedule.bands {
            if let Form::Contract(contraction) = &mut forms.forms[id.index()] {
                contraction.bands.clone_from(bands);
            }
        }
        forms
    }

    /// The extents of a value in the order in which its axes are stored.
    pub fn stored_shape(&self, value: Value) -> Vec<usize> {
        Stored::new(self.graph, self.layouts, value).stored_shape()
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

    /// The results a node makes: all, but of nests only as many as are used.
    pub fn results(&self, id: NodeId) -> impl Iterator<Item = Value> + use<'a> {
        let made = match self.get(id) {
            Form::Map(_) | Form::Reduce(_) => 1,
            Form::Nests(nests) => nests.len(),
            _ => usize::MAX,
        };
        self.graph.results(id).take(made)
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

    /// Whether the node runs as a loop with an accumulation, so that maps can join its kernel.
    pub fn accumulates(&self, id: NodeId) -> bool {
        matches!(self.get(id), Form::Reduce(_) | Form::Contract(_))
    }
}

/// For each node how many of its results are made: those up to the last one that is used, at least one.
fn used_results(graph: &Graph) -> Vec<usize> {
    let mut used = vec![1; graph.nodes().len()];
    let reads = graph.nodes().iter().flat_map(|node| &node.operands).copied();
    for value in reads.chain(graph.outputs().iter().map(|o| o.value)) {
        let count = &mut used[value.node.index()];
        *count = (*count).max(usize::from(value.result) + 1);
    }
    used
}

fn form(graph: &Graph, layouts: &Layouts, id: NodeId, used: usize) -> Result<Form, Diagnostic> {
    let node = graph.node(id);
    let Def::Op(op) = &node.def else { return Ok(Form::Input) };
    let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    let stored = |values: &[Value]| values.iter().map(|&v| Stored::new(graph, layouts, v)).collect::<Vec<_>>();
    let results: Vec<Value> = graph.results(id).collect();
    let lowering = reordered(op.lower(&inputs, &node.types), &stored(&node.operands), &stored(&results));
    let unreadable =
        || graph.diagnostic_at(id, "node-layout", "a node cannot read or make its tensors as they are stored");
    Ok(match lowering.ok_or_else(unreadable)? {
        // A nest reads results before its own only.
        Lowering::Nests(mut nests) if nests.len() == 1 || used == 1 => {
            let nest = nests.swap_remove(0);
            match renamed(&nest) {
                Some(operand) => Form::Alias(node.operands[operand]),
                None if nest.combine.is_none() => Form::Map(nest),
                None => Form::Reduce(nest),
            }
        }
        Lowering::Nests(mut nests) => {
            nests.truncate(used);
            Form::Nests(nests)
        }
        Lowering::Contraction(contraction) => Form::Contract(contraction),
        Lowering::Scatter(scatter) => Form::Scatter(scatter),
        Lowering::Lines(lines) => Form::Lines(lines),
        Lowering::Region(region) => Form::Region(region.form),
        Lowering::Expand(_) => Form::Expandable,
    })
}

/// When a nest makes the elements of an operand in the order in which they are stored, that operand.
fn renamed(nest: &Nest) -> Option<usize> {
    let Scalar::Load(access) = &nest.body.scalars[nest.result.0 as usize].0 else { return None };
    let strides = row_major_strides(&nest.space);
    let steps =
        |flat: &Affine| (0..nest.space.len()).all(|d| nest.space[d] == 1 || flat.coeffs[d] == strides[d] as i64);
    let elements = |extents: &[usize]| extents.iter().product::<usize>();
    let all = nest.combine.is_none() && access.fill.is_none() && elements(&access.view) == elements(&nest.space);
    (all && access.flat().is_some_and(|flat| flat.base == 0 && steps(&flat))).then_some(access.operand)
}

/// Whether every index is affine and in bounds, so that a producer can be computed in place of the read.
pub(crate) fn is_plain(access: &Access) -> bool {
    access.fill.is_none() && access.indices.iter().all(|i| i.divisor == 1 && i.loaded.is_none())
}
