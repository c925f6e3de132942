//! Regions of large values made in parts, against the whole, in the interpreter.

mod transformer;

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Role, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::Op;
use gradc_ir::region::RegionForm;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::cache_blocking::block_for_cache;
use transformer::{Sizes, training_step};

/// Values that are worth parts, from the number of bytes of these on.
const LARGE_BYTES: usize = 1 << 20;

/// Numbers that differ from each other; of either sign, except for what an optimizer keeps, squares among it.
fn drawn(ty: &TensorType, role: Role, phase: f64) -> Tensor {
    let value = |k: usize| (0.37 * k as f64 + phase).sin();
    let values = (0..ty.elements()).map(|k| if role == Role::State { value(k).abs() + 0.1 } else { value(k) });
    match ty.dtype.is_float() {
        true => Tensor::float(ty.clone(), values.collect()),
        false => Tensor::int(ty.clone(), values.map(|v| (v > 0.0) as i64).collect()),
    }
}

/// The graph in parts, which computes the same bits.
fn blocked(graph: &Graph) -> (Graph, usize) {
    let (made, regions) = block_for_cache(graph).unwrap_or_else(|e| panic!("{e}"));
    let inputs = graph.inputs().iter().enumerate();
    let inputs: Vec<Tensor> = inputs.map(|(k, input)| drawn(graph.ty(input.value), input.role, k as f64)).collect();
    let [expected, found] = [graph, &made].map(|graph| interpret::outputs(graph, &inputs).expect("it runs"));
    let names = |graph: &Graph| graph.outputs().iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(graph), names(&made));
    for (output, (expected, found)) in graph.outputs().iter().zip(expected.iter().zip(&found)) {
        assert_eq!(expected, found, "{}", output.name);
    }
    (made, regions)
}

fn largest_bytes(graph: &Graph) -> usize {
    let values = graph.node_ids().flat_map(|id| graph.results(id).map(|v| graph.ty(v).size_bytes()));
    values.max().expect("there are values")
}

/// Loops of a graph: (blocks, steps, products in a step), the bodies' own loops behind them.
fn loops(graph: &Graph) -> Vec<(usize, usize, usize)> {
    let forms = graph.node_ids().filter_map(|id| RegionForm::of_node(graph, id));
    let of_form = |form: RegionForm| match form {
        RegionForm::Loop(looped) => {
            let is_product = |id| matches!(looped.body.op(id), Some(Op::DotGeneral(_)));
            let products = looped.body.node_ids().filter(|&id| is_product(id)).count();
            [vec![(looped.blocks, looped.steps, products)], loops(&looped.body)].concat()
        }
        RegionForm::Branch(_) => vec![],
    };
    forms.flat_map(of_form).collect()
}

#[test]
fn layers_of_attention_are_made_head_by_head() {
    let graph = training_step(2, Sizes { batch: 1, tokens: 256, heads: 4, width: 4, hidden: 8 });
    let (made, regions) = blocked(&graph);
    assert_eq!(regions, 4, "two layers, forward and backward");
    assert!(largest_bytes(&graph) >= LARGE_BYTES && largest_bytes(&made) < LARGE_BYTES);
    // Backward, the scores are made again and four products follow.
    assert_eq!(loops(&made), [(4, 1, 2), (4, 1, 2), (4, 1, 5), (4, 1, 5)]);
}

#[test]
fn parts_are_what_is_stored_together() {
    let (made, _) = blocked(&training_step(1, Sizes { batch: 4, tokens: 256, heads: 2, width: 4, hidden: 8 }));
    assert_eq!(loops(&made), [(4, 1, 2), (4, 1, 5)], "examples");
}

#[test]
fn parts_that_are_still_large_are_made_in_smaller_ones() {
    let (made, _) = blocked(&training_step(1, Sizes { batch: 2, tokens: 512, heads: 2, width: 4, hidden: 8 }));
    assert_eq!(loops(&made), [(1, 2, 0), (1, 2, 2), (1, 2, 0), (1, 2, 5)], "examples, then heads");
    assert!(largest_bytes(&made) < LARGE_BYTES);
}

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::f32(shape)
}

