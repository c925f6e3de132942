//! Steps of loops folded: what is the same in every step meets, is made once, and nothing else changes.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, NodeId, OutputKind, Role, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::Op;
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::differentiate::differentiate_loops;
use gradc_passes::egraph::explain::OptimizeReport;
use gradc_passes::egraph::rules::NumericClass;
use gradc_passes::egraph::{OptimizeOptions, Strategy, fold_loops, replay};
use gradc_passes::loops::{Backward, LoopPolicies, Tolerance, loops, merge_loops};

type Built = Result<Value, TypeError>;

/// Rows of a batch, numbers of an example, atoms of a dictionary.
const ROWS: usize = 16;
const LENGTH: usize = 32;
const ATOMS: usize = 48;

/// Differences of f64 in results of a few hundred operations on numbers near 1.
const ROUNDING: f64 = 1e-11;

fn reassoc() -> OptimizeOptions {
    OptimizeOptions {
        fp: NumericClass::Reassociation,
        explain: true,
        ..OptimizeOptions::new(Target::of(VectorIsa::Avx2))
    }
}

fn folded(graph: &Graph) -> (Graph, OptimizeReport) {
    let (after, report) = fold_loops(graph, &reassoc()).expect("well typed");
    gradc_ir::verify::verify(&after).expect("well formed");
    (after, report)
}

/// A function of values of the given shapes.
fn step(shapes: &[&[usize]], build: impl FnOnce(&mut Builder, &[Value]) -> Built) -> Function {
    let types: Vec<TensorType> = shapes.iter().map(|&shape| TensorType::f32(shape)).collect();
    Builder::function("step", &types, |b, x| build(b, x).map(|y| vec![y])).expect("well typed")
}

/// `x·a`, or `x·aᵀ`.
fn product(b: &mut Builder, x: Value, a: Value, transposed: bool) -> Built {
    b.dot_general(x, a, [&[], &[]], [&[1], &[usize::from(transposed)]])
}

/// `body` applied `count` times, from its first argument on.
fn repeated(body: &Function, count: usize) -> Graph {
    let mut b = Builder::new("solver");
    let declare = |(k, input): (usize, &gradc_ir::graph::Input)| {
        b.parameter(&format!("in{k}"), body.ty(input.value).clone()).expect("a fresh name")
    };
    let inputs: Vec<Value> = body.inputs().iter().enumerate().map(declare).collect();
    let end = b.iterate(body, count, &inputs[..1], &inputs[1..]).expect("well typed")[0];
    b.output("end", end, OutputKind::Result);
    b.finish()
}

const SPARSE_CODER: [&[usize]; 4] = [&[ROWS, ATOMS], &[ROWS, LENGTH], &[LENGTH, ATOMS], &[ROWS, ATOMS]];

/// `x − 0.02 (x·dᵀ − y)·d`, what is below the threshold in magnitude being cut off; `seen` is what the step sees of `d`.
fn sparse_coder(seen: fn(&mut Builder, Value) -> Built) -> Function {
    step(&SPARSE_CODER, |b, x| {
        let d = seen(b, x[2])?;
        let reconstruction = product(b, x[0], d, true)?;
        let residual = b.sub(reconstruction, x[1])?;
        let scaled = b.scale(residual, 0.02)?;
        let slope = product(b, scaled, d, false)?;
        let moved = b.sub(x[0], slope)?;
        let above = b.compare(CompareFn::Gt, moved, x[3])?;
        let zero = b.full_like(moved, 0.0)?;
        b.select(above, moved, zero)
    })
}

fn as_it_is(_: &mut Builder, d: Value) -> Built {
    Ok(d)
}

/// The body of the only loop.
fn body(graph: &Graph) -> Graph {
    let [only] = loops(graph)[..] else { panic!("one loop") };
    (*graph.op(only).expect("a loop").functions()[0]).clone()
}

fn count(graph: &Graph, name: &str) -> usize {
    graph.node_ids().filter(|&id| graph.op(id).is_some_and(|op| op.name() == name)).count()
}

/// Products in the step and around the loop.
fn products(graph: &Graph) -> [usize; 2] {
    [count(&body(graph), "dot_general"), count(graph, "dot_general")]
}

#[test]
fn factors_that_do_not_change_are_multiplied_once() {
    let before = repeated(&sparse_coder(as_it_is), 40);
    let (after, report) = folded(&before);
    assert_eq!([products(&before), products(&after)], [[2, 0], [1, 2]], "{report}");
    assert_eq!(count(&body(&after), "mul"), 0, "the scale has gone into what is made once");
    assert!(report.after.cost.flops < 0.85 * report.before.cost.flops, "{report}");
    assert!(replay(&before, &after, 1).expect("it runs") < ROUNDING);
    let greedy = OptimizeOptions { strategy: Strategy::Greedy, ..reassoc() };
    let (by_greed, _) = fold_loops(&before, &greedy).expect("well typed");
    assert!(replay(&before, &by_greed, 1).expect("it runs") < ROUNDING);
}

