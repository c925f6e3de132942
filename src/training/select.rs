//! A training run under a budget: what trains is selected again as it goes.

use super::run::{Observer, Trainer};
use crate::budget::Selector;
use crate::error::SessionError;
use crate::session::Session;
use crate::step::CompiledStep;
use crate::view::TensorView;
use gradc_frontend::recipe::{Budget, Importance};
use gradc_frontend::weights;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::tensor::HostTensor;
use std::collections::BTreeSet;
use std::path::Path;

/// Field of a checkpoint's metadata that lists what trains under a budget.
const SELECTION: &str = "selection";

/// What a run trains: the session of one compiled step, or of those that a selector selects.
pub struct Trained {
    pub(super) session: Session,
    pub(super) selector: Option<Selector>,
}

impl From<Session> for Trained {
    fn from(session: Session) -> Self {
        Trained { session, selector: None }
    }
}

impl Trained {
    /// What a selector selects: by its initial importances, until a run measures them.
    pub fn selected(mut selector: Selector) -> Result<Trained, Diagnostics> {
        let selection = selector.select(&selector.initial_importances().clone())?;
        let session = selector.compile(&selection)?.session()?;
        Ok(Trained { session, selector: Some(selector) })
    }

    /// The compiled step it starts with; all have the same inputs.
    pub fn compiled(&self) -> &CompiledStep {
        self.session.compiled()
    }
}

impl Trainer {
    fn budget(&self) -> Option<&Budget> {
        self.selector.as_ref().and_then(|selector| selector.recipe().budget.as_ref())
    }

    /// Whether what trains is to be selected before the next step.
    pub(super) fn selects_now(&self) -> bool {
        let due = |every: usize| self.position.epoch.is_multiple_of(every);
        let is_due = |budget: &Budget| match budget.select_every {
            Some(every) => due(every.get()),
            None => self.position.epoch == 0,
        };
        self.position.batch == 0 && self.budget().is_some_and(is_due)
    }

    /// Selects by importances that are given, or measured on the first batches of the epoch, and goes on with that.
    pub(super) fn select(
        &mut self,
        order: &[usize],
        phase: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        let measured = match self.budget().map(|budget| &budget.importance) {
            Some(Importance::Measured(measured)) => measured.batches.get().min(self.batches_per_epoch()),
            _ => 0,
        };
        let batches: Vec<Vec<(String, HostTensor)>> =
            (0..measured).map(|number| self.batch(order, phase, number)).collect();
        let views = batches.iter().map(|batch| batch.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect());
        let Some(selector) = &mut self.selector else { return Ok(()) };
        let importances = match measured {
            0 => selector.initial_importances().clone(),
            _ => selector.measure(&self.session, views)?,
        };
        let selection = selector.select(&importances)?;
        self.session = self.session.continue_with(&selector.compile(&selection)?)?;
        observer.selection(self.position.epoch + 1, &selection);
        Ok(())
    }

    /// What a checkpoint says of the selection, if there is one.
    pub(super) fn selection_metadata(&self) -> Result<Option<(String, String)>, SessionError> {
        if self.selector.is_none() {
            return Ok(None);
        }
        let parameters = self.session.compiled().report().parameters.iter();
        let trained: Vec<&str> = parameters.filter(|p| p.trained_elements > 0).map(|p| p.name.as_str()).collect();
        let text = serde_json::to_string(&trained).map_err(|e| Diagnostic::new("internal-json", e.to_string()));
        Ok(Some((SELECTION.to_string(), text.map_err(SessionError::Checkpoint)?)))
    }

    /// Starts with what trained when a checkpoint was written.
    pub(super) fn restore_selection(&mut self, checkpoint: &Path) -> Result<(), SessionError> {
        let Some(selector) = &mut self.selector else { return Ok(()) };
        let (_, metadata) = weights::read_with_metadata(checkpoint).map_err(SessionError::Checkpoint)?;
        let mismatch = |message: &str| {
            let help = "it was written by another model or recipe";
            Diagnostic::new("checkpoint-mismatch", message).in_file(checkpoint.display()).help(help)
        };
        let chosen = metadata.get(SELECTION).and_then(|text| serde_json::from_str::<BTreeSet<String>>(text).ok());
        let unsaid = || mismatch("the checkpoint does not say what trains under the budget");
        let chosen = chosen.ok_or_else(unsaid).map_err(SessionError::Checkpoint)?;
        if let Some(unknown) = chosen.iter().find(|name| !selector.initial_importances().contains_key(*name)) {
            return Err(SessionError::Checkpoint(mismatch(&format!("`{unknown}` of the checkpoint may not train"))));
        }
        self.session = selector.compile_set(&chosen)?.session()?;
        Ok(())
    }
}
