//! The training loop.

use super::evaluate::evaluate;
use super::feeds::Feeds;
use super::history::{EpochRecord, History};
use super::position::{Place, Position};
use super::select::Trained;
use super::split::Split;
use crate::budget::{Selection, Selector};
use crate::error::SessionError;
use crate::session::Session;
use crate::view::TensorView;
use gradc_frontend::recipe::{LastBatch, NonFinite};
use gradc_frontend::weights;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// How long and how a run trains.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Epochs altogether, those before a resumption included.
    pub epochs: usize,
    /// Ends the run after this many steps altogether.
    pub max_steps: Option<u64>,
    /// Seed of the order of rows.
    pub seed: u64,
    /// What happens to rows that fill no batch.
    pub last_batch: LastBatch,
    /// What happens when the loss is not finite.
    pub non_finite: NonFinite,
    /// Folder of checkpoints, weights and records.
    pub folder: PathBuf,
}

/// Told what a run does, for progress bars and the like.
pub trait Observer {
    /// A step is done (or skipped, with a loss that is not finite).
    fn step(&mut self, epoch: usize, step: u64, loss: f32);
    /// An epoch was evaluated.
    fn epoch(&mut self, record: &EpochRecord);
    /// From this epoch on, a selection trains.
    fn selection(&mut self, epoch: usize, selection: &Selection);
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All epochs or steps are done.
    Done,
    /// It was asked to stop; the checkpoint has everything done.
    Interrupted,
}

/// A training run.
pub struct Trainer {
    pub(super) session: Session,
    /// Selects what trains, under a budget.
    pub(super) selector: Option<Selector>,
    feeds: Feeds,
    split: Split,
    /// Rows and feeds of the validation set.
    validation: Option<(Feeds, Vec<usize>)>,
    settings: RunSettings,
    history: History,
    pub(super) position: Position,
    best_loss: Option<f64>,
}

impl Trainer {
    /// A run from the start. `validation` overrides the split's validation rows by a set of its own.
    pub fn new(
        trained: impl Into<Trained>,
        feeds: Feeds,
        split: Split,
        validation: Option<Feeds>,
        settings: RunSettings,
    ) -> Result<Self, Diagnostic> {
        let mut trainer = Trainer::at_start(trained.into(), feeds, split, validation, settings)?;
        trainer.history = History::create(&trainer.history_path())?;
        Ok(trainer)
    }

    /// The run that the folder's checkpoint is of; the arguments are those of [`Trainer::new`].
    pub fn resume(
        trained: impl Into<Trained>,
        feeds: Feeds,
        split: Split,
        validation: Option<Feeds>,
        settings: RunSettings,
    ) -> Result<Self, SessionError> {
        let start = Trainer::at_start(trained.into(), feeds, split, validation, settings);
        let mut trainer = start.map_err(SessionError::Checkpoint)?;
        let path = trainer.checkpoint_path();
        trainer.restore_selection(&path)?;
        let metadata = trainer.session.load(&path)?;
        let (position, best_loss) =
            trainer.place().read(&metadata).map_err(|d| SessionError::Checkpoint(d.in_file(path.display())))?;
        (trainer.position, trainer.best_loss) = (position, best_loss);
        let history = History::resume(&trainer.history_path(), position.epoch);
        trainer.history = history.map_err(SessionError::Checkpoint)?;
        Ok(trainer)
    }

    fn at_start(
        trained: Trained,
        feeds: Feeds,
        split: Split,
        validation: Option<Feeds>,
        settings: RunSettings,
    ) -> Result<Self, Diagnostic> {
        std::fs::create_dir_all(&settings.folder)
            .map_err(|e| Diagnostic::new("unwritable-file", e.to_string()).in_file(settings.folder.display()))?;
        let validation = match validation {
            Some(feeds) => Some((feeds.clone(), (0..feeds.rows()).collect())),
            None if split.validation.is_empty() => None,
            None => Some((feeds.clone(), split.validation.clone())),
        };
        let (history, position) = (History::default(), Position::default());
        let Trained { session, selector } = trained;
        let best_loss = None;
        let trainer = Trainer { session, selector, feeds, split, validation, settings, history, position, best_loss };
        if trainer.batches_per_epoch() == 0 {
            let message = "the training rows fill no batch";
            return Err(Diagnostic::new("too-few-rows", message)
                .expected(format!("at least {} rows", trainer.feeds.batch_size()))
                .found(format!("{} rows", trainer.split.train.len()))
                .help("lower --batch, or set `last_batch` to `pad` in the recipe"));
        }
        Ok(trainer)
    }

