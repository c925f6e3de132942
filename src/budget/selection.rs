//! What was selected, and what it costs.

use super::importance::Importances;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limited {
    /// Operations of the backward pass.
    BackwardFlops,
    /// Memory for activations, gradients and optimizer state, bytes.
    TrainingBytes,
}

/// A set of parameters that trains, and what that costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selection {
    /// The parameters that train.
    pub chosen: BTreeSet<String>,
    /// What each parameter is worth that could train; 0 of those that are never selected.
    pub importances: Importances,
    /// What is limited.
    pub limited: Limited,
    /// The most it may be.
    pub budget: u64,
    /// What it is, as the compiled step has it.
    pub cost: u64,
    /// What it is if everything trains.
    pub full_cost: u64,
    /// Whether no other set is worth more by the costs of the step in which everything trains.
    pub is_exact: bool,
}

impl Selection {
    /// The cost as a share of that of training everything.
    pub fn share(&self) -> f64 {
        self.cost as f64 / self.full_cost.max(1) as f64
    }

    /// The share of all importance that is chosen.
    pub fn importance_share(&self) -> f64 {
        let chosen: f64 = self.chosen.iter().filter_map(|name| self.importances.get(name)).sum();
        chosen / self.importances.values().sum::<f64>()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, scale, unit) = match self.limited {
            Limited::BackwardFlops => ("backward pass", 1e-6, "MFLOP"),
            Limited::TrainingBytes => ("training memory", 1.0 / (1 << 20) as f64, "MiB"),
        };
        let scaled = |cost: u64| cost as f64 * scale;
        write!(f, "{} of {} parameters train", self.chosen.len(), self.importances.len())?;
        write!(f, ": {what} {:.3} of {:.3} {unit}", scaled(self.cost), scaled(self.full_cost))?;
        write!(f, ", {:.1} % ({:.3} allowed)", 100.0 * self.share(), scaled(self.budget))?;
        write!(f, ", {:.1} % of all importance", 100.0 * self.importance_share())?;
        if self.is_exact { Ok(()) } else { f.write_str(" (of too many sets to keep all; a better one may exist)") }
    }
}
