//! Which layouts a node asks for and gives, from its lowered form and how its operands are stored.
//!
//! A windowed contraction (a convolution or an adjoint of one) wants the axes its window slides over outside and the
//! channels inside, for the tensor the window slides over as for its result, and the other factor in the order in which
//! it is multiplied. Everything else follows its largest operand, so that copies stand only where images begin and end.

use super::Stored;
use super::reorder::{loads, stored_places};
use super::roles::Roles;
use crate::axes::{block, groups};
use crate::micro_batch::takes_parts;
use gradc_ir::graph::{Def, Graph, Value};
use gradc_ir::layout::Layout;
use gradc_ir::lower::{Access, Index, Lowering, Nest, Scalar, Scatter};
use gradc_ir::region::{Argument, RegionForm};
use gradc_ir::types::TensorType;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Contractions that must ask for a copy of a factor before it is made; a single one packs it as well itself.
const READERS: usize = 2;

/// Reads of each element from which on an operand had better be copied than read against the order of the result.
const LEAST_READS: usize = 2;

/// The layouts of a node's operands and results; `None` is row-major.
pub(super) struct Choice {
    /// How the node wants each operand.
    pub operands: Vec<Option<Layout>>,
    /// How it makes each result.
    pub results: Vec<Option<Layout>>,
    /// Whether the results may become persistent tensors, and are stored like them.
    pub pins: bool,
}

impl Choice {
    /// The choice for a node with this lowered form; `from_outside` says that its first
    /// operand is an input of the graph, `asked` has the layouts that several readers want of each operand, `wished` the
    /// layout that readers would have a product in.
    pub fn new(
        lowering: &Lowering,
        stored: &[Stored],
        pinned: &[bool],
        from_outside: bool,
        asked: &[Vec<&Layout>],
        wished: Option<&Layout>,
        types: &[TensorType],
    ) -> Choice {
        let mut operands: Vec<Option<Layout>> =
            (0..stored.len()).map(|k| stored[k].layout.filter(|_| can_follow(lowering, k, stored)).cloned()).collect();
        let mut results = vec![None; types.len()];
        let mut pins = false;
        match lowering {
            Lowering::Nests(nests) => {
                let replaced: Vec<_> = nests.iter().map(|nest| replaced(nest, pinned, stored)).collect();
                pins = replaced.iter().any(Option::is_some);
                if pins {
                    results = replaced.into_iter().map(Option::flatten).collect();
                } else {
                    let tensors = with_layouts(stored, &operands);
                    results = nests.iter().map(|nest| followed(nest, &tensors)).collect();
                    for (nest, result) in nests.iter().zip(&results) {
                        for k in 0..operands.len() {
                            operands[k] = operands[k].take().or_else(|| again(nest, k, &stored[k], result.as_ref()?));
                        }
                    }
                }
            }
            Lowering::Contraction(contraction) => {
                let roles = Roles::new(contraction);
                let chosen = roles.choose(stored, &operands, from_outside, &types[0].shape);
                (operands, results[0]) = (chosen.0, chosen.1.or_else(|| wished.cloned()));
                for k in 0..operands.len() {
                    let wanted = roles.contiguous_columns(k, stored[k].shape, &types[0].shape, results[0].as_ref());
                    if operands[k].is_none() && wanted.as_ref().is_some_and(|w| asked[k].contains(&w)) {
                        operands[k] = wanted;
                    }
                }
            }
            Lowering::Scatter(_) if pinned[0] => (results[0], pins) = (operands[0].clone(), true),
            Lowering::Scatter(scatter) => {
                results[0] = scattered(scatter, &with_layouts(stored, &operands), &types[0].shape);
                operands[0] = results[0].clone();
            }
            Lowering::Expand(_) | Lowering::Region(_) | Lowering::Lines(_) => {}
        }
        Choice { operands, results, pins }
    }
}

fn with_layouts<'a>(stored: &[Stored<'a>], layouts: &'a [Option<Layout>]) -> Vec<Stored<'a>> {
    stored.iter().zip(layouts).map(|(s, layout)| Stored { layout: layout.as_ref(), ..*s }).collect()
}

