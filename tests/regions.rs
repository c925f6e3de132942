//! Loops and branches in native code, against the interpreter: nothing here is unrolled.

mod common;

use common::rolled::{assert_near, compiled, model, plan, predict, rolled};
use gradc::{CompiledStep, HostTensor, Model, Options, Recipe, TensorView};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, OutputKind, Role, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::op::{Cotangent, Sample};
use gradc_ir::ops::{Op, Scan, ScanBlocks};
use gradc_ir::plan::Action;
use gradc_ir::region::RegionForm;
use gradc_ir::tensor::Tensor;
use gradc_ir::text::parse_plan;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::differentiate::vjp_alone;

fn regions_scheduled(step: &CompiledStep) -> usize {
    plan(step).schedule.actions.iter().filter(|a| matches!(a, Action::Region(_))).count()
}

/// Rolled, on 1, 2 and 4 threads and without the optimizer: bits that do not depend on threads, and the interpreter's
/// numbers. Expects `regions` loops and branches in the schedule.
fn check(graph: &Graph, inputs: &[Tensor], regions: usize) {
    let rounded: Vec<Tensor> = inputs.iter().map(Tensor::rounded).collect();
    let expected = interpret::outputs(graph, &rounded).unwrap_or_else(|e| panic!("{}: {e}", graph.name));
    let step = compiled(graph, &rolled(1));
    assert_eq!(regions_scheduled(&step), regions, "{}", graph.name);
    let found = predict(&step, graph, inputs);
    for (k, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert_near(&format!("{}[{k}]", graph.name), &f.to_tensor(), e);
    }
    for threads in [2, 4] {
        assert_eq!(predict(&compiled(graph, &rolled(threads)), graph, inputs), found, "{}", graph.name);
    }
    let plain = predict(&compiled(graph, &Options { optimize: false, ..rolled(1) }), graph, inputs);
    for (k, (f, e)) in plain.iter().zip(&expected).enumerate() {
        assert_near(&format!("{}[{k}] not optimized", graph.name), &f.to_tensor(), e);
    }
}

fn outputs_of(b: &mut Builder, values: impl IntoIterator<Item = Value>) {
    for (k, value) in values.into_iter().enumerate() {
        b.output(&format!("out{k}"), value, OutputKind::Result);
    }
}

fn is_region(sample: &Sample) -> bool {
    let mut b = Builder::new("sample");
    let inputs: Vec<Value> =
        sample.operands.iter().enumerate().map(|(k, o)| b.input(&format!("x{k}"), o.ty.clone()).unwrap()).collect();
    let made = b.apply(sample.op.clone(), &inputs).unwrap()[0].node;
    RegionForm::of_node(b.graph(), made).is_some()
}

/// The sample's op, and where it has a derivative the gradients of the sum of its float results.
fn with_gradients(sample: &Sample) -> Graph {
    let mut b = Builder::new(sample.op.name());
    let inputs: Vec<Value> =
        sample.operands.iter().enumerate().map(|(k, o)| b.input(&format!("x{k}"), o.ty.clone()).unwrap()).collect();
    let outputs = b.apply(sample.op.clone(), &inputs).unwrap();
    let seed = |b: &mut Builder, v: Value| {
        let ty = b.ty(v).clone();
        ty.dtype.is_float().then(|| b.splat(&ty, 1.0).unwrap())
    };
    let cotangents: Vec<Option<Value>> = outputs.iter().map(|&v| seed(&mut b, v)).collect();
    let wanted: Vec<bool> = sample.operands.iter().map(|o| o.differentiable).collect();
    let answers = vjp_alone(&mut b, &sample.op, [&inputs, &outputs], &cotangents, &wanted).unwrap();
    let gradients = answers.iter().filter_map(|a| if let Cotangent::Flows(g) = a { Some(*g) } else { None });
    let all: Vec<Value> = outputs.into_iter().chain(gradients).collect();
    outputs_of(&mut b, all);
    b.finish().without_dead_nodes()
}

