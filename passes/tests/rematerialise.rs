//! Making values again under a limit of memory: it fits, and every bit stays.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{TensorType, TypeError};
use gradc_ir::verify::verify;
use gradc_passes::cost::graph_cost;
use gradc_passes::fit::{Rematerialised, rematerialise, rematerialise_in_spare_time};
use gradc_passes::layout::KeptLayouts;
use gradc_passes::memory::{SharedLayout, check_plan, largest_action_bytes, live_bytes, plan_memory};
use gradc_passes::optimizers::{Optimizer, Sgd};
use gradc_passes::schedule::{Ordering, schedule};
use gradc_passes::train::{TrainSpec, derive_step};

/// Rows and columns of every activation.
const N: usize = 64;

/// Bytes of an activation.
const ACTIVATION: usize = 4 * N * N;

/// `layers` times `h = tanh(h·w)`, each of which keeps its result for the backward pass.
fn step(layers: usize) -> Graph {
    step_of(layers, N, |b, y| b.tanh(y))
}

/// `layers` times `y = h·w`, `h = y·tanh(y)` on `n` rows and columns, each of which keeps `y` and the rest.
fn gated(layers: usize, n: usize) -> Graph {
    step_of(layers, n, |b, y| {
        let gate = b.tanh(y)?;
        b.mul(y, gate)
    })
}

fn step_of(layers: usize, n: usize, activation: fn(&mut Builder, Value) -> Result<Value, TypeError>) -> Graph {
    let forward = || -> Result<Graph, TypeError> {
        let mut b = Builder::new("deep");
        let mut h = b.input("x", TensorType::f32([n, n]))?;
        for k in 0..layers {
            let w = b.parameter(&format!("w{k}"), TensorType::f32([n, n]))?;
            let y = b.dot_general(h, w, [&[], &[]], [&[1], &[0]])?;
            h = activation(&mut b, y)?;
        }
        let sum = b.reduce_sum(h, &[0, 1])?;
        b.output("loss", sum, OutputKind::Result);
        Ok(b.finish())
    };
    let forward = forward().expect("the model is well typed");
    let sgd = Sgd { lr: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    let trainable = (0..layers).map(|k| format!("w{k}").into()).collect();
    let spec = TrainSpec::new(trainable, Some(Optimizer::Sgd(sgd)));
    derive_step(&forward, &spec).expect("it differentiates").with_checked("loss")
}

fn fitted(graph: &Graph, limit_bytes: usize) -> Rematerialised {
    let target = Target::of(VectorIsa::Portable);
    let fitted = rematerialise(graph, limit_bytes, &KeptLayouts::new(), Ordering::Memory, &target)
        .expect("the copy is well typed");
    verify(&fitted.graph).expect("the copy is well formed");
    fitted
}

/// Plans a graph, verifies the plan; the bytes alive at once and the most that one action takes.
fn planned_bytes(graph: &Graph) -> (usize, usize) {
    let layout = SharedLayout::of([graph]);
    let (schedule, _) = schedule(graph.clone().into(), Ordering::Memory).expect("it schedules");
    let plan = plan_memory(schedule, &layout);
    check_plan(&plan, &layout).expect("the plan holds");
    (live_bytes(&plan.schedule), largest_action_bytes(&plan.schedule))
}

fn outputs(graph: &Graph) -> Vec<Vec<f64>> {
    let input = |(k, input): (usize, &gradc_ir::graph::Input)| {
        let ty = graph.ty(input.value).clone();
        let value = |e: usize| ((e * 7919 + k * 104729) % 1009) as f64 / 1009.0 / 4.0 - 0.125;
        Tensor::float(ty.clone(), (0..ty.elements()).map(value).collect())
    };
    let is_float = |i: &gradc_ir::graph::Input| graph.ty(i.value).dtype.is_float();
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .enumerate()
        .map(|(k, i)| match is_float(i) {
            true => input((k, i)),
            false => Tensor::int(graph.ty(i.value).clone(), vec![0; graph.ty(i.value).elements()]),
        })
        .collect();
    let run = evaluate(graph, &inputs, Precision::Storage).expect("it runs");
    let floats = graph.outputs().iter().filter(|o| graph.ty(o.value).dtype.is_float());
    floats.map(|o| run.get(o.value).floats().to_vec()).collect()
}

#[test]
fn nothing_is_made_again_where_it_fits() {
    let graph = step(6);
    let (needed, _) = planned_bytes(&graph);
    let fitted = fitted(&graph, needed);
    assert_eq!((fitted.dropped, fitted.again.flops), (0, 0.0));
    assert_eq!(fitted.peaks.chosen_bytes, needed);
}

#[test]
fn a_limit_between_is_met_and_lower_limits_cost_more() {
    let graph = step(16);
    let (needed, _) = planned_bytes(&graph);
    let mut last_flops = 0.0;
    for saved in [2, 4, 6] {
        let limit = needed - saved * ACTIVATION;
        let fitted = fitted(&graph, limit);
        let (now, _) = planned_bytes(&fitted.graph);
        assert!(now <= limit, "{now} bytes of {limit}");
        assert_eq!(now, fitted.peaks.chosen_bytes);
        assert!(fitted.again.flops > last_flops, "a lower limit costs more");
        last_flops = fitted.again.flops;
    }
}

#[test]
fn every_bit_stays() {
    let graph = step(8);
    let again = fitted(&graph, 0);
    assert!(again.dropped > 0);
    assert_eq!(outputs(&graph), outputs(&again.graph));
}

#[test]
fn what_cannot_fit_is_as_small_as_was_found() {
    let graph = step(16);
    let (needed, _) = planned_bytes(&graph);
    let fitted = fitted(&graph, 0);
    let (now, one_action) = planned_bytes(&fitted.graph);
    // Sixteen activations in segments of four: about four borders and four inside the segment at hand.
    assert!(now <= needed - 6 * ACTIVATION, "{now} of {needed}");
    assert!(now >= one_action);
}

#[test]
fn without_a_limit_that_is_made_again_which_takes_next_to_no_time() {
    let (graph, target) = (gated(8, 1024), Target::of(VectorIsa::Portable));
    let found = rematerialise_in_spare_time(&graph, &KeptLayouts::new(), Ordering::Memory, &target)
        .expect("the copy is well typed");
    let found = found.expect("a product of 1024 rows takes long against a map");
    verify(&found.graph).expect("the copy is well formed");
    assert_eq!(planned_bytes(&graph).0, found.without_bytes);
    assert_eq!(planned_bytes(&found.graph).0, found.peaks.chosen_bytes);
    assert!(
        found.peaks.chosen_bytes <= found.without_bytes / 8 * 7,
        "{} of {}",
        found.peaks.chosen_bytes,
        found.without_bytes
    );
    let (again, step) = (found.again, graph_cost(&graph, &target));
    assert!(again.time_ns <= step.time_ns / 100.0 && again.flops <= step.flops / 400.0, "{again:?} of {step:?}");
}

#[test]
fn without_a_limit_nothing_costly_or_small_is_made_again() {
    let target = Target::of(VectorIsa::Portable);
    // A map of 32 rows takes several hundredths of a product of as many; 64 rows save less than a mebibyte.
    for graph in [gated(128, 32), gated(6, N)] {
        let found = rematerialise_in_spare_time(&graph, &KeptLayouts::new(), Ordering::Memory, &target)
            .expect("the copy is well typed");
        assert!(found.is_none_or(|found| found.dropped == 0));
    }
}
