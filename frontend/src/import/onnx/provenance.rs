//! Where a node comes from, as far as its exporter said.

use super::proto::{NodeProto, lookup};
use gradc_ir::diagnostic::Loc;

/// The place of a node: the user's own line when the file records a stack trace, else the model file; and the layer.
pub fn loc_of(node: &NodeProto, model_file: &str) -> Loc {
    let frame = lookup(&node.metadata_props, "pkg.torch.onnx.stack_trace").and_then(user_frame);
    let (file, line) = frame.unwrap_or((model_file, 0));
    Loc { file: file.into(), line, layer: layer_of(node), source_op: node.op_type.clone(), backward: false }
}

/// How a diagnostic calls a node: its name, or its first result when it has none.
pub fn name_of(node: &NodeProto) -> &str {
    let first = node.output.first().map_or("", String::as_str);
    if node.name.is_empty() { first } else { &node.name }
}

/// The layer: the last but one name scope (dynamo exporter) or the folder of the node's name (TorchScript exporter).
pub fn layer_of(node: &NodeProto) -> String {
    if let Some(scopes) = lookup(&node.metadata_props, "pkg.torch.onnx.name_scopes") {
        let scopes = python_strings(scopes);
        return scopes.len().checked_sub(2).map_or_else(String::new, |at| scopes[at].to_string());
    }
    match node.name.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((folder, _)) => folder.replace('/', "."),
        None => String::new(),
    }
}

/// The strings of a Python list literal such as `['', 'b1', 'b1.conv1']`.
fn python_strings(list: &str) -> Vec<&str> {
    list.split('\'').skip(1).step_by(2).collect()
}

/// File and line of the innermost frame that is not PyTorch's own.
fn user_frame(trace: &str) -> Option<(&str, u32)> {
    trace.lines().filter_map(frame).rfind(|(file, _)| !file.starts_with("torch/") && !file.contains("/torch/"))
}

/// File and line of `File "zoo.py", line 20, in forward`.
fn frame(line: &str) -> Option<(&str, u32)> {
    let (file, rest) = line.trim().strip_prefix("File \"")?.split_once("\", line ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((file, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::onnx::proto::StringStringEntryProto;

    fn node(name: &str, props: &[(&str, &str)]) -> NodeProto {
        let entry = |&(k, v): &(&str, &str)| StringStringEntryProto { key: k.into(), value: v.into() };
        NodeProto { name: name.into(), metadata_props: props.iter().map(entry).collect(), ..NodeProto::default() }
    }

    #[test]
    fn torchscript_names_are_layer_paths() {
        let layers = ["/blocks.0/attn/MatMul", "/Relu", "Constant_7", "/"].map(|n| loc_of(&node(n, &[]), "m").layer);
        assert_eq!(layers, ["blocks.0.attn", "", "", ""]);
    }

    #[test]
    fn dynamo_metadata_gives_layer_and_line() {
        let trace = "File \"zoo.py\", line 68, in forward\n    x\n  File \"zoo.py\", line 52, in forward\n    y\n  \
                     File \"torch/nn/modules/conv.py\", line 565, in forward";
        let props = [
            ("pkg.torch.onnx.name_scopes", "['', 'b1', 'b1.conv1', 'conv2d_1']"),
            ("pkg.torch.onnx.stack_trace", trace),
        ];
        let loc = loc_of(&node("node_conv2d_1", &props), "m.onnx");
        assert_eq!((loc.file.as_str(), loc.line, loc.layer.as_str()), ("zoo.py", 52, "b1.conv1"));
    }

    #[test]
    fn malformed_metadata_is_no_metadata() {
        let props =
            [("pkg.torch.onnx.name_scopes", "['x"), ("pkg.torch.onnx.stack_trace", "File \"a\", line 99999999999999")];
        let loc = loc_of(&node("n", &props), "m.onnx");
        assert_eq!((loc.file.as_str(), loc.line, loc.layer.as_str()), ("m.onnx", 0, ""));
    }
}
