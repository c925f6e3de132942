//! Native training steps against the interpreter, the oracle, on the same inputs.

mod common;

use common::{BUNDLED, batch, bundled, kept, step_on};
use gradc::{HostTensor, Model, Options, Recipe, Stage};
use gradc_ir::interpret;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::text;
use std::collections::{BTreeMap, HashMap};

/// Steps that are compared: enough for state, accumulation and schedules to matter.
const STEPS: u64 = 3;

/// Largest difference, relative to the largest magnitude of the tensor.
const TOLERANCE: f64 = 1e-5;

fn numbers(tensor: &Tensor) -> Vec<f64> {
    match &tensor.data {
        Data::Float(values) => values.clone(),
        Data::Int(values) => values.iter().map(|&v| v as f64).collect(),
    }
}

fn assert_near(what: &str, found: &Tensor, expected: &Tensor) {
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (k, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!((f - e).abs() <= TOLERANCE * scale, "{what}[{k}]: {f} instead of {e} (scale {scale})");
    }
}

/// Runs native and interpreted steps side by side; returns the tensors afterwards.
fn compare(name: &str, model: &Model, recipe: &Recipe, optimize: bool) -> BTreeMap<String, HostTensor> {
    let options = Options { optimize, emit: vec![Stage::Train], ..Options::default() };
    let step = gradc::compile(model, Some(recipe), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (_, _, derived) = step.report().texts.iter().find(|(_, entry, _)| *entry == "step").expect("it was asked for");
    let derived = text::parse(derived).expect("the derived step reads back");
    let mut session = step.session().expect("a session");
    let start = model.tensors.iter().map(|(n, t)| (n.clone(), t.to_tensor()));
    let mut tensors: HashMap<String, Tensor> = start.collect();
    tensors.extend(kept(&session).into_iter().map(|(n, t)| (n, t.to_tensor())));
    for seed in 0..STEPS {
        let inputs = batch(&step, seed);
        tensors.extend(inputs.iter().map(|(n, t)| (n.clone(), t.to_tensor())));
        let loss = step_on(&mut session, &inputs);
        let results = interpret::step(&derived, &mut tensors).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = Tensor::float(results["loss"].ty.clone(), vec![loss as f64]);
        assert_near(&format!("{name}: loss of step {seed}"), &found, &results["loss"]);
    }
    let after = kept(&session);
    for (tensor, found) in &after {
        assert_near(&format!("{name}: {tensor}"), &found.to_tensor(), &tensors[tensor]);
    }
    after
}

#[test]
fn bundled_models_with_and_without_the_optimizer() {
    for name in BUNDLED {
        let (model, recipe) = bundled(name);
        for optimize in [true, false] {
            compare(name, &model, &recipe, optimize);
        }
    }
}

/// A transformer whose head reads the embedding: groups of its schedule span others, so that some that could be joined
/// would wait for each other.
#[test]
fn tied_transformer() {
    let (model, recipe) = bundled("tied_gpt");
    compare("tied_gpt", &model, &recipe, true);
}

/// Weights that are kept as they are multiplied.
#[test]
fn convolutions_of_many_channels() {
    let (model, recipe) = bundled("images");
    compare("images", &model, &recipe, true);
}

/// What a recipe can say about updates: native and interpreted steps agree, and it makes a difference.
#[test]
fn update_settings_take_effect() {
    const SGD: &str = r#"{"kind": "sgd", "lr": 0.1, "momentum": 0.5}"#;
    const ADAM: &str = r#"{"kind": "adam", "lr": 0.01}"#;
    let cases = [
        (SGD, r#""clip_norm": 0.01"#),
        (SGD, r#""accumulate": 2"#),
        (SGD, r#""accumulate": 3, "clip_norm": 0.01"#),
        (SGD, r#""schedule": {"kind": "constant", "warmup_steps": 4}"#),
        (SGD, r#""schedule": {"kind": "step", "step_size": 1, "gamma": 0.5}"#),
        (SGD, r#""schedule": {"kind": "cosine", "total_steps": 4, "min_lr": 0.001}"#),
        (SGD, r#""schedule": {"kind": "linear", "total_steps": 4}"#),
        (ADAM, r#""accumulate": 2"#),
        (ADAM, r#""schedule": {"kind": "linear", "total_steps": 3, "warmup_steps": 1}"#),
        (r#"{"kind": "adamw", "lr": 0.01}"#, r#""schedule": {"kind": "cosine", "total_steps": 2}"#),
    ];
    let (model, _) = bundled("mlp");
    for (optimizer, setting) in cases {
        let recipe = |more: &str| {
            let loss = r#"{"kind": "softmax_cross_entropy", "prediction": "y"}"#;
            let json = format!(r#"{{"loss": {loss}, "optimizer": {optimizer}{more}}}"#);
            Recipe::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"))
        };
        let [plain, set] =
            [String::new(), format!(", {setting}")].map(|more| compare(setting, &model, &recipe(&more), true));
        assert_ne!(plain["fc1.weight"], set["fc1.weight"], "{setting} makes no difference");
    }
}