/// Whether every read of an operand can be made to it as it is stored.
fn can_follow(lowering: &Lowering, operand: usize, stored: &[Stored]) -> bool {
    let follows = |access: &Access| access.operand != operand || stored[operand].view_order(&access.view).is_some();
    match lowering {
        Lowering::Nests(nests) => nests.iter().flat_map(|n| loads(&n.body)).all(follows),
        Lowering::Contraction(c) => follows(&c.lhs) && follows(&c.rhs),
        Lowering::Scatter(s) => loads(&s.body).all(follows),
        Lowering::Expand(_) | Lowering::Region(_) | Lowering::Lines(_) => false,
    }
}

/// For each loop of a nest's space its place among the stored axes of what is read; `None` unless all of them move.
///
/// A result that an earlier nest of the node makes has no layout yet to be followed.
fn covering_places(access: &Access, space: &[usize], tensors: &[Stored]) -> Option<Vec<usize>> {
    tensors.get(access.operand)?;
    let places = stored_places(access, space.len(), tensors)?;
    let covers = (0..space.len()).all(|d| space[d] == 1 || places[d] < access.view.len());
    covers.then_some(places)
}

/// The layout in which a map that reads a pinned tensor of its own size at every point may replace it; `None` for others.
fn replaced(nest: &Nest, pinned: &[bool], stored: &[Stored]) -> Option<Option<Layout>> {
    let size = |extents: &[usize]| extents.iter().product::<usize>();
    let is_pinned = |a: &&Access| pinned.get(a.operand) == Some(&true) && size(&a.view) == size(&nest.space);
    let mut reads = loads(&nest.body).filter(|_| nest.combine.is_none()).filter(is_pinned);
    let (read, places) = reads.find_map(|a| Some((a, covering_places(a, &nest.space, stored)?)))?;
    Some(stored[read.operand].layout.and_then(|_| in_order(&places, &nest.space)))
}

/// The layout of a tensor with its axes in the order of their places.
fn in_order(places: &[usize], shape: &[usize]) -> Option<Layout> {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|&d| places[d]);
    Layout::new(&order, shape)
}

/// The layout in which a nest's result follows the largest operand that has one.
///
/// What a nest only renames or permutes follows its operand in any case: then nothing moves.
fn followed(nest: &Nest, tensors: &[Stored]) -> Option<Layout> {
    let only_moves = nest.combine.is_none() && matches!(nest.body.scalars[nest.result.0 as usize].0, Scalar::Load(_));
    let reads = loads(&nest.body).filter(|a| only_moves || tensors.get(a.operand).is_some_and(|t| t.layout.is_some()));
    let covering = reads.filter_map(|a| Some((a, covering_places(a, &nest.space, tensors)?)));
    let (_, places) = covering.enumerate().max_by_key(|(k, (a, _))| (a.view.iter().product::<usize>(), Reverse(*k)))?.1;
    in_order(&places, &nest.space)
}

/// The layout of a row-major operand in the order of a nest's result, where each element is read several times: a copy
/// transposes it once.
fn again(nest: &Nest, operand: usize, stored: &Stored, result: &Layout) -> Option<Layout> {
    let size = |extents: &[usize]| extents.iter().product::<usize>();
    let repeated = size(&nest.space) >= LEAST_READS * size(stored.shape);
    repeated.then(|| ordered_as(nest, operand, stored.shape, result))?
}

/// The layout in which a nest reads an operand in the order of its result; `None` where it reads it in several.
pub(super) fn ordered_as(nest: &Nest, operand: usize, shape: &[usize], result: &Layout) -> Option<Layout> {
    let order = |read: &Access| {
        let moves = |axis: usize, d: usize| read.indices[axis].affine.coeffs.get(d).is_some_and(|&c| c != 0);
        let place = |axis: usize| result.order().iter().position(|&d| moves(axis, d));
        let mut order: Vec<usize> = (0..read.view.len()).collect();
        order.sort_by_key(|&axis| place(axis));
        let layout = Layout::new(&order, &read.view);
        Stored { shape: &read.view, layout: layout.as_ref() }.view_order(shape)
    };
    let mut orders = loads(&nest.body).filter(|a| a.operand == operand).map(order);
    let first = orders.next()??;
    orders.all(|other| other.as_ref() == Some(&first)).then(|| Layout::new(&first, shape))?
}

