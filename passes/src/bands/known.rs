//! What is known of the values of a graph, from its inputs on: one pass forwards through lowered forms.

use super::fact::{Axes, Fact, Known};
use super::functions;
use crate::schedule::{Form, Forms};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::lower::{Access, Affine, Body, Combine, Nest, Scalar};
use gradc_ir::types::DType;
use std::collections::BTreeMap;

/// What is known of a graph's values.
pub(crate) struct Facts {
    /// Of values that have storage of their own, by the axes they are stored with.
    values: BTreeMap<Value, Fact>,
    /// Of what nests compute in each step, by their loops.
    steps: BTreeMap<NodeId, Vec<Known>>,
}

impl Facts {
    /// What is known of a value as it is stored.
    pub fn of(&self, forms: &Forms, value: Value) -> Fact {
        let shape = forms.stored_shape(value);
        self.read(forms, value, &Access::identity(0, &shape, shape.len()), &shape)
    }

    /// What is known of a value that is read at the points of loops of these extents.
    pub fn read(&self, forms: &Forms, value: Value, access: &Access, extents: &[usize]) -> Fact {
        let root = forms.root(value);
        let unknown = Fact::finite();
        self.values.get(&root).unwrap_or(&unknown).read(&forms.stored_shape(root), access, extents)
    }

    /// Values that the body of a node's nest is known to have, by its loops.
    pub fn in_steps(&self, id: NodeId) -> &[Known] {
        self.steps.get(&id).map_or(&[], |known| known)
    }
}

/// Finds what follows from what is known of the inputs; of other inputs that they are finite.
pub(crate) fn facts(forms: &Forms, inputs: BTreeMap<Value, Fact>) -> Facts {
    let mut facts = Facts { values: inputs, steps: BTreeMap::new() };
    for id in forms.graph.node_ids() {
        match forms.get(id) {
            Form::Map(nest) | Form::Reduce(nest) => {
                let step = of_body(nest, |access, extents| {
                    facts.read(forms, forms.graph.node(id).operands[access.operand], access, extents)
                });
                facts.steps.insert(id, step.known.clone());
                facts.values.insert(Value { node: id, result: 0 }, of_result(nest, step));
            }
            // What is not finite in a factor reaches all sums of its row or column.
            Form::Input | Form::Alias(_) | Form::Contract(_) => {}
            Form::Nests(_) | Form::Scatter(_) | Form::Lines(_) | Form::Region(_) | Form::Expandable => {
                facts.values.extend(forms.graph.results(id).map(|value| (value, Fact::anything())));
            }
        }
    }
    facts
}

/// What is known of what the body of a nest computes, by its loops.
fn of_body(nest: &Nest, read: impl Fn(&Access, &[usize]) -> Fact) -> Fact {
    let extents = [&nest.space[..], &nest.reduce].concat();
    let mut facts: Vec<Fact> = Vec::with_capacity(nest.body.scalars.len());
    for (scalar, dtype) in &nest.body.scalars {
        let fact = of_scalar(scalar, *dtype, (&nest.body, &facts), &extents, &read);
        facts.push(fact);
    }
    facts.swap_remove(nest.result.0 as usize)
}

fn of_scalar(
    scalar: &Scalar,
    dtype: DType,
    (body, before): (&Body, &[Fact]),
    extents: &[usize],
    read: impl Fn(&Access, &[usize]) -> Fact,
) -> Fact {
    let of = |id: &gradc_ir::lower::ScalarId| &before[id.0 as usize];
    match scalar {
        Scalar::Const(value) => constant(value.get(), extents.len()),
        Scalar::LoopIndex(dim) => {
            let line = Some(Affine::dim(extents.len(), *dim));
            Fact { line, varies: Axes::one(*dim), ..Fact::finite() }
        }
        Scalar::Load(access) => read(access, extents),
        Scalar::Unary(f, a) => functions::unary(*f, of(a)),
        Scalar::Binary(f, a, b) => functions::binary(*f, body.dtype(*a), of(a), of(b)),
        Scalar::Compare(f, a, b) => functions::compare(*f, of(a), of(b), extents),
        Scalar::Select(c, a, b) => functions::select(of(c), of(a), of(b)),
        Scalar::Cast(a) => functions::cast(dtype, of(a), extents),
        Scalar::Accumulated(_) => Fact::anything(),
    }
}

fn constant(value: f64, loops: usize) -> Fact {
    let is_integer = value.fract() == 0.0 && value.abs() < (1i64 << 53) as f64;
    Fact {
        uniform: Some(value),
        line: is_integer.then(|| Affine::constant(loops, value as i64)),
        known: vec![],
        varies: Axes::NONE,
        suspect: (!value.is_finite()).then_some(Axes::NONE),
    }
}

/// What is known of the result of a nest, given what is known of its steps.
fn of_result(nest: &Nest, step: Fact) -> Fact {
    let Some(combine) = nest.combine else { return step };
    let axes = nest.space.len();
    let of_space = |k: &Known| k.within.row.max(k.within.column) < axes;
    let kept = |k: &Known| of_space(k) && stays(combine, k.value);
    Fact { known: step.known.into_iter().filter(kept).collect(), uniform: None, line: None, ..step }
}

/// Whether one value combined with itself, however often, is that value.
fn stays(combine: Combine, value: f64) -> bool {
    match combine {
        Combine::Sum => value == 0.0,
        Combine::Prod => value == 0.0 || value == 1.0,
        Combine::Max | Combine::Min => true,
    }
}
