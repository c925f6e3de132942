//! What an optimizer sees of a parameter.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, InputId, Value};
use gradc_ir::part::Part;
use gradc_ir::types::TypeError;

/// A parameter under training, as a whole or in part.
#[derive(Clone, Debug)]
pub(crate) struct Trained {
    id: InputId,
    part: Option<Part>,
    /// Name of its optimizer state: the parameter's, and behind it the part, so that the state of another part is
    /// not taken for it.
    pub name: String,
    /// What trains before the update.
    pub value: Value,
}

impl Trained {
    /// A parameter of which `part` trains; all of it if there is none.
    pub fn new(b: &mut Builder, id: InputId, part: Option<&Part>) -> Result<Trained, TypeError> {
        let input = &b.graph().inputs()[id.index()];
        let label = part.map(Part::to_string).unwrap_or_default();
        let (name, whole) = (format!("{}{label}", input.name), input.value);
        let mut trained = Trained { id, part: part.cloned(), name, value: whole };
        trained.value = trained.part_of(b, whole)?;
        Ok(trained)
    }

    /// Name of the parameter.
    pub fn parameter<'a>(&self, graph: &'a Graph) -> &'a str {
        &graph.inputs()[self.id.index()].name
    }

    /// What trains of a tensor of the parameter's shape; it belongs to where that tensor is made.
    pub fn part_of(&self, b: &mut Builder, whole: Value) -> Result<Value, TypeError> {
        Trained::select(b, self.part.as_ref(), whole)
    }

    /// The part of a tensor, all of it if there is none; it belongs to where that tensor is made.
    pub fn select(b: &mut Builder, part: Option<&Part>, whole: Value) -> Result<Value, TypeError> {
        let Some(Part { axis, indices }) = part else { return Ok(whole) };
        b.set_loc(b.graph().loc(whole.node).to_backward());
        b.index_select(whole, *axis, indices)
    }

    /// Makes `next` the next value of what trains.
    pub fn set(&self, b: &mut Builder, next: Value) -> Result<(), TypeError> {
        let whole = b.graph().inputs()[self.id.index()].value;
        let next = match &self.part {
            Some(Part { axis, indices }) => b.index_copy(whole, next, *axis, indices)?,
            None => next,
        };
        b.update(self.id, next)
    }
}
