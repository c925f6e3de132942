//! Packages: a compiled model in one file, without the machine's code.
//!
//! A package is a safetensors file: the model's tensors, and in its metadata gradc's version, and each entry's graph and
//! memory plan as text. Loading parses these and generates code for the machine it is loaded on.

use crate::entries::{Entry, EntryKind, LossInfo};
use crate::options::Options;
use crate::place::entry_code;
use crate::report::CompileReport;
use crate::step::CompiledStep;
use gradc_codegen::EntryCode;
use gradc_frontend::weights;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::layout::Layout;
use gradc_ir::plan::{MemoryPlan, Schedule};
use gradc_ir::text;
use gradc_ir::verify::verify;
use gradc_passes::memory::{SharedLayout, check_plan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

/// Extension of package files.
pub const EXTENSION: &str = "gradc";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether a path names a package.
pub fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == EXTENSION)
}

/// Writes a package, atomically.
pub fn save(step: &CompiledStep, path: &Path) -> Result<(), Diagnostic> {
    if !is_package(path) {
        let message = format!("a package's name must end in .{EXTENSION}");
        return Err(Diagnostic::new("package-name", message).in_file(path.display()));
    }
    let mut metadata =
        BTreeMap::from([("gradc".to_string(), VERSION.to_string()), ("name".to_string(), step.name().to_string())]);
    for entry in &step.inner.entries {
        metadata.insert(format!("plan.{}", entry.kind.name()), entry.plan_text.to_string());
        metadata.insert(format!("graph.{}", entry.kind.name()), entry.graph_text.to_string());
    }
    metadata.extend(step.loss().map(|loss| to_json("loss", loss)).transpose()?);
    metadata.extend(step.recipe().map(|recipe| to_json("recipe", recipe)).transpose()?);
    weights::write(path, &step.inner.tensors, &metadata)
}

/// Reads a package and generates code for it; refuses packages of another version.
pub fn load(path: &Path, options: &Options) -> Result<CompiledStep, Diagnostics> {
    let (tensors, metadata) = weights::read_with_metadata(path)?;
    check_version(&metadata, path)?;
    let loss: Option<LossInfo> = json_field(&metadata, "loss", path)?;
    let mut planned = Vec::new();
    for kind in EntryKind::ALL {
        planned.extend(entry(kind, &metadata).map_err(|d| d.in_file(path.display()))?);
    }
    let schedules = planned.iter().map(|(_, plan): &(Entry, MemoryPlan)| &plan.schedule);
    let kept = schedules.flat_map(kept_as_scheduled).collect();
    let layout = SharedLayout { kept, ..SharedLayout::of(planned.iter().map(|(entry, _)| &entry.graph)) };
    planned.iter().try_for_each(|(_, plan)| check_plan(plan, &layout).map_err(|d| d.in_file(path.display())))?;
    let codes: Vec<EntryCode> = planned.iter().map(|(entry, plan)| entry_code(entry.kind.name(), plan)).collect();
    let mut report = CompileReport::default();
    let executable = report.time("codegen", || gradc_codegen::compile(&codes, &options.codegen()))?;
    report.loaded(&planned, executable.kernels());
    let name = metadata.get("name").cloned().unwrap_or_default();
    let recipe = json_field(&metadata, "recipe", path)?;
    CompiledStep::new(name, &tensors, executable, planned, (loss, recipe), layout, options.pool()?, report)
}

/// The layouts in which a schedule has what is kept between calls.
fn kept_as_scheduled(schedule: &Schedule) -> impl Iterator<Item = (String, Layout)> {
    let kept = schedule.graph.inputs().iter().filter(|input| input.role.is_persistent());
    kept.filter_map(|input| Some((input.name.clone(), schedule.layouts.get(&input.value)?.clone())))
}

fn check_version(metadata: &BTreeMap<String, String>, path: &Path) -> Result<(), Diagnostic> {
    match metadata.get("gradc") {
        Some(version) if version == VERSION => Ok(()),
        Some(version) => Err(Diagnostic::new("package-version", "the package was made by another version of gradc")
            .in_file(path.display())
            .expected(VERSION)
            .found(version)
            .help("compile the model again")),
        None => {
            Err(Diagnostic::new("not-a-package", "this safetensors file is no gradc package").in_file(path.display()))
        }
    }
}

fn to_json(name: &str, value: &impl Serialize) -> Result<(String, String), Diagnostic> {
    let text = serde_json::to_string(value).map_err(|e| Diagnostic::new("internal-json", e.to_string()))?;
    Ok((name.to_string(), text))
}

fn json_field<T: DeserializeOwned>(
    metadata: &BTreeMap<String, String>,
    name: &str,
    path: &Path,
) -> Result<Option<T>, Diagnostic> {
    let parse = |text: &String| {
        serde_json::from_str(text).map_err(|e| Diagnostic::new("invalid-json", e.to_string()).in_file(path.display()))
    };
    metadata.get(name).map(parse).transpose()
}

fn entry(kind: EntryKind, metadata: &BTreeMap<String, String>) -> Result<Option<(Entry, MemoryPlan)>, Diagnostic> {
    let (Some(plan), Some(graph)) =
        (metadata.get(&format!("plan.{}", kind.name())), metadata.get(&format!("graph.{}", kind.name())))
    else {
        return Ok(None);
    };
    let (plan, graph) = (text::parse_plan(plan)?, text::parse(graph)?);
    verify(&plan.schedule.graph)?;
    verify(&graph)?;
    Ok(Some((Entry { kind, graph }, plan)))
}
