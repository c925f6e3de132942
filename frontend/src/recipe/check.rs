//! What the schema of a recipe cannot say: fields that must go together.

use super::{Budget, Optimizer, PerChannel, Recipe, ScheduleKind, Trainable};
use crate::schema::at;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};

impl Recipe {
    /// Everything inconsistent about the recipe at once.
    pub(super) fn check(&self) -> Result<(), Diagnostics> {
        let mut found: Vec<Diagnostic> = Vec::new();
        found.extend(self.check_nesterov());
        found.extend(self.check_schedule());
        found.extend(self.check_parts());
        found.extend(self.budget.iter().flat_map(Budget::check));
        found.extend(self.check_deviations());
        if found.is_empty() { Ok(()) } else { Err(Diagnostics(found)) }
    }

    fn check_nesterov(&self) -> Option<Diagnostic> {
        let Optimizer::Sgd { nesterov: true, momentum, dampening, .. } = self.optimizer else { return None };
        (momentum == 0.0 || dampening != 0.0).then(|| {
            at("optimizer.nesterov", "inconsistent-recipe", "Nesterov's momentum needs momentum without dampening")
                .expected("`momentum` above 0 and `dampening` 0")
                .found(format!("`momentum` {momentum} and `dampening` {dampening}"))
        })
    }

    fn check_schedule(&self) -> Option<Diagnostic> {
        let (ScheduleKind::Cosine { min_lr, .. } | ScheduleKind::Linear { min_lr, .. }) = self.schedule.kind else {
            return None;
        };
        let lr = self.optimizer.lr();
        (min_lr > lr).then(|| {
            at("schedule.min_lr", "inconsistent-recipe", "the learning rate cannot fall to a larger one")
                .expected(format!("at most `optimizer.lr`, {lr}"))
                .found(min_lr)
        })
    }

    fn check_parts(&self) -> Vec<Diagnostic> {
        let entries = self.trainable.iter().flatten().enumerate();
        let problem = |(k, entry): (usize, &Trainable)| {
            let Trainable::Part(part) = entry else { return None };
            let problem = part.keep.check().err()?;
            Some(Diagnostic { loc: at(&format!("trainable[{k}].keep"), "", "").loc, ..problem })
        };
        entries.filter_map(problem).collect()
    }

    fn check_deviations(&self) -> Vec<Diagnostic> {
        let zero = |std: &PerChannel| match std {
            PerChannel::All(v) => *v == 0.0,
            PerChannel::Each(v) => v.contains(&0.0),
        };
        let columns = self.data.iter().filter(|(_, column)| column.std.as_ref().is_some_and(zero));
        let problem = |name: &String| {
            at(&format!("data.{name}.std"), "inconsistent-recipe", "a standard deviation divides")
                .expected("not 0")
                .found(0)
        };
        columns.map(|(name, _)| problem(name)).collect()
    }
}
