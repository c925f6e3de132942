//! The types of `model.json`, which are also its schema.

use crate::schema::DTypeName;
use gradc_ir::types::DType;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A model in gradc's own format.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Version of the format.
    #[schemars(range(min = 1, max = 1))]
    #[serde(rename = "gradc")]
    pub _version: u32,
    /// Named extents, with the sizes they have unless the import says otherwise. The one called `batch` is the batch size.
    #[serde(default)]
    pub dims: BTreeMap<String, usize>,
    /// A safetensors file in the same folder with values of parameters, buffers and constants.
    pub weights: Option<String>,
    /// Data handed in for every call.
    pub inputs: Vec<InputDecl>,
    /// Tensors that may train.
    #[serde(default)]
    pub parameters: Vec<TensorDecl>,
    /// Tensors that are updated without a gradient: running statistics.
    #[serde(default)]
    pub buffers: Vec<TensorDecl>,
    /// Tensors that never change.
    #[serde(default)]
    pub constants: Vec<TensorDecl>,
    /// Bodies of loops and branches; a function may apply those before it.
    #[serde(default)]
    pub functions: Vec<FunctionDecl>,
    /// The computation; a node reads inputs, tensors and nodes before it.
    pub nodes: Vec<NodeDecl>,
    /// What the model returns, in order.
    pub outputs: Vec<OutputDecl>,
}

/// An extent: a number, or the name of one of `dims`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Extent {
    /// The extent.
    Size(usize),
    /// Its name in `dims`.
    Dim(String),
}

/// A data input.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputDecl {
    /// Name, unique among inputs, tensors and nodes.
    pub name: String,
    /// Element type.
    #[serde(default = "f32")]
    pub dtype: DTypeName,
    /// Extents, outermost first.
    pub shape: Vec<Extent>,
}

fn f32() -> DTypeName {
    DTypeName(DType::F32)
}

/// A tensor of the model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorDecl {
    /// Name, unique among inputs, tensors and nodes; also the tensor's name in the weights file.
    pub name: String,
    /// Element type.
    #[serde(default = "f32")]
    pub dtype: DTypeName,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// First value, unless the weights file has one.
    pub init: Option<Init>,
    /// Whether a recipe without `trainable` trains it; for parameters.
    #[serde(default = "yes")]
    pub trainable: bool,
}

fn yes() -> bool {
    true
}

/// How a tensor gets its first value; definitions are those of `torch.nn.init`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Init {
    /// 0 everywhere.
    Zeros {},
    /// 1 everywhere.
    Ones {},
    /// One value everywhere.
    Constant {
        /// The value.
        value: f64,
    },
    /// The values in row-major order.
    Values {
        /// As many as the tensor has elements.
        values: Vec<f64>,
    },
    /// Uniform in [low, high).
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
        /// Seed; the import's by default.
        seed: Option<u64>,
    },
    /// Normal.
    Normal {
        /// Mean.
        #[serde(default)]
        mean: f64,
        /// Standard deviation.
        #[serde(default = "unit")]
        #[schemars(range(min = 0.0))]
        std: f64,
        /// Seed; the import's by default.
        seed: Option<u64>,
    },
    /// Uniform within ±√(6 / ((1 + a²) · fan_in)) (He et al., 2015); `a` = √5 is the default of `torch.nn.Linear`.
    KaimingUniform {
        /// Negative slope of the leaky ReLU that follows.
        #[serde(default)]
        a: f64,
        /// Seed; the import's by default.
        seed: Option<u64>,
    },
    /// Uniform within ±gain · √(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).
    XavierUniform {
        /// Factor.
        #[serde(default = "unit")]
        gain: f64,
        /// Seed; the import's by default.
        seed: Option<u64>,
    },
}

fn unit() -> f64 {
    1.0
}

/// What a node of kind `call`, `cond`, `iterate`, `iterate_until` or `scan` applies. It sees its arguments alone; their
/// types are those of each use.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionDecl {
    /// Name, unique among functions.
    pub name: String,
    /// Names of the arguments.
    pub inputs: Vec<String>,
    /// The computation; a node reads arguments and nodes before it.
    pub nodes: Vec<NodeDecl>,
    /// What it returns, in order: arguments and nodes.
    pub outputs: Vec<String>,
}

/// A node: an op on named operands.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeDecl {
    /// Name, unique among inputs, tensors and nodes.
    pub name: String,
    /// A layer (`linear`, `conv2d`, `batch_norm`, …), an op of the IR by its text name (`dot_general`, …), or a loop or
    /// branch around one of `functions`:
    ///
    /// `iterate` (`body`, `count`) applies the body to its own results; operands are carries, one per result of the body,
    /// then constants; `count` may name one of `dims`. `iterate_until` (`body`, `max`): the body's last result, a boolean scalar, ends the loop; the
    /// node's last result is the number of steps. `scan` (`body`, `carries`, `scanned`, `reverse`) runs along the leading
    /// axis of the operands after the carries; what the body returns after the carries is stacked. `cond` (`then`,
    /// `else`): the first operand, a boolean scalar, chooses. `call` (`body`).
    pub op: String,
    /// Names of the operands; `node:1` is the second result of a node.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Attributes of the op. In lists of extents, names of `dims` stand for their sizes.
    #[serde(default)]
    pub attrs: Map<String, Value>,
}

/// A result of the model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputDecl {
    /// Name of the output.
    pub name: String,
    /// The node, input or tensor it is.
    pub value: String,
}
