//! Parameters that train in part: what is computed, kept and changed is that of the whole parameter, restricted.

mod common;

use common::{batch, bundled, kept, shared, step_on};
use gradc::entries::EntryKind;
use gradc::parameters::{FrozenBy, GradientThere, Training};
use gradc::training_cost::TrainingCost;
use gradc::{CompiledStep, HostTensor, ImportOptions, Model, Options, Recipe, Stage, TensorView};
use gradc_frontend::recipe::trainable_set;
use gradc_frontend::weights;
use gradc_ir::interpret;
use gradc_ir::op::OpDef;
use gradc_ir::ops::IndexSelect;
use gradc_ir::part::Part;
use gradc_ir::tensor::Tensor;
use gradc_ir::text;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Bundled models with parts that train: ranges, lists, groups, shares; axes that are made and that are read; weights
/// of linear layers, convolutions, attention heads, embeddings, recurrences; vectors.
const CASES: [(&str, &str); 7] = [
    (
        "mlp",
        r#"["fc1.bias", {"param": "fc1.weight", "axis": 0, "keep": "1/4"},
            {"param": "fc2.weight", "axis": 1, "keep": [0, 3, 4, 5, 11]}]"#,
    ),
    (
        "mlp",
        r#"[{"param": "fc1.weight", "axis": 1, "keep": [2, 7, 8, 11]}, {"param": "*.bias", "axis": 0, "keep": [0, 1, 4]}]"#,
    ),
    (
        "convnet",
        r#"[{"param": "conv.weight", "axis": 0, "keep": [0, 1, 3]}, {"param": "fc.weight", "axis": 1, "groups": 4, "keep": [1, 2]}]"#,
    ),
    (
        "attention",
        r#"[{"param": "query.weight", "axis": 0, "groups": 2, "keep": [1]}, {"param": "value.weight", "axis": 1, "keep": "2..7"},
            {"param": "out.weight", "axis": 1, "groups": 4, "keep": [0, 2, 3]}, {"param": "norm.weight", "axis": 0, "keep": [5]}]"#,
    ),
    ("attention", r#"[{"param": "out.weight", "axis": 1, "groups": 2, "keep": [0]}, "out.bias"]"#),
    (
        "language_model",
        r#"[{"param": "embedding.weight", "axis": 1, "keep": [0, 1, 5]}, {"param": "hidden.weight", "axis": 0, "keep": "1/2"},
            {"param": "head.weight", "axis": 0, "keep": [1, 4, 9]}]"#,
    ),
    (
        "lstm",
        r#"[{"param": "cell.weight_*h", "axis": 0, "groups": 4, "keep": [0, 3]}, {"param": "fc.weight", "axis": 1, "keep": "0..2"}]"#,
    ),
];

