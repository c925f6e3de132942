//! Attention with masks, natively: with what masks make zero left out, and without.

mod common;

use common::planned::{planned, run};
use common::rolled::{assert_near, compiled, predict, rolled};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::lower::CompareFn;
use gradc_ir::plan::MemoryPlan;
use gradc_ir::target::Target;
use gradc_ir::tensor::Tensor;
use gradc_ir::text::{parse_plan, print_plan};
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::bands::{KnownConstants, find_bands};
use gradc_passes::cache_blocking::block_for_cache;
use gradc_passes::cost::{flops_outside_bands, graph_cost, schedule_flops};
use gradc_passes::differentiate::differentiate;

type Built = Result<Value, TypeError>;

const BATCH: usize = 2;
const HEADS: usize = 3;
const WIDTH: usize = 24;

/// Which pairs of tokens a mask hides.
#[derive(Clone, Copy, Debug)]
enum Mask {
    /// Later tokens.
    Causal,
    /// Later tokens and those more than nine earlier.
    Window,
    /// Earlier tokens.
    Anticausal,
    /// Later tokens, and all from the fifth.
    RowThatSeesNothing,
}

impl Mask {
    /// Booleans that say of rows and columns whether they are hidden.
    fn hidden(self, b: &mut Builder, tokens: usize) -> Built {
        let shape = [tokens, tokens];
        let [row, column] = [b.iota(DType::I64, &shape, 0)?, b.iota(DType::I64, &shape, 1)?];
        let later = b.compare(CompareFn::Gt, column, row)?;
        match self {
            Mask::Causal => Ok(later),
            Mask::Anticausal => b.compare(CompareFn::Lt, column, row),
            Mask::Window => {
                let nine = b.full_like(column, 9.0)?;
                let end = b.add(column, nine)?;
                let earlier = b.compare(CompareFn::Lt, end, row)?;
                b.or(later, earlier)
            }
            Mask::RowThatSeesNothing => {
                let fifth = b.full_like(row, 4.0)?;
                let fifth = b.compare(CompareFn::Eq, row, fifth)?;
                b.or(later, fifth)
            }
        }
    }
}

fn softmax(b: &mut Builder, x: Value) -> Built {
    let (shape, last) = (b.shape(x).to_vec(), b.shape(x).len() - 1);
    let outer: Vec<usize> = (0..last).collect();
    let most = b.reduce_max(x, &[last])?;
    let most = b.stop_gradient(most)?;
    let most = b.broadcast(most, &shape, &outer)?;
    let centred = b.sub(x, most)?;
    let exp = b.exp(centred)?;
    let sum = b.reduce_sum(exp, &[last])?;
    let inverse = b.recip(sum)?;
    let inverse = b.broadcast(inverse, &shape, &outer)?;
    b.mul(exp, inverse)
}

/// An attention with its result, and with the gradients of its queries, keys and values.
fn attention(dtype: DType, tokens: usize, mask: Mask) -> Graph {
    let mut b = Builder::new("attention");
    let mut build = || -> Result<(Value, [Value; 3]), TypeError> {
        let ty = TensorType::new(dtype, [BATCH, HEADS, tokens, WIDTH]);
        let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, ty.clone()));
        let (q, k, v) = (q?, k?, v?);
        let scores = b.dot_general(q, k, [&[0, 1], &[0, 1]], [&[3], &[3]])?;
        let hidden = mask.hidden(&mut b, tokens)?;
        let shape = b.shape(scores).to_vec();
        let hidden = b.broadcast_to(hidden, &shape)?;
        let infinity = b.full_like(scores, f64::NEG_INFINITY)?;
        let scores = b.select(hidden, infinity, scores)?;
        let shares = softmax(&mut b, scores)?;
        let out = b.dot_general(shares, v, [&[0, 1], &[0, 1]], [&[3], &[2]])?;
        let square = b.mul(out, out)?;
        let loss = b.reduce_sum(square, &[0, 1, 2, 3])?;
        b.output("out", out, OutputKind::Result);
        Ok((loss, [q, k, v]))
    };
    let (loss, inputs) = build().expect("the graph is well typed");
    let gradients = differentiate(&mut b, loss, &inputs).unwrap_or_else(|e| panic!("{e}"));
    for (k, gradient) in gradients.into_iter().flatten().enumerate() {
        b.output(&format!("gradient{k}"), gradient, OutputKind::Result);
    }
    b.finish().without_dead_nodes()
}

/// The plan with the bands of its schedule.
fn with_bands(plan: &MemoryPlan) -> MemoryPlan {
    let banded = MemoryPlan { schedule: find_bands(plan.schedule.clone(), &KnownConstants::default()), ..plan.clone() };
    assert_eq!(banded.schedule.bands.len(), 6, "all products have bands");
    assert_eq!(parse_plan(&print_plan(&banded)).unwrap_or_else(|e| panic!("{e}")), banded, "plans parse back");
    banded
}

/// All elements; those of the result come before those of the gradients.
fn numbers(tensors: &[Tensor]) -> Vec<f64> {
    tensors.iter().flat_map(|t| t.floats().iter().copied()).collect()
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let at = |k: usize, seed: usize| ((k * 7919 + seed * 104_729) % 4001) as f64 / 1000.0 - 2.0;
    let tensor = |(seed, ty): (usize, &TensorType)| {
        Tensor::float(ty.clone(), (0..ty.elements()).map(|k| at(k, seed)).collect()).rounded()
    };
    graph.inputs().iter().map(|input| graph.ty(input.value)).enumerate().map(tensor).collect()
}

