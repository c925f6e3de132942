//! gradc's own model format, `model.json`: declarations, and nodes that name layers or ops of the IR.
//!
//! Its JSON Schema is published as `schema/model.schema.json`. `batch_norm` trains on batch statistics whatever the
//! options say: that is what this format's op means.

mod call;
mod file;
mod graph;
mod init;
mod layers;
mod regions;
#[cfg(test)]
mod tests;

pub(crate) use file::Init;
pub use file::ModelFile;
pub(crate) use init::{MAX_INITIALISED, initialise};

use crate::import::{contradicting_sizes, model_name};
use crate::model::{ImportOptions, Model};
use crate::schema::{self, at};
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use graph::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the dimension that [`ImportOptions::batch`] sets.
const BATCH: &str = "batch";

/// Reads a model in gradc's own format.
///
/// # Errors
/// Everything wrong with it: fields, names, ops, operands, attributes, missing or mismatched weights.
pub fn import(path: &Path, bytes: Vec<u8>, options: &ImportOptions) -> Result<Model, Diagnostics> {
    model(path, &bytes, options).map_err(|all| schema::in_file(all, path))
}

fn model(path: &Path, bytes: &[u8], options: &ImportOptions) -> Result<Model, Diagnostics> {
    let file: ModelFile = schema::read(bytes)?;
    let dims = dims(&file, options)?;
    let (name, source) = (model_name(path), path.display().to_string());
    let build = |training: bool| {
        graph::build(&file, &name, Context { source: &source, dims: &dims, training, functions: &file.functions })
    };
    // Both graphs come from the same nodes: what is wrong with one is told once.
    let (train, tensors) = (build(true), init::tensors(&file, path, options));
    let (train, tensors) = both(train, tensors)?;
    let infer = build(false)?;
    let frozen: BTreeSet<String> = file.parameters.iter().filter(|p| !p.trainable).map(|p| p.name.clone()).collect();
    let (aliases, lost, notes) = Default::default();
    Ok(Model { infer, train, tensors, frozen, aliases, lost, notes, name })
}

/// Both values, or the problems of both.
fn both<A, B>(a: Result<A, Diagnostics>, b: Result<B, Diagnostics>) -> Result<(A, B), Diagnostics> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (a, b) => Err(Diagnostics([a.err(), b.err()].into_iter().flatten().flat_map(|all| all.0).collect())),
    }
}

/// Sizes of the named dimensions: the file's, unless the options have others.
fn dims(file: &ModelFile, options: &ImportOptions) -> Result<BTreeMap<String, usize>, Diagnostics> {
    if let (Some(&size), Some(batch)) = (options.dims.get(BATCH), options.batch)
        && size != batch
    {
        return Err(contradicting_sizes(BATCH, size, batch).into());
    }
    let given = options.dims.iter().map(|(name, size)| (name.clone(), *size));
    let given: BTreeMap<String, usize> = given.chain(options.batch.map(|size| (BATCH.to_string(), size))).collect();
    let known: Vec<&str> = file.dims.keys().map(String::as_str).collect();
    let unknown = given.keys().filter(|name| !file.dims.contains_key(*name)).map(|name| {
        let mut problem = at("dims", "unknown-dim", format!("the model has no dimension `{name}`"));
        problem.expected =
            Some(if known.is_empty() { "no dimension: all extents are fixed".into() } else { known.join(", ") });
        problem.help = (name == BATCH).then(|| "name the batch extent `batch` in `dims` to change it".into());
        problem
    });
    let unknown: Vec<Diagnostic> = unknown.collect();
    if unknown.is_empty() {
        Ok(file.dims.clone().into_iter().chain(given).collect())
    } else {
        Err(Diagnostics(unknown))
    }
}
