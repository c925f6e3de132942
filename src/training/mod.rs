//! Training runs: data into steps, evaluation, checkpoints, resumption.

mod evaluate;
mod feeds;
mod history;
mod position;
mod run;
mod select;
mod split;

pub use evaluate::{Metrics, evaluate};
pub use feeds::{Feeds, Source};
pub use history::{EpochRecord, History};
pub use run::{Ending, Observer, RunSettings, Trainer};
pub use select::Trained;
pub use split::{Holdout, Split};