#[test]
fn attention_has_the_bits_that_it_has_without_bands() {
    for mask in [Mask::Causal, Mask::Window, Mask::Anticausal, Mask::RowThatSeesNothing] {
        for (dtype, tokens) in
            [(DType::F32, 7), (DType::F32, 65), (DType::F32, 100), (DType::F32, 300), (DType::F64, 33)]
        {
            let graph = attention(dtype, tokens, mask);
            let inputs = inputs(&graph);
            let plan = planned(graph);
            let results = inputs[0].ty.elements();
            let expected = numbers(&run(&plan, &inputs, 1));
            assert_eq!(expected.iter().any(|v| v.is_nan()), matches!(mask, Mask::RowThatSeesNothing));
            for threads in [1, 2, 4] {
                let found = numbers(&run(&with_bands(&plan), &inputs, threads));
                // What is no number in a row stays so, but goes to fewer of the gradients.
                let same = |(e, f): (&f64, &f64)| e.to_bits() == f.to_bits() || e.is_nan();
                let is_nan = |v: &f64| v.is_nan();
                let is_told = expected[..results].iter().map(is_nan).eq(found[..results].iter().map(is_nan));
                let fits = is_told && expected.iter().zip(&found).all(same);
                assert!(fits, "{mask:?}, {tokens} tokens in {dtype}, {threads} threads");
            }
        }
    }
}

#[test]
fn attention_has_the_values_of_the_interpreter() {
    for mask in [Mask::Causal, Mask::Window, Mask::Anticausal] {
        let graph = attention(DType::F32, 65, mask);
        let inputs = inputs(&graph);
        let expected = evaluate(&graph, &inputs, Precision::Storage).unwrap_or_else(|e| panic!("{e}"));
        let found = run(&with_bands(&planned(graph.clone())), &inputs, 1);
        for (output, found) in graph.outputs().iter().zip(found) {
            let expected = expected.get(output.value).floats();
            let scale = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
            let error = expected.iter().zip(found.floats()).fold(0.0f64, |most, (e, f)| most.max((e - f).abs()));
            // Sums of 65 products and of 24, each within 2⁻²⁴ of its terms' magnitudes.
            assert!(error <= 1e-5 * scale, "{mask:?}, {}: {error} of {scale}", output.name);
        }
    }
}

/// What is not finite in a key or value reaches the results although most rows do not look at it.
#[test]
fn what_is_not_finite_is_not_hidden() {
    let graph = attention(DType::F32, 65, Mask::Causal);
    let plan = with_bands(&planned(graph.clone()));
    for (input, token) in [(0, 0), (1, 64), (2, 64), (1, 3), (2, 0)] {
        let mut inputs = inputs(&graph);
        let at = token * WIDTH;
        let mut values = inputs[input].floats().to_vec();
        values[at] = f64::NAN;
        inputs[input] = Tensor::float(inputs[input].ty.clone(), values);
        let out = &run(&plan, &inputs, 1)[0];
        assert!(out.floats().iter().any(|v| v.is_nan()), "input {input}, token {token}");
    }
}

#[test]
fn operations_are_those_inside_and_those_outside() {
    let plan = planned(attention(DType::F32, 64, Mask::Causal));
    let all = graph_cost(&plan.schedule.graph, &Target::host()).flops;
    assert_eq!(schedule_flops(&plan.schedule), all);
    let banded = with_bands(&plan).schedule;
    let outside = flops_outside_bands(&banded);
    assert_eq!(schedule_flops(&banded) + outside, all);
    let of_products = (6 * 2 * BATCH * HEADS * 64 * 64 * WIDTH) as f64;
    assert_eq!(outside, of_products * 63.0 / 128.0, "a triangle without its diagonal");
}

/// Scores of 2 MiB are made example by example and head by head, in loops in loops; what masks leave out is the same.
#[test]
fn parts_have_the_bands_of_the_whole() {
    let graph = attention(DType::F32, 300, Mask::Causal);
    let (blocked, regions) = block_for_cache(&graph).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(regions, 2, "examples, and heads in the loop over these");
    let banded = |graph: Graph| find_bands(planned(graph).schedule, &KnownConstants::default());
    let [whole, parts] = [graph.clone(), blocked].map(banded);
    assert!(flops_outside_bands(&whole) > 0.0 && whole.bands.len() == 6 && parts.bands.is_empty());
    assert_eq!(flops_outside_bands(&parts), flops_outside_bands(&whole));
    let inputs = inputs(&graph);
    let expected = evaluate(&graph, &inputs, Precision::Storage).unwrap_or_else(|e| panic!("{e}"));
    let found = predict(&compiled(&graph, &rolled(1)), &graph, &inputs);
    for (output, found) in graph.outputs().iter().zip(&found) {
        assert_near(&output.name, &found.to_tensor(), expected.get(output.value));
    }
    for threads in [2, 4] {
        assert_eq!(predict(&compiled(&graph, &rolled(threads)), &graph, &inputs), found, "{threads} threads");
    }
}
