//! Which elements of the values of a graph are read at all: one pass backwards through lowered forms.
//!
//! A nest whose result is known outside of a band does not need there what it reads. What it reads instead of what was
//! not computed is finite, and what is known does not depend on it.

use super::fact::{Known, Read, aligned, band_as};
use super::known::Facts;
use crate::layout::loads;
use crate::schedule::{Form, Forms};
use gradc_ir::band::LoopBand;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::lower::{Access, Combine, Nest};
use std::collections::BTreeMap;

/// Which elements of a value are read.
#[derive(Clone, Debug, PartialEq)]
enum Need {
    All,
    /// Those inside of a band between two axes of the value as it is stored.
    Within(LoopBand),
}

impl Need {
    fn join(&self, other: Need) -> Need {
        let (Need::Within(a), Need::Within(b)) = (self, other) else { return Need::All };
        let band = aligned(a, &b).and_then(|b| a.band.join(&b));
        band.map_or(Need::All, |band| Need::Within(LoopBand { band, ..a.clone() }))
    }
}

/// Which elements are read of values that have storage of their own; none of those that are not listed.
#[derive(Default)]
pub(crate) struct Needs(BTreeMap<Value, Need>);

impl Needs {
    /// The band inside of which elements of a value are read, between the axes it is stored with.
    pub fn within(&self, value: Value) -> Option<&LoopBand> {
        match self.0.get(&value)? {
            Need::All => None,
            Need::Within(band) => Some(band),
        }
    }

    fn add(&mut self, value: Value, need: Need) {
        let need = match self.0.get(&value) {
            Some(so_far) => so_far.join(need),
            None => need,
        };
        self.0.insert(value, need);
    }
}

/// Finds which elements the outputs of a graph and everything that is not a nest need.
pub(crate) fn needs(forms: &Forms, facts: &Facts) -> Needs {
    let graph = forms.graph;
    let mut needs = Needs::default();
    graph.outputs().iter().for_each(|output| needs.add(forms.root(output.value), Need::All));
    let ids: Vec<NodeId> = graph.node_ids().collect();
    for &id in ids.iter().rev() {
        let operands = &graph.node(id).operands;
        match forms.get(id) {
            Form::Alias(_) => {}
            Form::Map(nest) | Form::Reduce(nest) => {
                let within = steps_needed(forms, id, nest, facts, &needs);
                for access in loads(&nest.body) {
                    let root = forms.root(operands[access.operand]);
                    let need = need_of_read(nest, access, &within, &forms.stored_shape(root));
                    needs.add(root, need);
                }
            }
            _ => operands.iter().for_each(|&v| needs.add(forms.root(v), Need::All)),
        }
    }
    needs
}

/// The band between loops of a nest outside of which nothing depends on what it reads.
fn steps_needed(forms: &Forms, id: NodeId, nest: &Nest, facts: &Facts, needs: &Needs) -> Option<LoopBand> {
    let result = Value { node: id, result: 0 };
    let adds_nothing = |k: &&Known| nest.combine.is_none_or(|combine| k.value == neutral(combine));
    let known = facts.in_steps(id).iter().find(adds_nothing).map(|k| &k.within);
    let read = needs.within(result).and_then(|read| band_as(&forms.stored_shape(result), read, &nest.space));
    match (known, read) {
        (Some(known), Some(read)) => {
            let band = aligned(known, &read).map_or_else(|| known.band.clone(), |read| known.band.meet(&read));
            Some(LoopBand { band, ..known.clone() })
        }
        (known, read) => known.cloned().or(read),
    }
}

/// What a combination starts from.
fn neutral(combine: Combine) -> f64 {
    match combine {
        Combine::Sum => 0.0,
        Combine::Prod => 1.0,
        Combine::Max => f64::NEG_INFINITY,
        Combine::Min => f64::INFINITY,
    }
}

/// What a nest needs of a tensor of this shape that it reads, if it needs the steps inside of a band.
fn need_of_read(nest: &Nest, access: &Access, within: &Option<LoopBand>, shape: &[usize]) -> Need {
    let extents = [&nest.space[..], &nest.reduce].concat();
    let read = Read { shape, access, extents: &extents };
    let whole = |loop_: usize| {
        let along = |&axis: &usize| shape[axis] == extents[loop_] && read.loop_along(axis) == Some((loop_, 0));
        (0..shape.len()).find(along)
    };
    let band = within.as_ref().filter(|_| access.fill.is_none()).and_then(|within| {
        Some(LoopBand { row: whole(within.row)?, column: whole(within.column)?, band: within.band.clone() })
    });
    band.map_or(Need::All, Need::Within)
}
