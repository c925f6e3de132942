//! Memory plans of whole models: how close they come to the bytes that are alive at once.

mod common;

use common::BUNDLED;
use gradc::{CompiledStep, ImportOptions, Options, Recipe};

/// Gaps between buffers cost at most this much of what any plan for the same order needs.
const MOST_OF_BOUND: f64 = 1.15;

fn assert_packed(name: &str, step: &CompiledStep) {
    for entry in &step.report().entries {
        let bound = entry.peaks.chosen_bytes;
        assert!(entry.arena_bytes >= bound, "{name}, {}: {bound} bytes live in {}", entry.name, entry.arena_bytes);
        let most = MOST_OF_BOUND * bound as f64;
        assert!(entry.arena_bytes as f64 <= most, "{name}, {}: {} bytes for {bound}", entry.name, entry.arena_bytes);
        assert!(bound <= entry.peaks.program_bytes, "{name}, {}: reordering costs memory", entry.name);
    }
}

#[test]
fn arenas_of_the_bundled_models_are_close_to_what_is_alive() {
    for name in BUNDLED {
        assert_packed(name, &common::compiled(name, &Options::default()));
    }
}

#[test]
fn arenas_of_the_reference_models_are_close_to_what_is_alive() {
    let Some(folder) = common::shared("reference/models") else { return };
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let folder = entry.expect("an entry").path();
        let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
        let options = ImportOptions { batch_norm: recipe.batch_norm, ..ImportOptions::default() };
        let model = gradc::import(&folder.join("model.pt2"), &options).expect("the model is valid");
        let step = gradc::compile(&model, Some(&recipe), &Options::default()).expect("it compiles");
        assert_packed(&folder.display().to_string(), &step);
    }
}
