//! Carries of which a loop stacks all values move through the stack instead of being copied there.

use gradc::{CompiledStep, HostTensor, Model, Options, TensorView};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::interpret;
use gradc_ir::plan::{MemoryPlan, Segment};
use gradc_ir::tensor::Tensor;
use gradc_ir::text::parse_plan;
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::expand_regions::ExpandLimits;

const STEPS: usize = 5;

/// Largest difference from the interpreter, relative to the largest magnitude: sums of a few products through a few steps.
const TOLERANCE: f64 = 1e-5;

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

fn compiled(graph: &Graph, threads: usize) -> CompiledStep {
    let model = Model {
        name: graph.name.clone(),
        train: graph.clone(),
        infer: graph.clone(),
        tensors: Default::default(),
        frozen: Default::default(),
        aliases: Default::default(),
        lost: Default::default(),
        notes: vec![],
    };
    let options =
        Options { threads, expand: ExpandLimits::NONE, emit: vec![gradc::Stage::Memory], ..Options::default() };
    gradc::compile(&model, None, &options).unwrap_or_else(|e| panic!("{}: {e}", graph.name))
}

fn plan(step: &CompiledStep) -> MemoryPlan {
    parse_plan(&step.report().texts[0].2).unwrap_or_else(|e| panic!("{e}"))
}

fn predict(step: &CompiledStep, graph: &Graph, inputs: &[Tensor]) -> Vec<HostTensor> {
    let host: Vec<HostTensor> = inputs.iter().map(Tensor::to_host).collect();
    let named: Vec<(&str, TensorView)> =
        graph.inputs().iter().zip(&host).map(|(i, t)| (i.name.as_str(), TensorView::from(t))).collect();
    let mut session = step.session().expect("a session");
    let outputs = session.predict(&named).unwrap_or_else(|e| panic!("{}: {e}", graph.name));
    let read = |o: &gradc_ir::graph::Output| {
        let view = outputs.get(&o.name).expect("every output is there");
        HostTensor::new(graph.ty(o.value).clone(), view.bytes().to_vec()).expect("the sizes agree")
    };
    graph.outputs().iter().map(read).collect()
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
    let step = compiled(graph, 1);
    let found = predict(&step, graph, &inputs);
    for (found, expected) in found.iter().zip(&expected) {
        let (found, expected) = (found.to_tensor(), expected.floats());
        let scale = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let near = found.floats().iter().zip(expected).all(|(f, e)| (f - e).abs() <= TOLERANCE * scale);
        assert!(near, "{what}: {found:?} instead of {expected:?}");
    }
    assert_eq!(predict(&compiled(graph, 2), graph, &inputs), found, "{what}: two threads");
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
