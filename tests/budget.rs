//! Parameters selected under a budget: the budget holds for the step as compiled, no set is worth more, and runs go on
//! where what trains changes.

mod common;

use common::{batch, bundled, file, kept, shared, step_on};
use gradc::budget::{Limited, parameter_costs};
use gradc::parameters::{FrozenBy, Training};
use gradc::training_cost::TrainingCost;
use gradc::{
    CompiledStep, HostTensor, ImportOptions, Importances, Model, Options, Recipe, Selector, Stage, TensorView,
};
use gradc_frontend::recipe::{Budget, GivenImportance, Importance, Trainable};
use gradc_frontend::weights;
use gradc_ir::interpret;
use gradc_ir::text;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Output};

/// Compiles as under a budget: nothing is made again in spare time.
fn compile(model: &Model, recipe: &Recipe) -> CompiledStep {
    let options = Options { spare_time: false, ..Options::default() };
    gradc::compile(model, Some(recipe), &options).unwrap_or_else(|e| panic!("{}: {e}", model.name))
}

fn cost(step: &CompiledStep) -> TrainingCost {
    step.report().training.expect("a step that trains has a cost")
}

fn limited(cost: &TrainingCost, limited: Limited) -> u64 {
    match limited {
        Limited::BackwardFlops => cost.backward_flops,
        Limited::TrainingBytes => cost.training_bytes() as u64,
    }
}

fn budget(json: &str) -> Option<Budget> {
    Some(serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}")))
}

/// What trains of a compiled step.
fn trained(step: &CompiledStep) -> BTreeSet<String> {
    step.report().parameters.iter().filter(|p| p.trained_elements > 0).map(|p| p.name.clone()).collect()
}

/// A recipe in which exactly these parameters train, without a budget.
fn training(recipe: &Recipe, names: &BTreeSet<String>) -> Recipe {
    let names = names.iter().map(|name| Trainable::Glob(name.clone()));
    Recipe { trainable: Some(names.collect()), budget: None, ..recipe.clone() }
}

