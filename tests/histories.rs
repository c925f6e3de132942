//! Carries of which a loop stacks all values move through the stack instead of being copied there.

mod common;

use common::rolled::{assert_near, compiled, plan, predict, rolled};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::interpret;
use gradc_ir::plan::{MemoryPlan, Segment};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{TensorType, TypeError};

const STEPS: usize = 5;

/// What a loop stacks of its carry.
#[derive(Clone, Copy, Debug)]
struct Stacked {
    taken: bool,
    made: bool,
}

const ALL: [Stacked; 3] =
    [Stacked { taken: true, made: false }, Stacked { taken: false, made: true }, Stacked { taken: true, made: true }];

/// `h ← tanh(h·w + x)` over slices of `x`; what is stacked is weighed by step and summed. `columns` may be too few for the
/// carry's values to be aligned.
fn recurrence(columns: usize, stacked: Stacked, reverse: bool) -> Result<Graph, TypeError> {
    let (h, w) = (TensorType::f32([4, columns]), TensorType::f32([columns, columns]));
    let cell = Builder::function("cell", &[h.clone(), h.clone(), w.clone()], |b, x| {
        let product = b.dot_general(x[0], x[2], [&[], &[]], [&[1], &[0]])?;
        let sum = b.add(product, x[1])?;
        let next = b.tanh(sum)?;
        let also = b.mul(x[0], x[1])?;
        let stacks = [(true, next), (true, also), (stacked.taken, x[0]), (stacked.made, next)];
        Ok(stacks.into_iter().filter(|(wanted, _)| *wanted).map(|(_, value)| value).collect())
    })?;
    let mut b = Builder::new("recurrence");
    let start = b.input("start", h)?;
    let w = b.input("w", w)?;
    let xs = b.input("xs", TensorType::f32([STEPS, 4, columns]))?;
    let weights = b.input("weights", TensorType::f32([STEPS, 1, 1]))?;
    let (carries, stacks) = b.scan(&cell, &[start], &[xs], &[w], reverse)?;
    let mut total = carries[0];
    for stack in stacks {
        let weighed = b.mul(stack, weights)?;
        let sum = b.reduce_sum(weighed, &[0])?;
        total = b.add(total, sum)?;
    }
    b.output("total", total, OutputKind::Result);
    Ok(b.finish())
}

/// Two carries that change places, of one of which all values are stacked, in a loop around.
fn nested() -> Result<Graph, TypeError> {
    let h = TensorType::f32([4, 16]);
    let swap = Builder::function("swap", &[h.clone(), h.clone()], |b, x| Ok(vec![x[1], b.sin(x[0])?, x[0]]))?;
    let outer = Builder::function("outer", &[h.clone(), h.clone()], |b, x| {
        let op =
            gradc_ir::ops::Scan { body: swap, carries: 2, scanned: 0, length: STEPS, reverse: true, in_order: false };
        let made = b.apply(op, &[x[0], x[1]])?;
        let sum = b.reduce_sum(made[2], &[0])?;
        Ok(vec![b.sub(sum, made[0])?, made[1]])
    })?;
    let mut b = Builder::new("nested");
    let starts = [b.input("a", h.clone())?, b.input("b", h)?];
    let made = b.iterate(&outer, 3, &starts, &[])?;
    made.into_iter().zip(["a", "b"]).for_each(|(value, name)| b.output(name, value, OutputKind::Result));
    Ok(b.finish())
}

/// Runs a graph on inputs that differ everywhere, natively and by the interpreter; returns the plan.
fn check(what: &str, graph: &Graph) -> MemoryPlan {
    let input = |(k, i): (usize, &gradc_ir::graph::Input)| {
        let ty = graph.ty(i.value).clone();
        let values = (0..ty.elements()).map(|at| (0.37 * at as f64 + k as f64).sin()).collect();
        Tensor::float(ty, values).rounded()
    };
    let inputs: Vec<Tensor> = graph.inputs().iter().enumerate().map(input).collect();
    let expected = interpret::outputs(graph, &inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
    let step = compiled(graph, &rolled(1));
    let found = predict(&step, graph, &inputs);
    found.iter().zip(&expected).for_each(|(found, expected)| assert_near(what, &found.to_tensor(), expected));
    assert_eq!(predict(&compiled(graph, &rolled(2)), graph, &inputs), found, "{what}: two threads");
    plan(&step)
}

/// How many values are moved at the end of each step of a plan's only loop.
fn moved(plan: &MemoryPlan) -> usize {
    let region = plan.memory.regions.values().next().expect("the loop has memory");
    region.bodies[0].commits.len()
}

#[test]
fn no_value_is_copied_to_the_stack() {
    for (stacked, reverse) in ALL.into_iter().flat_map(|stacked| [(stacked, false), (stacked, true)]) {
        let what = format!("{stacked:?}, reverse {reverse}");
        let plan = check(&what, &recurrence(16, stacked, reverse).expect("well typed"));
        assert_eq!(moved(&plan), 0, "{what}");
        let body = &plan.memory.regions.values().next().expect("the loop has memory").bodies[0];
        let next = body.places.values().filter(|place| place.segment == Segment::Result(0)).count();
        assert!(next > 0, "{what}: the next value is made in its place");
    }
}

/// The values stand behind each other once, whatever is stacked of them: as many as there are steps, and the first.
#[test]
fn all_values_need_no_more_than_themselves() {
    let value_bytes = 4 * 16 * 4;
    for stacked in ALL {
        let plan = check("arena", &recurrence(16, stacked, false).expect("well typed"));
        let stacks_bytes = (STEPS + 1) * value_bytes + STEPS * value_bytes;
        let others_bytes = plan.memory.arena_bytes - stacks_bytes;
        assert!(others_bytes <= 3 * value_bytes, "{stacked:?}: {others_bytes} bytes besides");
    }
}

#[test]
fn values_that_are_not_aligned_are_copied() {
    for stacked in ALL {
        let plan = check("odd", &recurrence(5, stacked, false).expect("well typed"));
        assert!(moved(&plan) > 0, "{stacked:?}");
    }
}

#[test]
fn carries_that_change_places_are_still_moved() {
    check("nested", &nested().expect("well typed"));
}
