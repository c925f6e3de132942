//! What a run has done so far: one line of JSON per evaluation, appended as it happens.

use super::evaluate::Metrics;
use gradc_frontend::replace::replace;
use gradc_ir::diagnostic::Diagnostic;
use serde::{Deserialize, Deserializer, Serialize};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Steps so far.
    pub step: u64,
    /// Mean of the finite training losses since the last record; NaN if there was none, which JSON calls `null`.
    #[serde(deserialize_with = "number_or_null")]
    pub train_loss: f64,
    /// Metrics on the validation rows, if there are any.
    pub validation: Option<Metrics>,
}

/// The records of a run and the file they are kept in.
#[derive(Clone, Debug, Default)]
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

    /// Goes on with the records of the first `epochs` epochs; later ones are of a run that went further than its
    /// checkpoint. The file is the old one or the new one, whatever happens.
    pub fn resume(path: &Path, epochs: usize) -> Result<Self, Diagnostic> {
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Diagnostic::new("unreadable-file", e.to_string()).in_file(path.display()));
            }
            text => text.unwrap_or_default(),
        };
        let (mut records, mut kept) = (Vec::new(), String::new());
        for line in text.lines() {
            let record: EpochRecord = serde_json::from_str(line)
                .map_err(|e| Diagnostic::new("invalid-json", e.to_string()).in_file(path.display()))?;
            if record.epoch <= epochs {
                kept += &format!("{line}\n");
                records.push(record);
            }
        }
        if kept != text || !path.exists() {
            replace(path, kept.as_bytes()).map_err(|e| unwritable(path, e))?;
        }
        Ok(History { path: path.to_path_buf(), records })
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

/// Reads what is written of a float: `null` where it is not finite.
pub(super) fn number_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

fn unwritable(path: &Path, error: std::io::Error) -> Diagnostic {
    Diagnostic::new("unwritable-file", error.to_string()).in_file(path.display())
}
