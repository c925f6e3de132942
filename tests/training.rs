//! Training runs from the command line and the library: they learn, resume exactly, and keep their promises.

mod common;

use common::{batch, compiled, file, kept, step_on};
use gradc::entries::EntryKind;
use gradc::training::{EpochRecord, Feeds, Holdout, Source, Split, evaluate};
use gradc::{HostTensor, ImportOptions, Options, Origin, Recipe, Session, SessionError, Stage, TensorView};
use gradc_frontend::{data, weights};
use gradc_ir::graph::Role;
use gradc_passes::egraph::rules::NumericClass;
use std::path::Path;
use std::process::{Command, Output};

const VALIDATION_SHARE: f64 = 0.2;

/// `gradc train` on the digits, into a folder.
fn train_digits(folder: &Path, more: &str) {
    train_digits_by(&file("examples/models/digits.recipe.json"), folder, more);
}

fn train_digits_by(recipe: &Path, folder: &Path, more: &str) {
    let path = |name: &str| file(&format!("examples/{name}")).display().to_string();
    let [model, data] = ["models/digits.json", "data/digits.safetensors"].map(path);
    let share = VALIDATION_SHARE.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradc"));
    command.args(["train", &model, "--data", &data, "--validation", &share, "--quiet", "--recipe"]).arg(recipe);
    let output: Output = command.arg("--out").arg(folder).args(more.split_whitespace()).output().expect("gradc starts");
    assert!(output.status.success(), "{more}: {}", String::from_utf8_lossy(&output.stderr));
}

fn history(folder: &Path) -> Vec<EpochRecord> {
    let text = std::fs::read_to_string(folder.join("history.jsonl")).expect("a history");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// The validation loss of a weights file of the digits.
fn validation_loss(weights: &Path) -> f64 {
    let recipe = Recipe::from_file(&file("examples/models/digits.recipe.json")).expect("a recipe");
    let options = ImportOptions { weights: Some(weights.to_path_buf()), ..ImportOptions::default() };
    let model = gradc::import(&file("examples/models/digits.json"), &options).expect("a model");
    let step = gradc::compile(&model, Some(&recipe), &Options::default()).expect("it compiles");
    let rows = data::read(&[file("examples/data/digits.safetensors").display().to_string()]).expect("data");
    let split = Split::new(rows.rows(), Holdout::Shuffled(VALIDATION_SHARE), 0).expect("a split");
    let entry = step.entry(EntryKind::Step).expect("compiled with a recipe");
    let feeds = Feeds::new(Source::Columns(rows), entry, Some("target"), &recipe.data).expect("the data fits");
    evaluate(&mut step.session().expect("a session"), &feeds, &split.validation).expect("it evaluates").loss
}

#[test]
fn digits_are_learnt_and_the_best_weights_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    train_digits(folder.path(), "--epochs 5");
    let losses: Vec<f64> =
        history(folder.path()).iter().map(|r| r.validation.expect("there are validation rows").loss).collect();
    assert_eq!(losses.len(), 5);
    let last = history(folder.path()).pop().and_then(|r| r.validation).expect("a record");
    assert!(last.accuracy.expect("labels are integers") > 0.9, "{last:?}");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(validation_loss(&folder.path().join("best.safetensors")), best);
    assert_eq!(validation_loss(&folder.path().join("weights.safetensors")), last.loss);
}

/// Stopping after whole epochs, within one, and several times leaves no trace in what a run ends with.
#[test]
fn resumed_runs_equal_uninterrupted_ones() {
    const FILES: [&str; 4] = ["weights.safetensors", "checkpoint.safetensors", "best.safetensors", "history.jsonl"];
    let root = tempfile::tempdir().expect("a folder");
    let whole = root.path().join("whole");
    train_digits(&whole, "--epochs 4");
    let interruptions: [&[&str]; 3] =
        [&["--epochs 2"], &["--epochs 4 --steps 10"], &["--epochs 1", "--epochs 4 --steps 90 --resume"]];
    for (k, runs) in interruptions.into_iter().enumerate() {
        let folder = root.path().join(k.to_string());
        runs.iter().for_each(|more| train_digits(&folder, more));
        train_digits(&folder, "--epochs 4 --resume");
        for name in FILES {
            let [a, b] = [&whole, &folder].map(|f| std::fs::read(f.join(name)).expect("a file of the run"));
            assert!(a == b, "{name} differs after {runs:?}");
        }
    }
}

