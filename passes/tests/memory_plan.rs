//! Plans of derived training steps hold, and the verifier catches damage to them.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::plan::{Action, MemoryPlan, Segment};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::memory::{SharedLayout, check_plan, plan_memory};
use gradc_passes::optimizers::{Adam, Optimizer};
use gradc_passes::schedule::{Ordering, schedule};
use gradc_passes::train::{TrainSpec, derive_step};

fn step(layers: usize) -> Graph {
    let forward = || -> Result<Graph, TypeError> {
        let mut b = Builder::new("deep");
        let mut h = b.input("x", TensorType::f32([16, 32]))?;
        for k in 0..layers {
            let w = b.parameter(&format!("w{k}"), TensorType::f32([32, 32]))?;
            let bias = b.parameter(&format!("b{k}"), TensorType::f32([32]))?;
            let y = b.dot_general(h, w, [&[], &[]], [&[1], &[0]])?;
            let y = b.add(y, bias)?;
            h = b.tanh(y)?;
        }
        let square = b.mul(h, h)?;
        let sum = b.reduce_sum(square, &[0, 1])?;
        b.output("loss", sum, OutputKind::Result);
        Ok(b.finish())
    };
    let forward = forward().expect("the model is well typed");
    let trainable = (0..layers).flat_map(|k| [format!("w{k}"), format!("b{k}")]).collect();
    let adam = Adam { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decoupled: false };
    let optimizer = Some(Optimizer::Adam(adam));
    let spec = TrainSpec {
        trainable,
        optimizer,
        schedule: Default::default(),
        clip_norm: None,
        accumulate: 1,
        gradient_outputs: false,
    };
    derive_step(&forward, &spec).expect("it differentiates")
}

fn planned(layers: usize, ordering: Ordering) -> (MemoryPlan, SharedLayout, usize) {
    let graph = step(layers);
    let layout = SharedLayout::of([&graph]);
    let (schedule, peaks) = schedule(graph.into(), ordering).expect("it schedules");
    (plan_memory(schedule, &layout), layout, peaks.chosen_bytes)
}

#[test]
fn plans_pass_the_verifier() {
    for layers in [1, 2, 5] {
        for ordering in [Ordering::Program, Ordering::Memory] {
            let (plan, layout, _) = planned(layers, ordering);
            check_plan(&plan, &layout).expect("the plan holds");
        }
    }
}

#[test]
fn every_update_is_in_place() {
    let (plan, _, _) = planned(5, Ordering::Memory);
    assert_eq!(plan.commits, vec![], "nothing is copied at the end of a step");
}

#[test]
fn early_updates_keep_gradients_from_coexisting() {
    let (program, reordered) = (planned(8, Ordering::Program).2, planned(8, Ordering::Memory).2);
    assert!(reordered < program, "{reordered} bytes reordered, {program} in program order");
}

#[test]
fn the_arena_is_close_to_the_live_peak() {
    let (plan, _, live_bytes) = planned(8, Ordering::Memory);
    assert!(plan.arena_bytes as f64 <= 1.15 * live_bytes as f64, "{} bytes for {live_bytes} live", plan.arena_bytes);
}

#[test]
fn the_verifier_catches_damage() {
    let (plan, layout, _) = planned(3, Ordering::Memory);
    let broken = |damage: &dyn Fn(&mut MemoryPlan)| {
        let mut copy = plan.clone();
        damage(&mut copy);
        check_plan(&copy, &layout).expect_err("the damage is found").message
    };
    let swapped = broken(&|p| p.schedule.actions.reverse());
    assert!(swapped.contains("is read before it is made"), "{swapped}");
    let missing = broken(&|p| _ = p.schedule.actions.pop());
    assert!(missing.contains("groups are not the graph's") || missing.contains("does not check"), "{missing}");
    let piled =
        broken(&|p| p.places.values_mut().filter(|v| v.segment == Segment::Arena).for_each(|v| v.offset_bytes = 0));
    assert!(piled.contains("overwrites"), "{piled}");
    let outside = broken(&|p| p.arena_bytes = 64);
    assert!(outside.contains("outside its segment"), "{outside}");
    let early = broken(&|p| {
        let check =
            p.schedule.actions.iter().position(|a| matches!(a, Action::CheckFinite(_))).expect("the loss is checked");
        let action = p.schedule.actions.remove(check);
        p.schedule.actions.push(action);
    });
    assert!(early.contains("before the loss is checked"), "{early}");
}
