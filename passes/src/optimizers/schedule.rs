//! Learning-rate schedules: the factor on the learning rate as a function of the optimizer step.

use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::{DType, TypeError};

/// How the learning rate falls.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Decay {
    /// It does not.
    #[default]
    Constant,
    /// Times `gamma` every `step_size` steps.
    Step {
        /// Steps between two reductions.
        step_size: u64,
        /// Factor of a reduction.
        gamma: f64,
    },
    /// Half a cosine from 1 to `floor` over `total_steps`, then `floor` (Loshchilov & Hutter 2017).
    Cosine {
        /// Length in steps.
        total_steps: u64,
        /// Last factor.
        floor: f64,
    },
    /// A line from 1 to `floor` over `total_steps`, then `floor`.
    Linear {
        /// Length in steps.
        total_steps: u64,
        /// Last factor.
        floor: f64,
    },
}

/// A warm-up followed by a decay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Steps over which the factor rises linearly: (t+1)/warmup_steps at step t.
    pub warmup_steps: u64,
    /// What follows; its steps count from the end of the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// Learning rate of optimizer step `step` (i64 scalar, from 0) as an f32 scalar.
    pub(crate) fn apply(&self, b: &mut Builder, lr: Value, step: Value) -> Result<Value, TypeError> {
        if *self == Schedule::default() {
            return Ok(lr);
        }
        let t = b.cast(step, DType::F64)?;
        let (start, zero) = (b.scalar(DType::F64, self.warmup_steps as f64)?, b.scalar(DType::F64, 0.0)?);
        let since = b.sub(t, start)?;
        let since = b.maximum(since, zero)?;
        let mut factor = self.decay.factor(b, since)?;
        if self.warmup_steps > 0 {
            let one = b.scalar(DType::F64, 1.0)?;
            let next = b.add(t, one)?;
            let ramp = b.scale(next, 1.0 / self.warmup_steps as f64)?;
            let ramp = b.minimum(ramp, one)?;
            factor = b.mul(factor, ramp)?;
        }
        let lr = b.cast(lr, DType::F64)?;
        let scheduled = b.mul(lr, factor)?;
        b.cast(scheduled, DType::F32)
    }
}

impl Decay {
    /// The factor `since` steps after the warm-up (f64 scalar, not negative).
    fn factor(&self, b: &mut Builder, since: Value) -> Result<Value, TypeError> {
        match *self {
            Decay::Constant => b.scalar(DType::F64, 1.0),
            Decay::Step { step_size, gamma } => {
                let size = b.scalar(DType::F64, step_size as f64)?;
                let ratio = b.div(since, size)?;
                let count = b.floor(ratio)?;
                let gamma = b.scalar(DType::F64, gamma)?;
                b.pow(gamma, count)
            }
            Decay::Cosine { total_steps, floor } => {
                let progress = progress(b, since, total_steps)?;
                let angle = b.scale(progress, std::f64::consts::PI)?;
                let cosine = b.cos(angle)?;
                let one = b.scalar(DType::F64, 1.0)?;
                let raised = b.add(cosine, one)?;
                let left = b.scale(raised, 0.5)?;
                between(b, left, floor)
            }
            Decay::Linear { total_steps, floor } => {
                let progress = progress(b, since, total_steps)?;
                let one = b.scalar(DType::F64, 1.0)?;
                let left = b.sub(one, progress)?;
                between(b, left, floor)
            }
        }
    }
}

/// min(since / total, 1)
fn progress(b: &mut Builder, since: Value, total_steps: u64) -> Result<Value, TypeError> {
    let (total, one) = (b.scalar(DType::F64, total_steps.max(1) as f64)?, b.scalar(DType::F64, 1.0)?);
    let ratio = b.div(since, total)?;
    b.minimum(ratio, one)
}

/// floor + (1 − floor) · left
fn between(b: &mut Builder, left: Value, floor: f64) -> Result<Value, TypeError> {
    let scaled = b.scale(left, 1.0 - floor)?;
    let floor = b.scalar(DType::F64, floor)?;
    b.add(floor, scaled)
}
