//! What is made again for the backward pass has the bits it had, and saves memory.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::ops::Op;
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::memory::{SharedLayout, check_plan, plan_memory};
use gradc_passes::recompute::recompute;
use gradc_passes::schedule::{Ordering, schedule};
use gradc_passes::train::{TrainSpec, derive_step};

/// Extent of everything: large enough for values to be worth making again.
const N: usize = 128;

/// `layers` times a product, then `after` of it.
fn step(layers: usize, after: impl Fn(&mut Builder, Value) -> Result<Value, TypeError>) -> Graph {
    let forward = || -> Result<Graph, TypeError> {
        let mut b = Builder::new("deep");
        let mut h = b.input("x", TensorType::f32([N, N]))?;
        for k in 0..layers {
            let w = b.parameter(&format!("w{k}"), TensorType::f32([N, N]))?;
            let y = b.dot_general(h, w, [&[], &[]], [&[1], &[0]])?;
            h = after(&mut b, y)?;
        }
        let sum = b.reduce_sum(h, &[0, 1])?;
        b.output("loss", sum, OutputKind::Result);
        Ok(b.finish())
    };
    let forward = forward().expect("the model is well typed");
    let trainable = (0..layers).map(|k| format!("w{k}").into()).collect();
    let spec = TrainSpec { gradient_outputs: true, ..TrainSpec::new(trainable, None) };
    derive_step(&forward, &spec).expect("it differentiates").with_checked("loss")
}

/// `x · (1 + tanh x)`, as a gated unit: cheap once the tanh is there.
fn gated(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let t = b.tanh(x)?;
    let one = b.full_like(t, 1.0)?;
    let gate = b.add(t, one)?;
    b.mul(x, gate)
}

fn recomputed(graph: &Graph) -> Graph {
    recompute(graph, &Target::of(VectorIsa::Portable)).expect("the copy is well typed")
}

fn arena_bytes(graph: &Graph) -> usize {
    let layout = SharedLayout::of([graph]);
    let (schedule, _) = schedule(graph.clone().into(), Ordering::Memory).expect("it schedules");
    let plan = plan_memory(schedule, &layout);
    check_plan(&plan, &layout).expect("the plan holds");
    plan.memory.arena_bytes
}

fn barriers(graph: &Graph) -> usize {
    graph.node_ids().filter(|&id| matches!(graph.op(id), Some(Op::Barrier(_)))).count()
}

#[test]
fn gated_units_are_made_again_and_save_memory() {
    let graph = step(4, gated);
    let again = recomputed(&graph);
    assert!(barriers(&again) > 0);
    let (kept, made_again) = (arena_bytes(&graph), arena_bytes(&again));
    // Of three tensors kept per layer one is made again; the last layer needs none of it.
    assert!(made_again + 2 * 4 * N * N <= kept, "{made_again} against {kept}");
}

#[test]
fn every_bit_stays() {
    let graph = step(2, gated);
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .map(|input| {
            let ty = graph.ty(input.value).clone();
            let values = (0..ty.elements()).map(|k| ((k * 7919 % 1009) as f64 / 1009.0 - 0.5) / 8.0).collect();
            Tensor::float(ty, values)
        })
        .collect();
    let outputs = |graph: &Graph| {
        let run = evaluate(graph, &inputs, Precision::Double).expect("it runs");
        let values = graph.outputs().iter().map(|o| run.get(o.value).floats().to_vec());
        values.collect::<Vec<_>>()
    };
    assert_eq!(outputs(&graph), outputs(&recomputed(&graph)));
}

#[test]
fn what_takes_long_is_kept() {
    let graph = step(3, |b, x| b.tanh(x));
    assert_eq!(barriers(&recomputed(&graph)), 0);
}