#[test]
fn samples_and_their_gradients_run_as_they_are() {
    let mut seen = 0;
    for sample in Op::all_samples().iter().filter(|s| is_region(s)) {
        let graph = with_gradients(sample);
        let regions = graph.node_ids().filter(|&id| RegionForm::of_node(&graph, id).is_some()).count();
        for seed in 0..2 {
            check(&graph, &sample.draw(seed), regions);
        }
        seen += 1;
    }
    assert!(seen >= 10, "cond, scan, iterate and iterate_until have samples");
}

fn ramp(ty: TensorType, from: f64, step: f64) -> Tensor {
    let n = ty.elements();
    Tensor::float(ty, (0..n).map(|k| from + step * k as f64).collect())
}

fn f32s(shapes: &[&[usize]]) -> Vec<TensorType> {
    shapes.iter().map(|shape| TensorType::f32(*shape)).collect()
}

fn body(
    name: &str,
    shapes: &[&[usize]],
    build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>,
) -> Function {
    Builder::function(name, &f32s(shapes), build).unwrap()
}

/// A graph that applies one op to inputs of these shapes.
fn applied(name: &str, op: impl Into<Op>, shapes: &[&[usize]]) -> Graph {
    let mut b = Builder::new(name);
    let types = f32s(shapes);
    let inputs: Vec<Value> =
        types.iter().enumerate().map(|(k, ty)| b.input(&format!("in{k}"), ty.clone()).unwrap()).collect();
    let outputs = b.apply(op, &inputs).unwrap();
    outputs_of(&mut b, outputs);
    b.finish()
}

/// Carries that change places, keep their value, shift on, and are stacked before and after they change.
#[test]
fn carries_move_at_once() {
    let rotate = body("rotate", &[&[3], &[3], &[3], &[3], &[3]], |b, x| {
        let sum = b.add(x[2], x[4])?;
        // a, b and c move round in a circle while d shifts a sum in; b is stacked as it was, and so is the constant.
        Ok(vec![x[1], x[2], x[0], sum, x[1], x[4], sum])
    });
    for reverse in [false, true] {
        let op = Scan { body: rotate.clone(), carries: 4, scanned: 0, length: 5, reverse, in_order: false };
        let graph = applied("rotate", op, &[&[3], &[3], &[3], &[3], &[3]]);
        let inputs: Vec<Tensor> = (0..5).map(|k| ramp(TensorType::f32([3]), k as f64, 0.5)).collect();
        check(&graph, &inputs, 1);
    }
}

/// One value as the start of two carries and as a constant: no loop may write over it.
#[test]
fn what_several_carries_start_from_stays() {
    let step = body("step", &[&[4], &[4], &[4]], |b, x| {
        let sum = b.add(x[0], x[2])?;
        Ok(vec![sum, b.mul(x[1], x[2])?])
    });
    let mut b = Builder::new("shared start");
    let x = b.input("x", TensorType::f32([4])).unwrap();
    let start = b.exp(x).unwrap();
    let made = b.iterate(&step, 3, &[start, start], &[start]).unwrap();
    let again = b.mul(made[0], start).unwrap();
    outputs_of(&mut b, [made[0], made[1], again]);
    check(&b.finish(), &[ramp(TensorType::f32([4]), -0.5, 0.25)], 1);
}

/// A scan without carries, one slice of odd size after the other.
#[test]
fn slices_need_no_alignment() {
    let square = body("square", &[&[5, 1]], |b, x| Ok(vec![b.mul(x[0], x[0])?]));
    for reverse in [false, true] {
        let op = Scan { body: square.clone(), carries: 0, scanned: 1, length: 7, reverse, in_order: false };
        check(&applied("squares", op, &[&[7, 5, 1]]), &[ramp(TensorType::f32([7, 5, 1]), -1.0, 0.1)], 1);
    }
}

