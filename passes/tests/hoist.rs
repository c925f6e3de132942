//! What is moved out of loops: bit for bit what it was, and no longer made in every step.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, OutputKind, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::{Op, Scan};
use gradc_ir::region::RegionForm;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::loops::hoist;

/// A graph of one body around which `apply` puts a loop.
fn around(types: &[TensorType], apply: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>) -> Graph {
    let mut b = Builder::new("loop");
    let declare = |(k, ty): (usize, &TensorType)| b.input(&format!("in{k}"), ty.clone()).expect("a fresh name");
    let inputs: Vec<Value> = types.iter().enumerate().map(declare).collect();
    let results = apply(&mut b, &inputs).expect("well typed");
    results.into_iter().enumerate().for_each(|(k, v)| b.output(&format!("y{k}"), v, OutputKind::Result));
    b.finish()
}

fn body(types: &[TensorType], build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>) -> Function {
    Builder::function("step", types, build).expect("well typed")
}

/// Names of the ops in the body of the only loop.
fn ops_in_loop(graph: &Graph) -> Vec<&'static str> {
    let bodies: Vec<Function> =
        graph.node_ids().filter_map(|id| RegionForm::of_node(graph, id)).flat_map(|f| f.bodies().to_vec()).collect();
    let [body] = &bodies[..] else { panic!("one loop") };
    body.node_ids().filter_map(|id| body.op(id).map(Op::name)).collect()
}

/// The graph after hoisting; holds it to the same bits on made inputs.
fn hoisted(graph: &Graph) -> Graph {
    let after = hoist(graph).expect("well typed");
    gradc_ir::verify::verify(&after).expect("well formed");
    let value = |seed: usize, k: usize| ((k * 13 + seed * 5 + 1) as f64 * 0.7).sin();
    let made = |(seed, input): (usize, &gradc_ir::graph::Input)| {
        let ty = graph.ty(input.value).clone();
        let values = (0..ty.elements()).map(|k| value(seed, k)).collect();
        Tensor::float(ty, values)
    };
    let inputs: Vec<Tensor> = graph.inputs().iter().enumerate().map(made).collect();
    let [before, moved] = [graph, &after].map(|g| interpret::outputs(g, &inputs).expect("it runs"));
    let bits =
        |all: &[Tensor]| all.iter().map(|t| t.floats().iter().map(|v| v.to_bits()).collect()).collect::<Vec<Vec<_>>>();
    let floats = before.len() - usize::from(before.last().is_some_and(|t| !t.ty.dtype.is_float()));
    assert_eq!(bits(&before[..floats]), bits(&moved[..floats]));
    assert_eq!(before[floats..], moved[floats..]);
    after
}

#[test]
fn what_every_step_makes_alike_is_made_once() {
    let types = [TensorType::f32([2, 3]), TensorType::f32([3, 3]), TensorType::f32([])];
    let step = body(&types, |b, x| {
        let square = b.dot_general(x[1], x[1], [&[], &[]], [&[0], &[0]])?;
        let turned = b.transpose(square, &[1, 0])?;
        let size = b.exp(x[2])?;
        let wide = b.broadcast(size, &[2, 3], &[])?;
        let moved = b.dot_general(x[0], turned, [&[], &[]], [&[1], &[0]])?;
        Ok(vec![b.sub(moved, wide)?])
    });
    let graph = around(&types, |b, x| b.iterate(&step, 4, &x[..1], &x[1..]));
    let after = hoisted(&graph);
    // What only moves or repeats elements stays: it is free where it is read.
    assert_eq!(ops_in_loop(&after), ["transpose", "broadcast", "dot_general", "sub"]);
    assert!(after.node_ids().any(|id| matches!(after.op(id), Some(Op::Iterate(_)))), "an iteration stays one");
}

