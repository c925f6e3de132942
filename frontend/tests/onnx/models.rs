//! The reference models' files.

use super::reference::{MODELS, folder, tensors};
use gradc_frontend::import::import;
use gradc_frontend::model::{BatchNorm, ImportOptions, Model};
use gradc_ir::graph::{OutputKind, Role};
use gradc_ir::interpret::step;
use gradc_ir::tensor::Tensor;
use gradc_ir::verify::verify;
use std::collections::{BTreeSet, HashMap};

const FILES: [&str; 2] = ["model.onnx", "model_dynamo.onnx"];

/// Import as the reference recipes ask for it: batch normalisation trains.
fn load(model: &str, file: &str, options: &ImportOptions) -> Option<Model> {
    let imported = import(&folder(model)?.join(file), options);
    Some(imported.unwrap_or_else(|e| panic!("{model}/{file}:\n{e}")))
}

fn training() -> ImportOptions {
    ImportOptions { batch_norm: BatchNorm::Train, ..ImportOptions::default() }
}

fn names(model: &Model, role: Role) -> BTreeSet<String> {
    let inputs = model.train.inputs().iter().filter(|i| i.role == role);
    inputs.map(|i| i.name.clone()).collect()
}

#[test]
fn every_reference_file_imports_with_pytorchs_names() {
    for model in MODELS {
        let Some(reference) = tensors(model) else { return };
        let after = |running: bool| {
            let names = reference.keys().filter_map(|k| k.strip_prefix("after."));
            names.filter(|n| n.contains(".running_") == running).map(str::to_string).collect::<BTreeSet<_>>()
        };
        for file in FILES {
            let Some(found) = load(model, file, &training()) else { return };
            for graph in [&found.train, &found.infer] {
                verify(graph).unwrap_or_else(|e| panic!("{model}/{file}:\n{e}"));
            }
            assert!(names(&found, Role::Parameter).is_superset(&after(false)), "{model}/{file}");
            assert_eq!(names(&found, Role::Buffer), after(true), "{model}/{file}");
            let updates = found.train.outputs().iter().filter(|o| matches!(o.kind, OutputKind::Update(_)));
            assert_eq!(updates.map(|o| o.name.clone()).collect::<BTreeSet<_>>(), after(true), "{model}/{file}");
            assert!(found.infer.outputs().iter().all(|o| o.kind == OutputKind::Result), "{model}/{file}");
        }
    }
}

/// Mean softmax cross entropy of logits `[N, C]`.
fn cross_entropy(logits: &Tensor, target: &[i64]) -> f64 {
    let classes = logits.ty.shape[1];
    let row = |(logits, &target): (&[f64], &i64)| {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
        largest + sum.ln() - logits[target as usize]
    };
    logits.floats().chunks(classes).zip(target).map(row).sum::<f64>() / target.len() as f64
}

fn mean_squared_error(y: &Tensor, target: &Tensor) -> f64 {
    let squares = y.floats().iter().zip(target.floats()).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f64>() / y.ty.elements() as f64
}

/// Loss of the training graph in the interpreter, and PyTorch's.
fn first_loss(model: &str, file: &str) -> Option<(f64, f64)> {
    let reference = tensors(model)?;
    let found = load(model, file, &training())?;
    let mut state: HashMap<String, Tensor> =
        found.tensors.iter().map(|(name, t)| (name.clone(), t.to_tensor())).collect();
    state.insert("x".into(), reference["input.x"].to_tensor());
    let results = step(&found.train, &mut state).unwrap_or_else(|e| panic!("{model}/{file}:\n{e}"));
    let loss = match reference["target"].to_i64() {
        Some(classes) => cross_entropy(&results["y"], &classes),
        None => mean_squared_error(&results["y"], &reference["target"].to_tensor()),
    };
    Some((loss, reference["loss"].to_tensor().floats()[0]))
}

fn assert_first_loss_is_pytorchs(model: &str) {
    for file in FILES {
        let Some((loss, expected)) = first_loss(model, file) else { return };
        assert!((loss - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{model}/{file}: {loss} {expected}");
    }
}

// the interpreter takes minutes for gpt_tiny and resnet8

#[test]
fn losses_of_dense_models_are_pytorchs() {
    ["mlp_digits", "mlp_mnist", "lora_mlp", "ista_denoiser"].into_iter().for_each(assert_first_loss_is_pytorchs);
}

#[test]
fn losses_of_convolutional_models_are_pytorchs() {
    ["lenet", "mobilenetv2_tiny"].into_iter().for_each(assert_first_loss_is_pytorchs);
}

#[test]
fn loss_of_the_recurrent_model_is_pytorchs() {
    assert_first_loss_is_pytorchs("char_lstm");
}

#[test]
fn batch_norm_in_inference_mode_is_said_aloud() {
    let Some(frozen) = load("resnet8", "model_dynamo.onnx", &ImportOptions::default()) else { return };
    assert_eq!(frozen.notes.len(), 1);
    assert!(frozen.notes[0].contains("batch_norm"), "{:?}", frozen.notes);
    for file in FILES {
        let Some(training) = load("resnet8", file, &training()) else { return };
        assert_eq!(training.notes, Vec::<String>::new());
    }
}

#[test]
fn places_are_the_users_lines_and_layers() {
    let Some(model) = load("resnet8", "model_dynamo.onnx", &training()) else { return };
    let convolution = |loc: &&gradc_ir::diagnostic::Loc| loc.source_op == "Conv" && loc.layer == "b2.conv2";
    let loc = model.train.locs().iter().find(convolution).expect("the layer's convolution is there");
    assert_eq!((loc.file.as_str(), loc.line), ("zoo.py", 52));
}
