//! Data files as columns: named tensors with one row per example.
//!
//! Reads safetensors, npy, npz, CSV and IDX, each also gzipped (`.gz`). Text is read by [`text`].

mod csv;
mod idx;
mod npy;
pub mod text;

use crate::weights;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Largest file that is decompressed, bytes after decompression.
const MAX_FILE_BYTES: u64 = 64 << 30;

/// Named tensors with equally many rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    columns: BTreeMap<String, HostTensor>,
    rows: usize,
}

impl Columns {
    /// Columns from tensors; fails when their first extents differ or one is a scalar.
    pub fn new(columns: BTreeMap<String, HostTensor>) -> Result<Self, Diagnostic> {
        let mut rows = None;
        for (name, tensor) in &columns {
            let Some(&count) = tensor.ty().shape.first() else {
                return Err(Diagnostic::new("data-shape", format!("column `{name}` is a scalar"))
                    .expected("one row per example"));
            };
            if *rows.get_or_insert(count) != count {
                return Err(Diagnostic::new("data-shape", format!("column `{name}` has another number of rows"))
                    .expected(format!("{} rows", rows.unwrap_or(0)))
                    .found(format!("{count} rows")));
            }
        }
        Ok(Columns { columns, rows: rows.unwrap_or(0) })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Names of the columns, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// A column.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.columns.get(name)
    }
}

/// Reads files into columns. A file is given as `path` or `column=path`; the latter names the only column of an
/// npy or IDX file, which otherwise takes the file's stem.
pub fn read(files: &[String]) -> Result<Columns, Diagnostic> {
    let mut all = BTreeMap::new();
    for file in files {
        let (name, path) = match file.split_once('=') {
            Some((name, path)) => (Some(name), Path::new(path)),
            None => (None, Path::new(file.as_str())),
        };
        for (column, tensor) in read_file(path, name).map_err(|d| d.in_file(path.display()))? {
            if all.insert(column.clone(), tensor).is_some() {
                return Err(Diagnostic::new("duplicate-column", format!("two data files have a column `{column}`"))
                    .in_file(path.display()));
            }
        }
    }
    Columns::new(all)
}

fn read_file(path: &Path, name: Option<&str>) -> Result<BTreeMap<String, HostTensor>, Diagnostic> {
    let bytes = read_bytes(path)?;
    let plain = path.to_string_lossy();
    let plain = plain.strip_suffix(".gz").unwrap_or(&plain);
    let column = name.map_or_else(|| stem(plain), str::to_string);
    let one = |tensor: HostTensor| BTreeMap::from([(column.clone(), tensor)]);
    match plain.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "safetensors" => weights::parse(&bytes).map(|(tensors, _)| tensors),
        "npz" => npy::read_npz(&bytes),
        "npy" => npy::read_npy(&bytes).map(one),
        "csv" => csv::read_csv(&bytes),
        _ if idx::is_idx(&bytes) => idx::read_idx(&bytes).map(one),
        _ => Err(Diagnostic::new("unknown-data-format", "this is no data file gradc reads")
            .expected("safetensors, npy, npz, csv, idx (each also .gz), or txt")
            .help("the format is told by the file's extension; IDX by its content")),
    }
}

fn stem(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| "data".to_string(), |s| s.to_string_lossy().into_owned())
}

/// The bytes of a file, decompressed when its name ends in `.gz`.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    let unreadable = |e: std::io::Error| Diagnostic::new("unreadable-file", e.to_string()).in_file(path.display());
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(file).take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    Ok(bytes)
}

/// A tensor type from sizes a file states, checked before anything is allocated.
fn stated_type(dtype: DType, shape: Vec<usize>) -> Result<TensorType, Diagnostic> {
    TensorType::checked(dtype, shape)
        .map_err(|e: TypeError| Diagnostic::from_type_error("data-shape", e, Default::default()))
}