/// `softmax(q·kᵀ)·v` over 256 positions, with what `weights` makes of the scores.
fn attention(
    [batch, heads]: [usize; 2],
    weights: impl FnOnce(&mut Builder, Value) -> Result<Value, TypeError>,
) -> Graph {
    let mut b = Builder::new("attention");
    let build = || -> Result<Value, TypeError> {
        let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, f32s(&[batch, heads, 256, 4])));
        let scores = b.dot_general(q?, k?, [&[0, 1], &[0, 1]], [&[3], &[3]])?;
        let weights = weights(&mut b, scores)?;
        b.dot_general(weights, v?, [&[0, 1], &[0, 1]], [&[3], &[2]])
    };
    let y = build().expect("the model is well-typed");
    b.output("y", y, OutputKind::Result);
    b.finish()
}

/// The weights with the sums over some axes divided out.
fn normalised(b: &mut Builder, scores: Value, axes: &[usize]) -> Result<Value, TypeError> {
    let shape = b.shape(scores).to_vec();
    let weights = b.exp(scores)?;
    let sums = b.reduce_sum(weights, axes)?;
    let kept: Vec<usize> = (0..4).filter(|d| !axes.contains(d)).collect();
    let sums = b.broadcast(sums, &shape, &kept)?;
    b.div(weights, sums)
}

#[test]
fn what_heads_share_keeps_them_together() {
    let over_heads = |b: &mut Builder, scores: Value| normalised(b, scores, &[1, 3]);
    let graph = attention([1, 4], over_heads);
    assert_eq!(blocked(&graph), (graph, 0));
    let (made, _) = blocked(&attention([4, 2], over_heads));
    assert_eq!(loops(&made), [(4, 1, 2)], "examples have nothing in common");
}

#[test]
fn masks_are_made_once() {
    let causal = |b: &mut Builder, scores: Value| {
        let positions = [0, 1].map(|axis| b.iota(DType::I64, &[256, 256], axis));
        let [row, column] = positions;
        let seen = b.compare(CompareFn::Ge, row?, column?)?;
        let shape = b.shape(scores).to_vec();
        let seen = b.broadcast(seen, &shape, &[2, 3])?;
        let never = b.full_like(scores, f64::NEG_INFINITY)?;
        let scores = b.select(seen, scores, never)?;
        normalised(b, scores, &[3])
    };
    let (made, regions) = blocked(&attention([1, 8], causal));
    assert_eq!((regions, loops(&made)), (1, vec![(8, 1, 2)]));
    let count = |graph: &Graph| graph.node_ids().filter(|&id| matches!(graph.op(id), Some(Op::Compare(_)))).count();
    assert_eq!(count(&made), 1, "outside of the loop");
}

#[test]
fn a_result_may_be_large() {
    let mut b = Builder::new("scores");
    let [q, k] = ["q", "k"].map(|name| b.input(name, f32s(&[8, 256, 4])).unwrap());
    let scores = b.dot_general(q, k, [&[0], &[0]], [&[2], &[2]]).unwrap();
    let weights = b.exp(scores).unwrap();
    b.output("weights", weights, OutputKind::Result);
    let y = b.dot_general(weights, k, [&[0], &[0]], [&[2], &[1]]).unwrap();
    b.output("y", y, OutputKind::Result);
    let (made, regions) = blocked(&b.finish());
    assert_eq!((regions, loops(&made)), (1, vec![(8, 1, 2)]));
}

