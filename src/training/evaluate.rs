//! Loss and accuracy over a set of rows.

use super::feeds::Feeds;
use super::history::number_or_null;
use crate::entries::{LOSS_PER_EXAMPLE, LOSS_WEIGHT, LossInfo};
use crate::error::SessionError;
use crate::session::Session;
use crate::view::TensorView;
use gradc_ir::tensor::HostTensor;
use serde::{Deserialize, Serialize};

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean loss per example; what is not finite is `null` in JSON, and NaN when read again.
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    /// Share of examples whose largest output is the label's, for integer labels.
    pub accuracy: Option<f64>,
}

/// Evaluates in inference mode, every row exactly once: the last batch is filled up and the filling left out of the means.
pub fn evaluate(session: &mut Session, feeds: &Feeds, rows: &[usize]) -> Result<Metrics, SessionError> {
    let loss = session.compiled().loss().cloned();
    let mut sums = Sums::default();
    for chunk in rows.chunks(feeds.batch_size()) {
        let mut filled = chunk.to_vec();
        filled.resize(feeds.batch_size(), chunk[0]);
        let inputs = feeds.batch(&filled, feeds.phase(0, None));
        let views: Vec<(&str, TensorView)> = inputs.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect();
        let outputs = session.eval(&views)?;
        let share = chunk.len() as f64 / filled.len() as f64;
        if let (Some(each), Some(weight)) = (outputs.get(LOSS_PER_EXAMPLE), outputs.get(LOSS_WEIGHT)) {
            sums.add_losses(&each.to_f32(), &weight.to_f32(), share);
        }
        if let Some(info) = &loss
            && let (Some(prediction), Some((_, labels))) =
                (outputs.get(&info.prediction), inputs.iter().find(|(n, _)| Some(n) == info.target.as_ref()))
        {
            sums.add_hits(info, prediction, labels, share);
        }
    }
    Ok(sums.metrics())
}

#[derive(Default)]
struct Sums {
    loss: f64,
    weight: f64,
    hits: usize,
    labels: usize,
}

impl Sums {
    /// Adds the first `share` of a batch's losses.
    fn add_losses(&mut self, each: &[f32], weight: &[f32], share: f64) {
        let count = (each.len() as f64 * share).round() as usize;
        self.loss += each[..count].iter().map(|&l| l as f64).sum::<f64>();
        self.weight += weight[..count].iter().map(|&w| w as f64).sum::<f64>();
    }

    fn add_hits(&mut self, info: &LossInfo, prediction: &TensorView, labels: &HostTensor, share: f64) {
        let (Some(classes), Some(labels)) = (info.classes, labels.to_i64()) else { return };
        let scores = prediction.to_f32();
        if scores.len() != labels.len() * classes || prediction.ty().shape.last() != Some(&classes) {
            return;
        }
        let count = (labels.len() as f64 * share).round() as usize;
        let ignored = info.labels.as_ref().and_then(|range| range.also);
        let rows = labels.iter().zip(scores.chunks(classes)).take(count);
        for (label, row) in rows.filter(|(label, _)| Some(**label) != ignored) {
            self.labels += 1;
            self.hits += (arg_max(row) as i64 == *label) as usize;
        }
    }

    fn metrics(&self) -> Metrics {
        let accuracy = (self.labels > 0).then(|| self.hits as f64 / self.labels as f64);
        Metrics { loss: self.loss / self.weight, accuracy }
    }
}

fn arg_max(row: &[f32]) -> usize {
    let best = row.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(k, _)| k)
}