/// What it saves in few steps does not pay for what is made once.
#[test]
fn short_loops_stay() {
    for steps in [1, 2, 4] {
        let before = repeated(&sparse_coder(as_it_is), steps);
        assert_eq!(folded(&before).0, before, "{steps} steps");
    }
}

#[test]
fn every_rewrite_is_replayed() {
    let (_, report) = folded(&repeated(&sparse_coder(as_it_is), 40));
    let rewrites: Vec<_> = report.windows.iter().flat_map(|window| &window.rewrites).collect();
    let rules: Vec<_> = rewrites.iter().filter_map(|r| r.rule).collect();
    assert!(rules.contains(&"dot-of-difference") && rules.contains(&"dot-of-dot"), "{rules:?}");
    for rewrite in rewrites {
        use gradc_passes::egraph::explain::Replay;
        assert!(matches!(rewrite.replay, Replay::Equal { .. } | Replay::Close { .. }), "{rewrite}");
    }
}

/// A product on the left of a column, and one that is divided by its length: the power iteration.
#[test]
fn power_iterations_fold() {
    let [n, m] = [24, 96];
    let body = step(&[&[n, 8], &[n, m]], |b, x| {
        let seen = b.dot_general(x[1], x[0], [&[], &[]], [&[0], &[0]])?;
        let moved = b.dot_general(x[1], seen, [&[], &[]], [&[1], &[0]])?;
        let squares = b.mul(moved, moved)?;
        let square = b.reduce_sum(squares, &[0, 1])?;
        let length = b.rsqrt(square)?;
        let scale = b.broadcast(length, &[n, 8], &[])?;
        b.mul(moved, scale)
    });
    let before = repeated(&body, 50);
    let (after, report) = folded(&before);
    assert_eq!([products(&before), products(&after)], [[2, 0], [1, 1]], "{report}");
    assert!(replay(&before, &after, 2).expect("it runs") < ROUNDING);
}

/// A sum of more than two terms, among them one that is the same in every step: Richardson's iteration for ridge
/// regression.
#[test]
fn linear_solves_fold() {
    let body = step(&SPARSE_CODER, |b, x| {
        let d = x[2];
        let reconstruction = product(b, x[0], d, true)?;
        let minus = b.neg(x[1])?;
        let residual = b.add(reconstruction, minus)?;
        let slope = product(b, residual, d, false)?;
        let pull = b.scale(x[0], 0.1)?;
        let slope = b.add(slope, pull)?;
        let change = b.scale(slope, 0.02)?;
        b.sub(x[0], change)
    });
    let before = repeated(&body, 100);
    let (after, report) = folded(&before);
    assert_eq!([products(&before), products(&after)], [[2, 0], [1, 2]], "{report}");
    assert!(replay(&before, &after, 3).expect("it runs") < ROUNDING);
}

/// Factors that are cheaper apart stay apart, a recurrence has nothing to fold, and what a loop makes for as long as it
/// takes is not priced.
#[test]
fn what_does_not_pay_stays() {
    let low_rank = step(&[&[ROWS, ATOMS], &[ATOMS, 4], &[4, ATOMS]], |b, x| {
        let low = product(b, x[0], x[1], false)?;
        let y = product(b, low, x[2], false)?;
        b.tanh(y)
    });
    let recurrence = step(&[&[ROWS, ATOMS], &[ATOMS, ATOMS], &[ROWS, ATOMS]], |b, x| {
        let moved = product(b, x[0], x[1], false)?;
        let sum = b.add(moved, x[2])?;
        b.tanh(sum)
    });
    for body in [low_rank, recurrence] {
        let before = repeated(&body, 200);
        assert_eq!(folded(&before).0, before);
    }
    let types: Vec<TensorType> = SPARSE_CODER.map(TensorType::f32).into();
    let until = Builder::function("step", &types, |b, x| {
        let next = b.inline(&sparse_coder(as_it_is), x)?[0];
        let first = b.reduce_max(next, &[0, 1])?;
        let zero = b.full_like(first, 0.0)?;
        Ok(vec![next, b.compare(CompareFn::Le, first, zero)?])
    });
    let mut b = Builder::new("until");
    let declare = |(k, ty): (usize, &TensorType)| b.input(&format!("in{k}"), ty.clone()).expect("a fresh name");
    let inputs: Vec<Value> = types.iter().enumerate().map(declare).collect();
    let (end, _) = b.iterate_until(&until.expect("well typed"), 400, &inputs[..1], &inputs[1..]).expect("well typed");
    b.output("end", end[0], OutputKind::Result);
    let before = b.finish();
    assert_eq!(folded(&before).0, before);
}

