//! What the end-to-end tests share.

#![allow(dead_code, reason = "every test program uses a part")]

pub mod planned;
pub mod rolled;

use gradc::bench::random_inputs;
use gradc::entries::EntryKind;
use gradc::{CompiledStep, HostTensor, ImportOptions, Model, Options, Recipe, Session, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder of the reference material that lies beside the project, or `None` after saying loudly that it is absent.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    let root = std::env::var_os("GRADC_SHARED").map_or(beside, PathBuf::from);
    let path = root.join(folder);
    if !path.exists() {
        eprintln!("SKIPPED: {folder} is not there; set GRADC_SHARED to the folder that has it");
        return None;
    }
    Some(path)
}

/// Small models that cover the kinds of layers, each with a recipe.
pub const BUNDLED: [&str; 6] = ["attention", "convnet", "language_model", "lora", "lstm", "mlp"];

/// A file of the project.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Model and recipe file of a bundled model.
pub fn bundled_files(name: &str) -> [PathBuf; 2] {
    [file(&format!("tests/cases/models/{name}.json")), file(&format!("tests/cases/models/{name}.recipe.json"))]
}

/// A bundled model and its recipe.
pub fn bundled(name: &str) -> (Model, Recipe) {
    let [model, recipe] = bundled_files(name);
    let recipe = Recipe::from_file(&recipe).unwrap_or_else(|e| panic!("{e}"));
    (gradc::import(&model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}")), recipe)
}

/// A bundled model, compiled.
pub fn compiled(name: &str, options: &Options) -> CompiledStep {
    let (model, recipe) = bundled(name);
    gradc::compile(&model, Some(&recipe), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Made inputs of a training step.
pub fn batch(step: &CompiledStep, seed: u64) -> BTreeMap<String, HostTensor> {
    random_inputs(step.entry(EntryKind::Step).expect("compiled with a recipe"), seed)
}

/// One step; its loss.
pub fn step_on(session: &mut Session, inputs: &BTreeMap<String, HostTensor>) -> f32 {
    let views: Vec<(&str, TensorView)> = inputs.iter().map(|(name, t)| (name.as_str(), TensorView::from(t))).collect();
    session.step(&views).expect("a valid step")
}

/// Everything a session keeps between steps.
pub fn kept(session: &Session) -> BTreeMap<String, HostTensor> {
    let tensors = session.compiled().persistent().iter();
    tensors.map(|t| (t.name.clone(), session.parameter(&t.name).expect("it is kept").to_host())).collect()
}
