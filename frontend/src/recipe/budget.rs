//! A limit on what training costs, and what the parameters are worth that share it.

use super::Recipe;
use super::resolve::{matching, parameter_names};
use crate::bytes::parse_bytes;
use crate::model::Model;
use crate::schema::at;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

/// A limit on what training costs, `backward_flops` or `training_bytes`: of what `trainable` names, those parameters train
/// that matter most within it (GreenTrainer: Huang, Yang and Gao, 2024).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Most operations of the backward pass, as a share of those if all of `trainable` trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub backward_flops: Option<f64>,
    /// Most memory for activations, gradients and optimizer state, that is the step's arena and the state: a share of
    /// what it is if all of `trainable` trains, or bytes, such as `"8M"`. The forward pass alone takes some of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_bytes: Option<Amount>,
    /// What parameters are worth.
    #[serde(default)]
    pub importance: Importance,
    /// Epochs after which importances are measured and parameters selected anew; without it, they are once, before
    /// the first step. Optimizer state of parameters that no longer train is dropped, that of new ones starts at zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_every: Option<NonZeroUsize>,
}

/// A limit of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A share.
    Share(#[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))] f64),
    /// Bytes, with suffix K, M or G for powers of 1024.
    Bytes(String),
}

/// What parameters are worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Importance {
    /// As a list says; of each parameter, the first entry whose pattern matches it holds. What no entry matches is not
    /// selected.
    Given(Vec<GivenImportance>),
    /// What their updates take off the loss, measured by `gradc train`. Where nothing was measured yet, as when
    /// compiling, as many as the elements that train.
    Measured(Measured),
}

impl Default for Importance {
    fn default() -> Self {
        Importance::Measured(Measured::default())
    }
}

/// The importance of some parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenImportance {
    /// Names of parameters, by a pattern as in `trainable`.
    pub param: String,
    /// What each is worth, in units of your own.
    #[schemars(range(min = 0.0))]
    pub value: f64,
}

/// How importances are measured: Σ|gradient · update| over the elements that train, in batches of the epoch to come, at
/// parameters as they are and with optimizer state that starts at zero. This needs the time and memory of training all
/// of `trainable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Number of batches.
    pub batches: NonZeroUsize,
}

impl Default for Measured {
    fn default() -> Self {
        Measured { batches: NonZeroUsize::MIN.saturating_add(7) }
    }
}

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// A share of the operations of the backward pass.
    BackwardFlops(f64),
    /// A share of the memory that training takes.
    TrainingShare(f64),
    /// Memory that training takes, bytes.
    TrainingBytes(usize),
}

impl Budget {
    /// What is limited, and to what.
    ///
    /// # Errors
    /// Neither or both of the limits are there, or one is out of range.
    pub fn limit(&self) -> Result<Limit, Diagnostic> {
        match (&self.backward_flops, &self.training_bytes) {
            (Some(share), None) => Ok(Limit::BackwardFlops(checked("budget.backward_flops", *share)?)),
            (None, Some(Amount::Share(share))) => Ok(Limit::TrainingShare(checked("budget.training_bytes", *share)?)),
            (None, Some(Amount::Bytes(text))) => {
                let wrong = |why: String| at("budget.training_bytes", "wrong-value", why);
                let expected = "a share of at most 1, or bytes such as `\"8M\"`";
                parse_bytes(text).map(Limit::TrainingBytes).map_err(|why| wrong(why).expected(expected).found(text))
            }
            (given, _) => Err(at("budget", "inconsistent-recipe", "a budget has one limit")
                .expected("either `backward_flops` or `training_bytes`")
                .found(if given.is_some() { "both" } else { "neither" })),
        }
    }

    /// Everything inconsistent at once.
    pub(super) fn check(&self) -> Vec<Diagnostic> {
        let fixed = self.select_every.is_some() && matches!(self.importance, Importance::Given(_));
        let again = fixed.then(|| {
            at("budget.select_every", "inconsistent-recipe", "importances that are given do not change between epochs")
                .expected("measured importances, or no `select_every`")
        });
        self.limit().err().into_iter().chain(again).collect()
    }
}

/// A share, unless it is out of range.
fn checked(path: &str, share: f64) -> Result<f64, Diagnostic> {
    let wrong = || at(path, "wrong-value", "a share of all is more than 0 and at most 1").found(share);
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err(wrong()) }
}

/// The importances that a recipe gives, by the names of the model's tensors; `None` where they are measured.
///
/// # Errors
/// Every entry that is malformed or matches nothing.
pub fn given_importances(recipe: &Recipe, model: &Model) -> Result<Option<BTreeMap<String, f64>>, Diagnostics> {
    let Some(Budget { importance: Importance::Given(entries), .. }) = &recipe.budget else { return Ok(None) };
    let names = parameter_names(model);
    let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
    for (k, entry) in entries.iter().enumerate() {
        match matching(&entry.param, &names) {
            Ok(matched) => matched.into_iter().for_each(|name| {
                found.entry(name.to_string()).or_insert(entry.value);
            }),
            Err(problem) => {
                let path = format!("budget.importance[{k}].param");
                problems.push(Diagnostic { loc: at(&path, "", "").loc, ..problem });
            }
        }
    }
    if problems.is_empty() { Ok(Some(found)) } else { Err(Diagnostics(problems)) }
}