/// What leaves the inner loop leaves the outer one as well.
#[test]
fn loops_in_loops_fold() {
    let types: Vec<TensorType> = SPARSE_CODER.map(TensorType::f32).into();
    let outer = Builder::function("outer", &types, |b, x| b.iterate(&sparse_coder(as_it_is), 10, &x[..1], &x[1..]));
    let before = repeated(&outer.expect("well typed"), 5);
    let (after, report) = folded(&before);
    let outer = body(&after);
    assert_eq!((products(&outer), count(&after, "dot_general")), ([1, 0], 2), "{report}");
    assert!(replay(&before, &after, 4).expect("it runs") < ROUNDING);
}

/// Gradients of `Σ g · end` by all inputs of a graph, its loops differentiated as `policy` says.
fn gradients(forward: &Graph, policy: Backward) -> Graph {
    let end = forward.outputs()[0].value;
    let mut b = Builder::from_graph(forward.clone().with_outputs(vec![]));
    let g = b.input("g", forward.ty(end).clone()).expect("a fresh name");
    let pairing = b.mul(end, g).expect("well typed");
    let loss = b.reduce_sum(pairing, &[0, 1]).expect("well typed");
    let policies: LoopPolicies = loops(forward).into_iter().map(|id: NodeId| (id, policy)).collect();
    let inputs: Vec<Value> = forward.inputs().iter().map(|i| i.value).collect();
    let gradients = differentiate_loops(&mut b, loss, &inputs, &policies).expect("it differentiates");
    for (k, gradient) in gradients.into_iter().enumerate().filter_map(|(k, g)| Some((k, g?))) {
        b.output(&format!("gradient {k}"), gradient, OutputKind::Result);
    }
    merge_loops(&b.finish().without_dead_nodes()).expect("well typed")
}

/// What a graph makes of numbers that no symmetry hides, small enough for the solver to approach something.
fn run(graph: &Graph) -> Vec<(String, Tensor)> {
    let made = |(seed, input): (usize, &gradc_ir::graph::Input)| {
        let ty = graph.ty(input.value).clone();
        let value = |k: usize| 0.5 * ((k * 13 + seed * 29 + 1) as f64 * 0.7).sin();
        match input.role {
            Role::State => Tensor::splat(ty, 0.0),
            _ => Tensor::float(ty.clone(), (0..ty.elements()).map(value).collect()),
        }
    };
    let inputs: Vec<Tensor> = graph.inputs().iter().enumerate().map(made).collect();
    let results = interpret::outputs(graph, &inputs).expect("it runs");
    let named = graph.outputs().iter().map(|o| o.name.clone()).zip(results);
    named.filter(|(name, _)| name.starts_with("gradient")).collect()
}

fn assert_same_gradients(before: &Graph, after: &Graph, policy: Backward) -> usize {
    let [expected, found] = [before, after].map(|graph| run(&gradients(graph, policy)));
    for ((name, expected), (of, found)) in expected.iter().zip(&found) {
        let scale = expected.floats().iter().fold(f64::MIN_POSITIVE, |s, e| s.max(e.abs()));
        let off = expected.floats().iter().zip(found.floats()).map(|(e, f)| (e - f).abs()).fold(0.0, f64::max);
        assert!(name == of && off <= ROUNDING * scale, "{policy:?}, {name}: off by {off:e} of {scale:e}");
    }
    assert_eq!(expected.len(), found.len());
    expected.len()
}

/// However a loop is differentiated, guards that hold and guards that do not included.
#[test]
fn gradients_are_those_of_the_steps() {
    let loose = Tolerance { forward: 1.0, backward: 1e-13, gap: 1.0 };
    let strict = Tolerance { forward: 1e-15, backward: 1e-15, gap: 1e-15 };
    for policy in [
        Backward::Exact,
        Backward::Checkpoint,
        Backward::Frozen(strict),
        Backward::Frozen(loose),
        Backward::Implicit(strict),
    ] {
        let before = repeated(&sparse_coder(as_it_is), 40);
        let (after, report) = folded(&before);
        assert_ne!(before, after, "{report}");
        let compared = assert_same_gradients(&before, &after, policy);
        assert!(compared >= 2, "of the data and the dictionary, at least: {compared}");
    }
}

/// Gradients stop where they stopped before: what the step reads of its dictionary is worth none.
#[test]
fn borders_of_gradients_stay() {
    let seen = |b: &mut Builder, d: Value| {
        let stopped = b.stop_gradient(d)?;
        let own = b.scale(d, 0.25)?;
        b.add(own, stopped)
    };
    let before = repeated(&sparse_coder(seen), 40);
    let (after, report) = folded(&before);
    assert_eq!(products(&after)[0], 1, "{report}");
    assert_same_gradients(&before, &after, Backward::Exact);
    let held = repeated(&sparse_coder(|b, d| b.stop_gradient(d)), 40);
    let (after, report) = folded(&held);
    assert_eq!(products(&after)[0], 1, "{report}");
    assert!(after.nodes().iter().any(|node| matches!(&node.def, gradc_ir::graph::Def::Op(Op::StopGradient(_)))));
    assert_same_gradients(&held, &after, Backward::Exact);
}
