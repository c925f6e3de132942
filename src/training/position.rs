//! Where a run is, as a checkpoint says it.

use gradc_ir::diagnostic::Diagnostic;
use std::collections::BTreeMap;

/// Where a run is: enough, with its [`Place`], to go on exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Position {
    pub epoch: usize,
    /// Batches of the epoch done.
    pub batch: usize,
    pub steps: u64,
    /// Sum and number of the finite training losses of the epoch so far.
    pub loss_sum: f64,
    pub loss_count: u64,
}

/// What a position refers to; in another order, or among other rows, it would mean other examples.
pub(super) struct Place<'a> {
    pub seed: u64,
    pub batch_size: usize,
    pub training_rows: &'a [usize],
}

impl Place<'_> {
    /// Metadata of a checkpoint. Floats go by their bits, so that a resumed run continues exactly.
    pub fn write(&self, position: &Position, best_loss: Option<f64>) -> BTreeMap<String, String> {
        let mut fields = vec![
            ("epoch", position.epoch.to_string()),
            ("batch", position.batch.to_string()),
            ("steps", position.steps.to_string()),
            ("loss_sum", position.loss_sum.to_bits().to_string()),
            ("loss_count", position.loss_count.to_string()),
            ("seed", self.seed.to_string()),
            ("batch_size", self.batch_size.to_string()),
            ("training_rows", self.training_rows.len().to_string()),
            ("training_rows_digest", digest(self.training_rows).to_string()),
        ];
        fields.extend(best_loss.map(|b| ("best_loss", b.to_bits().to_string())));
        fields.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
    }

    /// Position and best validation loss so far.
    pub fn read(&self, metadata: &BTreeMap<String, String>) -> Result<(Position, Option<f64>), Diagnostic> {
        let number = |name: &str| number(metadata, name);
        let position = Position {
            epoch: number("epoch")? as usize,
            batch: number("batch")? as usize,
            steps: number("steps")?,
            loss_sum: f64::from_bits(number("loss_sum")?),
            loss_count: number("loss_count")?,
        };
        self.check(metadata, &position)?;
        let best_loss =
            metadata.contains_key("best_loss").then(|| number("best_loss").map(f64::from_bits)).transpose()?;
        Ok((position, best_loss))
    }

    fn check(&self, metadata: &BTreeMap<String, String>, position: &Position) -> Result<(), Diagnostic> {
        let number = |name: &str| number(metadata, name);
        let seed = number("seed")?;
        if seed != self.seed {
            return Err(mismatch("another seed").expected(format!("--seed {seed}")).found(self.seed));
        }
        let (rows, found) = (number("training_rows")?, self.training_rows.len());
        if rows != found as u64 || number("training_rows_digest")? != digest(self.training_rows) {
            // otherwise rows that were trained on would be held out, and the other way round
            return Err(mismatch("other training rows")
                .expected(format!("{rows} training rows, held out as before"))
                .found(format!("{found} training rows"))
                .help("pass the data and the --validation or --validation-tail of that run"));
        }
        let size = number("batch_size")?;
        if position.batch > 0 && size != self.batch_size as u64 {
            return Err(mismatch("another batch size, within an epoch")
                .expected(format!("--batch {size}"))
                .found(self.batch_size)
                .help("finish the epoch with that batch size first"));
        }
        Ok(())
    }
}

fn number(metadata: &BTreeMap<String, String>, name: &str) -> Result<u64, Diagnostic> {
    let text = metadata.get(name).and_then(|t| t.parse().ok());
    text.ok_or_else(|| {
        Diagnostic::new("checkpoint-mismatch", format!("the checkpoint does not say `{name}`"))
            .help("it was not written by `gradc train`")
    })
}

fn mismatch(what: &str) -> Diagnostic {
    Diagnostic::new("checkpoint-mismatch", format!("the checkpoint was written by a run with {what}"))
}

/// FNV-1a of row numbers.
fn digest(rows: &[usize]) -> u64 {
    let bytes = rows.iter().flat_map(|&row| (row as u64).to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