/// A scan over rows in a scan over matrices, both ways, with stacked results of each.
#[test]
fn loops_nest() {
    for [outer_reverse, inner_reverse] in [[false, false], [true, false], [false, true], [true, true]] {
        let row = body("row", &[&[3], &[3], &[3]], |b, x| {
            let sum = b.add(x[0], x[1])?;
            let squashed = b.tanh(sum)?;
            Ok(vec![squashed, b.mul(squashed, x[2])?])
        });
        let matrix = body("matrix", &[&[3], &[4, 3], &[3]], |b, x| {
            let (carries, ys) = b.scan(&row, &x[..1], &x[1..2], &x[2..], inner_reverse)?;
            let total = b.reduce_sum(ys[0], &[0])?;
            Ok(vec![carries[0], ys[0], total])
        });
        let op = Scan { body: matrix, carries: 1, scanned: 1, length: 2, reverse: outer_reverse, in_order: false };
        let inputs = [
            ramp(TensorType::f32([3]), 0.1, 0.2),
            ramp(TensorType::f32([2, 4, 3]), -1.0, 0.1),
            ramp(TensorType::f32([3]), 1.0, -0.5),
        ];
        check(&applied("nested", op, &[&[3], &[2, 4, 3], &[3]]), &inputs, 1);
    }
}

/// Halves until below a threshold that is scanned; how often differs from step to step. The last threshold is never reached.
#[test]
fn loops_that_end_by_data_run_in_other_loops() {
    let halve = body("halve", &[&[2], &[]], |b, x| {
        let half = b.scale(x[0], 0.5)?;
        let largest = b.reduce_max(half, &[0])?;
        Ok(vec![half, b.compare(CompareFn::Lt, largest, x[1])?])
    });
    let types = [TensorType::f32([2]), TensorType::f32([])];
    let step = Builder::function("step", &types, |b, x| {
        let (halved, steps) = b.iterate_until(&halve, 6, &x[..1], &x[1..])?;
        let grown = b.scale(halved[0], 8.0)?;
        Ok(vec![grown, halved[0], steps])
    });
    let op = Scan { body: step.unwrap(), carries: 1, scanned: 1, length: 4, reverse: false, in_order: false };
    let graph = applied("thresholds", op, &[&[2], &[4]]);
    let thresholds = Tensor::float(TensorType::f32([4]), vec![100.0, 1.0, 0.5, -1.0]);
    let inputs = [Tensor::float(TensorType::f32([2]), vec![3.0, 5.0]), thresholds];
    assert_eq!(interpret::outputs(&graph, &inputs).unwrap()[2].ints(), [1, 5, 4, 6], "early and at the maximum");
    check(&graph, &inputs, 1);
}

/// Both bodies of a branch in a loop, and values that a body only passes on.
#[test]
fn branches_in_loops() {
    let types = [TensorType::f32([3]), TensorType::f32([3])];
    let double = Builder::function("double", &types, |b, x| Ok(vec![b.add(x[0], x[1])?, x[0]])).unwrap();
    let keep = Builder::function("keep", &types, |b, x| Ok(vec![x[1], b.exp(x[1])?])).unwrap();
    let types = [TensorType::f32([3]), TensorType::new(DType::Bool, [])];
    let step = Builder::function("step", &types, |b, x| {
        let bias = b.full_like(x[0], 0.25)?;
        let chosen = b.cond(x[1], &double, &keep, &[x[0], bias])?;
        Ok(vec![chosen[0], chosen[1]])
    });
    let mut b = Builder::new("branches");
    let x = b.input("x", types[0].clone()).unwrap();
    let choices = b.input("choices", TensorType::new(DType::Bool, [5])).unwrap();
    let (carries, ys) = b.scan(&step.unwrap(), &[x], &[choices], &[], false).unwrap();
    outputs_of(&mut b, [carries[0], ys[0]]);
    let choices = Tensor::int(TensorType::new(DType::Bool, [5]), vec![1, 0, 1, 1, 0]);
    check(&b.finish(), &[ramp(TensorType::f32([3]), -1.0, 1.0), choices], 1);
}

