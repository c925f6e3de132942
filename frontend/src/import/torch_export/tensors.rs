//! Initial values: from the archive, from a safetensors file, or drawn afresh.

use super::archive::Archive;
use super::init::Fresh;
use super::program::{Declared, Program, dtype};
use super::schema::{Payload, PayloadConfig, Size};
use crate::model::ImportOptions;
use crate::weights;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::Role;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{TensorType, row_major_strides};
use std::collections::BTreeMap;

/// A tensor that repeats its storage may have this many elements.
const MAX_REPEATED_ELEMENTS: usize = 1 << 24;

/// Values of the model's tensors.
#[derive(Default)]
pub struct Tensors {
    /// By name in the model.
    pub by_name: BTreeMap<String, HostTensor>,
    /// Further names of one storage: other name → name in `by_name`.
    pub aliases: BTreeMap<String, String>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A folder of an archive with a list of what its files hold.
struct Shelf {
    folder: &'static str,
    config: BTreeMap<String, Payload>,
}

/// Finds the value of every parameter, buffer and constant.
pub fn load(program: &Program, archive: &Archive, options: &ImportOptions) -> Result<Tensors, Diagnostics> {
    let given = options.weights.as_deref().map(weights::read).transpose()?.unwrap_or_default();
    let shelves = [
        shelf(archive, "data/weights", "model_weights_config.json")?,
        shelf(archive, "data/constants", "model_constants_config.json")?,
    ];
    let mut tensors = Tensors::default();
    if options.weights.is_some() && archive.has_weights() {
        tensors.notes.push("the given weights replace those of the archive".into());
    }
    let mut errors = tie(program, &shelves, &mut tensors.aliases);
    let fresh = !archive.has_weights() && options.weights.is_none();
    let mut drawn = Fresh::new(program, options.seed);
    for declared in program.declared.iter().filter(|d| d.role != Role::Input) {
        if tensors.aliases.contains_key(&declared.name) {
            continue;
        }
        let stored = || shelves.iter().find_map(|s| Some((s, s.config.get(&declared.name)?)));
        let value = match (given.get(&declared.name), stored()) {
            (Some(tensor), _) => check_type(declared, tensor.clone()),
            (None, Some((shelf, payload))) => read_payload(archive, shelf, payload, declared),
            (None, None) if fresh => drawn.value(declared),
            (None, None) => Err(missing(declared)),
        };
        match value {
            Ok(value) => drop(tensors.by_name.insert(declared.name.clone(), value)),
            Err(error) => errors.push(error),
        }
    }
    if fresh && errors.is_empty() {
        tensors.notes.push(format!("the file has no weights: parameters are drawn afresh with seed {}", options.seed));
    }
    if errors.is_empty() { Ok(tensors) } else { Err(Diagnostics(errors)) }
}

fn missing(declared: &Declared) -> Diagnostic {
    Diagnostic::new("missing-tensor", format!("there is no value for `{}`", declared.name))
        .expected(&declared.ty)
        .help("give a safetensors file that has it, or the archive made by torch.export.save")
}

fn shelf(archive: &Archive, folder: &'static str, list: &str) -> Result<Shelf, Diagnostic> {
    let Some(json) = archive.read(&format!("{folder}/{list}"))? else {
        return Ok(Shelf { folder, config: BTreeMap::new() });
    };
    let config: PayloadConfig = serde_json::from_slice(&json)
        .map_err(|e| Diagnostic::new("invalid-program", format!("`{folder}/{list}` cannot be read: {e}")))?;
    Ok(Shelf { folder, config: config.config })
}

/// Parameters that share a file are one tensor under several names; the first declared is the name.
fn tie(program: &Program, shelves: &[Shelf], aliases: &mut BTreeMap<String, String>) -> Vec<Diagnostic> {
    let mut first: BTreeMap<&str, (&str, &Payload)> = BTreeMap::new();
    let mut errors = Vec::new();
    for declared in program.declared.iter().filter(|d| d.role == Role::Parameter) {
        let Some(payload) = shelves[0].config.get(&declared.name) else { continue };
        match first.get(payload.path_name.as_str()) {
            None => drop(first.insert(&payload.path_name, (&declared.name, payload))),
            Some((name, other)) if layout(other) == layout(payload) => {
                aliases.insert(declared.name.clone(), name.to_string());
            }
            Some((name, _)) => errors.push(
                Diagnostic::new(
                    "shared-storage",
                    format!("`{}` and `{name}` are different views of one storage", declared.name),
                )
                .help("parameters must be whole tensors: clone one of them before exporting"),
            ),
        }
    }
    errors
}

/// Sizes, strides and offset of a stored tensor; `None` where one is not a plain non-negative number.
fn layout(payload: &Payload) -> Option<(Vec<usize>, Vec<usize>, usize)> {
    let number = |size: &Size| match size {
        Size::AsInt(value) => usize::try_from(*value).ok(),
        Size::AsExpr(_) => None,
    };
    let numbers = |sizes: &[Size]| sizes.iter().map(number).collect::<Option<Vec<_>>>();
    let meta = &payload.tensor_meta;
    Some((numbers(&meta.sizes)?, numbers(&meta.strides)?, number(&meta.storage_offset)?))
}

fn read_payload(archive: &Archive, shelf: &Shelf, payload: &Payload, of: &Declared) -> Result<HostTensor, Diagnostic> {
    let path = format!("{}/{}", shelf.folder, payload.path_name);
    if payload.use_pickle {
        return Err(Diagnostic::new("pickled-tensor", format!("`{}` is stored as a Python pickle", of.name))
            .expected("plain bytes")
            .found(path));
    }
    let storage = archive.read(&path)?.ok_or_else(|| missing(of).found(format!("no file `{path}`")))?;
    let dtype = dtype(payload.tensor_meta.dtype);
    let stored = layout(payload).zip(dtype).ok_or_else(|| invalid_layout(of))?;
    let ((sizes, strides, offset), dtype) = stored;
    let ty = TensorType::checked(dtype, sizes)
        .map_err(|e| Diagnostic::new("invalid-size", format!("`{}`: {e}", of.name)))?;
    check_type(of, read_strided(ty, &strides, offset, storage).ok_or_else(|| invalid_layout(of))?)
}

fn invalid_layout(of: &Declared) -> Diagnostic {
    Diagnostic::new("invalid-layout", format!("`{}` does not lie inside its stored bytes", of.name))
        .expected("sizes, strides and offset within the file")
}

/// The contiguous tensor that strides and an offset, in elements, pick from a storage; `None` when they leave it.
fn read_strided(ty: TensorType, strides: &[usize], offset: usize, storage: Vec<u8>) -> Option<HostTensor> {
    let size = ty.dtype.size_bytes();
    if ty.rank() != strides.len() {
        return None;
    }
    if ty.elements() == 0 {
        return HostTensor::new(ty, vec![]).ok();
    }
    let reach =
        ty.shape.iter().zip(strides).try_fold(offset, |at, (&d, &s)| at.checked_add((d - 1).checked_mul(s)?))?;
    let end = reach.checked_add(1)?.checked_mul(size)?;
    if end > storage.len() || ty.elements() > (storage.len() / size).max(MAX_REPEATED_ELEMENTS) {
        return None;
    }
    let contiguous = row_major_strides(&ty.shape);
    if strides == contiguous {
        let whole = (offset, end) == (0, storage.len());
        let bytes = if whole { storage } else { storage[offset * size..end].to_vec() };
        return HostTensor::new(ty, bytes).ok();
    }
    let mut bytes = Vec::with_capacity(ty.size_bytes());
    for k in 0..ty.elements() {
        let place = |d: usize| k / contiguous[d] % ty.shape[d] * strides[d];
        let at = (offset + (0..ty.rank()).map(place).sum::<usize>()) * size;
        bytes.extend_from_slice(&storage[at..at + size]);
    }
    HostTensor::new(ty, bytes).ok()
}

fn check_type(declared: &Declared, tensor: HostTensor) -> Result<HostTensor, Diagnostic> {
    if *tensor.ty() == declared.ty {
        return Ok(tensor);
    }
    Err(Diagnostic::new("tensor-type", format!("the stored value of `{}` has another type", declared.name))
        .expected(&declared.ty)
        .found(tensor.ty()))
}
