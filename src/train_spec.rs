//! From the recipe's words to what differentiation and optimizers take.

use crate::options::Options;
use gradc_frontend::model::Model;
use gradc_frontend::recipe::{self, Recipe, ScheduleKind, trainable_set};
use gradc_ir::diagnostic::Diagnostics;
use gradc_passes::optimizers::{Adam, Decay, Optimizer, Schedule, Sgd};
use gradc_passes::train::{TrainSpec, Trainable};

/// What a recipe asks of a model.
pub(crate) fn train_spec(recipe: &Recipe, model: &Model, options: &Options) -> Result<TrainSpec, Diagnostics> {
    let mut trainable = trainable_set(recipe, model)?;
    // In the model's own order, so that the compiled step does not depend on how a recipe lists them.
    let inputs = model.train.inputs().iter();
    let in_order =
        inputs.filter_map(|i| Some(Trainable { parameter: i.name.clone(), part: trainable.remove(&i.name)? }));
    Ok(TrainSpec {
        trainable: in_order.collect(),
        optimizer: (!options.gradients).then(|| optimizer(&recipe.optimizer)),
        // Importances are compared with each other, not over time.
        schedule: match options.importances {
            true => Schedule { warmup_steps: 0, decay: Decay::Constant },
            false => schedule(&recipe.schedule, recipe.optimizer.lr()),
        },
        clip_norm: recipe.clip_norm,
        accumulate: if options.importances { 1 } else { recipe.accumulate.get() },
        gradient_outputs: options.gradients,
        importance_outputs: options.importances,
        steps_apart: recipe.budget.as_ref().is_some_and(|budget| budget.select_every.is_some()),
        fp: options.fp,
    })
}

fn optimizer(optimizer: &recipe::Optimizer) -> Optimizer {
    let adam = |lr: f64, betas: [recipe::Beta; 2], eps, weight_decay, decoupled| {
        Optimizer::Adam(Adam { lr, betas: betas.map(|b| b.0), eps, weight_decay, decoupled })
    };
    match *optimizer {
        recipe::Optimizer::Sgd { lr, momentum, dampening, nesterov, weight_decay } => {
            Optimizer::Sgd(Sgd { lr, momentum, dampening, nesterov, weight_decay })
        }
        recipe::Optimizer::Adam { lr, betas, eps, weight_decay } => adam(lr, betas, eps, weight_decay, false),
        recipe::Optimizer::Adamw { lr, betas, eps, weight_decay } => adam(lr, betas, eps, weight_decay, true),
    }
}

fn schedule(schedule: &recipe::Schedule, lr: f64) -> Schedule {
    let floor = |min_lr: f64| if lr > 0.0 { min_lr / lr } else { 0.0 };
    let decay = match schedule.kind {
        ScheduleKind::Constant => Decay::Constant,
        ScheduleKind::Step { step_size, gamma } => Decay::Step { step_size: step_size.get(), gamma },
        ScheduleKind::Cosine { total_steps, min_lr } => {
            Decay::Cosine { total_steps: total_steps.get(), floor: floor(min_lr) }
        }
        ScheduleKind::Linear { total_steps, min_lr } => {
            Decay::Linear { total_steps: total_steps.get(), floor: floor(min_lr) }
        }
    };
    Schedule { warmup_steps: schedule.warmup_steps, decay }
}