/// A recurrence large enough for micro-kernels and threads, its weight against the order in which it is stored.
fn recurrence(steps: usize, stacked: bool) -> Graph {
    let cell = body("cell", &[&[32, 64], &[32, 64], &[64, 64]], |b, x| {
        let hidden = b.dot_general(x[0], x[2], [&[], &[]], [&[1], &[1]])?;
        let sum = b.add(hidden, x[1])?;
        let next = b.tanh(sum)?;
        Ok(if stacked { vec![next, next] } else { vec![next] })
    });
    let mut b = Builder::new("recurrence");
    let h = b.input("h", TensorType::f32([32, 64])).unwrap();
    let w = b.input("w", TensorType::f32([64, 64])).unwrap();
    let x = b.input("x", TensorType::f32([steps, 32, 64])).unwrap();
    let (carries, ys) = b.scan(&cell, &[h], &[x], &[w], false).unwrap();
    outputs_of(&mut b, carries.into_iter().chain(ys));
    b.finish()
}

#[test]
fn recurrences_agree_for_any_number_of_threads() {
    let inputs = [
        ramp(TensorType::f32([32, 64]), 0.0, 1e-3),
        ramp(TensorType::f32([64, 64]), -0.03, 1.5e-5),
        ramp(TensorType::f32([6, 32, 64]), -1.0, 1e-4),
    ];
    check(&recurrence(6, true), &inputs, 1);
}

/// Each step multiplies a sum by the same matrix of few columns, stored with its depths or its columns side by side.
#[test]
fn steps_multiply_by_few_columns() {
    for (rows, axis) in [(2, 1), (4, 1), (64, 1), (4, 0), (64, 0)] {
        let w = [[1536, 3], [3, 1536]][axis];
        let body = body("product", &[&[rows, 1536], &[rows, 1536], &w], |b, x| {
            let sum = b.add(x[0], x[1])?;
            Ok(vec![sum, b.dot_general(sum, x[2], [&[], &[]], [&[1], &[axis]])?])
        });
        let mut b = Builder::new("products");
        let carry = b.input("carry", TensorType::f32([rows, 1536])).unwrap();
        let x = b.input("x", TensorType::f32([3, rows, 1536])).unwrap();
        let weight = b.input("w", TensorType::f32(w)).unwrap();
        let (_, products) = b.scan(&body, &[carry], &[x], &[weight], false).unwrap();
        outputs_of(&mut b, products);
        let inputs = [
            ramp(TensorType::f32([rows, 1536]), 0.5, 1e-5),
            ramp(TensorType::f32([3, rows, 1536]), -1.0, 1e-5),
            ramp(TensorType::f32(w), 1.0, -3e-4),
        ];
        check(&b.finish(), &inputs, 1);
    }
}

/// The weight of a loop is brought into the order of its product once, before the loop.
#[test]
fn weights_are_copied_outside() {
    let step = compiled(&recurrence(6, false), &rolled(1));
    let plan = parse_plan(&step.report().texts[0].2).expect("a plan");
    let copies = |graph: &Graph| graph.node_ids().filter(|&id| matches!(graph.op(id), Some(Op::Copy(_)))).count();
    assert_eq!(copies(&plan.schedule.graph), 1);
    let Some(Action::Region(region)) = plan.schedule.actions.iter().find(|a| matches!(a, Action::Region(_))) else {
        panic!("the loop is scheduled");
    };
    assert_eq!(copies(&region.bodies[0].graph), 0);
}

/// The numbers of blocks of the loops of a plan that are cut, in bodies too.
fn blocks(step: &CompiledStep) -> Vec<usize> {
    fn of_graph(graph: &Graph, found: &mut Vec<usize>) {
        for op in graph.node_ids().filter_map(|id| graph.op(id)) {
            if let Op::ScanBlocks(scan) = op {
                found.push(scan.blocks);
            }
            op.functions().iter().for_each(|body| of_graph(body, found));
        }
    }
    let mut found = vec![];
    of_graph(&parse_plan(&step.report().texts[0].2).expect("a plan").schedule.graph, &mut found);
    found
}

