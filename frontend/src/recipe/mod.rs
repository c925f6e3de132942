//! How to train: the types of `recipe.json`, which are also its schema.

mod budget;
mod check;
mod part;
mod resolve;
mod solvers;
#[cfg(test)]
mod tests;

pub use budget::{Amount, Budget, GivenImportance, Importance, Limit, Measured, given_importances};
pub use resolve::{Resolved, name_or_only, resolve, trainable_set};
pub use solvers::Solvers;

use crate::losses::LossKind;
use crate::model::BatchNorm;
use crate::schema::{self, DTypeName};
use gradc_ir::diagnostic::Diagnostics;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is minimised.
    pub loss: Loss,
    /// How parameters follow their gradients.
    pub optimizer: Optimizer,
    /// What trains: names of parameters, with `*`, `?` and `[…]` as in Python's fnmatch (`*` also matches dots), or
    /// parts of parameters.
    /// Without it, everything trains that the model file does not freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Vec<Trainable>>,
    /// Most that training may cost; of what `trainable` names, that trains which matters most within it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How the learning rate changes over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Largest norm of all gradients taken together; larger ones are scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_norm: Option<f64>,
    /// Number of batches whose gradients are averaged for one update.
    #[serde(default = "one")]
    pub accumulate: NonZeroU64,
    /// What batch normalisation computes when training.
    #[serde(default)]
    pub batch_norm: BatchNorm,
    /// How gradients of loops (solvers, recurrences) are computed. For each loop, the first entry whose pattern matches
    /// its layer holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub solvers: Vec<Solver>,
    /// Where inputs and target come from: input name (or target name) to column of the data file.
    /// What is not listed comes from the column of its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Column>,
    /// What happens to the examples at the end of an epoch that do not fill a batch.
    #[serde(default)]
    pub last_batch: LastBatch,
    /// What a loss that is not finite does to the run; the step's updates are dropped either way.
    #[serde(default)]
    pub non_finite: NonFinite,
}

fn one() -> NonZeroU64 {
    NonZeroU64::MIN
}

/// Which loss, of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Loss {
    /// The loss.
    #[serde(flatten)]
    pub kind: LossKind,
    /// Output of the model that is compared; for kind `output`, the loss itself.
    pub prediction: String,
    /// Name of the target among the inputs of a step.
    #[serde(default = "default_target")]
    pub target: String,
}

fn default_target() -> String {
    "target".into()
}

/// An update rule; definitions and defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Learning rate.
        #[serde(default = "default_lr")]
        #[schemars(range(min = 0.0))]
        lr: f64,
        /// Weight of the previous update.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        momentum: f64,
        /// What the momentum leaves out of the gradient.
        #[serde(default)]
        dampening: f64,
        /// Nesterov's momentum.
        #[serde(default)]
        nesterov: bool,
        /// Added to the gradient per unit of the parameter.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
    },
    /// Adam (Kingma and Ba, 2015).
    Adam {
        /// Learning rate.
        #[serde(default = "default_lr")]
        #[schemars(range(min = 0.0))]
        lr: f64,
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "default_betas")]
        betas: [Beta; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(range(min = 0.0))]
        eps: f64,
        /// Added to the gradient per unit of the parameter.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    Adamw {
        /// Learning rate.
        #[serde(default = "default_lr")]
        #[schemars(range(min = 0.0))]
        lr: f64,
        /// Decay of the averages of the gradient and of its square.
        #[serde(default = "default_betas")]
        betas: [Beta; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(range(min = 0.0))]
        eps: f64,
        /// Share of the parameter that goes per step and unit of learning rate.
        #[serde(default = "default_decoupled_decay")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
    },
}

/// Decay of an average: at least 0 and less than 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Beta(#[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))] pub f64);

fn default_lr() -> f64 {
    1e-3
}

fn default_betas() -> [Beta; 2] {
    [Beta(0.9), Beta(0.999)]
}

fn default_eps() -> f64 {
    1e-8
}

fn default_decoupled_decay() -> f64 {
    1e-2
}

impl Optimizer {
    /// Learning rate before the schedule.
    pub fn lr(&self) -> f64 {
        match self {
            Optimizer::Sgd { lr, .. } | Optimizer::Adam { lr, .. } | Optimizer::Adamw { lr, .. } => *lr,
        }
    }
}

/// What trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Trainable {
    /// Whole parameters, by a pattern of their names.
    Glob(String),
    /// Parts of parameters.
    Part(ParameterPart),
}

impl Trainable {
    /// Names of parameters that it is about, by a pattern.
    pub fn pattern(&self) -> &str {
        match self {
            Trainable::Glob(pattern) => pattern,
            Trainable::Part(part) => &part.param,
        }
    }
}

