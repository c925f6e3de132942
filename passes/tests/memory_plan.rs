//! Plans of derived training steps hold, and the verifier catches damage to them.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::part::Part;
use gradc_ir::plan::{Action, MemoryPlan, Place, RegionMemory, RegionSchedule, Segment};
use gradc_ir::text::{parse_plan, print_plan};
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::memory::{SharedLayout, check_plan, guarded_live_bytes, live_bytes, plan_memory};
use gradc_passes::optimizers::{Adam, Optimizer};
use gradc_passes::schedule::{Ordering, schedule};
use gradc_passes::train::{TrainSpec, Trainable, derive_step};

fn step(layers: usize) -> Graph {
    step_with(layers, None)
}

/// A step in which of every weight only a part trains, if one is given.
fn step_with(layers: usize, part: Option<&Part>) -> Graph {
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
    let weight = |k| Trainable { parameter: format!("w{k}"), part: part.cloned() };
    let trainable = (0..layers).flat_map(|k| [weight(k), format!("b{k}").into()]).collect();
    let adam = Adam { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decoupled: false };
    let optimizer = Some(Optimizer::Adam(adam));
    let spec = TrainSpec::new(trainable, optimizer);
    derive_step(&forward, &spec).expect("it differentiates")
}

fn planned(layers: usize, ordering: Ordering) -> (MemoryPlan, SharedLayout, usize) {
    planned_step(step(layers), ordering)
}