/// The region is needed before an input of it is declared, and another one before that.
#[test]
fn inputs_stay_in_their_order() {
    let mut b = Builder::new("late");
    let [q, k] = ["q", "k"].map(|name| b.input(name, f32s(&[8, 256, 4])).unwrap());
    let scores = b.dot_general(q, k, [&[0], &[0]], [&[2], &[2]]).unwrap();
    let weights = b.exp(scores).unwrap();
    let sums = b.reduce_sum(weights, &[2]).unwrap();
    let gram = b.dot_general(sums, sums, [&[], &[]], [&[1], &[1]]).unwrap();
    let other = b.input("other", f32s(&[8, 8])).unwrap();
    let v = b.input("v", f32s(&[8, 256, 4])).unwrap();
    let y = b.dot_general(weights, v, [&[0], &[0]], [&[2], &[1]]).unwrap();
    let gram = b.add(gram, other).unwrap();
    b.output("y", y, OutputKind::Result);
    b.output("gram", gram, OutputKind::Result);
    let graph = b.finish();
    let (made, regions) = blocked(&graph);
    let names = |graph: &Graph| graph.inputs().iter().map(|input| input.name.clone()).collect::<Vec<_>>();
    assert_eq!((regions, names(&made)), (1, names(&graph)));
}

#[test]
fn large_results_of_all_products_stay() {
    let mut b = Builder::new("scores");
    let [q, k] = ["q", "k"].map(|name| b.input(name, f32s(&[8, 256, 4])).unwrap());
    let scores = b.dot_general(q, k, [&[0], &[0]], [&[2], &[2]]).unwrap();
    let weights = b.exp(scores).unwrap();
    b.output("scores", scores, OutputKind::Result);
    b.output("weights", weights, OutputKind::Result);
    let graph = b.finish();
    assert_eq!(blocked(&graph), (graph, 0));
}

/// Weights that are used again further on are kept: making them again would be half of what is done with them there.
#[test]
fn little_is_made_again() {
    let mut b = Builder::new("used twice");
    let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, f32s(&[8, 256, 4])).unwrap());
    let mix = b.parameter("mix", f32s(&[8, 8])).unwrap();
    let scores = b.dot_general(q, k, [&[0], &[0]], [&[2], &[2]]).unwrap();
    let weights = b.exp(scores).unwrap();
    let once = b.dot_general(weights, v, [&[0], &[0]], [&[2], &[1]]).unwrap();
    let mixed = b.dot_general(mix, once, [&[], &[]], [&[1], &[0]]).unwrap();
    let twice = b.dot_general(weights, mixed, [&[0], &[0]], [&[2], &[1]]).unwrap();
    b.output("twice", twice, OutputKind::Result);
    let (made, regions) = blocked(&b.finish());
    assert_eq!((regions, loops(&made)), (1, vec![(8, 1, 2)]));
}

#[test]
fn small_values_and_shared_weights_stay() {
    let small = training_step(1, Sizes { batch: 1, tokens: 64, heads: 4, width: 8, hidden: 16 });
    assert_eq!(blocked(&small), (small, 0));
    let mut b = Builder::new("layers");
    let x = b.input("x", f32s(&[2048, 8])).unwrap();
    let [first, second] =
        [("first", [8, 256]), ("second", [256, 8])].map(|(name, shape)| b.parameter(name, f32s(&shape)).unwrap());
    let hidden = b.dot_general(x, first, [&[], &[]], [&[1], &[0]]).unwrap();
    let hidden = b.tanh(hidden).unwrap();
    let y = b.dot_general(hidden, second, [&[], &[]], [&[1], &[0]]).unwrap();
    b.output("y", y, OutputKind::Result);
    let layers = b.finish();
    assert_eq!(blocked(&layers), (layers, 0));
}

/// What an example has in a loop is found in the loop's body, too.
#[test]
fn bodies_of_loops_are_looked_into() {
    let attention = attention([1, 4], |b, scores| normalised(b, scores, &[3]));
    let types = vec![f32s(&[1, 4, 256, 4]); 3];
    let body = Builder::function("layer", &types, |b, x| b.inline(&attention, x)).unwrap();
    let mut b = Builder::new("layers");
    let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, types[0].clone()).unwrap());
    let layers = b.iterate(&body, 3, &[q], &[k, v]).unwrap();
    b.output("y", layers[0], OutputKind::Result);
    let (made, regions) = blocked(&b.finish());
    assert_eq!((regions, loops(&made)), (1, vec![(1, 3, 0), (4, 1, 2)]));
}
