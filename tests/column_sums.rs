//! Sums down the columns of the same tensors: what one kernel makes of them, and what it must not.

mod common;

use common::planned::{all_kernels, planned, run};
use gradc_frontend::layers::normalise::batch_norm_train;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind};
use gradc_ir::plan::MemoryPlan;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{TensorType, TypeError};

const ROWS: usize = 300;
const COLUMNS: usize = 40;

/// A graph of `x` and `g`, f32[ROWS, COLUMNS] made by maps, and of what `build` makes of them.
fn graph(build: impl FnOnce(&mut Builder, Value, Value) -> Result<Vec<Value>, TypeError>) -> Graph {
    let mut b = Builder::new("sums");
    let [x, g] = ["x", "g"].map(|name| {
        let input = b.input(name, TensorType::f32([ROWS, COLUMNS])).expect("distinct names");
        let value = b.tanh(input).expect("a float");
        b.output(name, value, OutputKind::Result);
        value
    });
    let results = build(&mut b, x, g).expect("the graph is well typed");
    results.into_iter().for_each(|value| b.output("sum", value, OutputKind::Result));
    b.finish()
}

/// How many values each kernel accumulates that does.
fn accumulated(plan: &MemoryPlan) -> Vec<usize> {
    let values = |kernel: Kernel| match kernel.kind {
        KernelKind::Loops(loops) => match loops.accumulate? {
            Accumulate::Reduce { values, .. } => Some(values.len()),
            Accumulate::Contract(_) => None,
        },
        _ => None,
    };
    all_kernels(plan).into_iter().filter_map(values).collect()
}

fn noise(ty: &TensorType, seed: usize) -> Tensor {
    let value = |k: usize| ((k * 7 + seed * 13 + 1) as f64 * 0.37).sin();
    Tensor::float(ty.clone(), (0..ty.elements()).map(value).collect()).rounded()
}

/// Plans a graph, holds its values against the interpreter, and says how many values each kernel accumulates.
fn checked(graph: Graph) -> Vec<usize> {
    let inputs: Vec<Tensor> = graph.inputs().iter().enumerate().map(|(k, i)| noise(graph.ty(i.value), k)).collect();
    let expected = evaluate(&graph, &inputs, Precision::Double).unwrap_or_else(|e| panic!("{e}"));
    let outputs: Vec<Value> = graph.outputs().iter().map(|o| o.value).collect();
    let plan = planned(graph);
    for threads in [1, 2] {
        for (found, &output) in run(&plan, &inputs, threads).iter().zip(&outputs) {
            let expected = expected.get(output).floats();
            let scale = expected.iter().fold(1.0, |most: f64, v| most.max(v.abs()));
            let near = |(f, e): (&f64, &f64)| (f - e).abs() <= 1e-5 * scale;
            assert!(found.floats().iter().zip(expected).all(near), "{threads} threads");
        }
    }
    accumulated(&plan)
}

/// `v`: f32[COLUMNS] for every row.
fn to_rows(b: &mut Builder, v: Value) -> Result<Value, TypeError> {
    b.broadcast(v, &[ROWS, COLUMNS], &[1])
}

#[test]
fn sums_that_read_the_same_are_one_kernel() {
    let sums = checked(graph(|b, x, g| {
        let product = b.mul(x, g)?;
        let square = b.mul(g, g)?;
        let sums = [g, product, square].map(|terms| b.reduce_sum(terms, &[0]));
        sums.into_iter().collect()
    }));
    assert_eq!(sums, [3]);
}

#[test]
fn what_follows_the_sums_is_in_their_kernel() {
    let sums = checked(graph(|b, x, g| {
        let product = b.mul(x, g)?;
        let [shift, scale] = [b.reduce_sum(g, &[0])?, b.reduce_sum(product, &[0])?];
        Ok(vec![b.scale(shift, 0.5)?, b.mul(shift, scale)?, b.exp(scale)?])
    }));
    assert_eq!(sums, [2]);
}

