//! Model files in: the format is told by the content, never by the name.

pub mod json;
pub mod onnx;
pub mod torch_export;

use crate::model::{ImportOptions, Model};
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::Role;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Reads a model file of any supported format.
///
/// # Errors
/// Every problem found, each with its place in the file.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Model, Diagnostics> {
    if options.batch == Some(0) || options.dims.values().any(|&size| size == 0) {
        return Err(Diagnostic::new("invalid-batch", "a batch must not be empty")
            .expected("at least 1")
            .found(0)
            .into());
    }
    let model = import_any(path, options)?;
    if let Some(empty) =
        model.infer.inputs().iter().find(|i| i.role == Role::Input && model.infer.ty(i.value).elements() == 0)
    {
        let message = format!("input `{}` has no elements", empty.name);
        return Err(Diagnostic::new("invalid-batch", message)
            .in_file(path.display())
            .found(model.infer.ty(empty.value))
            .into());
    }
    if model.infer.outputs().is_empty() {
        return Err(Diagnostic::new("no-outputs", "the model returns nothing").in_file(path.display()).into());
    }
    Ok(model)
}

fn import_any(path: &Path, options: &ImportOptions) -> Result<Model, Diagnostics> {
    let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let mut start = vec![];
    (&mut file).take(ZIP_MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| unreadable(path, &e))?;
    // An archive is read entry by entry: it is as large as its weights.
    if start == ZIP_MAGIC {
        return torch_export::import_archive(path, file, options);
    }
    let bytes = read(path)?;
    let format = Format::of(&bytes).map_err(|d| d.in_file(path.display()))?;
    format.importer()(path, bytes, options)
}

/// A dimension is the batch, and both are given, differently.
pub(crate) fn contradicting_sizes(name: &str, dimension: usize, batch: usize) -> Diagnostic {
    Diagnostic::new("contradicting-sizes", format!("dimension `{name}` is the batch, but is given another size"))
        .expected(format!("one size; the batch is {batch}"))
        .found(format!("{name}={dimension}"))
}

/// How an archive begins.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// Reads a model from the bytes of a file; the path names it and finds what lies beside it.
type Importer = fn(&Path, Vec<u8>, &ImportOptions) -> Result<Model, Diagnostics>;

/// The bytes of a file, or a diagnostic naming it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    std::fs::read(path).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new("unreadable-file", format!("the file cannot be read: {error}")).in_file(path.display())
}

/// The name a model gets from its file: the stem.
pub fn model_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned())
}

/// Format of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// gradc's own JSON.
    Gradc,
    /// An archive written by `torch.export.save`, or its `model.json` alone.
    TorchExport,
    /// A serialized ONNX `ModelProto`.
    Onnx,
}

/// The fields by which the two JSON formats differ.
#[derive(Deserialize)]
struct JsonFields {
    graph_module: Option<IgnoredAny>,
    nodes: Option<IgnoredAny>,
}

impl Format {
    /// Tells the format from the first bytes, and between the two JSON formats from their fields.
    fn of(bytes: &[u8]) -> Result<Format, Diagnostic> {
        if bytes.starts_with(ZIP_MAGIC) {
            return Ok(Format::TorchExport);
        }
        match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
            None => Err(Diagnostic::new("empty-file", "the model file is empty")),
            Some(b'{') => Format::of_json(bytes),
            Some(_) => Ok(Format::Onnx),
        }
    }

    fn importer(self) -> Importer {
        match self {
            Format::Gradc => json::import,
            Format::Onnx => onnx::import,
            Format::TorchExport => torch_export::import,
        }
    }

    fn of_json(bytes: &[u8]) -> Result<Format, Diagnostic> {
        let fields: JsonFields = serde_json::from_slice(bytes)
            .map_err(|e| Diagnostic::new("invalid-json", format!("the file is not valid JSON: {e}")))?;
        match fields {
            JsonFields { graph_module: Some(_), .. } => Ok(Format::TorchExport),
            JsonFields { nodes: Some(_), .. } => Ok(Format::Gradc),
            _ => Err(Diagnostic::new("unknown-format", "the JSON file is not a model")
                .expected("`nodes` (gradc) or `graph_module` (torch.export) at the top level")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content() {
        let cases: [(&[u8], Result<Format, &str>); 8] = [
            (b"PK\x03\x04rest", Ok(Format::TorchExport)),
            (b" \n{\"schema_version\":{},\"graph_module\":{\"graph\":{}}}", Ok(Format::TorchExport)),
            (b"{\"nodes\":[]}", Ok(Format::Gradc)),
            (b"\x08\x07\x12\x07pytorch", Ok(Format::Onnx)),
            (b"", Err("empty-file")),
            (b"  \n", Err("empty-file")),
            (b"{\"nodes\":[", Err("invalid-json")),
            (b"{\"weights\":[]}", Err("unknown-format")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Format::of(bytes).map_err(|d| d.code), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
