//! Programs exported by torch.export, against what PyTorch computed with them.

use gradc_frontend::import::import;
use gradc_frontend::losses::{self, LossKind, TargetKind};
use gradc_frontend::model::{BatchNorm, ImportOptions, Model};
use gradc_frontend::weights;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Role};
use gradc_ir::interpret;
use gradc_ir::tensor::Tensor;
use gradc_ir::verify::verify;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

const MODELS: [&str; 10] = [
    "char_lstm",
    "gpt_tiny",
    "ista_denoiser",
    "lenet",
    "lora_mlp",
    "mlp_digits",
    "mlp_mnist",
    "mobilenetv2_sparse",
    "mobilenetv2_tiny",
    "resnet8",
];

/// The reference models, or `None` (said loudly) where they are not.
fn reference(model: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("GRADC_SHARED").unwrap_or_else(|_| beside.into());
    let path = PathBuf::from(shared).join("reference/models").join(model);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("SKIPPED: no reference model at {}", path.display());
    None
}

fn model(name: &str, options: &ImportOptions) -> Option<Model> {
    let path = reference(name)?.join("model.pt2");
    Some(import(&path, options).unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    let path = reference(name).expect("the model has been found").join("reference.safetensors");
    let all = weights::read(&path).unwrap_or_else(|e| panic!("{e}"));
    all.into_iter().map(|(name, tensor)| (name, tensor.to_tensor())).collect()
}

/// Tensors of the model by name, and `x` under the name of its only data input.
fn arguments(model: &Model, graph: &Graph, x: &Tensor) -> HashMap<String, Tensor> {
    let mut all: HashMap<String, Tensor> = model.tensors.iter().map(|(n, t)| (n.clone(), t.to_tensor())).collect();
    for input in graph.inputs().iter().filter(|i| i.role == Role::Input) {
        all.insert(input.name.clone(), x.clone());
    }
    all
}

fn predict(model: &Model, graph: &Graph, x: &Tensor) -> Tensor {
    let results = interpret::step(graph, &mut arguments(model, graph, x)).unwrap_or_else(|e| panic!("{e}"));
    results.into_values().next().expect("the model has an output")
}

fn names(graph: &Graph, role: Role) -> Vec<&str> {
    graph.inputs().iter().filter(|i| i.role == role).map(|i| i.name.as_str()).collect()
}

#[test]
fn all_reference_models_import() {
    for name in MODELS {
        let Some(model) = model(name, &ImportOptions::default()) else { return };
        let reference = tensors(name);
        let parameters = names(&model.train, Role::Parameter);
        for wanted in reference.keys().filter_map(|k| k.strip_prefix("grad.")) {
            assert!(parameters.contains(&wanted), "{name}: no parameter {wanted}");
            let ty = model.tensors[wanted].ty();
            assert_eq!(*ty, reference[&format!("grad.{wanted}")].ty, "{name}: {wanted}");
        }
        for graph in [&model.train, &model.infer] {
            verify(graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert_eq!(names(&model.train, Role::Input).len(), 1, "{name}");
        for role in Role::ALL {
            assert_eq!(names(&model.train, role), names(&model.infer, role), "{name}: {}", role.word());
        }
        for input in model.train.inputs().iter().filter(|i| i.role != Role::Input) {
            assert_eq!(model.tensors[&input.name].ty(), model.train.ty(input.value), "{name}: {}", input.name);
        }
        let updates = model.train.outputs().iter().filter(|o| matches!(o.kind, OutputKind::Update(_)));
        let buffers = names(&model.train, Role::Buffer);
        assert_eq!(updates.map(|o| o.name.as_str()).collect::<Vec<_>>(), buffers, "{name}: every buffer is updated");
        assert!(model.infer.outputs().iter().all(|o| o.kind == OutputKind::Result), "{name}");
        assert!(model.frozen.is_empty() && model.aliases.is_empty() && model.notes.is_empty(), "{name}");
    }
}

/// The loss that a model's training graph gives on the reference batch.
fn loss(model: &Model, kind: &LossKind, reference: &BTreeMap<String, Tensor>) -> f64 {
    let mut b = Builder::from_graph(model.train.clone());
    let prediction = b.graph().outputs().iter().find(|o| o.kind == OutputKind::Result).expect("an output").value;
    let target = b.input("target", reference["target"].ty.clone()).expect("no input is called target");
    let out = losses::build(&mut b, kind, prediction, Some(target)).expect("the loss fits");
    b.output("loss", out.loss, OutputKind::Result);
    let graph = b.finish();
    let mut all = arguments(model, &graph, &reference["input.x"]);
    all.insert("target".into(), reference["target"].clone());
    interpret::step(&graph, &mut all).unwrap_or_else(|e| panic!("{e}"))["loss"].floats()[0]
}

#[test]
fn first_losses_are_pytorchs() {
    let cross_entropy = LossKind::SoftmaxCrossEntropy { ignore_index: -100, target_kind: TargetKind::Labels };
    let cases = [
        ("mlp_digits", &cross_entropy),
        ("lora_mlp", &cross_entropy),
        ("lenet", &cross_entropy),
        ("char_lstm", &cross_entropy),
        ("mobilenetv2_tiny", &cross_entropy),
        ("ista_denoiser", &LossKind::Mse {}),
    ];
    for (name, kind) in cases {
        let Some(model) = model(name, &ImportOptions::default()) else { return };
        let reference = tensors(name);
        let (found, expected) = (loss(&model, kind, &reference), reference["loss"].floats()[0]);
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {found} instead of {expected}");
    }
}

/// The first rows of a tensor's leading axis.
fn rows(x: &Tensor, count: usize) -> Tensor {
    let mut shape = x.ty.shape.clone();
    shape[0] = count;
    x.gather_flat(x.ty.with_shape(shape), |k| k)
}

#[test]
fn all_reference_models_import_at_other_batch_sizes() {
    for name in MODELS {
        for batch in [1, 3] {
            let options = ImportOptions { batch: Some(batch), batch_norm: BatchNorm::Train, ..Default::default() };
            let Some(model) = model(name, &options) else { return };
            let input = model.train.inputs().iter().find(|i| i.role == Role::Input).expect("an input");
            assert_eq!(model.train.ty(input.value).shape[0], batch, "{name}");
        }
    }
}

#[test]
fn rows_of_a_batch_are_independent_of_its_size() {
    let cases =
        [("mlp_digits", 3), ("lora_mlp", 3), ("ista_denoiser", 3), ("lenet", 3), ("char_lstm", 3), ("gpt_tiny", 2)];
    for (name, batch) in cases {
        let at = |batch| model(name, &ImportOptions { batch: Some(batch), ..Default::default() });
        let (Some(several), Some(one)) = (at(batch), at(1)) else { return };
        let x = &tensors(name)["input.x"];
        let all = predict(&several, &several.infer, &rows(x, batch));
        let first = predict(&one, &one.infer, &rows(x, 1));
        assert_eq!(all.ty.elements(), batch * first.ty.elements(), "{name}");
        let scale = first.floats().iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (k, (a, b)) in all.floats().iter().zip(first.floats()).enumerate() {
            assert!((a - b).abs() <= 1e-12 * scale, "{name}: element {k} is {a} instead of {b}");
        }
    }
}