#[test]
fn sums_that_have_nothing_in_common_stay_apart() {
    let sums = checked(graph(|b, x, g| Ok(vec![b.reduce_sum(x, &[0])?, b.reduce_sum(g, &[0])?])));
    assert_eq!(sums, [1, 1], "two tensors");
    let sums = checked(graph(|b, x, _| Ok(vec![b.reduce_sum(x, &[0])?, b.reduce_sum(x, &[1])?])));
    assert!(sums.iter().all(|&values| values == 1), "columns and rows");
    let sums = checked(graph(|b, x, _| Ok(vec![b.reduce_sum(x, &[0])?, b.reduce_max(x, &[0])?])));
    assert_eq!(sums, [1, 1], "a sum and a maximum");
}

#[test]
fn a_sum_that_needs_another_comes_after_it() {
    let deviations = |b: &mut Builder, x: Value| {
        let sum = b.reduce_sum(x, &[0])?;
        let mean = b.scale(sum, 1.0 / ROWS as f64)?;
        let centre = to_rows(b, mean)?;
        Ok((mean, b.sub(x, centre)?))
    };
    let sums = checked(graph(|b, x, _| {
        let (mean, centred) = deviations(b, x)?;
        let squares = b.mul(centred, centred)?;
        Ok(vec![mean, b.reduce_sum(squares, &[0])?])
    }));
    assert_eq!(sums, [1, 1], "it reads the mean");
    let sums = checked(graph(|b, x, g| {
        let (mean, centred) = deviations(b, x)?;
        let stored = b.exp(centred)?;
        let terms = b.mul(stored, x)?;
        let terms = b.mul(terms, g)?;
        Ok(vec![mean, stored, b.reduce_sum(terms, &[0])?])
    }));
    assert_eq!(sums, [1, 1], "it reads what was made of the mean");
}

/// Running mean and variance after one step whose batch counts alone, natively, and those of the batch in f64.
fn statistics(batch: &Tensor) -> [Vec<(f64, f64)>; 2] {
    let shape = batch.ty.shape.clone();
    let mut b = Builder::new("statistics");
    let x = b.input("x", batch.ty.clone()).expect("a fresh name");
    let [mean, var] = ["mean", "var"].map(|name| b.input(name, TensorType::f32([shape[1]])).expect("a fresh name"));
    let out = batch_norm_train(&mut b, x, None, None, mean, var, 1.0, 1e-5).expect("two elements per channel");
    b.output("mean", out.running_mean, OutputKind::Result);
    b.output("var", out.running_var, OutputKind::Result);
    let channels = TensorType::f32([shape[1]]);
    let zeros = Tensor::float(channels.clone(), vec![0.0; shape[1]]);
    let found = run(&planned(b.finish()), &[batch.clone(), zeros.clone(), zeros], 1);
    let inner: usize = shape[2..].iter().product();
    let of_channel = |c: usize| {
        let values = batch.floats().chunks(inner).skip(c).step_by(shape[1]).flatten();
        let values: Vec<f64> = values.copied().collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64)
    };
    let expected = (0..shape[1]).map(of_channel).collect();
    [found[0].floats().iter().copied().zip(found[1].floats().iter().copied()).collect(), expected]
}

#[test]
fn statistics_of_a_batch_are_exact_wherever_its_values_lie() {
    let ty = TensorType::f32([32, 8, 6, 6]);
    let plain = noise(&ty, 1);
    let image = ty.elements() / 32;
    let changed = |change: &dyn Fn(usize, f64) -> f64| {
        let values = plain.floats().iter().enumerate().map(|(k, &v)| change(k, v));
        Tensor::float(ty.clone(), values.collect()).rounded()
    };
    let cases = [
        ("around zero", plain.clone()),
        ("far from zero", changed(&|_, v| 4096.0 + v)),
        ("one far pixel at the start", changed(&|k, v| if k % 36 == 0 && k < image { 1e4 } else { v })),
        ("the first image far from the others", changed(&|k, v| if k < image { 1e4 + v } else { v })),
        ("one far image in the middle", changed(&|k, v| if k / image == 17 { 1e4 + v } else { v })),
        ("the same everywhere", changed(&|_, _| 3.7)),
    ];
    for (name, batch) in cases {
        let [found, expected] = statistics(&batch);
        let largest = batch.floats().iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        for ((mean, var), (exact_mean, exact_var)) in found.into_iter().zip(expected) {
            assert!((mean - exact_mean).abs() <= 1e-6 * largest, "{name}: mean {mean} for {exact_mean}");
            assert!((var - exact_var).abs() <= 2e-6 * exact_var, "{name}: variance {var} for {exact_var}");
        }
    }
}
