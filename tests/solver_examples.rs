//! The example models with solvers in them: loops against flat graphs, memory over the number of steps, gradients.

mod common;

use common::file;
use gradc::entries::EntryKind;
use gradc::{CompiledStep, HostTensor, ImportOptions, Model, Options, Recipe, TensorView, import};
use gradc_frontend::weights;
use gradc_passes::egraph::replay;
use gradc_passes::egraph::rules::NumericClass;
use gradc_passes::expand_regions::{ExpandLimits, expand_regions};
use std::collections::BTreeMap;

/// The examples, and the layers of their loops.
const EXAMPLES: [(&str, &str); 2] = [("ista", "code"), ("qp", "solve")];

fn model(name: &str, steps: usize) -> Model {
    let options = ImportOptions { dims: BTreeMap::from([("steps".into(), steps)]), ..ImportOptions::default() };
    import(&file(&format!("examples/models/{name}.json")), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The example's recipe with another way of its gradient, or as it is.
fn recipe(name: &str, layer: &str, backward: Option<&str>) -> Recipe {
    let recipe = Recipe::from_file(&file(&format!("examples/models/{name}.recipe.json")));
    let recipe = recipe.unwrap_or_else(|e| panic!("{name}: {e}"));
    let Some(backward) = backward else { return recipe };
    let solvers = format!(r#"[{{"at": "{layer}", "backward": "{backward}"}}]"#);
    Recipe { solvers: serde_json::from_str(&solvers).expect("a list of entries"), ..recipe }
}

fn compiled(name: &str, layer: &str, steps: usize, backward: &str) -> CompiledStep {
    compiled_as(name, layer, steps, backward, NumericClass::Bitwise)
}

fn compiled_as(name: &str, layer: &str, steps: usize, backward: &str, fp: NumericClass) -> CompiledStep {
    let options = Options { threads: 1, fp, ..Options::default() };
    let recipe = recipe(name, layer, Some(backward));
    gradc::compile(&model(name, steps), Some(&recipe), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The first batch of the example's data.
fn batch(name: &str, step: &CompiledStep) -> BTreeMap<String, HostTensor> {
    let data = if name == "ista" { "denoise" } else { name };
    let columns = weights::read(&file(&format!("examples/data/{data}.safetensors"))).expect("the data is there");
    let entry = step.entry(EntryKind::Step).expect("compiled with a recipe");
    let given = entry.inputs.iter().filter(|i| i.default.is_none());
    let first = given.map(|i| (i.name.clone(), columns[&i.name].to_f32().expect("f32"), &i.ty.shape));
    first.map(|(name, values, shape)| (name, first_rows(&values, shape))).collect()
}

fn first_rows(values: &[f32], shape: &[usize]) -> HostTensor {
    HostTensor::from_f32(shape.to_vec(), &values[..shape.iter().product()]).expect("the sizes agree")
}

/// Parameters after two steps on the first batch, and how often an exact gradient was computed instead.
fn trained(name: &str, layer: &str, steps: usize, backward: &str) -> (BTreeMap<String, HostTensor>, u64) {
    trained_as(name, layer, steps, backward, NumericClass::Bitwise)
}

fn trained_as(
    name: &str,
    layer: &str,
    steps: usize,
    backward: &str,
    fp: NumericClass,
) -> (BTreeMap<String, HostTensor>, u64) {
    let mut session = compiled_as(name, layer, steps, backward, fp).session().expect("a session");
    let inputs = batch(name, session.compiled());
    for _ in 0..2 {
        common::step_on(&mut session, &inputs);
    }
    let parameters = model(name, steps).tensors.into_keys();
    let kept = parameters.map(|p| (p.clone(), session.parameter(&p).expect("a parameter").to_host()));
    (kept.collect(), session.solver_fallbacks().values().sum())
}

/// Largest difference relative to the largest change that training made.
fn difference(a: &BTreeMap<String, HostTensor>, b: &BTreeMap<String, HostTensor>, start: &Model) -> f32 {
    let values = |t: &HostTensor| t.to_f32().expect("f32");
    let largest = |pairs: Vec<(f32, f32)>| pairs.iter().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let zip = |a: &HostTensor, b: &HostTensor| values(a).into_iter().zip(values(b)).collect::<Vec<_>>();
    let relative = |(name, a): (&String, &HostTensor)| {
        largest(zip(a, &b[name])) / largest(zip(a, &start.tensors[name])).max(f32::MIN_POSITIVE)
    };
    a.iter().map(relative).fold(0.0, f32::max)
}

#[test]
fn loops_compute_the_bits_of_their_steps() {
    for (name, _) in EXAMPLES {
        for steps in [40, 200, 1000] {
            let graph = model(name, steps).infer;
            let flat = expand_regions(&graph).expect("it unrolls");
            assert_eq!(replay(&graph, &flat, 1), Ok(0.0), "{name} of {steps} steps in the interpreter");
        }
    }
}

#[test]
fn native_loops_compute_the_bits_of_native_steps() {
    for (name, _) in EXAMPLES {
        for steps in [40, 200, 1000] {
            let predicted = |loop_nodes: usize| {
                let expand = ExpandLimits { loop_nodes, loop_steps: usize::MAX, ..ExpandLimits::default() };
                let options = Options { threads: 1, expand, ..Options::default() };
                let step =
                    gradc::compile(&model(name, steps), None, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
                let mut session = step.session().expect("a session");
                let inputs = gradc::bench::random_inputs(step.entry(EntryKind::Predict).expect("always there"), 3);
                let named: Vec<(&str, TensorView)> =
                    inputs.iter().map(|(name, t)| (name.as_str(), TensorView::from(t))).collect();
                let outputs = session.predict(&named).expect("it predicts");
                let bits: Vec<Vec<u32>> =
                    outputs.iter().map(|(_, y)| y.to_f32().iter().map(|v| v.to_bits()).collect()).collect();
                (bits, step.report().kernels)
            };
            let ((rolled, few), (flat, many)) = (predicted(0), predicted(usize::MAX));
            assert!(few < many, "{name} of {steps} steps: {few} kernels in the loop, {many} without one");
            assert!(rolled == flat, "{name} of {steps} steps has other bits in a native loop");
        }
    }
}

fn exact_gradients_have_the_bits_of_flat_graphs(name: &str, layer: &str) {
    for steps in [40, 200, 1000] {
        let (unrolled, _) = trained(name, layer, steps, "unrolled");
        for backward in ["auto", "exact", "checkpoint"] {
            let (found, fallbacks) = trained(name, layer, steps, backward);
            assert_eq!(fallbacks, 0);
            assert!(found == unrolled, "{name} of {steps} steps, {backward}: other bits");
        }
    }
}

// Two tests, since the flat graphs of 1000 steps take longest of all to compile.
#[test]
fn exact_gradients_of_ista_have_the_bits_of_flat_graphs() {
    let (name, layer) = EXAMPLES[0];
    exact_gradients_have_the_bits_of_flat_graphs(name, layer);
}

#[test]
fn exact_gradients_of_qp_have_the_bits_of_flat_graphs() {
    let (name, layer) = EXAMPLES[1];
    exact_gradients_have_the_bits_of_flat_graphs(name, layer);
}

#[test]
fn approximate_gradients_hold_where_the_solver_arrives() {
    for (name, layer, steps) in [("ista", "code", 1000), ("qp", "solve", 200)] {
        let (exact, _) = trained(name, layer, steps, "exact");
        for backward in ["frozen", "implicit"] {
            let (found, fallbacks) = trained(name, layer, steps, backward);
            assert_eq!(fallbacks, 0, "{name}, {backward}");
            let difference = difference(&found, &exact, &model(name, steps));
            // 200 times the residual of 1e-5 that the guard allows.
            assert!(difference < 2e-3, "{name}, {backward}: {difference:e}");
        }
    }
}

/// A folded step trains what the step trains: differences are of rounding in f32, which a step may double at most.
#[test]
fn folded_steps_train_alike() {
    for backward in ["unrolled", "exact", "checkpoint", "frozen", "implicit"] {
        let (found, fallbacks) = trained_as("ista", "code", 40, backward, NumericClass::Reassociation);
        let (expected, as_before) = trained("ista", "code", 40, backward);
        assert_eq!(fallbacks, as_before, "{backward}");
        let difference = difference(&found, &expected, &model("ista", 40));
        assert!(difference < 1e-4, "{backward}: {difference:e}");
    }
}

/// Of a loop that has not arrived: the two products of a step are one, forward and backward, and so is its gradient.
#[test]
fn folded_steps_take_fewer_operations() {
    let flops = |fp: NumericClass| {
        let options = Options { threads: 1, fp, ..Options::default() };
        let recipe = recipe("ista", "code", Some("exact"));
        let step = gradc::compile(&model("ista", 200), Some(&recipe), &options).expect("it compiles");
        let (_, rewrites) = step.report().rewrites.first().expect("the step was optimized");
        rewrites.after.cost.flops
    };
    let [strict, folded] = [NumericClass::Bitwise, NumericClass::Reassociation].map(flops);
    assert!(folded < 0.8 * strict, "{folded:e} instead of {strict:e}");
}

#[test]
fn few_steps_fall_back_to_exact_gradients() {
    for (name, layer) in EXAMPLES {
        let (exact, _) = trained(name, layer, 20, "exact");
        for backward in ["frozen", "implicit"] {
            let (found, fallbacks) = trained(name, layer, 20, backward);
            assert_eq!(fallbacks, 2, "{name}, {backward}: in both steps");
            let difference = difference(&found, &exact, &model(name, 20));
            assert!(difference < 1e-4, "{name}, {backward}: {difference:e}");
        }
    }
}

/// Bytes of the step's arena.
fn arena_bytes(name: &str, layer: &str, steps: usize, backward: &str) -> usize {
    let step = compiled(name, layer, steps, backward);
    step.entry(EntryKind::Step).expect("compiled with a recipe").arena_bytes()
}

#[test]
fn memory_grows_with_steps_as_the_gradient_needs() {
    for (name, layer) in EXAMPLES {
        let bytes = |backward, steps| arena_bytes(name, layer, steps, backward) as f64;
        // Squares: segments are as long as there are of them.
        let exact = bytes("exact", 1600) / bytes("exact", 100);
        assert!(exact > 10.0, "{name}, exact: {exact} times for 16 times the steps");
        // What falls back is checkpointed; where the guard holds, nothing is kept of the steps.
        for backward in ["checkpoint", "frozen", "implicit"] {
            let growth = bytes(backward, 1600) / bytes(backward, 100);
            assert!(growth < 4.5, "{name}, {backward}: {growth} times for 16 times the steps");
        }
        for backward in ["frozen", "implicit"] {
            let guarded = |steps| {
                let step = compiled(name, layer, steps, backward);
                let report = step.report().entries.iter().find(|e| e.name == "step").expect("the step");
                report.guarded_bytes.expect("its gradient is guarded")
            };
            assert_eq!(guarded(1600), guarded(100), "{name}, {backward}");
        }
    }
}
