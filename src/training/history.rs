//! What a run has done so far: one line of JSON per evaluation, appended as it happens.

use super::evaluate::Metrics;
use gradc_ir::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Steps so far.
    pub step: u64,
    /// Mean of the training losses since the last record.
    pub train_loss: f64,
    /// Metrics on the validation rows, if there are any.
    pub validation: Option<Metrics>,
}

/// The records of a run and the file they are kept in.
#[derive(Clone, Debug)]
pub struct History {
    path: PathBuf,
    /// Records in order.
    pub records: Vec<EpochRecord>,
}

impl History {
    /// A new history; an old file is emptied.
    pub fn create(path: &Path) -> Result<Self, Diagnostic> {
        std::fs::write(path, "").map_err(|e| unwritable(path, e))?;
        Ok(History { path: path.to_path_buf(), records: vec![] })
    }

    /// Goes on with the records up to `step`; later ones are of a run that went further than its checkpoint.
    pub fn resume(path: &Path, step: u64) -> Result<Self, Diagnostic> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let records = text.lines().map(serde_json::from_str::<EpochRecord>).collect::<Result<Vec<_>, _>>();
        let records = records.map_err(|e| Diagnostic::new("invalid-json", e.to_string()).in_file(path.display()))?;
        let mut history = History::create(path)?;
        records.into_iter().filter(|r| r.step <= step).try_for_each(|r| history.push(r))?;
        Ok(history)
    }

    /// Adds a record.
    pub fn push(&mut self, record: EpochRecord) -> Result<(), Diagnostic> {
        let line = serde_json::to_string(&record).map_err(|e| Diagnostic::new("internal-json", e.to_string()))?;
        let file = std::fs::OpenOptions::new().append(true).open(&self.path);
        file.and_then(|mut f| writeln!(f, "{line}")).map_err(|e| unwritable(&self.path, e))?;
        self.records.push(record);
        Ok(())
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Diagnostic {
    Diagnostic::new("unwritable-file", error.to_string()).in_file(path.display())
}
