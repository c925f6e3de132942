//! Recipes that choose how gradients of loops are computed, natively.

use gradc::{HostTensor, Model, Options, Recipe, Stage, TensorView, compile};
use gradc_ir::builder::Builder;
use gradc_ir::graph::OutputKind;
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::expand_regions::ExpandLimits;
use std::collections::{BTreeMap, BTreeSet};

/// `y = x*`, the fixed point of `x ← tanh(x·w + u)/2` after `count` steps from zero; `w` trains.
fn equilibrium(count: usize) -> Result<Model, TypeError> {
    let mut b = Builder::new("equilibrium");
    let (rows, matrix) = (TensorType::f32([4, 3]), TensorType::f32([3, 3]));
    let u = b.input("u", rows.clone())?;
    let w = b.parameter("w", matrix.clone())?;
    let body = Builder::function("step", &[rows.clone(), rows.clone(), matrix.clone()], |b, x| {
        let turned = b.dot_general(x[0], x[2], [&[], &[]], [&[1], &[0]])?;
        let sum = b.add(turned, x[1])?;
        let next = b.tanh(sum)?;
        Ok(vec![b.scale(next, 0.5)?])
    })?;
    let start = b.splat(&rows, 0.0)?;
    b.set_loc(gradc_ir::diagnostic::Loc { layer: "equilibrium".into(), ..Default::default() });
    let x = b.iterate(&body, count, &[start], &[u, w])?[0];
    b.output("y", x, OutputKind::Result);
    let graph = b.finish();
    let weights: Vec<f32> = (0..9).map(|k| (k as f32 * 1.7).sin() * 0.5).collect();
    Ok(Model {
        name: "equilibrium".into(),
        train: graph.clone(),
        infer: graph,
        tensors: BTreeMap::from([("w".into(), HostTensor::from_f32(matrix.shape, &weights)?)]),
        frozen: BTreeSet::new(),
        aliases: BTreeMap::new(),
        lost: BTreeSet::new(),
        notes: vec![],
    })
}

fn recipe(solvers: &str) -> Recipe {
    let text = format!(
        r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {{"kind": "sgd", "lr": 0.5}}, "solvers": {solvers}}}"#
    );
    Recipe::from_json(text.as_bytes()).expect("a recipe")
}

/// The weights after three steps, and how often an exact gradient was computed instead.
fn trained(count: usize, solvers: &str) -> (Vec<f32>, u64) {
    let model = equilibrium(count).expect("well typed");
    let step = compile(&model, Some(&recipe(solvers)), &Options::default()).expect("it compiles");
    let mut session = step.session().expect("a session");
    let u: Vec<f32> = (0..12).map(|k| (k as f32 * 0.9).cos()).collect();
    let target: Vec<f32> = (0..12).map(|k| (k as f32 * 0.4).sin() * 0.3).collect();
    for _ in 0..3 {
        let inputs = [
            ("u", TensorView::f32(&[4, 3], &u).expect("a view")),
            ("target", TensorView::f32(&[4, 3], &target).expect("a view")),
        ];
        session.step(&inputs).expect("it steps");
    }
    let weights = session.parameter("w").expect("a parameter").to_host().to_f32().expect("f32");
    (weights, session.solver_fallbacks().values().sum())
}

