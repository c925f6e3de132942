//! Derivatives of loops: equal to those of the unrolled graph, with nothing computed twice and nothing kept in vain.

mod sums;

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, Input, Node, NodeId, OutputKind, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::{Op, Scan, StopGradient};
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::differentiate::{differentiate, differentiate_loops};
use gradc_passes::expand_regions::expand_regions;
use gradc_passes::loops::{Backward, LoopPolicies, bounded_loops, merge_loops, segment_loops};

/// Builds the inputs, then a loop and a scalar from its results.
type Forward = fn(&mut Builder) -> Result<(Vec<Value>, Value), TypeError>;

/// Results and gradients of all inputs.
fn with_gradients(mut b: Builder, inputs: &[Value], loss: Value, loops: &LoopPolicies) -> Graph {
    let gradients = differentiate_loops(&mut b, loss, inputs, loops).expect("it differentiates");
    b.output("loss", loss, OutputKind::Result);
    for (k, gradient) in gradients.into_iter().enumerate() {
        let gradient = gradient.unwrap_or_else(|| panic!("no gradient reaches input {k}"));
        b.output(&format!("dx{k}"), gradient, OutputKind::Result);
    }
    merge_loops(&b.finish().without_dead_nodes()).expect("well typed")
}

fn rolled(forward: Forward) -> Graph {
    let mut b = Builder::new("rolled");
    let (inputs, loss) = forward(&mut b).expect("well typed");
    with_gradients(b, &inputs, loss, &LoopPolicies::new())
}

/// The forward graph without outputs, its inputs and its loss, after a pass over it.
fn rewritten(forward: Forward, pass: impl FnOnce(&Graph) -> Graph) -> (Builder, Vec<Value>, Value) {
    let mut b = Builder::new("rewritten");
    let (inputs, loss) = forward(&mut b).expect("well typed");
    inputs.iter().chain([&loss]).for_each(|&v| b.output("value", v, OutputKind::Result));
    let graph = pass(&b.finish());
    let mut values: Vec<Value> = graph.outputs().iter().map(|o| o.value).collect();
    let loss = values.pop().expect("the loss is an output");
    (Builder::from_graph(graph.with_outputs(vec![])), values, loss)
}

fn unrolled(forward: Forward) -> Graph {
    let (b, inputs, loss) = rewritten(forward, |graph| expand_regions(graph).expect("it unrolls"));
    with_gradients(b, &inputs, loss, &LoopPolicies::new())
}

/// The graph with the same policy for all its loops.
fn with_policy(forward: Forward, policy: Backward) -> Graph {
    let mut policies = LoopPolicies::new();
    let (b, inputs, loss) = rewritten(forward, |graph| {
        let is_loop = |id: &NodeId| matches!(graph.op(*id), Some(Op::Scan(_) | Op::Iterate(_)));
        let all = graph.node_ids().filter(is_loop).map(|id| (id, policy)).collect();
        let (graph, renamed) = segment_loops(graph, &all).expect("well typed");
        policies = renamed;
        graph
    });
    with_gradients(b, &inputs, loss, &policies)
}