/// Rows that do not meet make their steps in blocks; few steps, or a mean over the rows, leave the loop whole.
#[test]
fn rows_that_do_not_meet_are_cut_into_blocks() {
    let graph = recurrence(200, true);
    assert_eq!(blocks(&compiled(&graph, &rolled(1))), [4]);
    let inputs = [
        ramp(TensorType::f32([32, 64]), 0.0, 1e-3),
        ramp(TensorType::f32([64, 64]), -0.03, 1.5e-5),
        ramp(TensorType::f32([200, 32, 64]), -1.0, 5e-6),
    ];
    check(&graph, &inputs, 1);
    assert_eq!(blocks(&compiled(&recurrence(6, true), &rolled(1))), [0usize; 0]);
    let centred = body("centred", &[&[32, 64], &[64, 64]], |b, x| {
        let hidden = b.dot_general(x[0], x[1], [&[], &[]], [&[1], &[1]])?;
        let mean = b.reduce_sum(hidden, &[0])?;
        let mean = b.broadcast(mean, &[32, 64], &[1])?;
        Ok(vec![b.sub(hidden, mean)?])
    });
    let op = Scan { body: centred, carries: 1, scanned: 0, length: 200, reverse: false, in_order: false };
    let graph = applied("centred", op, &[&[32, 64], &[64, 64]]);
    assert_eq!(blocks(&compiled(&graph, &rolled(1))), [0usize; 0]);
}

/// More blocks than are done at once, of one row each: threads take one after the other, each in a place of its own.
#[test]
fn blocks_may_be_many() {
    let of_row = body("row", &[&[1, 96, 128], &[128, 128]], |b, x| {
        let product = b.dot_general(x[0], x[1], [&[], &[]], [&[2], &[0]])?;
        let tanh = b.tanh(product)?;
        Ok(vec![b.dot_general(tanh, x[0], [&[0], &[0]], [&[2], &[2]])?])
    });
    let op = ScanBlocks { body: of_row, carries: 0, scanned: 1, blocked: 0, length: 2, reverse: true, blocks: 21 };
    let inputs =
        [ramp(TensorType::f32([2, 21, 96, 128]), -1.0, 3.5e-6), ramp(TensorType::f32([128, 128]), -0.05, 5e-6)];
    check(&applied("rows", op, &[&[2, 21, 96, 128], &[128, 128]]), &inputs, 1);
}

/// A weight of several panels, the last one narrow, which the loop packs once; the rows are those of few tiles.
#[test]
fn kept_weights_may_have_several_panels() {
    let step = body("step", &[&[4, 70], &[70, 70]], |b, x| {
        let product = b.dot_general(x[0], x[1], [&[], &[]], [&[1], &[0]])?;
        Ok(vec![b.tanh(product)?, product])
    });
    let op = Scan { body: step, carries: 1, scanned: 0, length: 6, reverse: false, in_order: false };
    let inputs = [&[4, 70][..], &[70, 70]].map(|shape| {
        let ty = TensorType::f32(shape.to_vec());
        let values = (0..ty.elements()).map(|at| 0.2 * (0.7 * at as f64).sin()).collect();
        Tensor::float(ty, values).rounded()
    });
    check(&applied("panels", op, &[&[4, 70], &[70, 70]]), &inputs, 1);
}