fn entry(backward: &str) -> String {
    format!(r#"[{{"at": "equilibrium", "backward": "{backward}"}}]"#)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn exact_and_checkpointed_gradients_are_those_of_the_steps() {
    let (unrolled, _) = trained(12, "[]");
    for backward in ["auto", "exact", "checkpoint"] {
        let (weights, fallbacks) = trained(12, &entry(backward));
        // A handful of f32 sums of terms below 1 in another order.
        assert!(largest_difference(&weights, &unrolled) < 1e-6, "{backward}: {weights:?} {unrolled:?}");
        assert_eq!(fallbacks, 0);
    }
}

#[test]
fn frozen_gradients_hold_where_the_loop_arrives_and_fall_back_where_not() {
    let (unrolled, _) = trained(24, "[]");
    let (frozen, fallbacks) = trained(24, &entry("frozen"));
    assert_eq!(fallbacks, 0, "24 steps that halve the distance or more arrive within 1e-5");
    assert!(largest_difference(&frozen, &unrolled) < 1e-4, "{frozen:?} {unrolled:?}");
    let (unrolled, _) = trained(3, "[]");
    let (frozen, fallbacks) = trained(3, &entry("frozen"));
    assert_eq!(fallbacks, 3, "three steps do not arrive, in no step");
    assert!(largest_difference(&frozen, &unrolled) < 1e-6, "the gradients are exact: {frozen:?} {unrolled:?}");
}

/// A loop trained exactly keeps fewer of its states where memory does not take all of them.
#[test]
fn loops_are_checkpointed_to_fit() {
    let model = equilibrium(200).expect("well typed");
    let compiled = |backward, peak_mem_bytes| {
        let options = Options { peak_mem_bytes, ..Options::default() };
        compile(&model, Some(&recipe(&entry(backward))), &options).expect("it compiles")
    };
    let planned = |step: &gradc::CompiledStep| step.report().entries[0].arena_bytes + step.persistent_bytes();
    let (exact, checkpointed) = (compiled("exact", None), compiled("checkpoint", None));
    let limit = planned(&checkpointed);
    assert!(2 * limit < planned(&exact), "{limit} of {} bytes", planned(&exact));
    let fitted = compiled("exact", Some(limit));
    assert!(planned(&fitted) <= limit);
    assert_eq!(fitted.report().entries[0].checkpointed, 1);
    assert_eq!(fitted.report().entries[0].parts, None, "the batch is whole");
}

#[test]
fn fallbacks_are_counted_by_solver() {
    let model = equilibrium(3).expect("well typed");
    let session = |backward| {
        let step = compile(&model, Some(&recipe(&entry(backward))), &Options::default()).expect("it compiles");
        step.session().expect("a session")
    };
    assert_eq!(session("frozen").solver_fallbacks(), BTreeMap::from([("equilibrium".to_string(), 0)]));
    assert!(session("exact").solver_fallbacks().is_empty(), "nothing is guarded");
}

#[test]
fn an_entry_for_a_loop_that_is_not_there_is_told() {
    let model = equilibrium(3).expect("well typed");
    let recipe = recipe(r#"[{"at": "denoise", "backward": "exact"}]"#);
    let told = compile(&model, Some(&recipe), &Options::default()).map(|_| ()).expect_err("no such loop");
    assert_eq!((told.0[0].code, told.0[0].loc.layer.as_str()), ("unmatched-pattern", "solvers[0].at"));
}

/// Two layers of two hundred steps each, `first` and `second`.
const TWO_LOOPS: &str = r#"{"gradc": 1, "inputs": [{"name": "u", "shape": [4, 3]}],
    "parameters": [{"name": "w", "shape": [3, 3], "init": {"kind": "uniform", "low": -0.3, "high": 0.3}}],
    "functions": [{"name": "step", "inputs": ["x", "u", "w"], "outputs": ["next"], "nodes": [
        {"name": "turned", "op": "matmul", "inputs": ["x", "w"]},
        {"name": "sum", "op": "add", "inputs": ["turned", "u"]},
        {"name": "next", "op": "tanh", "inputs": ["sum"]}]}],
    "nodes": [
        {"name": "first", "op": "iterate", "inputs": ["u", "u", "w"], "attrs": {"body": "step", "count": 200}},
        {"name": "second", "op": "iterate", "inputs": ["first", "first", "w"], "attrs": {"body": "step", "count": 200}}],
    "outputs": [{"name": "y", "value": "second"}]}"#;

/// How many loops the step of the two layers has as it is derived, forward and backward.
fn loops_derived(solvers: &str, expand: ExpandLimits) -> usize {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("two.json");
    std::fs::write(&path, TWO_LOOPS).expect("it can be written");
    let model = gradc::import(&path, &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let options = Options { emit: vec![Stage::Train], expand, ..Options::default() };
    let step = compile(&model, Some(&recipe(solvers)), &options).unwrap_or_else(|e| panic!("{e}"));
    let texts = &step.report().texts;
    let (_, _, text) = texts.iter().find(|(_, entry, _)| *entry == "step").expect("the step");
    ["= scan{", "= iterate{"].iter().map(|op| text.matches(op).count()).sum()
}

#[test]
fn a_recipe_unrolls_the_loops_it_names_and_no_others() {
    let default = ExpandLimits::default();
    assert_eq!(loops_derived("[]", default), 4, "both forward and backward");
    assert_eq!(loops_derived(r#"[{"at": "first", "backward": "unrolled"}]"#, default), 2);
    assert_eq!(loops_derived(r#"[{"at": "*", "backward": "unrolled"}]"#, default), 0);
    let all = ExpandLimits { loop_nodes: usize::MAX, loop_steps: usize::MAX, ..default };
    assert_eq!(loops_derived("[]", all), 0, "short loops are unrolled");
    let of_few_steps = ExpandLimits { loop_nodes: usize::MAX, ..default };
    assert_eq!(loops_derived("[]", of_few_steps), 4, "loops of many steps stay");
}

#[test]
fn an_entry_for_one_loop_leaves_the_others_to_their_length() {
    let short = ExpandLimits { loop_nodes: 1000, loop_steps: usize::MAX, ..ExpandLimits::default() };
    let named = r#"[{"at": "second", "backward": "checkpoint"}]"#;
    assert!(loops_derived(named, short) > 0 && loops_derived("[]", short) == 0);
}
