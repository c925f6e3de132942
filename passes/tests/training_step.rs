//! A whole training step derived from a small model, held against finite differences and hand computation.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::interpret::step;
use gradc_ir::lower::CompareFn;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::optimizers::{Adam, Decay, Optimizer, Schedule, Sgd};
use gradc_passes::train::{TrainSpec, derive_step};
use std::collections::HashMap;

const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };

/// loss = mean((relu-like(x·w1 + b) · w2)²), with a frozen scale.
fn model() -> Result<Graph, TypeError> {
    let mut b = Builder::new("model");
    let x = b.input("x", TensorType::f32([4, 3]))?;
    let w1 = b.parameter("w1", TensorType::f32([3, 5]))?;
    let bias = b.parameter("bias", TensorType::f32([5]))?;
    let w2 = b.parameter("w2", TensorType::f32([5, 2]))?;
    let scale = b.parameter("scale", TensorType::f32([2]))?;
    let h = b.dot_general(x, w1, [&[], &[]], [&[1], &[0]])?;
    let h = b.add(h, bias)?;
    let h = b.tanh(h)?;
    let y = b.dot_general(h, w2, [&[], &[]], [&[1], &[0]])?;
    let y = b.mul(y, scale)?;
    let square = b.mul(y, y)?;
    let sum = b.reduce_sum(square, &[0, 1])?;
    let loss = b.scale(sum, 1.0 / 8.0)?;
    b.output("loss", loss, OutputKind::Result);
    Ok(b.finish())
}

fn spec(optimizer: Optimizer) -> TrainSpec {
    TrainSpec::new(["w1", "bias", "w2"].map(|name| name.to_string().into()).to_vec(), Some(optimizer))
}

fn tensors(graph: &Graph) -> HashMap<String, Tensor> {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as f64 / 2f64.powi(31) - 0.5
    };
    let given = graph.inputs().iter().filter(|i| i.default.is_none());
    given
        .map(|i| {
            (
                i.name.clone(),
                Tensor::float(graph.ty(i.value).clone(), (0..graph.ty(i.value).elements()).map(|_| next()).collect()),
            )
        })
        .collect()
}

fn loss(graph: &Graph, tensors: &HashMap<String, Tensor>) -> f64 {
    step(graph, &mut tensors.clone()).expect("the model runs")["loss"].floats()[0]
}

#[test]
fn gradients_match_finite_differences() {
    let forward = model().expect("the model is well typed");
    let graph =
        derive_step(&forward, &TrainSpec { gradient_outputs: true, optimizer: None, ..spec(Optimizer::Sgd(SGD)) })
            .expect("it differentiates");
    let tensors = tensors(&forward);
    let results = step(&graph, &mut tensors.clone()).expect("the step runs");
    assert!(!results.contains_key("grad.scale"), "frozen parameters have no gradient");
    for name in ["w1", "bias", "w2"] {
        let gradient = results[&format!("grad.{name}")].floats();
        for (k, &g) in gradient.iter().enumerate() {
            let shifted = |by: f64| {
                let mut moved = tensors.clone();
                let tensor = moved.get_mut(name).expect("a parameter");
                let mut values = tensor.floats().to_vec();
                values[k] += by;
                *tensor = Tensor::float(tensor.ty.clone(), values);
                loss(&forward, &moved)
            };
            let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert!((difference - g).abs() < 1e-8, "{name}[{k}]: {g} against {difference}");
        }
    }
}

#[test]
fn frozen_parameters_have_no_state() {
    let graph = derive_step(&model().expect("well typed"), &spec(Optimizer::Sgd(Sgd { momentum: 0.9, ..SGD })))
        .expect("it differentiates");
    let states: Vec<&str> = graph.inputs().iter().filter(|i| i.role == Role::State).map(|i| i.name.as_str()).collect();
    assert_eq!(states, ["step", "momentum.w1", "momentum.bias", "momentum.w2"]);
}

/// Runs a one-parameter quadratic p²/2, whose gradient is p, for `steps` steps and returns p after each, which is the
/// same in f32 and f64 for the interpreter.
fn quadratic(spec: TrainSpec, steps: usize) -> Vec<f64> {
    let [narrow, wide] = [DType::F32, DType::F64].map(|dtype| quadratic_of(dtype, spec.clone(), steps));
    assert_eq!(narrow, wide);
    narrow
}

fn quadratic_of(dtype: DType, spec: TrainSpec, steps: usize) -> Vec<f64> {
    let build = || -> Result<Graph, TypeError> {
        let mut b = Builder::new("quadratic");
        let p = b.parameter("p", TensorType::new(dtype, []))?;
        let square = b.mul(p, p)?;
        let loss = b.scale(square, 0.5)?;
        b.output("loss", loss, OutputKind::Result);
        Ok(b.finish())
    };
    let graph =
        derive_step(&build().expect("well typed"), &TrainSpec { trainable: vec!["p".to_string().into()], ..spec })
            .expect("it differentiates");
    let mut tensors = HashMap::from([("p".to_string(), Tensor::float(TensorType::new(dtype, []), vec![1.0]))]);
    let mut run = || {
        step(&graph, &mut tensors).expect("the step runs");
        tensors["p"].floats()[0]
    };
    (0..steps).map(|_| run()).collect()
}

fn close(found: &[f64], expected: &[f64]) {
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
        "{found:?} against {expected:?}"
    );
}