/// Values between −1 and 1 that no symmetry hides.
fn inputs(graph: &Graph) -> Vec<Tensor> {
    let value = |seed: usize, k: usize| ((k * 13 + seed * 5 + 1) as f64 * 0.7).sin();
    let tensor = |(seed, input): (usize, &Input)| {
        let ty = graph.ty(input.value).clone();
        let values = (0..ty.elements()).map(|k| value(seed, k)).collect();
        Tensor::float(ty, values)
    };
    graph.inputs().iter().enumerate().map(tensor).collect()
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<u64>> {
    let bits = |t: &Tensor| match &t.data {
        Data::Float(values) => values.iter().map(|v| v.to_bits()).collect(),
        Data::Int(values) => values.iter().map(|&v| v as u64).collect(),
    };
    tensors.iter().map(bits).collect()
}

fn results(graph: &Graph) -> Vec<Tensor> {
    interpret::outputs(graph, &inputs(graph)).expect("it runs")
}

fn scans(graph: &Graph) -> Vec<Scan> {
    let scan = |node: &Node| match &node.def {
        Def::Op(Op::Scan(scan)) => Some(scan.clone()),
        _ => None,
    };
    graph.nodes().iter().filter_map(scan).collect()
}

fn contractions(body: &Graph) -> usize {
    body.node_ids().filter(|&id| matches!(body.op(id), Some(Op::DotGeneral(_)))).count()
}

fn squared(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let axes: Vec<usize> = (0..b.shape(x).len()).collect();
    let square = b.mul(x, x)?;
    b.reduce_sum(square, &axes)
}

/// `x·a`, or `x·aᵀ`.
fn product(b: &mut Builder, x: Value, a: Value, transposed: bool) -> Result<Value, TypeError> {
    b.dot_general(x, a, [&[], &[]], [&[1], &[usize::from(transposed)]])
}

/// Shrinks towards zero by `by`: the proximal step of lasso.
fn soft_threshold(b: &mut Builder, x: Value, by: f64) -> Result<Value, TypeError> {
    let (by, zero) = (b.full_like(x, by)?, b.full_like(x, 0.0)?);
    let least = b.neg(by)?;
    let (above, below) = (b.compare(CompareFn::Gt, x, by)?, b.compare(CompareFn::Lt, x, least)?);
    let (lowered, raised) = (b.sub(x, by)?, b.add(x, by)?);
    let negative = b.select(below, raised, zero)?;
    b.select(above, lowered, negative)
}

/// Twelve steps of ISTA, `x ← soft(x − (xW − y)Wᵀ/4)`, with a dictionary that trains: `(x, y, W)` and the code.
fn sparse_code(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([2, 4]), TensorType::f32([3, 4])];
    let body = Builder::function("ista", &types, |b, x| {
        let reconstruction = product(b, x[0], x[2], false)?;
        let residual = b.sub(reconstruction, x[1])?;
        let gradient = product(b, residual, x[2], true)?;
        let step = b.scale(gradient, 0.25)?;
        let moved = b.sub(x[0], step)?;
        Ok(vec![soft_threshold(b, moved, 0.05)?])
    })?;
    let inputs = declare(b, &types)?;
    let code = b.iterate(&body, 12, &inputs[..1], &inputs[1..])?[0];
    Ok((inputs, code))
}

fn ista(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let (inputs, code) = sparse_code(b)?;
    Ok((inputs, squared(b, code)?))
}

/// [`ista`] with a dictionary that is read after the loop too.
fn decoded(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let (inputs, code) = sparse_code(b)?;
    let decoded = product(b, code, inputs[2], false)?;
    Ok((inputs, squared(b, decoded)?))
}

/// Gradient descent on a quadratic: affine in the iterate, and only the linear term is differentiated.
fn quadratic(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3]), TensorType::f32([3, 3])];
    let body = Builder::function("quadratic", &types, |b, x| {
        let slope = product(b, x[0], x[2], false)?;
        let residual = b.sub(slope, x[1])?;
        let step = b.scale(residual, 0.3)?;
        Ok(vec![b.sub(x[0], step)?])
    })?;
    let inputs = declare(b, &types)?;
    let x = b.iterate(&body, 20, &inputs[..1], &inputs[1..])?[0];
    Ok((inputs[..2].to_vec(), squared(b, x)?))
}

/// A recurrence whose states are all read, with an input per step.
fn recurrence(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3]), TensorType::f32([3, 3])];
    let body = Builder::function("cell", &types, |b, x| {
        let hidden = product(b, x[0], x[2], false)?;
        let sum = b.add(hidden, x[1])?;
        let next = b.tanh(sum)?;
        Ok(vec![next, next])
    })?;
    let inputs = declare(b, &[types[0].clone(), TensorType::f32([5, 2, 3]), types[2].clone()])?;
    let (_, ys) = b.scan(&body, &inputs[..1], &inputs[1..2], &inputs[2..], false)?;
    Ok((inputs, squared(b, ys[0])?))
}

/// A loop of two steps in a loop of three.
fn nested(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([3, 3])];
    let inner = Builder::function("inner", &types, |b, x| {
        let turned = product(b, x[0], x[1], false)?;
        Ok(vec![b.tanh(turned)?])
    })?;
    let outer = Builder::function("outer", &types, |b, x| {
        let inner = b.iterate(&inner, 2, &x[..1], &x[1..])?;
        Ok(vec![b.mul(inner[0], x[0])?])
    })?;
    let inputs = declare(b, &types)?;
    let x = b.iterate(&outer, 3, &inputs[..1], &inputs[1..])?[0];
    Ok((inputs, squared(b, x)?))
}

