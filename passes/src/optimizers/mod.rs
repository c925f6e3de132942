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

    /// Appends what updates have in common that have been made as often (bias corrections): those of all parameters,
    /// or of one that counts its own.
    pub(crate) fn prepare(&self, updates: &mut Updates, of: Option<&str>) -> Result<Shared, TypeError> {
        match self {
            Optimizer::Sgd(sgd) => sgd.prepare(updates, of),
            Optimizer::Adam(adam) => adam.prepare(updates, of),
        }
    }

    /// Appends the step of what trains of one parameter, and its state.
    pub(crate) fn update(
        &self,
        updates: &mut Updates,
        shared: &Shared,
        parameter: &Trained,
        gradient: Value,
    ) -> Result<Step, TypeError> {
        let dtype = updates.builder.ty(gradient).dtype;
        let shared = &shared.cast(updates.builder, dtype)?;
        match self {
            Optimizer::Sgd(sgd) => sgd.update(updates, shared, parameter, gradient),
            Optimizer::Adam(adam) => adam.update(updates, shared, parameter, gradient),
        }
    }
}

/// The step of a parameter: from `from`, which is the parameter, possibly shrunk by its decay, to `from − change`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub from: Value,
    pub change: Value,
}

/// Scalars that updates use: f32, or of the dtype of the parameter that is updated.
pub(crate) struct Shared {
    /// Learning rate of this step.
    pub lr: Value,
    /// Scalars of the optimizer's own.
    pub scalars: Vec<Value>,
}

impl Shared {
    /// The same scalars for a parameter of this dtype.
    pub fn cast(&self, b: &mut Builder, dtype: DType) -> Result<Shared, TypeError> {
        let lr = b.cast(self.lr, dtype)?;
        let scalars = self.scalars.iter().map(|&scalar| b.cast(scalar, dtype)).collect::<Result<_, _>>()?;
        Ok(Shared { lr, scalars })
    }
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

    /// Takes the step of what trains of a parameter; the rest stays where and as it is.
    pub fn take(&mut self, of: &Trained, step: Step) -> Result<(), TypeError> {
        let next = self.builder.sub(step.from, step.change)?;
        let next = self.if_applied(next, of.value)?;
        of.set(self.builder, next)
    }

    fn if_applied(&mut self, next: Value, old: Value) -> Result<Value, TypeError> {
        self.apply.map_or(Ok(next), |apply| self.builder.select(apply, next, old))
    }

    /// An i64 scalar that is the number of optimizer steps before this one.
    pub fn count(&mut self, name: &str) -> Result<Value, TypeError> {
        let (id, before) = self.state(name, TensorType::new(DType::I64, []), 0.0)?;
        let one = self.builder.scalar(DType::I64, 1.0)?;
        let next = self.builder.add(before, one)?;
        self.set(id, next)?;
        Ok(before)
    }

    /// An f64 scalar that is multiplied by `factor` at every optimizer step: `factor` to the number of steps, this one included.
    pub fn power(&mut self, name: &str, factor: f64) -> Result<Value, TypeError> {
        let (id, before) = self.state(name, TensorType::new(DType::F64, []), 1.0)?;
        let power = self.builder.scale(before, factor)?;
        self.set(id, power)?;
        Ok(power)
    }
}

/// Name of a state of all parameters, or of one.
fn named(state: &str, of: Option<&str>) -> String {
    of.map_or(state.to_string(), |parameter| format!("{state}.{parameter}"))
}
