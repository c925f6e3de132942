//! Exported programs made by hand, as archives.

use gradc_frontend::import::torch_export::import;
use gradc_frontend::model::{ImportOptions, Model};
use gradc_ir::diagnostic::Diagnostics;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// f32 in the export schema.
pub const F32: u32 = 7;
/// i64 in the export schema.
pub const I64: u32 = 5;
/// bool in the export schema.
pub const BOOL: u32 = 12;

/// A program being written.
#[derive(Clone)]
pub struct Program {
    /// `models/model.json`.
    pub json: Value,
    /// `model_weights_config.json`.
    pub weights: Value,
    /// Bytes by name in `data/weights`.
    pub files: Vec<(String, Vec<u8>)>,
}

fn sizes(values: &[usize]) -> Value {
    values.iter().map(|v| json!({"as_int": v})).collect()
}

fn meta(dtype: u32, shape: &[usize], requires_grad: bool) -> Value {
    let mut strides = vec![1; shape.len()];
    for k in (1..shape.len()).rev() {
        strides[k - 1] = strides[k] * shape[k];
    }
    json!({"dtype": dtype, "sizes": sizes(shape), "strides": sizes(&strides), "storage_offset": {"as_int": 0},
           "requires_grad": requires_grad, "device": {"type": "cpu", "index": null}, "layout": 7})
}

/// A tensor argument.
pub fn tensor(name: &str) -> Value {
    json!({"as_tensor": {"name": name}})
}

impl Program {
    /// A program without inputs, nodes and outputs.
    pub fn new() -> Self {
        let json = json!({
            "graph_module": {
                "graph": {"inputs": [], "outputs": [], "nodes": [], "tensor_values": {}},
                "signature": {"input_specs": [], "output_specs": []},
            },
            "schema_version": {"major": 8, "minor": 20},
            "range_constraints": {},
        });
        Program { json, weights: json!({}), files: vec![] }
    }

    fn graph(&mut self) -> &mut Value {
        &mut self.json["graph_module"]["graph"]
    }

    fn push(&mut self, specs: &str, spec: Value) {
        self.json["graph_module"]["signature"][specs].as_array_mut().expect("a list").push(spec);
    }

    /// Records the type of a tensor.
    pub fn value(mut self, name: &str, dtype: u32, shape: &[usize]) -> Self {
        self.graph()["tensor_values"][name] = meta(dtype, shape, false);
        self
    }

    /// A data input.
    pub fn input(mut self, name: &str, dtype: u32, shape: &[usize]) -> Self {
        self.push("input_specs", json!({"user_input": {"arg": tensor(name)}}));
        self.value(name, dtype, shape)
    }

    /// A parameter called `name` in the model and `p_name` in the graph, stored in the file of its name.
    pub fn parameter(mut self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let id = format!("p_{name}");
        self.push("input_specs", json!({"parameter": {"arg": {"name": id}, "parameter_name": name}}));
        self.graph()["tensor_values"][&id] = meta(F32, shape, true);
        self.weights[name] = json!({"path_name": name, "is_param": true, "tensor_meta": meta(F32, shape, true)});
        self.files.push((name.to_string(), values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        self
    }

    /// A buffer called `name` in the model and `b_name` in the graph.
    pub fn buffer(mut self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let id = format!("b_{name}");
        let spec = json!({"buffer": {"arg": {"name": id}, "buffer_name": name, "persistent": true}});
        self = self.parameter(name, shape, values);
        let specs = self.json["graph_module"]["signature"]["input_specs"].as_array_mut().expect("a list");
        *specs.last_mut().expect("just pushed") = spec;
        self.value(&id, F32, shape)
    }

    /// A node with one output.
    pub fn node(self, target: &str, args: &[(&str, Value)], output: &str, dtype: u32, shape: &[usize]) -> Self {
        self.nodes(target, args, json!([tensor(output)]), output).value(output, dtype, shape)
    }

    /// A node with outputs as they stand in the file.
    pub fn nodes(mut self, target: &str, args: &[(&str, Value)], outputs: Value, name: &str) -> Self {
        let inputs: Vec<Value> = args.iter().map(|(name, arg)| json!({"name": name, "arg": arg, "kind": 1})).collect();
        let line = self.graph()["nodes"].as_array().expect("a list").len() + 10;
        let metadata = json!({"stack_trace": format!("File \"net.py\", line {line}, in forward\n    y"),
                              "nn_module_stack": "L__self__,,net.Net;L__self__block,block,net.Block"});
        let node = json!({"target": format!("torch.ops.aten.{target}"), "inputs": inputs, "outputs": outputs,
                          "metadata": metadata, "name": name});
        self.graph()["nodes"].as_array_mut().expect("a list").push(node);
        self
    }

    /// An output of the program.
    pub fn output(mut self, name: &str) -> Self {
        self.push("output_specs", json!({"user_output": {"arg": tensor(name)}}));
        self
    }

    /// The archive that `torch.export.save` would write.
    pub fn archive(&self) -> Vec<u8> {
        let mut entries = vec![
            ("models/model.json".to_string(), self.json.to_string().into_bytes()),
            (
                "data/weights/model_weights_config.json".to_string(),
                json!({"config": self.weights}).to_string().into_bytes(),
            ),
        ];
        entries.extend(self.files.iter().map(|(name, bytes)| (format!("data/weights/{name}"), bytes.clone())));
        zip(&entries.iter().map(|(name, bytes)| (format!("net/{name}"), bytes.as_slice())).collect::<Vec<_>>())
    }

    /// Imports the archive.
    pub fn import_with(&self, options: &ImportOptions) -> Result<Model, Diagnostics> {
        import(Path::new("net.pt2"), self.archive(), options)
    }

    /// Imports the archive.
    pub fn import(&self) -> Result<Model, Diagnostics> {
        self.import_with(&ImportOptions::default())
    }

    /// What is wrong with the archive.
    pub fn problems(&self) -> String {
        self.import().expect_err("the program is wrong").to_string()
    }
}

/// A ZIP archive, every other entry deflated.
pub fn zip(entries: &[(String, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for (k, (name, data)) in entries.iter().enumerate() {
        let method = if k % 2 == 0 { rawzip::CompressionMethod::DEFLATE } else { rawzip::CompressionMethod::STORE };
        let (mut entry, config) = archive.new_file(name).compression_method(method).start().expect("an entry");
        let descriptor = if k % 2 == 0 {
            let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, Default::default()));
            writer.write_all(data).expect("memory can be written");
            let (encoder, descriptor) = writer.finish().expect("the entry ends");
            encoder.finish().expect("the stream ends");
            descriptor
        } else {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(data).expect("memory can be written");
            writer.finish().expect("the entry ends").1
        };
        entry.finish(descriptor).expect("the entry ends");
    }
    archive.finish().expect("the archive ends");
    bytes
}