/// A carry that only the loss reads, one that nothing reads, and one that is not differentiable.
fn idle_carries(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let vector = TensorType::f32([3]);
    let types = [vec![vector.clone(); 3], vec![TensorType::new(DType::I64, []), vector.clone()]].concat();
    let body = Builder::function("idle", &types, |b, x| {
        let one = b.scalar(DType::I64, 1.0)?;
        let count = b.add(x[3], one)?;
        let weight = b.cast(count, DType::F32)?;
        let (scaled, other) = (b.mul(x[4], weight)?, b.mul(x[0], x[4])?);
        Ok(vec![other, scaled, b.mul(x[2], x[1])?, count])
    })?;
    let inputs = declare(b, &[vector.clone(), vector])?;
    let (zero, start) = (b.full_like(inputs[0], 0.0)?, b.scalar(DType::I64, 0.0)?);
    let carries = b.iterate(&body, 3, &[inputs[0], zero, zero, start], &inputs[1..])?;
    let both = b.add(carries[0], carries[1])?;
    Ok((inputs, squared(b, both)?))
}

fn declare(b: &mut Builder, types: &[TensorType]) -> Result<Vec<Value>, TypeError> {
    types.iter().enumerate().map(|(k, ty)| b.input(&format!("in{k}"), ty.clone())).collect()
}

#[test]
fn gradients_of_a_loop_are_those_of_its_steps_bit_for_bit() {
    for forward in [ista as Forward, decoded, quadratic, idle_carries] {
        let (rolled, unrolled) = (rolled(forward), unrolled(forward));
        assert!(!scans(&rolled).is_empty() && scans(&unrolled).is_empty());
        assert_eq!(bits(&results(&rolled)), bits(&results(&unrolled)));
    }
}

#[test]
fn gradients_through_stacked_results_and_nested_loops_are_those_of_the_steps() {
    for forward in [recurrence as Forward, nested] {
        assert_close(&results(&rolled(forward)), &results(&unrolled(forward)));
    }
}

/// Equal but for the order of a few sums, a unit in the last place each.
fn assert_close(rolled: &[Tensor], unrolled: &[Tensor]) {
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 16.0 * f64::EPSILON * a.abs().max(1.0);
    for (a, b) in rolled.iter().zip(unrolled) {
        assert!(a.floats().iter().zip(b.floats()).all(close), "{a:?} {b:?}");
    }
}

/// A recurrence that ends when a step moves no element by more than a little, after 4 of 20 steps.
fn until_it_rests(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3]), TensorType::f32([3, 3])];
    let body = Builder::function("settle", &types, |b, x| {
        let small = b.scale(x[2], 0.3)?;
        let hidden = product(b, x[0], small, false)?;
        let sum = b.add(hidden, x[1])?;
        let next = b.tanh(sum)?;
        let (change, limit) = (b.sub(next, x[0])?, b.scalar(DType::F32, 0.02)?);
        let size = b.abs(change)?;
        let largest = b.reduce_max(size, &[0, 1])?;
        Ok(vec![next, b.compare(CompareFn::Lt, largest, limit)?])
    })?;
    let inputs = declare(b, &types)?;
    let (x, _) = b.iterate_until(&body, 20, &inputs[..1], &inputs[1..])?;
    Ok((inputs, squared(b, x[0])?))
}

/// Two rounds of a loop that ends when it rests.
fn rests_twice(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3]), TensorType::f32([3, 3])];
    let round = Builder::function("round", &types, |b, x| {
        let turned = product(b, x[0], x[2], false)?;
        let half = Builder::function("half", &types[..2], |b, x| {
            let (half, limit) = (b.scale(x[0], 0.5)?, b.scalar(DType::F32, 0.3)?);
            let size = b.abs(half)?;
            let largest = b.reduce_max(size, &[0, 1])?;
            Ok(vec![b.mul(half, x[1])?, b.compare(CompareFn::Lt, largest, limit)?])
        })?;
        Ok(b.iterate_until(&half, 9, &[turned], &x[1..2])?.0)
    })?;
    let inputs = declare(b, &types)?;
    let x = b.iterate(&round, 2, &inputs[..1], &inputs[1..])?[0];
    Ok((inputs, squared(b, x)?))
}