/// A run whose losses stop being finite is recorded as it is, and goes on from that.
#[test]
fn runs_that_skip_steps_tell_so_and_resume() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("recipe.json");
    let text = std::fs::read_to_string(file("examples/models/digits.recipe.json")).expect("a recipe");
    std::fs::write(&recipe, text.replace("\"lr\": 0.1", "\"lr\": 1e30")).expect("a file");
    let run = folder.path().join("run");
    train_digits_by(&recipe, &run, "--skip-non-finite --epochs 2");
    train_digits_by(&recipe, &run, "--skip-non-finite --epochs 3 --resume");
    let records = history(&run);
    assert_eq!(records.len(), 3);
    assert!(records[0].train_loss.is_finite(), "the first step had a loss");
    assert!(records[1..].iter().all(|r| r.train_loss.is_nan()), "no later step had one: {records:?}");
    assert!(records.iter().all(|r| r.validation.is_some_and(|v| v.loss.is_nan())), "{records:?}");
    assert!(!run.join("best.safetensors").exists(), "no weights were the best");
}

#[test]
fn ignored_labels_do_not_count_as_hits_or_misses() {
    let recipe = r#"{"loss": {"kind": "softmax_cross_entropy", "prediction": "y", "ignore_index": 0},
                     "optimizer": {"kind": "sgd"}}"#;
    let model = gradc::import(&file("examples/models/digits.json"), &ImportOptions::default()).expect("a model");
    let recipe: Recipe = serde_json::from_str(recipe).expect("a recipe");
    let step = gradc::compile(&model, Some(&recipe), &Options::default()).expect("it compiles");
    let accuracy = |labels: &[i64]| {
        let x = HostTensor::from_f32([64, 64], &[0.0; 64 * 64]).expect("as many as the shape says");
        let labels = HostTensor::from_i64([64], labels).expect("as many as the shape says");
        let columns = [("x".to_string(), x), ("target".to_string(), labels)];
        let rows = data::Columns::new(columns.into()).expect("columns of 64 rows");
        let entry = step.entry(EntryKind::Step).expect("compiled with a recipe");
        let feeds = Feeds::new(Source::Columns(rows), entry, Some("target"), &recipe.data).expect("the data fits");
        let rows: Vec<usize> = (0..64).collect();
        evaluate(&mut step.session().expect("a session"), &feeds, &rows).expect("it evaluates").accuracy
    };
    // of equal logits, which x = 0 gives, the first class counts as chosen
    assert_eq!(accuracy(&[1; 64]), Some(0.0));
    assert_eq!(accuracy(&[0; 64]), None, "none counts");
}