/// Under a budget of each kind, the step costs what is told and what the same parameters cost without a budget.
fn check_budget(model: &Model, recipe: &Recipe, shares: &[f64]) {
    let full = cost(&compile(model, recipe));
    for &share in shares {
        for (name, of) in [("backward_flops", Limited::BackwardFlops), ("training_bytes", Limited::TrainingBytes)] {
            let under = Recipe { budget: budget(&format!(r#"{{"{name}": {share}}}"#)), ..recipe.clone() };
            let step = compile(model, &under);
            let what = format!("{} {name} {share}", model.name);
            let selection = step.report().selection.clone().expect("there is a budget");
            println!("{what}: {selection}");
            let found = limited(&cost(&step), of);
            assert!(found as f64 <= share * limited(&full, of) as f64, "{what}: {found} of {full:?}");
            assert_eq!((selection.cost, selection.full_cost), (found, limited(&full, of)), "{what}");
            assert_eq!(trained(&step), selection.chosen, "{what}");
            let by_hand = compile(model, &training(recipe, &selection.chosen));
            assert_eq!(limited(&cost(&by_hand), of), found, "{what}: the same parameters by `trainable`");
            let is_left_out = |name| selection.importances.contains_key(name) && !selection.chosen.contains(name);
            for left_out in step.report().parameters.iter().filter(|p| is_left_out(&p.name)) {
                let Training::Frozen { by, .. } = left_out.training else { panic!("{what}: {left_out:?}") };
                assert_eq!(by, FrozenBy::Budget, "{what}: {}", left_out.name);
            }
        }
    }
}

#[test]
fn budgets_hold_on_small_models() {
    for name in ["attention", "convnet", "language_model", "mlp"] {
        let (model, recipe) = bundled(name);
        check_budget(&model, &recipe, &[0.6, 1.0]);
    }
}

/// A reference model with its recipe.
fn reference(name: &str) -> Option<(Model, Recipe)> {
    let folder = shared("reference/models")?.join(name);
    let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
    let import = ImportOptions { batch_norm: recipe.batch_norm, ..ImportOptions::default() };
    Some((gradc::import(&folder.join("model.pt2"), &import).unwrap_or_else(|e| panic!("{e}")), recipe))
}

#[test]
fn budgets_hold_on_reference_models() {
    for name in ["mobilenetv2_tiny", "gpt_tiny", "resnet8"] {
        let Some((model, recipe)) = reference(name) else { return };
        check_budget(&model, &recipe, &[0.4]);
    }
}

/// What is attributed adds up to what the step costs; of a chain, a parameter alone costs what its own step costs.
#[test]
fn attributed_costs_add_up() {
    for name in ["attention", "convnet", "language_model", "lora", "lstm", "mlp"] {
        let (model, recipe) = bundled(name);
        let unclipped = Recipe { clip_norm: None, ..recipe };
        let full = cost(&compile(&model, &unclipped));
        let costs = parameter_costs(&model, &unclipped, &Options::default()).expect("it compiles");
        let flops: u64 = costs.iter().map(|c| c.backward_flops.own + c.backward_flops.path).sum();
        let bytes: u64 = costs.iter().map(|c| c.kept_bytes.own + c.kept_bytes.path).sum();
        assert_eq!(flops, full.backward_flops, "{name}");
        // The step counter is nobody's: no update of these optimizers reads it.
        let counter_bytes = (full.saved_bytes + full.state_bytes) as u64 - bytes;
        assert!(counter_bytes <= 16, "{name}: {counter_bytes} bytes are attributed to nobody");
    }
}

#[test]
fn attributed_costs_are_those_of_the_step_alone() {
    let (model, recipe) = bundled("mlp");
    let costs = parameter_costs(&model, &recipe, &Options::default()).expect("it compiles");
    for of in costs {
        let alone = cost(&compile(&model, &training(&recipe, &BTreeSet::from([of.name.clone()]))));
        assert_eq!(of.backward_flops.alone, alone.backward_flops, "{}", of.name);
    }
}

/// Where a loop makes several gradients at once, what one costs (here half) shows only in a step of its own.
#[test]
fn budgets_hold_on_loops() {
    let Some((model, recipe)) = reference("ista_denoiser") else { return };
    let solvers = serde_json::from_str(r#"[{"at": "*", "backward": "exact"}]"#).expect("valid");
    let recipe = Recipe { solvers, ..recipe };
    check_budget(&model, &recipe, &[0.6]);
}

/// Of all sets whose own step holds the budget, none is worth more than the selected one.
#[test]
fn selections_are_the_best_of_all_sets() {
    for (name, values) in [("mlp", &[3.0, 1.0, 4.0, 2.0][..]), ("convnet", &[2.0, 7.0, 1.0, 8.0, 3.0])] {
        let (model, recipe) = bundled(name);
        let full = cost(&compile(&model, &recipe));
        let names: Vec<String> = trained(&compile(&model, &recipe)).into_iter().collect();
        let importances: BTreeMap<&String, f64> = names.iter().zip(values.iter().copied()).collect();
        let sets: Vec<(u64, f64)> = (1..1usize << names.len())
            .map(|mask| {
                let set: BTreeSet<String> =
                    names.iter().enumerate().filter(|(k, _)| mask >> k & 1 == 1).map(|(_, n)| n.clone()).collect();
                let flops = cost(&compile(&model, &training(&recipe, &set))).backward_flops;
                (flops, set.iter().map(|n| importances[n]).sum())
            })
            .collect();
        let given = names.iter().map(|n| GivenImportance { param: n.clone(), value: importances[n] });
        let importance = Importance::Given(given.collect());
        for share in [0.05, 0.2, 0.4, 0.6, 0.8, 0.95] {
            let limit = (share * full.backward_flops as f64) as u64;
            let best = sets.iter().filter(|(flops, _)| *flops <= limit).map(|(_, worth)| *worth).fold(0.0, f64::max);
            let budget = Budget { backward_flops: Some(share), ..budget("{}").expect("no limit yet") };
            let under = Recipe { budget: Some(Budget { importance: importance.clone(), ..budget }), ..recipe.clone() };
            let found = match gradc::compile(&model, Some(&under), &Options::default()) {
                Ok(step) => trained(&step).iter().map(|n| importances[n]).sum(),
                Err(told) => {
                    assert_eq!(told.0[0].code, "budget-too-small");
                    0.0
                }
            };
            assert_eq!(found, best, "{name} at {share}");
        }
    }
}

#[test]
fn budgets_of_more_than_all_hold_all() {
    let (model, recipe) = bundled("mlp");
    let most = budget(&format!(r#"{{"training_bytes": "{}"}}"#, usize::MAX));
    let step = compile(&model, &Recipe { budget: most, ..recipe.clone() });
    assert_eq!(trained(&step), trained(&compile(&model, &recipe)));
}

#[test]
fn budgets_that_nothing_holds_are_told() {
    let (model, recipe) = bundled("mlp");
    let compiled = |json: &str| {
        let under = Recipe { budget: budget(json), ..recipe.clone() };
        gradc::compile(&model, Some(&under), &Options::default()).err().expect("nothing fits").0.remove(0)
    };
    let told = compiled(r#"{"training_bytes": "1"}"#);
    assert_eq!(told.code, "budget-too-small");
    let expected = told.expected.expect("the cheapest is told");
    assert!(expected.contains("`fc2.bias` costs least"), "{expected}");
    let least: u64 = expected.split(' ').nth(2).and_then(|n| n.parse().ok()).expect("at least N bytes");
    let enough = Recipe { budget: budget(&format!(r#"{{"training_bytes": "{least}"}}"#)), ..recipe.clone() };
    assert_eq!(cost(&compile(&model, &enough)).training_bytes() as u64, least, "what is told suffices");
    let told = compiled(r#"{"backward_flops": 0.5, "importance": [{"param": "*", "value": 0}]}"#);
    assert_eq!(told.code, "nothing-to-train");
    let told = compiled(r#"{"backward_flops": 0.5, "importance": [{"param": "fc3.*", "value": 1}]}"#);
    assert_eq!((told.code, told.loc.layer.as_str()), ("unmatched-pattern", "budget.importance[0].param"));
}

/// The gradients of a step in f64.
fn gradients(model: &Model, recipe: &Recipe, inputs: &BTreeMap<String, HostTensor>) -> BTreeMap<String, Vec<f64>> {
    let options = Options { gradients: true, emit: vec![Stage::Train], ..Options::default() };
    let step = gradc::compile(model, Some(recipe), &options).expect("it compiles");
    let (.., graph) = step.report().texts.iter().find(|(_, entry, _)| *entry == "step").expect("it was asked for");
    let mut tensors: HashMap<String, _> =
        model.tensors.iter().chain(inputs).map(|(n, t)| (n.clone(), t.to_tensor())).collect();
    let found = interpret::step(&text::parse(graph).expect("it reads back"), &mut tensors).expect("it runs");
    let named = found.iter().filter_map(|(n, t)| Some((n.strip_prefix("grad.")?.to_string(), t.floats().to_vec())));
    named.collect()
}

/// Measured importances against Σ|g·Δ| with Δ by the optimizer's definition from zero state, over two batches.
#[test]
fn importances_are_gradient_times_update() {
    let (model, recipe) = bundled("mlp");
    let sgd = r#"{"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}"#;
    let adam = r#"{"kind": "adamw", "lr": 0.01, "weight_decay": 0.1}"#;
    for optimizer in [sgd, adam] {
        let is_adam = optimizer == adam;
        let optimizer = serde_json::from_str(optimizer).expect("valid");
        let plain = Recipe { optimizer, ..recipe.clone() };
        let under = Recipe { budget: budget(r#"{"backward_flops": 0.5}"#), ..plain.clone() };
        let mut selector = Selector::new(&model, &under, &Options::default()).expect("it compiles");
        let step = compile(&model, &plain);
        let mut session = step.session().expect("a session");
        let batches: Vec<_> = (0..2).map(|seed| batch(&step, seed)).collect();
        let before = kept(&session);
        let views = batches.iter().map(|b| b.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect());
        let found = selector.measure(&session, views).expect("valid batches");
        assert_eq!(kept(&session), before, "measuring changes nothing");
        let mut expected = Importances::new();
        let mut state: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
        for (k, inputs) in batches.iter().enumerate() {
            for (name, gradient) in gradients(&model, &plain, inputs) {
                let values = model.tensors[&name].to_tensor();
                let state = state.entry(name.clone()).or_insert_with(|| vec![[0.0; 2]; gradient.len()]);
                let each = gradient.iter().zip(values.floats()).zip(state).map(|((&g, &p), [m, v])| {
                    let change = if is_adam {
                        (*m, *v) = (0.9 * *m + 0.1 * g, 0.999 * *v + 0.001 * g * g);
                        let root = (*v / (1.0 - 0.999f64.powi(k as i32 + 1))).sqrt();
                        0.01 * (*m / (1.0 - 0.9f64.powi(k as i32 + 1))) / (root + 1e-8)
                    } else {
                        *m = 0.9 * *m + g + 0.01 * p;
                        0.1 * *m
                    };
                    (g * change).abs()
                });
                *expected.entry(name).or_default() += each.sum::<f64>();
            }
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, worth) in &expected {
            // f32 sums of at most 192 terms: γ₁₉₂ = 1.1e-5, and as much again for gradients
            assert!((found[name] - worth).abs() <= 3e-5 * worth, "{name}: {} instead of {worth}", found[name]);
        }
        step_on(&mut session, &batches[0]);
    }
}

/// Where what trains changes, parameters and state go on as they are, and what begins to train does so like a run's
/// first step.
#[test]
fn sessions_go_on_with_another_set() {
    let (model, recipe) = bundled("mlp");
    let adam = serde_json::from_str(r#"{"kind": "adam", "lr": 0.01}"#).expect("valid");
    let budget = budget(r#"{"backward_flops": 0.9, "select_every": 1}"#);
    let under = Recipe { optimizer: adam, budget, ..recipe };
    let mut selector = Selector::new(&model, &under, &Options::default()).expect("it compiles");
    let set = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<BTreeSet<String>>();
    let first = selector.compile_set(&set(&["fc2.weight", "fc2.bias"])).expect("it compiles");
    let second = selector.compile_set(&set(&["fc2.weight", "fc1.bias"])).expect("it compiles");
    let mut session = first.session().expect("a session");
    (0..3).for_each(|seed| {
        step_on(&mut session, &batch(&first, seed));
    });
    let before = kept(&session);
    let mut session = session.continue_with(&second).expect("the same model");
    for (name, value) in kept(&session) {
        match before.get(&name) {
            Some(known) => assert_eq!(&value, known, "{name} goes on"),
            None => assert!(name.contains("fc1.bias"), "{name} is new"),
        }
    }
    assert!(kept(&session).keys().all(|name| !name.contains("fc2.bias") || name == "fc2.bias"), "its state is dropped");
    // a run that starts at these parameters
    let mut fresh = second.session().expect("a session");
    for name in model.tensors.keys() {
        fresh.set_parameter(name, TensorView::from(&before[name])).expect("it has the parameter");
    }
    let inputs = batch(&second, 7);
    assert_eq!(step_on(&mut session, &inputs), step_on(&mut fresh, &inputs));
    let (after, fresh) = (kept(&session), kept(&fresh));
    assert_eq!(after["fc1.bias"], fresh["fc1.bias"], "its first step");
    assert_ne!(after["fc1.bias"], before["fc1.bias"]);
    assert_ne!(after["fc2.weight"], fresh["fc2.weight"], "its fourth step is no first one");
    assert_eq!(after["fc2.bias"], before["fc2.bias"], "it no longer trains");
    let told = selector.compile_set(&set(&["fc3.weight"])).err().expect("there is none");
    assert_eq!(told.0[0].code, "unknown-parameter");
}

/// `gradc train` on the digits under a budget, into a folder; what it printed.
fn train_digits(folder: &Path, recipe: &Path, more: &str) -> String {
    let path = |name: &str| file(&format!("examples/{name}")).display().to_string();
    let [model, data] = ["models/digits.json", "data/digits.safetensors"].map(path);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradc"));
    command.args(["train", &model, "--data", &data, "--validation", "0.2", "--quiet", "--recipe"]).arg(recipe);
    let output: Output = command.arg("--out").arg(folder).args(more.split_whitespace()).output().expect("gradc starts");
    assert!(output.status.success(), "{more}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Runs that select every second epoch end the same, byte for byte, whether or not they are interrupted.
#[test]
fn runs_that_select_resume_exactly() {
    const FILES: [&str; 4] = ["weights.safetensors", "checkpoint.safetensors", "best.safetensors", "history.jsonl"];
    let root = tempfile::tempdir().expect("a folder");
    let mut recipe = Recipe::from_file(&file("examples/models/digits.recipe.json")).expect("a recipe");
    recipe.optimizer = serde_json::from_str(r#"{"kind": "adam", "lr": 0.002}"#).expect("valid");
    recipe.budget = budget(r#"{"backward_flops": 0.5, "importance": {"batches": 4}, "select_every": 2}"#);
    let path = root.path().join("recipe.json");
    std::fs::write(&path, serde_json::to_vec(&recipe).expect("it is JSON")).expect("it is written");
    let whole = root.path().join("whole");
    let printed = train_digits(&whole, &path, "--epochs 5");
    let selections: Vec<&str> = printed.lines().filter(|line| line.contains("parameters train")).collect();
    assert_eq!(selections.len(), 3, "before epochs 1, 3 and 5: {printed}");
    for (k, runs) in [&["--epochs 2"][..], &["--epochs 5 --steps 60"]].into_iter().enumerate() {
        let folder = root.path().join(k.to_string());
        runs.iter().for_each(|more| drop(train_digits(&folder, &path, more)));
        train_digits(&folder, &path, "--epochs 5 --resume");
        for name in FILES {
            let [a, b] = [&whole, &folder].map(|f| std::fs::read(f.join(name)).expect("a file of the run"));
            assert!(a == b, "{name} differs after {runs:?}");
        }
    }
    let checkpoint = weights::read(&whole.join("checkpoint.safetensors")).expect("it is read");
    let of_first = checkpoint.keys().filter(|k| k.starts_with("state/adam.m.")).count();
    assert!(0 < of_first && of_first < 4, "only what trains has state: {:?}", checkpoint.keys());
}