#[test]
fn sgd_follows_pytorch() {
    close(&quadratic(spec(Optimizer::Sgd(SGD)), 3), &[0.9, 0.81, 0.729]);
    let momentum = Sgd { momentum: 0.9, dampening: 0.5, ..SGD };
    // m1 = g1 = 1; m2 = 0.9·1 + 0.5·0.9 = 1.35
    close(&quadratic(spec(Optimizer::Sgd(momentum)), 2), &[0.9, 0.9 - 0.135]);
    let nesterov = Sgd { momentum: 0.9, nesterov: true, ..SGD };
    close(&quadratic(spec(Optimizer::Sgd(nesterov)), 1), &[1.0 - 0.1 * 1.9]);
}

#[test]
fn adam_follows_pytorch() {
    let adam = Adam { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decoupled: false };
    let (mut p, mut m, mut v) = (1.0f64, 0.0, 0.0);
    let mut expected = vec![];
    for t in 1..=4 {
        m = 0.9 * m + 0.1 * p;
        v = 0.999 * v + 0.001 * p * p;
        p -= 0.1 / (1.0 - 0.9f64.powi(t)) * m / (f64::sqrt(v) / f64::sqrt(1.0 - 0.999f64.powi(t)) + 1e-8);
        expected.push(p);
    }
    close(&quadratic(spec(Optimizer::Adam(adam.clone())), 4), &expected);
    let decoupled = Adam { weight_decay: 0.5, decoupled: true, ..adam };
    close(&quadratic(spec(Optimizer::Adam(decoupled)), 1), &[0.95 - 0.1 / (1.0 + 1e-8)]);
}

#[test]
fn schedules_scale_the_learning_rate() {
    let with = |schedule| TrainSpec { schedule, ..spec(Optimizer::Sgd(SGD)) };
    let halved = Schedule { warmup_steps: 0, decay: Decay::Step { step_size: 2, gamma: 0.5 } };
    close(&quadratic(with(halved), 3), &[0.9, 0.81, 0.81 * 0.95]);
    let warm = Schedule { warmup_steps: 2, decay: Decay::Constant };
    close(&quadratic(with(warm), 2), &[0.95, 0.95 * 0.9]);
    let cosine = Schedule { warmup_steps: 0, decay: Decay::Cosine { total_steps: 2, floor: 0.0 } };
    close(&quadratic(with(cosine), 3), &[0.9, 0.9 * 0.95, 0.9 * 0.95]);
    let linear = Schedule { warmup_steps: 1, decay: Decay::Linear { total_steps: 2, floor: 0.2 } };
    close(&quadratic(with(linear), 4), &[0.9, 0.81, 0.81 * 0.94, 0.81 * 0.94 * 0.98]);
}

#[test]
fn clipping_bounds_the_norm() {
    let clipped = TrainSpec { clip_norm: Some(0.5), ..spec(Optimizer::Sgd(SGD)) };
    close(&quadratic(clipped, 1), &[1.0 - 0.1 * 0.5 / (1.0 + 1e-6)]);
}

#[test]
fn accumulation_updates_every_nth_call_with_the_mean() {
    let accumulated = TrainSpec { accumulate: 3, ..spec(Optimizer::Sgd(SGD)) };
    close(&quadratic(accumulated, 6), &[1.0, 1.0, 0.9, 0.9, 0.9, 0.81]);
}

fn blocked(build: impl FnOnce(&mut Builder, Value) -> Result<Value, TypeError>) -> String {
    let mut b = Builder::new("blocked");
    let p = b.parameter("p", TensorType::f32([2])).expect("declared");
    let y = build(&mut b, p).expect("well typed");
    let loss = b.reduce_sum(y, &[0]).expect("well typed");
    b.output("loss", loss, OutputKind::Result);
    let spec = TrainSpec { trainable: vec!["p".to_string().into()], ..spec(Optimizer::Sgd(SGD)) };
    derive_step(&b.finish(), &spec).expect_err("no gradient reaches p").to_string()
}

#[test]
fn a_gradient_that_cannot_flow_is_an_error() {
    let stopped = blocked(|b, p| b.stop_gradient(p));
    assert!(
        stopped.contains("no gradient reaches parameter `p`") && stopped.contains("`stop_gradient` stops it"),
        "{stopped}"
    );
    let unused = blocked(|b, _| b.splat(&TensorType::f32([2]), 1.0));
    assert!(unused.contains("the loss does not depend on it"), "{unused}");
    let compared = blocked(|b, p| {
        let zero = b.splat(&TensorType::f32([2]), 0.0)?;
        let positive = b.compare(CompareFn::Gt, p, zero)?;
        b.cast(positive, DType::F32)
    });
    assert!(compared.contains("no gradient reaches parameter `p`"), "{compared}");
}

/// A parameter that counts its own steps and trains from the start takes the same steps.
#[test]
fn steps_counted_apart_are_the_same_from_the_start() {
    let adam = Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, decoupled: true };
    let damped = Sgd { momentum: 0.9, dampening: 0.5, ..SGD };
    for optimizer in [Optimizer::Adam(adam), Optimizer::Sgd(damped)] {
        let together = quadratic(spec(optimizer.clone()), 5);
        let apart = quadratic(TrainSpec { steps_apart: true, ..spec(optimizer) }, 5);
        assert_eq!(apart, together);
        assert!(together[4] != together[0]);
    }
}
