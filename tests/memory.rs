//! Memory plans of whole models: how close they come to the bytes that are alive at once.

mod common;

use common::{BUNDLED, batch, bundled, compiled, kept, step_on};
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
        assert_packed(name, &compiled(name, &Options::default()));
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

/// Arena and kept tensors, bytes.
fn planned_bytes(step: &CompiledStep) -> usize {
    step.report().arena_bytes() + step.persistent_bytes()
}

#[test]
fn under_a_limit_values_are_made_again_and_every_bit_stays() {
    let mut fitted = 0;
    for name in BUNDLED {
        let free = compiled(name, &Options::default());
        let limit = planned_bytes(&free) - free.report().arena_bytes() / 8;
        let options = Options { peak_mem_bytes: Some(limit), ..Options::default() };
        let (model, recipe) = bundled(name);
        let limited = match gradc::compile(&model, Some(&recipe), &options) {
            Ok(limited) => limited,
            Err(problems) => {
                assert!(problems.0.iter().all(|d| d.code == "peak-mem"), "{name}: {problems}");
                continue;
            }
        };
        assert!(planned_bytes(&limited) <= limit, "{name}: {} of {limit}", planned_bytes(&limited));
        let again = limited.report().entries[0].again.as_ref().expect("nothing but making values again saves bytes");
        assert!(again.values > 0 && again.flops >= 0.0);
        let [mut a, mut b] = [free, limited].map(|step| step.session().expect("a session"));
        for seed in 0..3 {
            let inputs = batch(a.compiled(), seed);
            assert_eq!(step_on(&mut a, &inputs).to_bits(), step_on(&mut b, &inputs).to_bits(), "{name}");
        }
        assert_eq!(kept(&a), kept(&b), "{name}");
        fitted += 1;
    }
    assert!(fitted >= 2, "only {fitted} of the models could do with an eighth less");
}

#[test]
fn without_a_limit_what_takes_next_to_no_time_is_made_again_and_every_bit_stays() {
    let Some(folder) = common::shared("reference/models/gpt_tiny") else { return };
    let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
    let model = gradc::import(&folder.join("model.pt2"), &ImportOptions::default()).expect("the model is valid");
    let [all_kept, spared] = [false, true].map(|spare_time| {
        let options = Options { spare_time, ..Options::default() };
        gradc::compile(&model, Some(&recipe), &options).expect("it compiles")
    });
    let (kept_bytes, spared_bytes) = (all_kept.report().arena_bytes(), spared.report().arena_bytes());
    assert!(spared_bytes <= kept_bytes / 12 * 11, "{spared_bytes} of {kept_bytes}");
    let again = spared.report().entries[0].again.as_ref().expect("values are made again");
    assert!(again.values > 0 && again.without_bytes == all_kept.report().entries[0].peaks.chosen_bytes);
    let [mut a, mut b] = [all_kept, spared].map(|step| step.session().expect("a session"));
    let inputs = batch(a.compiled(), 0);
    for _ in 0..2 {
        assert_eq!(step_on(&mut a, &inputs).to_bits(), step_on(&mut b, &inputs).to_bits());
    }
    assert_eq!(kept(&a), kept(&b));
}

#[test]
fn what_does_not_fit_says_by_how_much() {
    let (model, recipe) = bundled("mlp");
    let options = Options { peak_mem_bytes: Some(1), ..Options::default() };
    let problems = gradc::compile(&model, Some(&recipe), &options).err().expect("one byte is too little");
    let found = problems.0[0].found.clone().expect("what it takes");
    let kept_bytes = compiled("mlp", &Options::default()).persistent_bytes();
    assert!(found.contains(&format!("{kept_bytes} kept between steps")), "{found}");
}
