//! What every importer makes.

use gradc_ir::graph::Graph;
use gradc_ir::tensor::HostTensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A model: its forward graphs and its tensors, independent of the file format it came from.
///
/// Both graphs declare the same data inputs (role `Input`), use the same tensor names for roles
/// `Parameter`, `Buffer` and `Constant`, and have the same `Result` outputs in the same order.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name, for people: the file's stem.
    pub name: String,
    /// Forward in training mode; running statistics are `Update` outputs of their buffers.
    pub train: Graph,
    /// Forward in inference mode; no updates.
    pub infer: Graph,
    /// Initial value of every parameter, buffer and constant of either graph, by name.
    pub tensors: BTreeMap<String, HostTensor>,
    /// Parameters the file itself marks as not training (`requires_grad = False`).
    pub frozen: BTreeSet<String>,
    /// Further names of tied parameters: other name → name in `tensors`.
    pub aliases: BTreeMap<String, String>,
    /// Parameters that the file does not hold as such: its exporter computed constants from them, or made one of equal
    /// ones. They cannot train, and training all parameters is refused.
    pub lost: BTreeSet<String>,
    /// What the user should know although it is not an error.
    pub notes: Vec<String>,
}

/// What batch normalisation computes when training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorm {
    /// As the file says.
    #[default]
    File,
    /// PyTorch's training mode (batch statistics, unbiased running variance), whatever the file says.
    Train,
}

/// Arguments of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// What batch normalisation computes when training.
    pub batch_norm: BatchNorm,
    /// Batch size to import at instead of the file's, where the batch axis is known.
    pub batch: Option<usize>,
    /// Values of symbolic dimensions, by name.
    pub dims: BTreeMap<String, usize>,
    /// Tensors for a file that has none inside: a safetensors file.
    pub weights: Option<PathBuf>,
    /// Seed of initial values that the file asks to be drawn.
    pub seed: u64,
}