fn recipe(model: &str, optimizer: &str, trainable: &str) -> Recipe {
    let (_, bundled) = bundled(model);
    let loss = serde_json::to_string(&bundled.loss).expect("a loss is JSON");
    let json = format!(r#"{{"loss": {loss}, "optimizer": {optimizer}, "trainable": {trainable}}}"#);
    Recipe::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn compile(model: &Model, recipe: &Recipe, options: &Options) -> CompiledStep {
    gradc::compile(model, Some(recipe), options).unwrap_or_else(|e| panic!("{}: {e}", model.name))
}

/// What trains of a tensor.
fn part_of(tensor: &Tensor, part: Option<&Part>) -> Tensor {
    let Some(Part { axis, indices }) = part.cloned() else { return tensor.clone() };
    IndexSelect { axis, indices }.eval(&[tensor]).expect("the part is inside").remove(0)
}

/// The gradients an interpreted step finds, in f64, at a stage of its compilation.
fn interpreted(step: &CompiledStep, stage: Stage, tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let texts = &step.report().texts;
    let (.., graph) = texts.iter().find(|(s, entry, _)| (*s, *entry) == (stage, "step")).expect("it was asked for");
    let graph = text::parse(graph).expect("a stage reads back");
    interpret::step(&graph, &mut tensors.clone()).unwrap_or_else(|e| panic!("{e}"))
}

fn to_interpret(model: &Model, inputs: &BTreeMap<String, HostTensor>) -> HashMap<String, Tensor> {
    model.tensors.iter().chain(inputs).map(|(n, t)| (n.clone(), t.to_tensor())).collect()
}

const SGD: &str = r#"{"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}"#;
const ADAMW: &str = r#"{"kind": "adamw", "lr": 0.01, "weight_decay": 0.1}"#;

/// In the interpreter bit for bit, before and after the rewrites that push the part into the gradient.
#[test]
fn gradients_of_parts_are_parts_of_gradients() {
    let options = Options { gradients: true, emit: vec![Stage::Train, Stage::Optimized], ..Options::default() };
    for (name, trainable) in CASES {
        let (model, _) = bundled(name);
        let part_recipe = recipe(name, SGD, trainable);
        let whole = compile(&model, &recipe(name, SGD, r#"["*"]"#), &options);
        let tensors = to_interpret(&model, &batch(&whole, 7));
        let expected = interpreted(&whole, Stage::Train, &tensors);
        let in_part = compile(&model, &part_recipe, &options);
        for stage in [Stage::Train, Stage::Optimized] {
            let found = interpreted(&in_part, stage, &tensors);
            for (parameter, part) in trainable_set(&part_recipe, &model).expect("it fits") {
                let key = format!("grad.{parameter}");
                assert_eq!(found[&key], part_of(&expected[&key], part.as_ref()), "{name} {trainable}: {key}");
            }
        }
    }
}

/// Native results, relative to the largest magnitude of a tensor.
const TOLERANCE: f64 = 1e-5;

fn assert_near(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (k, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= TOLERANCE * scale, "{what}[{k}]: {f} instead of {e} (scale {scale})");
    }
}

/// PyTorch's update of all elements of a parameter, in f64, written down apart from the product.
struct Oracle {
    adamw: bool,
    states: HashMap<String, [Vec<f64>; 2]>,
    steps: i32,
}

impl Oracle {
    fn update(&mut self, name: &str, p: &mut [f64], gradient: &[f64]) {
        let [m, v] = self.states.entry(name.into()).or_insert_with(|| [vec![0.0; p.len()], vec![0.0; p.len()]]);
        for (k, (p, g)) in p.iter_mut().zip(gradient).enumerate() {
            if self.adamw {
                *p *= 1.0 - 0.01 * 0.1;
                m[k] = 0.9 * m[k] + 0.1 * g;
                v[k] = 0.999 * v[k] + 0.001 * g * g;
                let root = v[k].sqrt() / (1.0 - 0.999f64.powi(self.steps)).sqrt();
                *p -= 0.01 / (1.0 - 0.9f64.powi(self.steps)) * m[k] / (root + 1e-8);
            } else {
                m[k] = 0.9 * m[k] + g + 0.01 * *p;
                *p -= 0.1 * m[k];
            }
        }
    }
}

/// Elements of a tensor that a part has, as a mask.
fn mask(tensor: &Tensor, part: Option<&Part>) -> Vec<bool> {
    let numbered = Tensor::float(tensor.ty.clone(), (0..tensor.ty.elements()).map(|k| k as f64).collect());
    let mut mask = vec![false; tensor.ty.elements()];
    part_of(&numbered, part).floats().iter().for_each(|&k| mask[k as usize] = true);
    mask
}

/// Steps with parts do what the full gradient and a masked update do; nothing else changes by a bit.
#[test]
fn steps_are_masked_steps_of_the_whole() {
    for (name, trainable) in CASES {
        for (optimizer, adamw) in [(SGD, false), (ADAMW, true)] {
            let (model, _) = bundled(name);
            let part_recipe = recipe(name, optimizer, trainable);
            let parts = trainable_set(&part_recipe, &model).expect("it fits");
            let gradients = Options { gradients: true, emit: vec![Stage::Train], ..Options::default() };
            let whole = compile(&model, &recipe(name, optimizer, r#"["*"]"#), &gradients);
            let mut session = compile(&model, &part_recipe, &Options::default()).session().expect("a session");
            let mut tensors = to_interpret(&model, &BTreeMap::new());
            let mut oracle = Oracle { adamw, states: HashMap::new(), steps: 0 };
            for seed in 0..3 {
                let inputs = batch(&whole, seed);
                step_on(&mut session, &inputs);
                tensors.extend(inputs.iter().map(|(n, t)| (n.clone(), t.to_tensor())));
                let found = interpreted(&whole, Stage::Train, &tensors);
                oracle.steps += 1;
                for (parameter, part) in &parts {
                    let before = &tensors[parameter];
                    let mut next = before.floats().to_vec();
                    oracle.update(parameter, &mut next, found[&format!("grad.{parameter}")].floats());
                    let trains = mask(before, part.as_ref());
                    let kept = next.iter().zip(before.floats()).zip(trains).map(|((n, b), t)| if t { *n } else { *b });
                    let after = Tensor::float(before.ty.clone(), kept.collect());
                    tensors.insert(parameter.clone(), after);
                }
            }
            for (parameter, initial) in model.tensors.iter().filter(|(n, _)| session.parameter(n).is_some()) {
                let found = session.parameter(parameter).expect("it is kept").to_host().to_tensor();
                let trains = parts.get(parameter).map(|part| mask(&found, part.as_ref()));
                if let Some(trains) = trains {
                    assert_near(
                        &format!("{name} {trainable}: {parameter}"),
                        found.floats(),
                        tensors[parameter].floats(),
                    );
                    let same = |(k, t): (usize, bool)| t || found.floats()[k] == initial.to_tensor().floats()[k];
                    assert!(trains.into_iter().enumerate().all(same), "{parameter}: more than the part changed");
                } else if !parameter.contains("running") {
                    assert_eq!(found, initial.to_tensor(), "{parameter} is frozen");
                }
            }
        }
    }
}

/// Norms and averages of gradients are those of what trains, and the state of a part has the part's shape and name.
#[test]
fn state_has_the_shape_of_the_part() {
    let (model, _) = bundled("mlp");
    let trainable =
        r#"[{"param": "fc1.weight", "axis": 0, "keep": "1/4"}, {"param": "fc2.weight", "axis": 1, "keep": [0, 3, 4]}]"#;
    let session = compile(&model, &recipe("mlp", ADAMW, trainable), &Options::default()).session().expect("a session");
    let shapes: BTreeMap<String, Vec<usize>> =
        kept(&session).into_iter().map(|(n, t)| (n, t.ty().shape.clone())).collect();
    for (state, shape) in [("fc1.weight[0..4]", [4, 12]), ("fc2.weight[:,0+3..5]", [5, 3])] {
        for moment in ["m", "v"] {
            assert_eq!(shapes[&format!("adam.{moment}.{state}")], shape);
        }
    }
    let other = trainable.replace("[0, 3, 4]", "[0, 3, 5]");
    let mut other = compile(&model, &recipe("mlp", ADAMW, &other), &Options::default()).session().expect("a session");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    session.save(&path).expect("it is written");
    let refused = other.load(&path).expect_err("the checkpoint is of another part").into_diagnostic();
    assert_eq!(refused.code, "checkpoint-mismatch");
}

fn cost(step: &CompiledStep) -> TrainingCost {
    step.report().training.expect("a step was compiled")
}

/// What is saved for the gradient of some inputs of a layer is those inputs; the product is as small.
#[test]
fn the_whole_chain_shrinks() {
    let layer = |name: &str, input: &str, i: usize, o: usize| {
        let parameter = |p: &str, shape: &str| {
            format!(
                r#"{{"name": "{name}.{p}", "shape": {shape}, "init": {{"kind": "uniform", "low": -1, "high": 1}}}}"#
            )
        };
        let node = format!(r#"{{"name": "{name}", "op": "linear", "inputs": ["{input}", "{name}.w", "{name}.b"]}}"#);
        ([parameter("w", &format!("[{o}, {i}]")), parameter("b", &format!("[{o}]"))].join(", "), node)
    };
    let layers = [layer("fc1", "x", 64, 256), layer("fc2", "act", 256, 64), layer("fc3", "fc2", 64, 256)];
    let parameters = layers.each_ref().map(|(parameters, _)| parameters.as_str()).join(", ");
    let [first, second, third] = layers.each_ref().map(|(_, node)| node);
    let json = format!(
        r#"{{"gradc": 1, "inputs": [{{"name": "x", "shape": [128, 64]}}], "parameters": [{parameters}],
            "nodes": [{first}, {{"name": "act", "op": "tanh", "inputs": ["fc1"]}}, {second}, {third}],
            "outputs": [{{"name": "y", "value": "fc3"}}]}}"#
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.json");
    std::fs::write(&path, json).expect("it is written");
    let model = gradc::import(&path, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let cost_of = |entry: &str| {
        let json = format!(
            r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {{"kind": "adam"}}, "trainable": [{entry}]}}"#
        );
        cost(&compile(&model, &Recipe::from_json(json.as_bytes()).expect("valid"), &Options::default()))
    };
    let whole = cost_of(r#""fc2.w""#);
    let product = |of: &TrainingCost| of.backward_flops - (whole.backward_flops - 2 * 128 * 256 * 64);
    for keep in [r#""1/8""#, r#""64..96""#, "[0, 9, 10, 30, 31, 32, 50, 77, 100, 101, 102, 103, 200, 240, 250, 255]"] {
        let of = cost_of(&format!(r#"{{"param": "fc2.w", "axis": 1, "keep": {keep}}}"#));
        let count = if keep.starts_with('[') { 16 } else { 32 };
        assert_eq!(product(&of), 2 * 128 * count as u64 * 64, "{keep}: the product has the part's columns only");
        assert_eq!(
            whole.saved_bytes - of.saved_bytes,
            4 * 128 * (256 - count),
            "{keep}: only the part's inputs are saved"
        );
        assert_eq!(of.gradient_bytes, 4 * count * 64);
        assert_eq!(whole.state_bytes - of.state_bytes, 8 * (256 - count) * 64, "{keep}");
    }
    let rows = cost_of(r#"{"param": "fc2.w", "axis": 0, "keep": "1/4"}"#);
    let product_with = |outputs: u64| 2 * 128 * 256 * outputs;
    let spared = 2 * (product_with(64) - product_with(16));
    assert_eq!(whole.backward_flops - rows.backward_flops, spared, "the gradient of other outputs is not made either");
}

#[test]
fn every_parameter_is_reported() {
    let (model, _) = bundled("mlp");
    let trainable = r#"[{"param": "fc2.weight", "axis": 1, "keep": [0, 3, 4]}, "fc2.bias"]"#;
    let step = compile(&model, &recipe("mlp", SGD, trainable), &Options::default());
    let of = |name: &str| step.report().parameters.iter().find(|p| p.name == name).expect("it is reported").clone();
    assert_eq!(of("fc2.bias").training, Training::Whole);
    let part = of("fc2.weight");
    assert_eq!((part.training, part.elements, part.trained_elements), (Training::Part("[:,0+3..5]".into()), 80, 15));
    let frozen = |gradient| Training::Frozen { by: FrozenBy::Recipe, gradient };
    assert_eq!(of("fc1.weight").training, frozen(GradientThere::EndsAfter));
    let step = compile(&model, &recipe("mlp", SGD, r#"["fc1.bias"]"#), &Options::default());
    let of =
        |name: &str| step.report().parameters.iter().find(|p| p.name == name).expect("it is reported").training.clone();
    assert_eq!(of("fc2.weight"), frozen(GradientThere::Passes));
    assert_eq!(of("fc1.weight"), frozen(GradientThere::EndsAfter));
}

/// A reference model with the recipe it comes with and with another one.
fn reference(name: &str, other: &str) -> Option<(Model, [Recipe; 2], std::path::PathBuf)> {
    let folder = shared("reference/models")?.join(name);
    let own = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
    let other = Recipe::from_file(&common::file(other)).unwrap_or_else(|e| panic!("{e}"));
    let import = ImportOptions { batch_norm: own.batch_norm, ..ImportOptions::default() };
    let model = gradc::import(&folder.join("model.pt2"), &import).unwrap_or_else(|e| panic!("{e}"));
    Some((model, [own, other], folder))
}

/// Gradients of parts against PyTorch's gradients of the whole parameters, by the rule of the reference models.
fn check_gradients(model: &Model, recipe: &Recipe, folder: &Path) {
    let expected = weights::read(&folder.join("reference.safetensors")).expect("the reference is readable");
    let errors: BTreeMap<String, f64> =
        serde_json::from_slice(&std::fs::read(folder.join("f32_error.json")).expect("the yardstick is there"))
            .expect("it is JSON");
    let step = compile(model, recipe, &Options { gradients: true, ..Options::default() });
    let entry = step.entry(EntryKind::Step).expect("a step");
    let input = entry.inputs.iter().find(|i| i.name != "target" && i.default.is_none()).expect("an input").name.clone();
    let (_, data) = expected.iter().find(|(n, _)| n.starts_with("input.")).expect("the reference has an input");
    let given = [(input.as_str(), TensorView::from(data)), ("target", TensorView::from(&expected["target"]))];
    let mut session = step.session().expect("a session");
    let outputs = session.call(EntryKind::Step, &given).expect("a valid step");
    for (parameter, part) in trainable_set(recipe, model).expect("it fits") {
        let name = format!("grad.{parameter}");
        let whole = expected[&name].to_tensor();
        let (found, want) =
            (outputs.get(&name).expect("a gradient").to_host().to_tensor(), part_of(&whole, part.as_ref()));
        let scale = whole.floats().iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let limit = 10.0 * errors[&name] + 3e-6 * scale;
        assert_eq!(found.ty.shape, want.ty.shape, "{name}");
        let off = found.floats().iter().zip(want.floats()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off <= limit, "{name}: off by {off}, allowed {limit}");
    }
}

/// S²FT (Yang et al. 2024): one of four heads and a quarter of the FFN's channels of every block.
#[test]
fn a_gpt_in_part() {
    let Some((model, [whole, part], folder)) = reference("gpt_tiny", "examples/recipes/gpt_tiny.s2ft.json") else {
        return;
    };
    check_gradients(&model, &part, &folder);
    // How much is made again in spare time depends on the time the rest takes.
    let options = Options { spare_time: false, ..Options::default() };
    let [whole, part] = [whole, part].map(|recipe| cost(&compile(&model, &recipe, &options)));
    let flops = |c: &TrainingCost| (c.forward_flops + c.backward_flops + c.update_flops) as f64;
    let (time, memory) = (flops(&whole) / flops(&part), whole.training_bytes() as f64 / part.training_bytes() as f64);
    println!("gpt_tiny: {time:.2} times fewer operations, {memory:.2} times less training memory\n{whole:?}\n{part:?}");
    assert!(time >= 1.45 && memory >= 1.45, "{time} {memory}");
}

/// MCUNet's scheme (Lin et al. 2022): biases of the last six blocks, six convolutions at ratios 1, 1, 1, 1, 1/8, 1/4.
#[test]
fn a_mobilenet_in_part() {
    let own = reference("mobilenetv2_tiny", "examples/recipes/mobilenetv2_tiny.mcunet.json");
    let Some((model, [whole, part], folder)) = own else { return };
    check_gradients(&model, &part, &folder);
    let [whole, part] = [whole, part].map(|recipe| cost(&compile(&model, &recipe, &Options::default())));
    let memory = whole.training_bytes() as f64 / part.training_bytes() as f64;
    println!("mobilenetv2_tiny: {memory:.2} times less training memory\n{whole:?}\n{part:?}");
    assert!(memory >= 6.0 && whole.saved_bytes >= 10 * part.saved_bytes);
}