/// Some indices of one axis of parameters. Several entries of one parameter and axis unite; gradient, optimizer state
/// and update are as large as the part, and the rest of the parameter stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterPart {
    /// Names of parameters, by a pattern.
    pub param: String,
    /// The axis: 0 is what a linear layer or convolution makes, 1 what it reads (per group of a convolution).
    pub axis: usize,
    /// Number of equal groups of neighbouring indices that the axis falls into, such as heads of an attention; `keep`
    /// then counts groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<NonZeroUsize>,
    /// Which indices, or groups, train.
    pub keep: Keep,
}

/// Which indices of an axis train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Keep {
    /// A range `start..end` without its end, or a share `1/8`: the first eighth, rounded down but at least one.
    Text(String),
    /// A list of indices.
    Indices(Vec<usize>),
}

/// How the gradients of some loops are computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Solver {
    /// Layers whose loops are meant, a pattern as in `trainable`.
    pub at: String,
    /// The gradient.
    pub backward: SolverBackward,
    /// What an approximate gradient has to hold; the exact one is computed in a step where it does not.
    #[serde(default)]
    pub tolerance: SolverTolerance,
}

/// The gradient of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SolverBackward {
    /// As without an entry: exact, unrolled where the loop is short.
    Auto,
    /// Exact, of a flat graph of all steps: the loop is unrolled whatever its length.
    Unrolled,
    /// Exact, from what is kept of every step; of steps that are affine nothing is.
    Exact,
    /// Exact, from about √K of the K states; the steps between them are made again.
    Checkpoint,
    /// Approximate unless steps are affine: K steps of the derivative at the loop's result, under a guard.
    Frozen,
    /// Approximate: the derivative of the fixed point that the loop approaches, under a guard.
    Implicit,
}

/// What an approximate gradient of a loop has to hold, in every row of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SolverTolerance {
    /// Largest change that one more step makes, relative to 1 + the norm of the result.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub forward: f64,
    /// Largest residual of the linear system of an implicit gradient, relative to its right side.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub backward: f64,
    /// Largest relative difference between an implicit gradient and that of as many steps as the loop has.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub gap: f64,
}

impl Default for SolverTolerance {
    fn default() -> Self {
        SolverTolerance { forward: 1e-5, backward: 1e-5, gap: 1e-3 }
    }
}

/// How the learning rate changes over the steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Schedule {
    /// The course after the warm-up.
    #[serde(flatten)]
    pub kind: ScheduleKind,
    /// Number of first steps over which the learning rate rises linearly to its full value.
    #[serde(default)]
    pub warmup_steps: u64,
}

/// The course of the learning rate; steps count from the end of the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ScheduleKind {
    /// It stays.
    #[default]
    Constant,
    /// It is multiplied by `gamma` after every `step_size` steps.
    Step {
        /// Steps between two changes.
        step_size: NonZeroU64,
        /// The factor.
        #[serde(default = "default_gamma")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        gamma: f64,
    },
    /// It falls to `min_lr` along half a cosine (Loshchilov and Hutter, 2017), and stays there.
    Cosine {
        /// Steps until `min_lr`.
        total_steps: NonZeroU64,
        /// The last learning rate.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        min_lr: f64,
    },
    /// It falls to `min_lr` along a line, and stays there.
    Linear {
        /// Steps until `min_lr`.
        total_steps: NonZeroU64,
        /// The last learning rate.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        min_lr: f64,
    },
}

fn default_gamma() -> f64 {
    0.1
}

/// One column of the data file, and what is done to it: (value · scale − mean) / std, then shape and dtype.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name of the column.
    pub column: String,
    /// Factor of every element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Subtracted after scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<PerChannel>,
    /// Divides after subtracting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<PerChannel>,
    /// Shape of one example, without the batch axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshape: Option<Vec<usize>>,
    /// Dtype; the input's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cast: Option<DTypeName>,
    /// Takes the element that many places later: the target of a language model is its input shifted by 1.
    #[serde(default)]
    pub shift: usize,
}

/// One number, or one per channel (first axis of an example).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerChannel {
    /// For all elements.
    All(f64),
    /// One per channel.
    Each(Vec<f64>),
}

/// What happens to the examples at the end of an epoch that do not fill a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LastBatch {
    /// They are left out.
    #[default]
    Drop,
    /// The batch is filled up with examples from the start of the epoch.
    Pad,
}

/// What a loss that is not finite does to the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// Training stops with a diagnostic.
    #[default]
    Stop,
    /// The step is skipped and counted.
    Skip,
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Everything wrong with it, each problem with the path of its field, such as `optimizer.betas[1]`.
    pub fn from_file(path: &Path) -> Result<Recipe, Diagnostics> {
        let text = crate::import::read(path)?;
        Recipe::from_json(&text).map_err(|all| schema::in_file(all, path))
    }

    /// Reads a recipe from JSON text; errors as for [`Recipe::from_file`].
    pub fn from_json(text: &[u8]) -> Result<Recipe, Diagnostics> {
        let recipe: Recipe = schema::read(text)?;
        recipe.check()?;
        Ok(recipe)
    }
}
