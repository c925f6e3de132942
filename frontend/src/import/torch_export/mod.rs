//! Programs exported by PyTorch's `torch.export`: a `.pt2` archive, or the `models/model.json` inside it.
//!
//! The program is read as PyTorch traced it for training, before decompositions: layers are whole, and in-place
//! ops and running statistics overwrite tensors. It may as well be `run_decompositions({})`'s functional form.
//! The training graph and the inference graph are built from the same nodes.

use crate::model::{BatchNorm, ImportOptions, Model};
use archive::Archive;
use call::Mode;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use program::Program;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

mod archive;
mod arguments;
mod call;
mod fault;
mod graph;
mod init;
mod inline;
mod memory;
mod ops;
mod program;
mod provenance;
mod resize;
mod scalars;
mod schema;
mod sizes;
mod stops;
mod tensors;

pub use ops::names as operators;

/// Reads an exported program.
///
/// A `model.json` on its own has no weights: they come from the unzipped archive around it, from
/// `options.weights`, or are drawn afresh.
///
/// # Errors
/// Every node that cannot be imported, with its line in the user's program; or why the file cannot be read.
pub fn import(path: &Path, bytes: Vec<u8>, options: &ImportOptions) -> Result<Model, Diagnostics> {
    let opened = Archive::open(path, bytes).map_err(Diagnostics::from);
    opened.and_then(|opened| import_program(path, opened, options)).map_err(|found| place_in(path, found))
}

/// Reads an exported program from the file of its archive, whose weights are read one by one; errors as for [`import`].
pub fn import_archive(path: &Path, file: File, options: &ImportOptions) -> Result<Model, Diagnostics> {
    let opened = Archive::open_file(file).map_err(Diagnostics::from);
    opened.and_then(|opened| import_program(path, opened, options)).map_err(|found| place_in(path, found))
}

fn import_program(
    path: &Path,
    (archive, json): (Archive, Vec<u8>),
    options: &ImportOptions,
) -> Result<Model, Diagnostics> {
    let program = Program::parse(&json, options)?;
    drop(json);
    let tensors = tensors::load(&program, &archive, options)?;
    let name = super::model_name(path);
    let force_batch_norm = options.batch_norm == BatchNorm::Train;
    let mode = |training| Mode { training, force_batch_norm, seed: options.seed };
    let (train, graph_notes) = graph::build(&program, &tensors.aliases, &name, mode(true))?;
    let (infer, _) = graph::build(&program, &tensors.aliases, &name, mode(false))?;
    let frozen = program.declared.iter().filter(|d| d.is_frozen() && !tensors.aliases.contains_key(&d.name));
    Ok(Model {
        name,
        train,
        infer,
        frozen: frozen.map(|d| d.name.clone()).collect(),
        tensors: tensors.by_name,
        aliases: tensors.aliases,
        lost: BTreeSet::new(),
        notes: [program.notes.clone(), tensors.notes, graph_notes].concat(),
    })
}

/// Problems that have no place of their own are in the model file.
fn place_in(path: &Path, found: Diagnostics) -> Diagnostics {
    let place = |d: Diagnostic| if d.loc.is_unknown() { d.in_file(path.display()) } else { d };
    Diagnostics(found.0.into_iter().map(place).collect())
}
