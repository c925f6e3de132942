//! Optimizers as graph builders: from a parameter and its gradient to the parameter's next value.
//!
//! Definitions and defaults are PyTorch's (`torch.optim`), so that a recipe means the same there and here.

mod adam;
mod schedule;
mod sgd;
mod trained;

pub use adam::Adam;
pub use schedule::{Decay, Schedule};
pub use sgd::Sgd;
pub(crate) use trained::Trained;

use gradc_ir::builder::Builder;
use gradc_ir::graph::{InputId, Role, Value};
use gradc_ir::types::{DType, TensorType, TypeError};

/// An optimizer and its hyperparameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam, or AdamW when its decay is decoupled.
    Adam(Adam),
}

impl Optimizer {
    /// Default of the `lr` hyperparameter.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Optimizer::Sgd(sgd) => sgd.lr,
            Optimizer::Adam(adam) => adam.lr,
        }
    }

    /// Appends what all parameters share (bias corrections); called once, before any [`Optimizer::update`].
    pub(crate) fn prepare(&self, updates: &mut Updates) -> Result<Shared, TypeError> {
        match self {
            Optimizer::Sgd(sgd) => sgd.prepare(updates),
            Optimizer::Adam(adam) => adam.prepare(updates),
        }
    }

    /// Appends the update of what trains of one parameter.
    pub(crate) fn update(
        &self,
        updates: &mut Updates,
        shared: &Shared,
        parameter: &Trained,
        gradient: Value,
    ) -> Result<(), TypeError> {
        match self {
            Optimizer::Sgd(sgd) => sgd.update(updates, shared, parameter, gradient),
            Optimizer::Adam(adam) => adam.update(updates, shared, parameter, gradient),
        }
    }
}

/// f32 scalars every parameter's update uses.
pub(crate) struct Shared {
    /// Learning rate of this step.
    pub lr: Value,
    /// Scalars of the optimizer's own.
    pub scalars: Vec<Value>,
}

/// Builds updates; all of them take effect only when `apply` holds (gradient accumulation).
pub(crate) struct Updates<'a> {
    pub builder: &'a mut Builder,
    /// Learning rate of this step, f32 scalar.
    pub lr: Value,
    /// Optimizer steps done before this one, i64 scalar.
    pub step: Value,
    /// Whether this call ends an accumulation; `None`: every call does.
    pub apply: Option<Value>,
}

impl Updates<'_> {
    /// Declares a persistent tensor that starts at `initial` everywhere.
    pub fn state(&mut self, name: &str, ty: TensorType, initial: f64) -> Result<(InputId, Value), TypeError> {
        let value = self.builder.declare(name, Role::State, ty, Some(initial))?;
        let id = InputId(self.builder.graph().inputs().len() as u32 - 1);
        Ok((id, value))
    }

    /// Sets the next value of a persistent tensor.
    pub fn set(&mut self, of: InputId, next: Value) -> Result<(), TypeError> {
        let old = self.builder.graph().inputs()[of.index()].value;
        let next = self.if_applied(next, old)?;
        self.builder.update(of, next)
    }

    /// Sets the next value of what trains of a parameter; the rest stays where and as it is.
    pub fn set_trained(&mut self, of: &Trained, next: Value) -> Result<(), TypeError> {
        let next = self.if_applied(next, of.value)?;
        of.set(self.builder, next)
    }

    fn if_applied(&mut self, next: Value, old: Value) -> Result<Value, TypeError> {
        self.apply.map_or(Ok(next), |apply| self.builder.select(apply, next, old))
    }

    /// An f64 scalar that is multiplied by `factor` at every optimizer step: `factor` to the number of steps, this one included.
    pub fn power(&mut self, name: &str, factor: f64) -> Result<Value, TypeError> {
        let (id, before) = self.state(name, TensorType::new(DType::F64, []), 1.0)?;
        let power = self.builder.scale(before, factor)?;
        self.set(id, power)?;
        Ok(power)
    }
}
