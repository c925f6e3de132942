//! The JSON of an exported program, as `torch/_export/serde/schema.py` defines it (major version 8).
//!
//! Unknown fields are ignored, which is how the format grows within a major version; argument kinds that are not
//! known here are kept as [`Unknown`], so that they are reported where they are used.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// `models/model.json`.
#[derive(Debug, Deserialize)]
pub struct ExportedProgram {
    pub graph_module: GraphModule,
    pub schema_version: SchemaVersion,
    #[serde(default)]
    pub range_constraints: BTreeMap<String, RangeConstraint>,
    /// The dialect: `TRAINING` as exported, another one once decomposed.
    #[serde(default)]
    pub verifiers: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct SchemaVersion {
    pub major: u64,
    pub minor: u64,
}

/// Inclusive bounds of a symbolic size; absent where there is none.
#[derive(Debug, Deserialize)]
pub struct RangeConstraint {
    pub min_val: Option<i64>,
    pub max_val: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub struct GraphModule {
    pub graph: Graph,
    pub signature: Signature,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Graph {
    #[serde(default)]
    pub inputs: Vec<Argument>,
    #[serde(default)]
    pub outputs: Vec<Argument>,
    pub nodes: Vec<Node>,
    pub tensor_values: BTreeMap<String, TensorMeta>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    #[serde(default)]
    pub name: Option<String>,
    pub target: String,
    pub inputs: Vec<NamedArgument>,
    pub outputs: Vec<Argument>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct NamedArgument {
    pub name: String,
    pub arg: Argument,
}

/// A reference to a tensor or a symbolic integer by name.
#[derive(Clone, Debug, Deserialize)]
pub struct Named {
    pub name: String,
}

/// One argument or output of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    AsNone(IgnoredAny),
    AsTensor(Named),
    AsTensors(Vec<Named>),
    AsOptionalTensor(OptionalTensor),
    AsOptionalTensors(Vec<OptionalTensor>),
    AsInt(i64),
    AsInts(Vec<i64>),
    AsFloat(#[serde(deserialize_with = "float")] f64),
    AsFloats(Vec<f64>),
    AsBool(bool),
    AsString(String),
    AsScalarType(IgnoredAny),
    AsDevice(IgnoredAny),
    AsLayout(IgnoredAny),
    AsMemoryFormat(IgnoredAny),
    AsSymInt(SymIntArgument),
    AsSymInts(Vec<SymIntArgument>),
    AsGraph(GraphArgument),
    #[serde(untagged)]
    Unknown(Unknown),
}

/// A graph within the program.
#[derive(Clone, Debug, Deserialize)]
pub struct GraphArgument {
    pub name: String,
    pub graph: Graph,
}

/// A kind of thing that is not known here; its key names it.
pub type Unknown = BTreeMap<String, IgnoredAny>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionalTensor {
    AsTensor(Named),
    AsNone(IgnoredAny),
}

impl OptionalTensor {
    /// Its name, when it is there.
    pub fn name(&self) -> Option<&str> {
        match self {
            OptionalTensor::AsTensor(t) => Some(&t.name),
            OptionalTensor::AsNone(_) => None,
        }
    }
}

/// An integer, or the name of one that a node computes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SymIntArgument {
    AsName(String),
    AsInt(i64),
}

/// Type and placement of a tensor.
#[derive(Clone, Debug, Deserialize)]
pub struct TensorMeta {
    pub dtype: u32,
    pub sizes: Vec<Size>,
    pub strides: Vec<Size>,
    pub storage_offset: Size,
    #[serde(default)]
    pub requires_grad: bool,
}

/// A size: known, or an expression over symbols with the value it had when exporting.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    AsInt(i64),
    AsExpr(SymExpr),
}

#[derive(Clone, Debug, Deserialize)]
pub struct SymExpr {
    pub expr_str: String,
    #[serde(default)]
    pub hint: Option<Hint>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    AsInt(i64),
    #[serde(untagged)]
    Other(IgnoredAny),
}

#[derive(Debug, Deserialize)]
pub struct Signature {
    pub input_specs: Vec<InputSpec>,
    pub output_specs: Vec<OutputSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputSpec {
    Parameter {
        arg: Named,
        parameter_name: String,
    },
    Buffer {
        arg: Named,
        buffer_name: String,
        persistent: bool,
    },
    TensorConstant {
        arg: Named,
        tensor_constant_name: String,
    },
    UserInput {
        arg: Argument,
    },
    ConstantInput {},
    #[serde(untagged)]
    Unknown(Unknown),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputSpec {
    UserOutput {
        arg: Argument,
    },
    LossOutput {
        arg: Named,
    },
    BufferMutation {
        arg: Named,
        buffer_name: String,
    },
    #[serde(untagged)]
    Unknown(Unknown),
}

/// `model_weights_config.json` and `model_constants_config.json`: where each tensor's bytes are.
#[derive(Debug, Default, Deserialize)]
pub struct PayloadConfig {
    pub config: BTreeMap<String, Payload>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Payload {
    pub path_name: String,
    #[serde(default)]
    pub use_pickle: bool,
    pub tensor_meta: TensorMeta,
}

/// A float; JSON has no infinities, so they are written as strings.
fn float<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Number(f64),
        Word(String),
    }
    match Text::deserialize(deserializer)? {
        Text::Number(value) => Ok(value),
        Text::Word(word) => match word.as_str() {
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            "NaN" => Ok(f64::NAN),
            _ => Err(serde::de::Error::custom(format!("`{word}` is not a number"))),
        },
    }
}