/// A recipe may compare with probabilities: those that are 1 for a label train as the labels do.
#[test]
fn probabilities_of_one_train_as_labels() {
    const ROWS: usize = 32;
    const CLASSES: usize = 10;
    let model = gradc::import(&file("examples/models/digits.json"), &ImportOptions::default()).expect("a model");
    let session = |target_kind: &str| {
        let recipe = format!(
            r#"{{"loss": {{"kind": "softmax_cross_entropy", "prediction": "y", "target_kind": "{target_kind}"}},
                 "optimizer": {{"kind": "sgd", "lr": 0.1}}}}"#
        );
        let recipe: Recipe = serde_json::from_str(&recipe).expect("a recipe");
        let step = gradc::compile(&model, Some(&recipe), &Options::default()).expect("it compiles");
        step.session().expect("a session")
    };
    let (mut by_label, mut by_probability) = (session("labels"), session("probabilities"));
    let x: Vec<f32> = (0..ROWS * 64).map(|k| (k * 7919 % 16) as f32 / 16.0).collect();
    let labels: Vec<i64> = (0..ROWS as i64).map(|k| k * 3 % CLASSES as i64).collect();
    let probabilities: Vec<f32> =
        labels.iter().flat_map(|&l| (0..CLASSES as i64).map(move |c| f32::from(c == l))).collect();
    let x = TensorView::f32(&[ROWS, 64], &x).expect("as many as the shape says");
    let labels = TensorView::i64(&[ROWS], &labels).expect("as many as the shape says");
    let probabilities = TensorView::f32(&[ROWS, CLASSES], &probabilities).expect("as many as the shape says");
    for _ in 0..5 {
        let a = by_label.step(&[("x", x.clone()), ("target", labels.clone())]).expect("a step");
        let b = by_probability.step(&[("x", x.clone()), ("target", probabilities.clone())]).expect("a step");
        // sums of one term and nine zeros: the same but for how the gradient is written
        assert!((a - b).abs() <= 1e-5 * a, "{a} and {b}");
    }
}

#[test]
fn a_step_with_a_loss_that_is_not_finite_changes_nothing() {
    let step = compiled("mlp", &Options::default());
    let mut session = step.session().expect("a session");
    let mut inputs = batch(&step, 0);
    step_on(&mut session, &inputs);
    let before = kept(&session);
    let x = inputs.get_mut("x").expect("the model's input");
    x.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let views: Vec<(&str, TensorView)> = inputs.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect();
    let told = session.step(&views).expect_err("the loss is NaN");
    assert!(
        matches!(&told, SessionError::NonFinite { origin: Some(Origin::Input(name)), .. } if name == "x"),
        "the input is to blame: {told}"
    );
    assert_eq!(kept(&session), before);
    assert!(step_on(&mut session, &batch(&step, 1)).is_finite(), "the session goes on");
}

/// |w·x| as √(w·x)², whose gradient is NaN at w = 0, where the loss is finite.
const NAN_GRADIENT: &str = r#"{"gradc": 1, "inputs": [{"name": "x", "shape": [4, 1]}],
    "parameters": [{"name": "w", "shape": [1, 1], "init": {"kind": "zeros"}}],
    "nodes": [{"name": "h", "op": "linear", "inputs": ["x", "w"]}, {"name": "square", "op": "mul", "inputs": ["h", "h"]},
        {"name": "root", "op": "sqrt", "inputs": ["square"]}],
    "outputs": [{"name": "y", "value": "root"}]}"#;

const SGD_ON_MSE: &str =
    r#""loss": {"kind": "mse", "prediction": "y", "target": "target"}, "optimizer": {"kind": "sgd", "lr": 0.1}"#;

