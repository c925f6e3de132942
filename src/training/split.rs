//! Which rows train and which validate, and in which order rows are visited. Functions of the seed alone.

use gradc_ir::diagnostic::Diagnostic;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How validation rows are held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holdout {
    /// None are.
    Nothing,
    /// A fraction of all rows, drawn by a seeded shuffle.
    Shuffled(f64),
    /// The last rows: a count from 1, or a fraction below 1.
    Tail(f64),
}

/// Rows by use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to validate on.
    pub validation: Vec<usize>,
}

impl Split {
    /// Splits `rows` rows.
    pub fn new(rows: usize, holdout: Holdout, seed: u64) -> Result<Self, Diagnostic> {
        if rows == 0 {
            return Err(Diagnostic::new("too-few-rows", "the data fills no row")
                .expected("at least one row; of a text, two windows of the model's length and a character"));
        }
        let mut order: Vec<usize> = (0..rows).collect();
        let held = match holdout {
            Holdout::Nothing => 0,
            Holdout::Shuffled(fraction) => {
                order.shuffle(&mut stream(seed, u64::MAX));
                (rows as f64 * fraction).round() as usize
            }
            Holdout::Tail(fraction) if fraction < 1.0 => (rows as f64 * fraction).round() as usize,
            Holdout::Tail(count) => count as usize,
        };
        if held >= rows {
            let message = "nothing is left to train on";
            return Err(Diagnostic::new("validation-split", message)
                .expected(format!("fewer than {rows} validation rows"))
                .found(held));
        }
        let validation = order.split_off(rows - held);
        Ok(Split { train: order, validation })
    }

    /// The training rows in the order of an epoch.
    pub fn epoch(&self, seed: u64, epoch: usize) -> Vec<usize> {
        let mut order = self.train.clone();
        order.shuffle(&mut stream(seed, epoch as u64));
        order
    }
}

/// A generator of its own for each purpose, so that one draw never shifts another.
pub(super) fn stream(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}
