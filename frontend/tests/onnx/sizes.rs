//! Imports at sizes other than the file's.

use super::files::*;
use super::reference::{MODELS, folder};
use gradc_frontend::import::import;
use gradc_frontend::import::onnx::proto::*;
use gradc_frontend::model::{ImportOptions, Model};
use gradc_ir::interpret::step;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::TensorType;
use std::collections::HashMap;

fn batch(batch: usize) -> ImportOptions {
    ImportOptions { batch: Some(batch), ..ImportOptions::default() }
}

fn output_shape(model: &Model) -> Vec<usize> {
    let y = model.train.output_named("y").expect("the model has an output `y`");
    model.train.ty(y.value).shape.clone()
}

#[test]
fn reference_models_take_other_batch_sizes() {
    // exported at 16: a constant of that extent, written as numbers, that no operand determines
    let fixed = [
        ("ista_denoiser", "model.onnx"),
        ("ista_denoiser", "model_dynamo.onnx"),
        ("char_lstm", "model.onnx"),
        ("char_lstm", "model_dynamo.onnx"),
    ];
    for name in MODELS {
        for file in ["model.onnx", "model_dynamo.onnx"] {
            let Some(folder) = folder(name) else { return };
            let path = folder.join(file);
            let own = output_shape(&import(&path, &ImportOptions::default()).expect("the file imports"));
            let first = |model: &Model| model.train.inputs().iter().find(|i| i.name == "x").map(|i| i.value);
            let own_batch = {
                let model = import(&path, &ImportOptions::default()).expect("the file imports");
                let x = first(&model).expect("the model has an input `x`");
                model.train.ty(x).shape[0]
            };
            match import(&path, &batch(2)) {
                Ok(model) => {
                    let scaled = [&[own[0] / own_batch * 2], &own[1..]].concat();
                    assert_eq!(output_shape(&model), scaled, "{name}/{file}");
                    assert!(!fixed.contains(&(name, file)), "{name}/{file}");
                }
                Err(e) => assert!(fixed.contains(&(name, file)), "{name}/{file}:\n{e}"),
            }
        }
    }
}

/// Flattens `[2, 3, 4]` to `[2, 12]` (or the other target), as a literal.
fn literal_reshape(target: &[i64]) -> ModelProto {
    let nodes = vec![node("Reshape", &["x", "onnx::shape"], &["y"])];
    let mut file = model(nodes, vec![ints("onnx::shape", target)]);
    file.graph.as_mut().expect("the model has a graph").input = vec![value("x", &[dim(2), dim(3), dim(4)])];
    file
}

#[test]
fn literal_targets_follow_the_batch() {
    for (target, expected) in [
        (&[2i64, 12][..], &[5usize, 12][..]),
        (&[2, -1], &[5, 12]),
        (&[-1, 4], &[15, 4]),
        (&[6, 4], &[15, 4]),
        (&[24], &[60]),
        (&[4, 6], &[10, 6]),
        (&[0, 2, 6], &[5, 2, 6]),
    ] {
        let found = load_with(&literal_reshape(target), &batch(5)).unwrap_or_else(|e| panic!("{target:?}: {e}"));
        assert_eq!(output_shape(&found), expected, "{target:?}");
    }
    let split = load_with(&literal_reshape(&[3, 8]), &batch(5)).expect_err("no axis carries the batch");
    assert_eq!(split.0[0].code, "fixed-batch", "{split}");
}

#[test]
fn symbolic_sizes_are_given_by_name_or_as_the_batch() {
    let mut file = small_model();
    file.graph.as_mut().expect("the model has a graph").input = vec![value("x", &[symbol("n"), dim(3)])];
    let named = ImportOptions { dims: [("n".to_string(), 7)].into(), ..ImportOptions::default() };
    assert_eq!(output_shape(&load_with(&file, &named).expect("`n` has a size")), [7, 2]);
    assert_eq!(output_shape(&load_with(&file, &batch(9)).expect("the batch has a size")), [9, 2]);
    let unknown = ImportOptions { dims: [("m".to_string(), 7)].into(), ..batch(9) };
    assert_eq!(load_with(&file, &unknown).expect_err("there is no `m`").0[0].code, "unknown-dim");
    let twice = ImportOptions { batch: Some(9), ..named };
    assert_eq!(load_with(&file, &twice).expect_err("7 or 9").0[0].code, "contradicting-sizes");
}

#[test]
fn batch_norm_of_a_training_file_updates_with_the_population_variance() {
    let names = ["x", "bn.weight", "bn.bias", "bn.mean", "bn.var"];
    let attribute = vec![int_attribute("training_mode", 1)];
    let bn = NodeProto { attribute, ..node("BatchNormalization", &names, &["y", "m", "v"]) };
    let ones = |name| floats(name, &[3], &[1.0; 3]);
    let file = model(vec![bn], vec![ones("bn.weight"), ones("bn.bias"), ones("bn.mean"), ones("bn.var")]);
    for (options, variance) in [
        // values 0 and 2 per channel: population variance 1, unbiased 2
        (ImportOptions::default(), 0.9 + 0.1 * 1.0),
        (
            ImportOptions { batch_norm: gradc_frontend::model::BatchNorm::Train, ..ImportOptions::default() },
            0.9 + 0.1 * 2.0,
        ),
    ] {
        let found = load_with(&file, &options).unwrap_or_else(|e| panic!("{e}"));
        let mut state: HashMap<String, Tensor> =
            found.tensors.iter().map(|(name, t)| (name.clone(), t.to_tensor())).collect();
        state.insert("x".into(), Tensor::float(TensorType::f32([2, 3]), vec![0.0, 0.0, 0.0, 2.0, 2.0, 2.0]));
        step(&found.train, &mut state).expect("the graph runs");
        let close = |name: &str, expected: f64| state[name].floats().iter().all(|v| (v - expected).abs() < 1e-12);
        assert!(close("bn.mean", 1.0) && close("bn.var", variance), "{:?}", state["bn.var"]);
    }
}