#[test]
fn products_of_slices_are_one_product() {
    let slices = [TensorType::f32([4, 2, 3]), TensorType::f32([4, 3, 5])];
    let [left, right] = [TensorType::f32([2, 3]), TensorType::f32([3, 5])];
    let (state, weight, square) = (TensorType::f32([2, 5]), TensorType::f32([3, 5]), TensorType::f32([2, 2]));
    let step = body(&[state.clone(), left, right, weight.clone(), square.clone()], |b, x| {
        let projected = b.dot_general(x[1], x[3], [&[], &[]], [&[1], &[0]])?;
        let scaled = b.exp(x[4])?;
        let summed = b.reduce_sum(x[2], &[0])?;
        let other = b.dot_general(scaled, x[2], [&[], &[]], [&[], &[]])?;
        let other = b.reduce_sum(other, &[1, 2])?;
        let sum = b.add(projected, other)?;
        let summed = b.broadcast(summed, &[2, 5], &[1])?;
        let sum = b.add(sum, summed)?;
        Ok(vec![b.add(sum, x[0])?, sum])
    });
    for reverse in [false, true] {
        let types = [state.clone(), slices[0].clone(), slices[1].clone(), weight.clone(), square.clone()];
        let graph = around(&types, |b, x| {
            let (carries, ys) = b.scan(&step, &x[..1], &x[1..3], &x[3..], reverse)?;
            Ok([carries, ys].concat())
        });
        let inside = ops_in_loop(&hoisted(&graph));
        assert!(!inside.contains(&"dot_general") && !inside.contains(&"exp"), "{inside:?}");
    }
}

#[test]
fn a_product_with_the_carry_stays() {
    let (row, matrix) = (TensorType::f32([2, 3]), TensorType::f32([3, 3]));
    let step = body(&[row.clone(), row.clone(), matrix.clone()], |b, x| {
        let next = b.dot_general(x[0], x[2], [&[], &[]], [&[1], &[0]])?;
        Ok(vec![b.add(next, x[1])?])
    });
    let types = [row, TensorType::f32([5, 2, 3]), matrix];
    let graph = around(&types, |b, x| Ok(b.scan(&step, &x[..1], &x[1..2], &x[2..], false)?.0));
    assert_eq!(hoist(&graph).expect("well typed"), graph);
}

#[test]
fn loops_in_loops_and_loops_that_end_when_done_are_relieved_too() {
    let row = TensorType::f32([3]);
    let inner = body(&[row.clone(), row.clone()], |b, x| {
        let size = b.exp(x[1])?;
        Ok(vec![b.mul(x[0], size)?])
    });
    let outer = body(&[row.clone(), row.clone()], |b, x| {
        let next = b.iterate(&inner, 2, &x[..1], &x[1..])?[0];
        let largest = b.reduce_max(next, &[0])?;
        let limit = b.full_like(largest, 2.0)?;
        Ok(vec![next, b.compare(CompareFn::Gt, largest, limit)?])
    });
    let graph = around(&[row.clone(), row], |b, x| {
        let (carries, count) = b.iterate_until(&outer, 50, &x[..1], &x[1..])?;
        Ok(vec![carries[0], count])
    });
    let after = hoisted(&graph);
    let ops = |graph: &Graph| graph.node_ids().filter_map(|id| graph.op(id).map(Op::name)).collect::<Vec<_>>();
    assert_eq!(ops(&after), ["exp", "iterate_until"], "through both loops");
}

#[test]
fn what_a_step_returns_is_hoisted_and_returned() {
    let row = TensorType::f32([2, 3]);
    let step = body(&[row.clone(), row.clone()], |b, x| {
        let size = b.exp(x[1])?;
        let _ = x[0];
        Ok(vec![size])
    });
    let op = Scan { body: step, carries: 0, scanned: 1, length: 4, reverse: false, in_order: false };
    let graph = around(&[TensorType::new(DType::F32, [4, 2, 3]), row], |b, x| b.apply(op, x));
    assert_eq!(ops_in_loop(&hoisted(&graph)), Vec::<&str>::new());
}