fn planned_step(graph: Graph, ordering: Ordering) -> (MemoryPlan, SharedLayout, usize) {
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

/// A value that is kept where `holds`, else made anew by way of 4 KiB that nothing else needs.
fn guarded() -> Result<Graph, TypeError> {
    let mut b = Builder::new("guarded");
    let (column, matrix) = (TensorType::f32([32, 1]), TensorType::f32([32, 32]));
    let holds = b.input("holds", TensorType::new(DType::Bool, []))?;
    let x = b.input("x", column.clone())?;
    let computed = b.exp(x)?;
    let kept = Builder::function("kept", &[column.clone(), column.clone()], |_, x| Ok(vec![x[0]]))?;
    let anew = Builder::function("anew", &[column.clone(), column.clone()], |b, x| {
        let square = b.dot_general(x[1], x[1], [&[], &[]], [&[1], &[1]])?;
        let cube = b.dot_general(square, square, [&[], &[]], [&[1], &[0]])?;
        debug_assert_eq!(*b.ty(cube), matrix);
        Ok(vec![b.dot_general(cube, x[1], [&[], &[]], [&[1], &[0]])?])
    })?;
    let y = b.cond(holds, &kept, &anew, &[computed, x])?[0];
    b.output("y", y, OutputKind::Result);
    Ok(b.finish())
}

#[test]
fn what_is_made_only_where_a_guard_fails_is_told_apart() {
    let (plan, ..) = planned_step(guarded().expect("well typed"), Ordering::Memory);
    let (holding, failing) = (guarded_live_bytes(&plan.schedule), live_bytes(&plan.schedule));
    // The column that is kept, and the result; besides them two matrices.
    assert_eq!((holding, failing), (Some(256), 256 + 2 * 4096));
    assert_eq!(guarded_live_bytes(&planned(1, Ordering::Memory).0.schedule), None, "no branch, no guard");
}

/// Two sums over the same rows that start from one tensor of zeros: one takes its place, the other starts from a copy.
fn two_sums() -> Result<Graph, TypeError> {
    let mut b = Builder::new("sums");
    let row = TensorType::f32([1024]);
    let rows = b.input("rows", TensorType::f32([4, 1024]))?;
    let body = Builder::function("step", &[row.clone(), row.clone(), row.clone()], |b, x| {
        let square = b.mul(x[2], x[2])?;
        Ok(vec![b.add(x[0], x[2])?, b.add(x[1], square)?])
    })?;
    let zeros = b.splat(&row, 0.0)?;
    let (sums, _) = b.scan(&body, &[zeros, zeros], &[rows], &[], false)?;
    sums.iter().zip(["sum", "squares"]).for_each(|(&sum, name)| b.output(name, sum, OutputKind::Result));
    Ok(b.finish())
}

#[test]
fn carries_that_start_alike_need_no_more_than_themselves() {
    let (plan, layout, _) = planned_step(two_sums().expect("well typed"), Ordering::Memory);
    check_plan(&plan, &layout).expect("the plan holds");
    assert_eq!(plan.memory.arena_bytes, 2 * 4096);
}

#[test]
fn every_update_is_in_place() {
    let (plan, _, _) = planned(5, Ordering::Memory);
    assert_eq!(plan.memory.commits, vec![], "nothing is copied at the end of a step");
}

/// The rest of a parameter is neither copied nor written, and nothing as large as it is made for the update.
#[test]
fn parts_are_updated_where_they_lie() {
    for (axis, indices) in
        [(0, vec![0, 1, 2, 3]), (1, vec![4, 5, 6, 7]), (0, vec![1, 5, 6, 30]), (1, vec![0, 9, 10, 31])]
    {
        let (plan, layout, _) = planned_step(step_with(1, Some(&Part { axis, indices })), Ordering::Memory);
        check_plan(&plan, &layout).expect("the plan holds");
        assert_eq!(plan.memory.commits, vec![], "nothing is copied at the end of a step");
        let graph = &plan.schedule.graph;
        let (_, weight) = graph.input_named("w0").expect("the weight");
        let update = graph.outputs().iter().find(|o| o.name == "w0").expect("its update").value;
        assert_eq!(plan.memory.places[&update], plan.memory.places[&weight.value]);
        let mut elsewhere = plan.clone();
        elsewhere
            .memory
            .places
            .insert(update, Place { segment: Segment::Arena, offset_bytes: plan.memory.arena_bytes });
        elsewhere.memory.arena_bytes += graph.ty(update).size_bytes();
        let found = check_plan(&elsewhere, &layout).expect_err("the parameter keeps its old value").message;
        assert!(found.contains("the plan does not store"), "{found}");
    }
}

#[test]
fn early_updates_keep_gradients_from_coexisting() {
    let (program, reordered) = (planned(8, Ordering::Program).2, planned(8, Ordering::Memory).2);
    assert!(reordered < program, "{reordered} bytes reordered, {program} in program order");
}

#[test]
fn the_arena_is_close_to_the_live_peak() {
    let (plan, _, live_bytes) = planned(8, Ordering::Memory);
    assert!(
        plan.memory.arena_bytes as f64 <= 1.15 * live_bytes as f64,
        "{} bytes for {live_bytes} live",
        plan.memory.arena_bytes
    );
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
    let piled = broken(&|p| {
        p.memory.places.values_mut().filter(|v| v.segment == Segment::Arena).for_each(|v| v.offset_bytes = 0)
    });
    assert!(piled.contains("overwrites"), "{piled}");
    let outside = broken(&|p| p.memory.arena_bytes = 64);
    assert!(outside.contains("outside its segment"), "{outside}");
    let early = broken(&|p| {
        let check =
            p.schedule.actions.iter().position(|a| matches!(a, Action::CheckFinite(_))).expect("the loss is checked");
        let action = p.schedule.actions.remove(check);
        p.schedule.actions.push(action);
    });
    assert!(early.contains("before the loss is checked"), "{early}");
}

/// A product reads its factor until its last element is made, although nothing reads the factor after it.
#[test]
fn a_product_over_its_own_factor_is_damage() {
    let product = || -> Result<_, TypeError> {
        let mut b = Builder::new("product");
        let x = b.input("x", TensorType::f32([16, 16]))?;
        let w = b.parameter("w", TensorType::f32([16, 16]))?;
        let factor = b.tanh(x)?;
        let y = b.dot_general(factor, w, [&[], &[]], [&[1], &[0]])?;
        b.output("y", y, OutputKind::Result);
        Ok((b.finish(), factor, y))
    };
    let (graph, factor, y) = product().expect("the model is well typed");
    let (mut plan, layout, _) = planned_step(graph, Ordering::Program);
    check_plan(&plan, &layout).expect("the plan holds");
    plan.memory.places.insert(y, plan.memory.places[&factor]);
    let found = check_plan(&plan, &layout).expect_err("the damage is found").message;
    assert!(found.contains("overwrites"), "{found}");
}

/// A loop whose carries change places and whose second carry is read after the first has changed; `kept` lives across it.
fn looped() -> (MemoryPlan, SharedLayout) {
    let build = || -> Result<Graph, TypeError> {
        let square = TensorType::f32([32, 32]);
        let types = [square.clone(), square.clone(), square.clone(), square.clone()];
        let body = Builder::function("step", &types, |b, x| {
            let product = b.dot_general(x[0], x[3], [&[], &[]], [&[1], &[0]])?;
            let next = b.dot_general(product, x[1], [&[], &[]], [&[1], &[0]])?;
            let next = b.add(next, x[2])?;
            Ok(vec![x[1], next, product])
        })?;
        let mut b = Builder::new("looped");
        let xs = b.input("xs", TensorType::f32([5, 32, 32]))?;
        let w = b.parameter("w", square)?;
        let start = b.exp(w)?;
        let kept = b.tanh(w)?;
        let (carries, ys) = b.scan(&body, &[start, kept], &[xs], &[w], false)?;
        let sum = b.add(carries[1], kept)?;
        b.output("sum", sum, OutputKind::Result);
        b.output("ys", ys[0], OutputKind::Result);
        Ok(b.finish())
    };
    let graph = build().expect("the model is well typed");
    let layout = SharedLayout::of([&graph]);
    let (schedule, _) = schedule(graph.into(), Ordering::Memory).expect("it schedules");
    (plan_memory(schedule, &layout), layout)
}

fn region(plan: &mut MemoryPlan) -> &mut RegionSchedule {
    let regions = plan.schedule.actions.iter_mut().filter_map(|a| match a {
        Action::Region(region) => Some(region),
        _ => None,
    });
    let mut regions = regions;
    regions.next().expect("the loop is scheduled")
}

fn region_memory(plan: &mut MemoryPlan) -> &mut RegionMemory {
    plan.memory.regions.values_mut().next().expect("the loop has memory")
}

#[test]
fn plans_of_loops_pass_the_verifier_and_parse_back() {
    let (mut plan, layout) = looped();
    check_plan(&plan, &layout).expect("the plan holds");
    let text = print_plan(&plan);
    assert_eq!(parse_plan(&text).unwrap_or_else(|e| panic!("{e}\n{text}")), plan);
    let commits = &region_memory(&mut plan).bodies[0].commits;
    assert_eq!(commits.len(), 2, "carries that change places are moved: {commits:?}");
}

#[test]
fn the_verifier_catches_damage_to_loops() {
    let (plan, layout) = looped();
    let broken = |expected: &str, damage: &dyn Fn(&mut MemoryPlan)| {
        let mut copy = plan.clone();
        damage(&mut copy);
        let found = check_plan(&copy, &layout).expect_err(expected).message;
        assert!(found.contains(expected), "{expected}: {found}");
    };
    broken("is read before it is made", &|p| region(p).bodies[0].actions.reverse());
    broken("groups are not the graph's", &|p| _ = region(p).bodies[0].actions.pop());
    broken("are not its own", &|p| region(p).bodies[0].graph.name = "another".into());
    broken("are not its own", &|p| _ = region(p).bodies.pop());
    broken("have no memory", &|p| p.memory.regions.clear());
    broken("where all bodies", &|p| _ = region_memory(p).bodies.pop());
    broken("work outside the arena", &|p| {
        let end = p.memory.arena_bytes;
        region_memory(p).work_offset_bytes = end;
    });
    broken("work outside the arena", &|p| region_memory(p).work_offset_bytes += 1);
    broken("outside its segment", &|p| region_memory(p).bodies[0].arena_bytes = 64);
    broken("does not store", &|p| _ = region_memory(p).bodies[0].commits.pop());
    broken("", &|p| region_memory(p).bodies[0].commits.reverse());
    broken("moves no value", &|p| region_memory(p).bodies[0].commits[0].2 -= 64);
    broken("is not where it is shared", &|p| {
        let places = &mut region_memory(p).bodies[0].places;
        let slice = places.values_mut().find(|place| place.segment == Segment::Argument(2));
        slice.expect("a slice is read").segment = Segment::Argument(0);
    });
    // what the first product makes may not be put over the first carry before the last product has read the second
    broken("overwrites", &|p| {
        let places = &mut region_memory(p).bodies[0].places;
        places.values_mut().filter(|place| place.segment == Segment::Arena).for_each(|place| {
            *place = Place { segment: Segment::Argument(1), offset_bytes: 0 };
        });
    });
    // the loop works where values lie that live across it
    let lies: Vec<usize> =
        plan.memory.places.values().filter(|p| p.segment == Segment::Arena).map(|p| p.offset_bytes).collect();
    let found = lies.iter().filter(|&&offset| {
        let mut copy = plan.clone();
        region_memory(&mut copy).work_offset_bytes = offset;
        check_plan(&copy, &layout).is_err_and(|e| e.message.contains("overwrite"))
    });
    assert!(found.count() >= 3, "carries, stacked results and what is kept");
}