#[test]
fn loops_that_end_when_done_have_gradients_in_loops_too() {
    let (b, inputs, loss) =
        rewritten(rests_twice, |graph| bounded_loops(graph, &LoopPolicies::new(), &[]).expect("well typed").0);
    let bounded = with_gradients(b, &inputs, loss, &LoopPolicies::new());
    assert_close(&results(&bounded), &results(&unrolled(rests_twice)));
}

#[test]
fn a_loop_that_ends_when_done_has_the_gradient_of_the_steps_it_made() {
    let mut policies = LoopPolicies::new();
    for policy in [Backward::Exact, Backward::Checkpoint] {
        let (b, inputs, loss) = rewritten(until_it_rests, |graph| {
            let is_loop = |id: &NodeId| matches!(graph.op(*id), Some(Op::IterateUntil(_)));
            let all = graph.node_ids().filter(is_loop).map(|id| (id, policy)).collect();
            let inputs: Vec<Value> = graph.inputs().iter().map(|i| i.value).collect();
            let (graph, bounded) = bounded_loops(graph, &all, &inputs).expect("well typed");
            let (graph, renamed) = segment_loops(&graph, &bounded).expect("well typed");
            policies = renamed;
            graph
        });
        let bounded = with_gradients(b, &inputs, loss, &policies);
        assert_close(&results(&bounded), &results(&unrolled(until_it_rests)));
    }
    let forward = {
        let mut b = Builder::new("forward");
        until_it_rests(&mut b).expect("well typed");
        b.finish()
    };
    assert_eq!(bounded_loops(&forward, &LoopPolicies::new(), &[]).expect("well typed").0, forward, "nothing is wanted");
}

#[test]
fn no_step_is_made_twice() {
    for forward in [ista as Forward, recurrence] {
        let loops = scans(&rolled(forward));
        assert_eq!(loops.len(), 2, "one forward, one backward");
        let mut b = Builder::new("once");
        forward(&mut b).expect("well typed");
        let forward_only = b.finish();
        let once = forward_only.nodes().iter().find_map(|node| match &node.def {
            Def::Op(Op::Scan(scan)) => Some(scan.body.clone()),
            Def::Op(Op::Iterate(iterate)) => Some(iterate.body.clone()),
            _ => None,
        });
        let once = contractions(&once.expect("a loop"));
        assert_eq!(contractions(&loops[0].body), once);
        assert_eq!(contractions(&loops[1].body), 2 * once, "two adjoints of each product");
    }
}

#[test]
fn masks_are_kept_rather_than_what_they_are_made_of() {
    let loops = scans(&rolled(ista));
    let stacked: Vec<String> =
        loops[0].body.outputs()[1..].iter().map(|o| loops[0].body.ty(o.value).to_string()).collect();
    // The iterate and the residual meet the dictionary; of the threshold, two booleans per element.
    assert_eq!(stacked, ["f32[2,3]", "f32[2,4]", "bool[2,3]", "bool[2,3]"]);
}

#[test]
fn affine_steps_keep_nothing() {
    let loops = scans(&rolled(quadratic));
    assert_eq!(
        (loops.len(), loops[0].scanned),
        (1, 0),
        "the loop forward is left as it was, the one back reads no step"
    );
}

#[test]
fn a_state_that_is_stacked_anyway_is_kept_once() {
    let loops = scans(&rolled(recurrence));
    // The states that steps start from; those that they return are stacked for the loss and serve tanh's derivative.
    assert_eq!((loops[0].body.outputs().len(), loops[1].scanned), (3, 3));
}

#[test]
fn a_state_that_two_steps_read_is_kept_once() {
    let only_last: Forward = |b| {
        let types = [TensorType::f32([2, 3]), TensorType::f32([3, 3])];
        let body = Builder::function("cell", &types, |b, x| {
            let hidden = product(b, x[0], x[1], false)?;
            Ok(vec![b.tanh(hidden)?])
        })?;
        let inputs = declare(b, &types)?;
        let x = b.iterate(&body, 6, &inputs[..1], &inputs[1..])?[0];
        Ok((inputs, squared(b, x)?))
    };
    let loops = scans(&rolled(only_last));
    assert_eq!(loops[0].body.outputs().len(), 2, "the state that a step starts from");
    assert_eq!(loops[1].carries, 3, "gradients of state and weight, and the state for the step before");
    assert_eq!(bits(&results(&rolled(only_last))), bits(&results(&unrolled(only_last))));
}

