//! Stochastic gradient descent, as `torch.optim.SGD`.

use super::{Shared, Step, Trained, Updates, named};
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// Hyperparameters of SGD.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum factor μ; 0 keeps no state.
    pub momentum: f64,
    /// Dampening τ of the momentum.
    pub dampening: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
    /// L2 penalty λ.
    pub weight_decay: f64,
}

impl Sgd {
    pub(super) fn prepare(&self, updates: &mut Updates, of: Option<&str>) -> Result<Shared, TypeError> {
        let mut scalars = Vec::new();
        if self.momentum != 0.0 && self.dampening != 0.0 {
            // The buffer starts as the first gradient, undampened.
            let step = match of {
                Some(_) => updates.count(&named("sgd.step", of))?,
                None => updates.step,
            };
            let b = &mut *updates.builder;
            let zero = b.scalar(DType::I64, 0.0)?;
            let first = b.compare(CompareFn::Eq, step, zero)?;
            let (one, damped) = (b.scalar(DType::F32, 1.0)?, b.scalar(DType::F32, 1.0 - self.dampening)?);
            scalars.push(b.select(first, one, damped)?);
        }
        Ok(Shared { lr: updates.lr, scalars })
    }

    /// g ← g + λp; m ← μm + (1−τ)g; p ← p − lr·(nesterov ? g + μm : m).
    pub(super) fn update(
        &self,
        updates: &mut Updates,
        shared: &Shared,
        parameter: &Trained,
        gradient: Value,
    ) -> Result<Step, TypeError> {
        let (name, p) = (&parameter.name, parameter.value);
        let mut g = gradient;
        if self.weight_decay != 0.0 {
            let decay = updates.builder.scale(p, self.weight_decay)?;
            g = updates.builder.add(g, decay)?;
        }
        if self.momentum != 0.0 {
            g = self.momentum_step(updates, shared, name, g)?;
        }
        Ok(Step { from: p, change: updates.builder.mul(g, shared.lr)? })
    }

    fn momentum_step(&self, updates: &mut Updates, shared: &Shared, name: &str, g: Value) -> Result<Value, TypeError> {
        let ty = updates.builder.ty(g).clone();
        let (id, before) = updates.state(&format!("momentum.{name}"), ty, 0.0)?;
        let kept = updates.builder.scale(before, self.momentum)?;
        let fresh = match shared.scalars.first() {
            Some(&damping) => updates.builder.mul(g, damping)?,
            None => g,
        };
        let m = updates.builder.add(kept, fresh)?;
        updates.set(id, m)?;
        if !self.nesterov {
            return Ok(m);
        }
        let ahead = updates.builder.scale(m, self.momentum)?;
        updates.builder.add(g, ahead)
    }
}
