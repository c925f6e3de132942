//! Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), as `torch.optim.Adam` and `AdamW`.

use super::{Shared, Step, Trained, Updates, named};
use gradc_ir::graph::Value;
use gradc_ir::types::{DType, TypeError};

/// Hyperparameters of Adam.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates β₁, β₂ of the moment estimates.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay λ.
    pub weight_decay: f64,
    /// AdamW: the decay shrinks the parameter instead of entering the gradient.
    pub decoupled: bool,
}

impl Adam {
    /// Scalars: step size lr/(1−β₁ᵗ), 1/√(1−β₂ᵗ), and 1 − lr·λ when decoupled.
    ///
    /// β₂ᵗ is close to 1 at first, so the corrections are formed in f64.
    pub(super) fn prepare(&self, updates: &mut Updates, of: Option<&str>) -> Result<Shared, TypeError> {
        let power1 = updates.power(&named("adam.beta1_power", of), self.betas[0])?;
        let power2 = updates.power(&named("adam.beta2_power", of), self.betas[1])?;
        let lr = updates.lr;
        let b = &mut *updates.builder;
        let one = b.scalar(DType::F64, 1.0)?;
        let (correction1, correction2) = (b.sub(one, power1)?, b.sub(one, power2)?);
        let lr64 = b.cast(lr, DType::F64)?;
        let step_size = b.div(lr64, correction1)?;
        let root = b.sqrt(correction2)?;
        let inverse_root = b.div(one, root)?;
        let mut scalars = vec![b.cast(step_size, DType::F32)?, b.cast(inverse_root, DType::F32)?];
        if self.decoupled && self.weight_decay != 0.0 {
            let decay = b.scale(lr64, self.weight_decay)?;
            let kept = b.sub(one, decay)?;
            scalars.push(b.cast(kept, DType::F32)?);
        }
        Ok(Shared { lr, scalars })
    }

    /// m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − step·m/(√v·c + ε).
    pub(super) fn update(
        &self,
        updates: &mut Updates,
        shared: &Shared,
        parameter: &Trained,
        gradient: Value,
    ) -> Result<Step, TypeError> {
        let (name, mut p) = (&parameter.name, parameter.value);
        let mut g = gradient;
        if self.weight_decay != 0.0 && !self.decoupled {
            let decay = updates.builder.scale(p, self.weight_decay)?;
            g = updates.builder.add(g, decay)?;
        }
        let m = self.moment(updates, &format!("adam.m.{name}"), self.betas[0], g)?;
        let square = updates.builder.mul(g, g)?;
        let v = self.moment(updates, &format!("adam.v.{name}"), self.betas[1], square)?;
        let b = &mut *updates.builder;
        if let Some(&kept) = shared.scalars.get(2) {
            p = b.mul(p, kept)?;
        }
        let root = b.sqrt(v)?;
        let corrected = b.mul(root, shared.scalars[1])?;
        let eps = b.scalar(b.ty(corrected).dtype, self.eps)?;
        let denominator = b.add(corrected, eps)?;
        let ratio = b.div(m, denominator)?;
        Ok(Step { from: p, change: b.mul(ratio, shared.scalars[0])? })
    }

    fn moment(&self, updates: &mut Updates, name: &str, beta: f64, fresh: Value) -> Result<Value, TypeError> {
        let ty = updates.builder.ty(fresh).clone();
        let (id, before) = updates.state(name, ty, 0.0)?;
        let kept = updates.builder.scale(before, beta)?;
        let added = updates.builder.scale(fresh, 1.0 - beta)?;
        let moment = updates.builder.add(kept, added)?;
        updates.set(id, moment)?;
        Ok(moment)
    }
}
