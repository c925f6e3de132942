//! Small ONNX files, made by hand.

use gradc_frontend::import::onnx::{self, proto::*};
use gradc_frontend::model::{ImportOptions, Model};
use gradc_ir::diagnostic::Diagnostics;
use prost::Message;
use std::path::Path;

/// `DataType` of single-precision floats.
pub const FLOAT: i32 = 1;
/// `DataType` of 64-bit integers.
pub const INT64: i32 = 7;

pub fn dim(size: i64) -> DimensionProto {
    DimensionProto { dim_value: Some(size), dim_param: None }
}

pub fn symbol(name: &str) -> DimensionProto {
    DimensionProto { dim_value: None, dim_param: Some(name.into()) }
}

pub fn value(name: &str, dims: &[DimensionProto]) -> ValueInfoProto {
    let shape = Some(TensorShapeProto { dim: dims.to_vec() });
    let tensor_type = Some(TensorTypeProto { elem_type: FLOAT, shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: INT64,
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

pub fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), kind: 2, i: Some(value), ..AttributeProto::default() }
}

pub fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    NodeProto {
        input: names(input),
        output: names(output),
        name: format!("/{}/{op_type}", output.first().unwrap_or(&"")),
        op_type: op_type.into(),
        ..NodeProto::default()
    }
}

/// A model with input `x` of shape `[2, 3]` and output `y`.
pub fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let input = vec![value("x", &[dim(2), dim(3)])];
    let output = vec![value("y", &[])];
    ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 18 }],
        graph: Some(GraphProto { node, initializer, input, output, ..GraphProto::default() }),
        ..ModelProto::default()
    }
}

/// Two linear layers on an input `[2, 3]`, with shape arithmetic between them.
pub fn small_model() -> ModelProto {
    let nodes = vec![
        node("Gemm", &["x", "fc1.weight", "fc1.bias"], &["h"]),
        node("Shape", &["h"], &["s"]),
        node("Relu", &["h"], &["r"]),
        node("Reshape", &["r", "s"], &["z"]),
        node("MatMul", &["z", "fc2.weight"], &["y"]),
    ];
    let weights = vec![
        floats("fc1.weight", &[3, 4], &[0.5; 12]),
        floats("fc1.bias", &[4], &[0.1, 0.2, 0.3, 0.4]),
        floats("fc2.weight", &[4, 2], &[-0.5; 8]),
    ];
    model(nodes, weights)
}

/// Imports a model as if it lay in a folder without other files.
pub fn load(model: &ModelProto) -> Result<Model, Diagnostics> {
    load_with(model, &ImportOptions::default())
}

/// [`load`], with options.
pub fn load_with(model: &ModelProto, options: &ImportOptions) -> Result<Model, Diagnostics> {
    onnx::import(Path::new("nowhere/small.onnx"), model.encode_to_vec(), options)
}
