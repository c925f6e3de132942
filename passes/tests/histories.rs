//! The verifier catches damage to plans in which a carry moves through the stack of its values.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::ops::Scan;
use gradc_ir::plan::{MemoryPlan, Place, Segment};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::memory::{SharedLayout, check_plan, plan_memory};
use gradc_passes::schedule::{Ordering, schedule};

/// `h ← tanh(exp(h))·w`, of which what each step takes or makes is stacked and summed; `kept` lives across the loop.
fn planned(stacks_taken: bool) -> (MemoryPlan, SharedLayout) {
    let build = || -> Result<Graph, TypeError> {
        let square = TensorType::f32([16, 16]);
        let body = Builder::function("step", &[square.clone(), square.clone()], |b, x| {
            let e = b.exp(x[0])?;
            let t = b.tanh(e)?;
            let next = b.dot_general(t, x[1], [&[], &[]], [&[1], &[0]])?;
            Ok(vec![next, if stacks_taken { x[0] } else { next }])
        })?;
        let mut b = Builder::new("stacking");
        let w = b.parameter("w", square)?;
        let kept = b.dot_general(w, w, [&[], &[]], [&[1], &[0]])?;
        let start = b.exp(kept)?;
        let scan = Scan { body, carries: 1, scanned: 0, length: 5, reverse: false, in_order: false };
        let made = b.apply(scan, &[start, w])?;
        let sum = b.reduce_sum(made[1], &[0])?;
        let sum = b.add(sum, made[0])?;
        let sum = b.dot_general(sum, kept, [&[], &[]], [&[1], &[0]])?;
        b.output("sum", sum, OutputKind::Result);
        Ok(b.finish())
    };
    let graph = build().expect("well typed");
    let layout = SharedLayout::of([&graph]);
    let (schedule, _) = schedule(graph.into(), Ordering::Memory).expect("it schedules");
    (plan_memory(schedule, &layout), layout)
}

fn refuses(stacks_taken: bool, expected: &str, damage: impl Fn(&mut MemoryPlan)) {
    let (mut plan, layout) = planned(stacks_taken);
    check_plan(&plan, &layout).expect("the plan holds");
    damage(&mut plan);
    let found = check_plan(&plan, &layout).expect_err(expected).message;
    assert!(found.contains(expected), "{expected}: {found}");
}

/// Where a result of the loop is.
fn result(plan: &mut MemoryPlan, result: u16) -> &mut Place {
    let node = *plan.memory.regions.keys().next().expect("the loop has memory");
    plan.memory.places.get_mut(&Value { node, result }).expect("the result has a place")
}

#[test]
fn values_stand_behind_each_other() {
    for stacks_taken in [true, false] {
        refuses(stacks_taken, "do not stand behind each other", |plan| {
            let end = plan.memory.arena_bytes;
            plan.memory.arena_bytes *= 3;
            result(plan, 1).offset_bytes = 2 * end;
        });
    }
}

#[test]
fn nothing_that_is_needed_stands_where_the_first_value_does() {
    refuses(false, "overwrite", |plan| {
        let first = result(plan, 1).offset_bytes - 16 * 16 * 4;
        let region = *plan.memory.regions.keys().next().expect("the loop has memory");
        let is_kept = |v: &Value| v.node < region && plan.schedule.graph.node(v.node).operands.len() == 2;
        let kept = *plan.memory.places.keys().find(|v| is_kept(v)).expect("a product lives across the loop");
        plan.memory.places.insert(kept, Place { segment: Segment::Arena, offset_bytes: first });
    });
}

/// What a step takes is what the step before has made, which is read in the stack.
#[test]
fn what_is_stacked_is_not_written_over() {
    for stacks_taken in [true, false] {
        refuses(stacks_taken, "overwrites", |plan| {
            let region = plan.memory.regions.values_mut().next().expect("the loop has memory");
            let places = region.bodies[0].places.values_mut().filter(|place| place.segment == Segment::Arena);
            places.for_each(|place| *place = Place { segment: Segment::Argument(0), offset_bytes: 0 });
        });
    }
}