#[test]
fn what_nothing_wanted_depends_on_has_no_gradient() {
    let mut b = Builder::new("constant");
    let x = b.input("x", TensorType::f32([2])).expect("a fresh name");
    let w = b.input("w", TensorType::f32([2])).expect("a fresh name");
    let types = [TensorType::f32([2]), TensorType::f32([2])];
    let body = Builder::function("stopped", &types, |b, x| {
        let stopped = b.op(StopGradient {}, &[x[1]])?;
        Ok(vec![b.mul(x[0], stopped)?])
    });
    let y = b.iterate(&body.expect("well typed"), 3, &[x], &[w]).expect("well typed")[0];
    let loss = squared(&mut b, y).expect("well typed");
    let gradients = differentiate(&mut b, loss, &[x, w]).expect("it differentiates");
    assert!(gradients[0].is_some() && gradients[1].is_none(), "zero stays symbolic through the loop");
}

#[test]
fn an_op_without_derivative_in_a_loop_is_told_as_outside_of_one() {
    let vector = TensorType::f32([2]);
    let halve = Builder::function("halve", std::slice::from_ref(&vector), |b, x| {
        let (half, largest) = (b.scale(x[0], 0.5)?, b.reduce_max(x[0], &[0])?);
        let one = b.full_like(largest, 1.0)?;
        Ok(vec![half, b.compare(CompareFn::Lt, largest, one)?])
    });
    let halve = halve.expect("well typed");
    let body =
        Builder::function("halving", std::slice::from_ref(&vector), |b, x| Ok(b.iterate_until(&halve, 5, x, &[])?.0));
    let mut b = Builder::new("blocked");
    let x = b.input("x", vector).expect("a fresh name");
    let y = b.iterate(&body.expect("well typed"), 3, &[x], &[]).expect("well typed")[0];
    let loss = squared(&mut b, y).expect("well typed");
    let told = differentiate(&mut b, loss, &[x]).expect_err("it has no derivative");
    assert_eq!(told.code, "not-differentiable");
    assert!(told.found.is_some_and(|found| found.contains("iterate_until")), "the op inside is named");
}

/// A recurrence backwards in time over eleven steps, which no segment length divides.
fn backwards_recurrence(b: &mut Builder) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([2, 3]), TensorType::f32([2, 3]), TensorType::f32([3, 3])];
    let body = Builder::function("cell", &types, |b, x| {
        let hidden = product(b, x[0], x[2], false)?;
        let sum = b.add(hidden, x[1])?;
        let next = b.tanh(sum)?;
        Ok(vec![next, b.mul(next, x[1])?])
    })?;
    let inputs = declare(b, &[types[0].clone(), TensorType::f32([11, 2, 3]), types[2].clone()])?;
    let (last, ys) = b.scan(&body, &inputs[..1], &inputs[1..2], &inputs[2..], true)?;
    let (stacked, last) = (squared(b, ys[0])?, squared(b, last[0])?);
    Ok((inputs, b.add(stacked, last)?))
}

#[test]
fn checkpointed_gradients_are_the_exact_ones() {
    for forward in [recurrence as Forward, backwards_recurrence, nested] {
        assert_close(&results(&with_policy(forward, Backward::Checkpoint)), &results(&unrolled(forward)));
    }
}

#[test]
fn checkpointed_gradients_are_those_of_the_steps_bit_for_bit() {
    for forward in [ista as Forward, decoded, quadratic, idle_carries] {
        assert_eq!(bits(&results(&with_policy(forward, Backward::Checkpoint))), bits(&results(&unrolled(forward))));
    }
}

#[test]
fn checkpoints_keep_the_states_that_segments_start_from() {
    let loops = scans(&with_policy(ista, Backward::Checkpoint));
    let stacked: Vec<String> =
        loops[0].body.outputs()[1..].iter().map(|o| loops[0].body.ty(o.value).to_string()).collect();
    assert_eq!((loops[0].length, stacked), (4, vec!["f32[2,3]".to_string()]), "12 steps in 4 segments of 3");
    let inner = scans(&loops[1].body);
    assert_eq!(inner.iter().map(|scan| scan.length).collect::<Vec<_>>(), [3, 3], "made again, and back");
}