/// Whether a nest that reads an operand as it is stored has its result in row-major order.
pub(super) fn keeps_order(nest: &Nest, operand: usize, stored: Stored) -> bool {
    let in_order = |read: &Access| {
        let places = stored_places(&Access { operand: 0, ..read.clone() }, nest.space.len(), &[stored]);
        let long = |places: Vec<usize>| places.into_iter().zip(&nest.space).filter(|(_, n)| **n > 1).map(|(p, _)| p);
        places.is_some_and(|places| long(places).is_sorted())
    };
    loads(&nest.body).filter(|read| read.operand == operand).all(in_order)
}

/// The layout in which a scatter's result follows the largest of what is added to it.
fn scattered(scatter: &Scatter, tensors: &[Stored], shape: &[usize]) -> Option<Layout> {
    let reads = loads(&scatter.body).filter(|a| tensors[a.operand].layout.is_some());
    let largest = reads.enumerate().max_by_key(|(k, a)| (a.view.iter().product::<usize>(), Reverse(*k)))?.1;
    let places = covering_places(largest, &scatter.space, tensors)?;
    let moves = |index: &Index, d: usize| index.affine.coeffs.get(d).is_some_and(|&c| c != 0);
    let is_computed = |d: usize| !scatter.indices.iter().any(|index| moves(index, d));
    let place = |index: &Index| {
        let loops =
            (0..scatter.space.len()).filter(|&d| if index.loaded.is_some() { is_computed(d) } else { moves(index, d) });
        loops.map(|d| places[d]).min().unwrap_or(places.len())
    };
    let axes = groups(shape, &scatter.target)?;
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|&axis| block(&axes, axis).map(|at| place(&scatter.indices[at])).min());
    Layout::new(&order, shape)
}

/// Which layouts contractions ask for that read a factor against its order.
pub(super) struct Demand {
    readers: BTreeMap<(Value, Layout), usize>,
}

impl Demand {
    /// Asks every contraction of a graph.
    pub fn of(graph: &Graph) -> Demand {
        let mut demand = Demand { readers: BTreeMap::new() };
        for node in graph.nodes() {
            let Def::Op(op) = &node.def else { continue };
            let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
            match op.lower(&inputs, &node.types) {
                Lowering::Contraction(contraction) => {
                    let roles = Roles::new(&contraction);
                    for (k, &value) in node.operands.iter().enumerate() {
                        let wanted = roles.contiguous_columns(k, &inputs[k].shape, &node.types[0].shape, None);
                        demand.ask(value, wanted, 1);
                    }
                }
                Lowering::Region(region) => {
                    for (k, wanted) in argument_layouts(&region.form, &region.form.frames()).into_iter().enumerate() {
                        demand.ask(node.operands[region.form.operand_of(k)], wanted, READERS);
                    }
                }
                _ => {}
            }
        }
        demand
    }

    fn ask(&mut self, value: Value, wanted: Option<Layout>, readers: usize) {
        wanted.into_iter().for_each(|layout| *self.readers.entry((value, layout)).or_insert(0) += readers);
    }

    /// The layout that most contractions ask for.
    fn most_wanted(&self, value: Value) -> Option<&Layout> {
        let all = self.readers.iter().filter(|((v, _), _)| *v == value);
        all.max_by_key(|((_, layout), count)| (**count, Reverse(layout))).map(|((_, layout), _)| layout)
    }

    /// The layouts that enough contractions ask for to share a copy of the value.
    pub fn for_value(&self, value: Value) -> Vec<&Layout> {
        let all = self.readers.iter().filter(|((v, _), count)| *v == value && **count >= READERS);
        all.map(|((_, layout), _)| layout).collect()
    }
}

/// How the bodies of a region want to get what each step reads alike, by argument: as their contractions ask for,
/// provided that several steps share the copy. Parts of a batch do much with little memory: they take none for copies.
pub(super) fn argument_layouts(form: &RegionForm, frames: &[Graph]) -> Vec<Option<Layout>> {
    let arguments = frames.first().map_or(0, |frame| frame.inputs().len());
    let mut layouts = vec![None; arguments];
    if form.steps() < READERS || takes_parts(form) {
        return layouts;
    }
    for frame in frames {
        let demand = Demand::of(frame);
        for (k, input) in frame.inputs().iter().enumerate().filter(|&(k, _)| form.argument(k) == Argument::Whole) {
            layouts[k] = demand.most_wanted(input.value).cloned();
        }
    }
    layouts
}