    /// What a checkpoint's position has to be of.
    fn place(&self) -> Place<'_> {
        Place { seed: self.settings.seed, batch_size: self.feeds.batch_size(), training_rows: &self.split.train }
    }

    fn history_path(&self) -> PathBuf {
        self.settings.folder.join("history.jsonl")
    }

    /// Path of the checkpoint.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.settings.folder.join("checkpoint.safetensors")
    }

    /// Path of the trained weights.
    pub fn weights_path(&self) -> PathBuf {
        self.settings.folder.join("weights.safetensors")
    }

    /// Path of the weights with the lowest validation loss.
    pub fn best_path(&self) -> PathBuf {
        self.settings.folder.join("best.safetensors")
    }

    /// Records so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Steps the whole run will take.
    pub fn total_steps(&self) -> u64 {
        let all = (self.settings.epochs * self.batches_per_epoch()) as u64;
        self.settings.max_steps.map_or(all, |limit| all.min(limit))
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.position.steps
    }

    /// How often the gradient of each guarded solver was computed exactly, as [`Session::solver_fallbacks`].
    pub fn solver_fallbacks(&self) -> BTreeMap<String, u64> {
        self.session.solver_fallbacks()
    }

    pub(super) fn batches_per_epoch(&self) -> usize {
        let (rows, batch) = (self.split.train.len(), self.feeds.batch_size());
        match self.settings.last_batch {
            LastBatch::Drop => rows / batch,
            LastBatch::Pad => rows.div_ceil(batch),
        }
    }

    /// Trains to the end, or until `stop` is set; writes checkpoint and weights either way.
    pub fn run(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Ending, SessionError> {
        while self.position.epoch < self.settings.epochs && self.steps_left() {
            let ending = self.run_epoch(observer, stop);
            if !matches!(ending, Ok(Ending::Done)) {
                // Why the run ends matters more than why what it came to cannot be kept.
                let saved = self.save();
                return ending.and_then(|ending| saved.map(|()| ending));
            }
        }
        self.save()?;
        Ok(Ending::Done)
    }

    fn batches_left(&self) -> bool {
        self.position.batch < self.batches_per_epoch()
    }

    fn steps_left(&self) -> bool {
        self.settings.max_steps.is_none_or(|limit| self.position.steps < limit)
    }

    fn run_epoch(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Ending, SessionError> {
        let order = self.split.epoch(self.settings.seed, self.position.epoch);
        let phase = self.feeds.phase(self.settings.seed, Some(self.position.epoch));
        if self.selects_now() {
            self.select(&order, phase, observer)?;
        }
        while self.batches_left() && self.steps_left() {
            let loss = self.run_step(&order, phase)?;
            observer.step(self.position.epoch + 1, self.position.steps, loss);
            if stop.load(Ordering::Relaxed) {
                return Ok(Ending::Interrupted);
            }
        }
        let record = if self.batches_left() { self.pause_epoch()? } else { self.finish_epoch()? };
        observer.epoch(&record);
        Ok(Ending::Done)
    }

    fn run_step(&mut self, order: &[usize], phase: usize) -> Result<f32, SessionError> {
        let inputs = self.batch(order, phase, self.position.batch);
        let views: Vec<(&str, TensorView)> = inputs.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect();
        let loss = match self.session.step(&views) {
            Err(SessionError::NonFinite { .. }) if self.settings.non_finite == NonFinite::Skip => f32::NAN,
            other => other?,
        };
        self.position.batch += 1;
        self.position.steps += 1;
        if loss.is_finite() {
            self.position.loss_sum += loss as f64;
            self.position.loss_count += 1;
        }
        Ok(loss)
    }

    /// Inputs of a batch of an epoch that visits rows in this order.
    pub(super) fn batch(&self, order: &[usize], phase: usize, number: usize) -> Vec<(String, HostTensor)> {
        let size = self.feeds.batch_size();
        let rows: Vec<usize> = order.iter().cycle().skip(number * size).take(size).copied().collect();
        self.feeds.batch(&rows, phase)
    }

    fn finish_epoch(&mut self) -> Result<EpochRecord, SessionError> {
        let record = self.record()?;
        self.position = Position { epoch: self.position.epoch + 1, steps: self.position.steps, ..Position::default() };
        if let Some(metrics) = record.validation
            && metrics.loss.is_finite()
            && self.best_loss.is_none_or(|best| metrics.loss < best)
        {
            self.best_loss = Some(metrics.loss);
            self.write_weights(&self.best_path())?;
        }
        self.history.push(record.clone()).map_err(SessionError::Checkpoint)?;
        self.save()?;
        Ok(record)
    }

    /// Ends the run within an epoch. A resumed run finishes the epoch and replaces what is recorded of it here.
    fn pause_epoch(&mut self) -> Result<EpochRecord, SessionError> {
        let record = self.record()?;
        if record.validation.is_some() && self.best_loss.is_none() {
            self.write_weights(&self.best_path())?;
        }
        self.history.push(record.clone()).map_err(SessionError::Checkpoint)?;
        Ok(record)
    }

    /// What the epoch came to so far.
    fn record(&mut self) -> Result<EpochRecord, SessionError> {
        let validation = match &self.validation {
            Some((feeds, rows)) => Some(evaluate(&mut self.session, feeds, rows)?),
            None => None,
        };
        // of no step that counts there is no mean: 0/0
        let train_loss = self.position.loss_sum / self.position.loss_count as f64;
        Ok(EpochRecord { epoch: self.position.epoch + 1, step: self.position.steps, train_loss, validation })
    }

    /// Writes checkpoint and weights, each atomically.
    fn save(&self) -> Result<(), SessionError> {
        let mut metadata = self.place().write(&self.position, self.best_loss);
        metadata.extend(self.selection_metadata()?);
        self.session.save_with(self.checkpoint_path(), &metadata)?;
        self.write_weights(&self.weights_path())
    }

    fn write_weights(&self, path: &Path) -> Result<(), SessionError> {
        self.session.check_finite()?;
        weights::write(path, &self.session.weights(), &BTreeMap::new()).map_err(SessionError::Checkpoint)
    }
}
