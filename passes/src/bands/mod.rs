//! Bands: which terms of a contraction cannot matter, because constants say so.
//!
//! A causal mask adds −∞ to the scores above the diagonal. Their exponentials are zero, so are products with these, and
//! nobody reads the scores themselves. That follows from lowered forms alone: what constants and comparisons of indices
//! are outside of a band of a matrix ([`constants`], [`fact`]) goes through scalar code by a table of its functions
//! ([`functions`]), forwards through the graph ([`known`]); backwards goes where a value is read at all ([`needed`]).
//!
//! Only what cannot change between steps counts: constants of the model and indices. What is computed is taken for
//! finite where its operands are, except where it may well not be ([`fact::Fact::suspect`]). Every row and every column
//! of a factor meets some element inside of a band, so what is not finite in it still reaches sums that are computed.

mod constants;
mod fact;
mod functions;
mod known;
mod needed;

pub use constants::KnownConstants;

use crate::schedule::{Form, Forms};
use fact::{Fact, band_as};
use gradc_ir::band::LoopBand;
use gradc_ir::graph::{Graph, Input, NodeId, Role, Value};
use gradc_ir::lower::{Access, Contraction};
use gradc_ir::plan::{Action, RegionSchedule, Schedule};
use gradc_ir::region::{Argument, RegionForm};
use known::{Facts, facts};
use needed::{Needs, needs};
use std::collections::BTreeMap;

/// The schedule of an entry with the bands of its contractions and of those in the bodies of its regions.
pub fn find_bands(schedule: Schedule, constants: &KnownConstants) -> Schedule {
    let known = |input: &Input| match input.role {
        Role::Constant => constants.fact(&input.name).or(Some(Fact::anything())),
        Role::Input | Role::Hyper if schedule.graph.ty(input.value).dtype.is_float() => Some(Fact::anything()),
        Role::Input | Role::Hyper | Role::Parameter | Role::Buffer | Role::State => None,
    };
    let inputs = schedule.graph.inputs().iter().filter_map(|input| Some((input.value, known(input)?))).collect();
    with_bands(schedule, inputs)
}

/// As [`find_bands`], given what is known of the inputs.
fn with_bands(schedule: Schedule, inputs: BTreeMap<Value, Fact>) -> Schedule {
    let forms = Forms::of(&schedule);
    let facts = facts(&forms, inputs);
    let needs = needs(&forms, &facts);
    let contraction = |id: NodeId| match forms.get(id) {
        Form::Contract(contraction) => Some((id, bands_of(&forms, id, contraction, &facts, &needs))),
        _ => None,
    };
    let bands = schedule.graph.node_ids().filter_map(contraction).filter(|(_, bands)| !bands.is_empty()).collect();
    let in_bodies = |action: Action| match action {
        Action::Region(region) => Action::Region(region_with_bands(&schedule.graph, region, |v| facts.of(&forms, v))),
        other => other,
    };
    let actions = schedule.actions.iter().cloned().map(in_bodies).collect();
    Schedule { bands, actions, ..schedule }
}

fn region_with_bands(graph: &Graph, region: RegionSchedule, fact: impl Fn(Value) -> Fact) -> RegionSchedule {
    let form = RegionForm::of_node(graph, region.node).expect("only regions are scheduled as such");
    let operands = &graph.node(region.node).operands;
    let argument = |k: usize| match form.argument(k) {
        Argument::Whole => fact(operands[form.operand_of(k)]),
        Argument::Carry | Argument::Slice | Argument::Block => Fact::anything(),
    };
    let body = |body: Schedule| {
        let inputs = body.graph.inputs().iter().enumerate().map(|(k, input)| (input.value, argument(k))).collect();
        with_bands(body, inputs)
    };
    RegionSchedule { bodies: region.bodies.into_iter().map(body).collect(), ..region }
}

/// The bands between the loops of a contraction.
fn bands_of(forms: &Forms, id: NodeId, contraction: &Contraction, facts: &Facts, needs: &Needs) -> Vec<LoopBand> {
    let extents = [&contraction.space[..], &contraction.reduce].concat();
    let zeros = |factor: &Access| {
        let operand = forms.graph.node(id).operands[factor.operand];
        let zeros = facts.read(forms, operand, factor, &extents).known.into_iter().filter(|k| k.value == 0.0);
        zeros.map(|k| k.within).min_by_key(|within| within.band.elements())
    };
    let result = Value { node: id, result: 0 };
    let read = needs.within(result).and_then(|read| band_as(&forms.stored_shape(result), read, &contraction.space));
    [zeros(&contraction.lhs), zeros(&contraction.rhs), read].into_iter().flatten().collect()
}
