//! Whole training steps against PyTorch: every reference model, from every file format it comes in.

mod common;

use gradc::options::Backend;
use gradc::reference::{Reference, Tolerance, Verdict, compare};
use gradc::{ImportOptions, Options, Recipe, import};
use gradc_passes::egraph::rules::NumericClass;
use std::path::Path;

fn check(name: &str, file: &str, options: &Options) {
    let Some(folder) = common::shared("reference/models") else { return };
    let folder = folder.join(name);
    let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
    let import_options = ImportOptions { batch_norm: recipe.batch_norm, ..ImportOptions::default() };
    let model = import(&folder.join(file), &import_options).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
    let reference = Reference::read(&folder.join("reference.safetensors")).expect("the reference is readable");
    let tolerance = Tolerance::read_f32_error(&folder.join("f32_error.json")).expect("the yardstick is readable");
    let comparison =
        compare(&model, &recipe, options, &reference, &tolerance).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
    let wrong: Vec<_> = comparison.tensors.iter().filter(|t| t.verdict == Verdict::TooFar).collect();
    assert!(
        wrong.is_empty(),
        "{name}/{file}: {} of {} tensors are off: {wrong:#?}",
        wrong.len(),
        comparison.tensors.len()
    );
}

fn check_all(name: &str) {
    for file in ["model.pt2", "model.onnx", "model_dynamo.onnx"] {
        check(name, file, &Options::default());
    }
}

macro_rules! reference_models {
    ($($name:ident),+ $(,)?) => {
        const REFERENCE_MODELS: &[&str] = &[$(stringify!($name)),+];
        $(#[test] fn $name() { check_all(stringify!($name)); })+
    };
}

reference_models!(
    mlp_digits,
    mlp_mnist,
    lenet,
    resnet8,
    mobilenetv2_tiny,
    mobilenetv2_sparse,
    gpt_tiny,
    lora_mlp,
    char_lstm,
    ista_denoiser,
);

#[test]
fn without_the_optimizer_too() {
    for name in ["mlp_digits", "lenet", "lora_mlp"] {
        check(name, "model.pt2", &Options { optimize: false, ..Options::default() });
    }
}

#[test]
fn with_reassociation_too() {
    for name in REFERENCE_MODELS {
        check(name, "model.pt2", &Options { fp: NumericClass::Reassociation, ..Options::default() });
    }
}

/// What `--target host` takes where there are no tiles of bf16.
#[test]
fn without_parts_of_floats_too() {
    let target = gradc_ir::target::Target::host();
    if target == gradc_codegen::host_target() {
        eprintln!("SKIPPED: parts of floats are multiplied on AMX alone, which this processor or its system lacks");
        return;
    }
    for name in ["gpt_tiny", "char_lstm"] {
        check(name, "model.pt2", &Options { target: target.clone(), ..Options::default() });
    }
}

#[test]
fn on_portable_kernels_too() {
    let target = gradc_ir::target::Target::of(gradc_ir::target::VectorIsa::Portable);
    check("lenet", "model.pt2", &Options { target, ..Options::default() });
}

#[test]
fn with_the_products_of_a_library_too() {
    for name in ["mlp_mnist", "gpt_tiny", "char_lstm"] {
        check(name, "model.pt2", &Options { backend: Backend::Gemm, ..Options::default() });
    }
}

/// The recipes are data of the reference: a copy that drifts would weaken every test here.
#[test]
fn every_model_is_listed() {
    let Some(folder) = common::shared("reference/models") else { return };
    let found = std::fs::read_dir(&folder)
        .expect("a folder")
        .filter(|e| Path::new(&e.as_ref().expect("an entry").path()).is_dir())
        .count();
    assert_eq!(found, REFERENCE_MODELS.len());
}