fn session_with_nan_gradients(folder: &Path, more: &str) -> Session {
    let [model, recipe] = [("m.json", NAN_GRADIENT.into()), ("r.json", format!("{{{SGD_ON_MSE}{more}}}"))]
        .map(|(name, text): (_, String)| (folder.join(name), text));
    for (path, text) in [&model, &recipe] {
        std::fs::write(path, text).expect("the folder can be written");
    }
    let model = gradc::import(&model.0, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let recipe = Recipe::from_file(&recipe.0).unwrap_or_else(|e| panic!("{e}"));
    let step = gradc::compile(&model, Some(&recipe), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    step.session().expect("a session")
}

#[test]
fn clipped_gradients_that_are_not_finite_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut session = session_with_nan_gradients(folder.path(), r#", "clip_norm": 1.0"#);
    let before = kept(&session);
    let inputs = batch(session.compiled(), 0);
    let views: Vec<(&str, TensorView)> = inputs.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect();
    let told = session.step(&views).expect_err("the norm is NaN");
    assert!(matches!(&told, SessionError::NonFinite { output, .. } if output == "gradient_norm"), "{told}");
    assert_eq!(kept(&session), before);
}

#[test]
fn what_is_not_finite_never_replaces_a_good_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let mut session = session_with_nan_gradients(folder.path(), "");
    session.save(&path).expect("nothing is wrong yet");
    let good = std::fs::read(&path).expect("a checkpoint");
    let inputs = batch(session.compiled(), 0);
    assert!(step_on(&mut session, &inputs).is_finite());
    let told = session.save(&path).expect_err("w is NaN").into_diagnostic();
    assert_eq!(told.code, "non-finite-state");
    assert!(told.message.contains("`w`"), "{told}");
    assert_eq!(std::fs::read(&path).expect("a checkpoint"), good);
}

#[test]
fn sessions_allocate_what_was_planned() {
    for name in common::BUNDLED {
        let step = compiled(name, &Options { emit: vec![Stage::Memory], ..Options::default() });
        let plans = step.report().texts.iter().map(|(_, _, text)| gradc_ir::text::parse_plan(text).expect("a plan"));
        let arena_bytes = plans.map(|plan| plan.memory.arena_bytes).max().expect("several entries");
        let planned = arena_bytes + step.persistent_bytes() + step.scratch_bytes();
        let mut session = step.session().expect("a session");
        assert_eq!(session.allocated_bytes(), planned, "{name}");
        step_on(&mut session, &batch(&step, 0));
        assert_eq!(session.allocated_bytes(), planned, "{name}: after a step");
    }
}

/// A merged low-rank weight is never formed where re-association is allowed. Losses agree to what sums of 256 terms in
/// another order allow in f32, γ₂₅₆ = 1.5e-5 a layer.
#[test]
fn merged_lora_trains_the_same_in_less_memory() {
    // What else is made again instead of kept depends on how much is kept.
    let step = |fp| compiled("lora_merged", &Options { fp, spare_time: false, ..Options::default() });
    let (strict, reassoc) = (step(NumericClass::Bitwise), step(NumericClass::Reassociation));
    let formed_bytes = 4 * 256 * 256;
    let [strict_bytes, bytes] = [&strict, &reassoc].map(|step| step.report().arena_bytes());
    assert!(bytes + formed_bytes <= strict_bytes, "{bytes} and {strict_bytes} bytes");
    let mut sessions = [&strict, &reassoc].map(|step| step.session().expect("a session"));
    for seed in 0..4 {
        let inputs = batch(&strict, seed);
        let [a, b] = sessions.each_mut().map(|session| step_on(session, &inputs));
        assert!((a - b).abs() <= 4.0 * 1.5e-5 * a.abs(), "step {seed}: {a} and {b}");
    }
}

#[test]
fn frozen_parameters_stay_and_have_no_state() {
    let cases = [
        ("lora", &["base.weight", "base.bias", "head.weight"][..], "lora.up"),
        ("language_model", &["embedding.weight"], "head.weight"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for (name, frozen, trained) in cases {
        let step = compiled(name, &Options::default());
        let mut session = step.session().expect("a session");
        let before = kept(&session);
        (0..4).for_each(|seed| {
            step_on(&mut session, &batch(&step, seed));
        });
        let path = folder.path().join(name);
        session.save(&path).expect("it is written");
        let checkpoint = weights::read(&path).expect("it is read");
        let states = |parameter: &str| {
            let state = |key: &&String| key.starts_with("state/") && key.contains(parameter);
            checkpoint.keys().filter(state).count()
        };
        for parameter in frozen {
            assert_eq!(checkpoint[*parameter], before[*parameter], "{name}: {parameter} changed");
            assert_eq!(states(parameter), 0, "{name}: {parameter} has optimizer state");
        }
        assert_ne!(checkpoint[trained], before[trained], "{name}: {trained} did not train");
        assert!(states(trained) > 0, "{name}: {trained} has no optimizer state");
        let kept_states = step.persistent().iter().filter(|t| t.role == Role::State).count();
        assert_eq!(checkpoint.len(), before.len(), "{name}: {kept_states} states and all tensors are saved");
    }
}
