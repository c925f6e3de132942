//! Another order of sums and products is allowed so that steps take less time: it never makes a plan dearer.

mod common;

use gradc::entries::EntryKind;
use gradc::options::Backend;
use gradc::{CompiledStep, ImportOptions, Model, Options, Recipe, import};
use gradc_codegen::Engine;
use gradc_passes::cost::Cost;
use gradc_passes::egraph::rules::NumericClass;
use std::path::{Path, PathBuf};

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

/// The bundled models, and the reference models where they are.
fn models() -> Vec<(String, Model, Recipe)> {
    let bundled = common::BUNDLED.iter().copied().chain(["equalized", "lora_merged", "tied_gpt"]);
    let bundled = bundled.map(|name| {
        let (model, recipe) = common::bundled(name);
        (name.to_string(), model, recipe)
    });
    let folders = common::shared("reference/models").map_or(vec![], |folder| folders_in(&folder));
    let reference = folders.into_iter().map(|folder| {
        let name = folder.display();
        let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
        let options = ImportOptions { batch_norm: recipe.batch_norm, ..ImportOptions::default() };
        let model = import(&folder.join("model.pt2"), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name.to_string(), model, recipe)
    });
    bundled.chain(reference).collect()
}

fn compiled(model: &Model, recipe: &Recipe, fp: NumericClass, backend: Backend) -> CompiledStep {
    let options = Options { threads: 1, fp, backend, ..Options::default() };
    gradc::compile(model, Some(recipe), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Estimated cost of the training step as it was optimized.
fn cost(step: &CompiledStep) -> Cost {
    let (_, rewrites) = step.report().rewrites.first().expect("the step was optimized");
    rewrites.after.cost
}

#[test]
fn no_step_is_planned_dearer() {
    for (name, model, recipe) in models() {
        let [strict, free] = [NumericClass::Bitwise, NumericClass::Reassociation]
            .map(|fp| cost(&compiled(&model, &recipe, fp, Backend::Auto)));
        println!(
            "{name}: {:.3e} -> {:.3e} ns, {:.3e} -> {:.3e} flops",
            strict.time_ns, free.time_ns, strict.flops, free.flops
        );
        // equal costs added in another order may differ in the last bits
        assert!(
            free.time_ns <= strict.time_ns * (1.0 + 1e-9),
            "{name}: {} ns, {} ns strictly",
            free.time_ns,
            strict.time_ns
        );
    }
}

/// A library is for products that no kernel of gradc's serves: where its own tiles are, they are not given up for it.
#[test]
fn the_library_replaces_loops_alone() {
    for (name, model, recipe) in models() {
        let [auto, own] = [Backend::Auto, Backend::Own]
            .map(|backend| compiled(&model, &recipe, NumericClass::Reassociation, backend));
        let pairs = auto.engines(EntryKind::Step).iter().zip(own.engines(EntryKind::Step));
        for (k, (auto, own)) in pairs.enumerate() {
            let replaces_loops = *auto == Some(Engine::Gemm) && *own == Some(Engine::Loops);
            assert!(auto == own || replaces_loops, "{name}, kernel {k}: {auto:?} instead of {own:?}");
        }
    }
}