/// Loops of a training step are cut whether or not it is asked what to make again in spare time, or so that it fits.
#[test]
fn loops_that_train_are_cut_into_blocks() {
    let cell = body("cell", &[&[32, 64], &[32, 64], &[64, 64]], |b, x| {
        let hidden = b.dot_general(x[0], x[2], [&[], &[]], [&[1], &[1]])?;
        let sum = b.add(hidden, x[1])?;
        let next = b.tanh(sum)?;
        Ok(vec![next, next])
    });
    let mut b = Builder::new("recurrence");
    let names = ["of_input", "of_hidden"];
    let weights = names.map(|name| b.declare(name, Role::Parameter, TensorType::f32([64, 64]), None).unwrap());
    let x = b.input("x", TensorType::f32([200, 32, 64])).unwrap();
    let x = b.dot_general(x, weights[0], [&[], &[]], [&[2], &[1]]).unwrap();
    let h = b.splat(&TensorType::f32([32, 64]), 0.0).unwrap();
    let (_, ys) = b.scan(&cell, &[h], &[x], &weights[1..], false).unwrap();
    b.output("y", ys[0], OutputKind::Result);
    let weight = HostTensor::from_f32([64, 64], &[0.01; 64 * 64]).unwrap();
    let tensors = names.map(|name| (name.to_string(), weight.clone())).into();
    let model = Model { tensors, ..model(&b.finish()) };
    let recipe = r#"{"loss": {"kind": "mse", "prediction": "y"}, "optimizer": {"kind": "sgd", "lr": 0.1}}"#;
    let recipe = Recipe::from_json(recipe.as_bytes()).unwrap();
    let plenty = Some(1 << 30);
    for (spare_time, peak_mem_bytes) in [(false, None), (true, None), (true, plenty)] {
        let options = Options { spare_time, peak_mem_bytes, ..rolled(1) };
        let step = gradc::compile(&model, Some(&recipe), &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(blocks(&step), [4, 4], "in spare time: {spare_time}, at most {peak_mem_bytes:?} bytes");
    }
}

/// Lines inside of rows are worked on by blocks of rows; where they run across them, the loop stays whole.
#[test]
fn lines_keep_rows_apart() {
    let ranked = |axis| {
        let cell = body("ranked", &[&[32, 64], &[64, 64], &[32, 64]], |b, x| {
            let hidden = b.dot_general(x[0], x[1], [&[], &[]], [&[1], &[1]])?;
            let (sorted, sums) = (b.sort(hidden, 1, true)?[0], b.cumulative_sum(hidden, axis, true)?);
            let added = b.add(sums, sorted)?;
            let moved = b.add(added, x[2])?;
            Ok(vec![b.tanh(moved)?])
        });
        let op = Scan { body: cell, carries: 1, scanned: 0, length: 200, reverse: false, in_order: false };
        applied("ranked", op, &[&[32, 64], &[64, 64], &[32, 64]])
    };
    assert_eq!([0, 1].map(|axis| blocks(&compiled(&ranked(axis), &rolled(1))).len()), [0, 1]);
    let inputs = [
        ramp(TensorType::f32([32, 64]), -1.0, 1e-3),
        ramp(TensorType::f32([64, 64]), -2e-3, 1e-6),
        ramp(TensorType::f32([32, 64]), -1.0, 1e-3),
    ];
    [0, 1].iter().for_each(|&axis| check(&ranked(axis), &inputs, 1));
}

/// A loop in blocks inside a loop that gives it another weight in each step: panels of the weight are made anew each time.
#[test]
fn blocks_run_in_loops() {
    let cell = body("cell", &[&[32, 64], &[64, 64], &[32, 64]], |b, x| {
        let hidden = b.dot_general(x[0], x[1], [&[], &[]], [&[1], &[0]])?;
        let sum = b.add(hidden, x[2])?;
        Ok(vec![b.tanh(sum)?])
    });
    let layer = body("layer", &[&[32, 64], &[64, 64], &[32, 64]], |b, x| {
        let made = b.iterate(&cell, 90, &x[..1], &x[1..])?;
        Ok(vec![made[0], made[0]])
    });
    let op = Scan { body: layer, carries: 1, scanned: 1, length: 3, reverse: true, in_order: false };
    let graph = applied("layers", op, &[&[32, 64], &[3, 64, 64], &[32, 64]]);
    assert_eq!(blocks(&compiled(&graph, &rolled(1))), [2]);
    let inputs = [
        ramp(TensorType::f32([32, 64]), 0.0, 1e-3),
        ramp(TensorType::f32([3, 64, 64]), -0.03, 5e-6),
        ramp(TensorType::f32([32, 64]), -1.0, 1e-3),
    ];
    check(&graph, &inputs, 1);
}

/// A weight that the loop itself changes: no panel of it may be kept from step to step.
#[test]
fn weights_that_change_are_read_in_every_step() {
    let cell = body("cell", &[&[8, 96], &[96, 96]], |b, x| {
        let hidden = b.dot_general(x[0], x[1], [&[], &[]], [&[1], &[1]])?;
        Ok(vec![b.tanh(hidden)?, b.scale(x[1], -0.5)?])
    });
    let op = Scan { body: cell, carries: 2, scanned: 0, length: 5, reverse: false, in_order: false };
    let inputs = [ramp(TensorType::f32([8, 96]), 0.0, 1e-3), ramp(TensorType::f32([96, 96]), -0.03, 1e-5)];
    check(&applied("decaying", op, &[&[8, 96], &[96, 96]]), &inputs, 1);
}

/// Code and memory of a loop do not grow with its steps, except for what is stacked.
#[test]
fn steps_cost_no_memory_and_no_code() {
    let [short, long] = [200, 1000].map(|steps| compiled(&recurrence(steps, false), &rolled(1)));
    assert_eq!(short.report().arena_bytes(), long.report().arena_bytes());
    assert_eq!(short.report().kernels, long.report().kernels);
    assert!(long.code_bytes() <= short.code_bytes() + 16, "{} and {}", short.code_bytes(), long.code_bytes());
    let [short, long] = [200, 1000].map(|steps| compiled(&recurrence(steps, true), &rolled(1)));
    let slice_bytes = 4 * 32 * 64;
    assert_eq!(long.report().arena_bytes() - short.report().arena_bytes(), 800 * slice_bytes);
}

/// Short loops are unrolled, long ones stay.
#[test]
fn policy_goes_by_size() {
    let count = |steps| {
        let options = Options { emit: vec![gradc::Stage::Memory], ..Options::default() };
        regions_scheduled(&compiled(&recurrence(steps, false), &options))
    };
    assert_eq!(count(2), 0);
    assert_eq!(count(1000), 1);
}

/// Indices that a body reads are checked before a call like others.
#[test]
fn indices_in_bodies_are_checked() {
    let types = [TensorType::new(DType::I64, []), TensorType::f32([4, 2])];
    let pick = Builder::function("pick", &types, |b, x| {
        let one = b.reshape(x[0], &[1])?;
        let row = b.gather(x[1], one, 0)?;
        Ok(vec![b.reshape(row, &[2])?])
    });
    let mut b = Builder::new("picks");
    let at = b.input("at", TensorType::new(DType::I64, [3])).unwrap();
    let rows = b.input("rows", TensorType::f32([4, 2])).unwrap();
    let (_, ys) = b.scan(&pick.unwrap(), &[], &[at], &[rows], false).unwrap();
    outputs_of(&mut b, ys);
    let graph = b.finish();
    let rows = ramp(TensorType::f32([4, 2]), 0.0, 1.0);
    let indices = |list: [i64; 3]| Tensor::int(TensorType::new(DType::I64, [3]), list.to_vec());
    check(&graph, &[indices([3, 0, 2]), rows.clone()], 1);
    let step = compiled(&graph, &rolled(1));
    let (bad, rows) = (indices([0, 4, 0]).to_host(), rows.to_host());
    let named = [("at", TensorView::from(&bad)), ("rows", TensorView::from(&rows))];
    assert!(step.session().unwrap().predict(&named).is_err(), "4 is no row");
}

/// A package of a model with loops does the same as the model.
#[test]
fn packages_keep_loops() {
    let graph = recurrence(5, true);
    let inputs = [
        ramp(TensorType::f32([32, 64]), 0.0, 1e-3),
        ramp(TensorType::f32([64, 64]), -0.03, 1.5e-5),
        ramp(TensorType::f32([5, 32, 64]), -1.0, 1e-4),
    ];
    let step = compiled(&graph, &rolled(1));
    let folder = std::env::temp_dir().join(format!("gradc-regions-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("loops.gradc");
    gradc::package::save(&step, &path).unwrap_or_else(|e| panic!("{e}"));
    let loaded = gradc::package::load(&path, &rolled(1)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.code(), step.code());
    assert_eq!(predict(&loaded, &graph, &inputs), predict(&step, &graph, &inputs));
    std::fs::remove_dir_all(&folder).expect("it was made");
}
