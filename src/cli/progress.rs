//! The progress bar of a training run.

use super::plot;
use gradc::Selection;
use gradc::training::{EpochRecord, Observer};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Share of the newest loss in the running mean that is shown.
const SMOOTHING: f64 = 0.05;

/// Shows steps, steps per second, loss and the newest validation metrics; quiet where nobody looks.
pub(crate) struct Progress {
    bar: ProgressBar,
    smoothed: Option<f64>,
    skipped: u64,
    last: String,
}

impl Progress {
    pub fn new(total: u64, done: u64, quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {per_sec} eta {eta} {msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_position(done);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, smoothed: None, skipped: 0, last: String::new() }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
        if self.skipped > 0 {
            eprintln!("note: {} steps were skipped because their loss was not finite", self.skipped);
        }
    }
}

impl Observer for Progress {
    fn step(&mut self, epoch: usize, step: u64, loss: f32) {
        if loss.is_finite() {
            let loss = loss as f64;
            self.smoothed = Some(self.smoothed.map_or(loss, |s| s + SMOOTHING * (loss - s)));
        } else {
            self.skipped += 1;
        }
        self.bar.set_position(step);
        self.bar.set_message(format!("epoch {epoch} loss {:.4} {}", self.smoothed.unwrap_or(f64::NAN), self.last));
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.last = plot::validation(record);
        self.bar.suspend(|| println!("{}", plot::line(record)));
    }

    fn selection(&mut self, epoch: usize, selection: &Selection) {
        let names = Vec::from_iter(selection.chosen.iter().map(String::as_str)).join(", ");
        self.bar.suspend(|| println!("epoch {epoch:3}  {selection}: {names}"));
    }
}
