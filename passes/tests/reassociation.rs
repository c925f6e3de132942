//! Re-association on whole training steps: what is written naively costs what is written by hand.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, NodeId, OutputKind, Value};
use gradc_ir::ops::Convolution;
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::egraph::explain::OptimizeReport;
use gradc_passes::egraph::explain::{Replay, Rewrite};
use gradc_passes::egraph::rules::{Family, NumericClass};
use gradc_passes::egraph::{OptimizeOptions, optimize, replay};
use gradc_passes::optimizers::{Adam, Optimizer};
use gradc_passes::train::{LOSS, TrainSpec, derive_step};

type Built = Result<Value, TypeError>;

/// How a low-rank update of a weight is written (Hu et al., LoRA, 2021).
#[derive(Clone, Copy)]
enum Writing {
    /// `x (W + s A B)`: the merged weight is formed, and so is its gradient.
    Merged,
    /// `x W + s (x A) B`.
    Factored,
}

struct Sizes {
    batch: usize,
    width: usize,
    rank: usize,
}

const LARGE: Sizes = Sizes { batch: 64, width: 256, rank: 4 };
const SMALL: Sizes = Sizes { batch: 3, width: 8, rank: 1 };

fn product(b: &mut Builder, x: Value, y: Value) -> Built {
    b.dot_general(x, y, [&[], &[]], [&[1], &[0]])
}

fn layer(b: &mut Builder, k: usize, x: Value, sizes: &Sizes, writing: Writing) -> Built {
    b.set_loc(Loc { layer: format!("layers.{k}"), ..Loc::default() });
    let [width, rank] = [sizes.width, sizes.rank];
    let weight = b.parameter(&format!("layers.{k}.weight"), TensorType::f32([width, width]))?;
    let down = b.parameter(&format!("layers.{k}.lora_a"), TensorType::f32([width, rank]))?;
    let up = b.parameter(&format!("layers.{k}.lora_b"), TensorType::f32([rank, width]))?;
    let y = match writing {
        Writing::Merged => {
            let update = product(b, down, up)?;
            let update = b.scale(update, 2.0)?;
            let merged = b.add(weight, update)?;
            product(b, x, merged)?
        }
        Writing::Factored => {
            let base = product(b, x, weight)?;
            let low = product(b, x, down)?;
            let update = product(b, low, up)?;
            let update = b.scale(update, 2.0)?;
            b.add(base, update)?
        }
    };
    b.tanh(y)
}

/// Forward, backward and Adam of a stack of layers of which only the low-rank factors train.
fn lora_step(layers: usize, sizes: &Sizes, writing: Writing) -> Graph {
    let mut b = Builder::new("lora");
    let build = |b: &mut Builder| -> Built {
        let mut x = b.input("x", TensorType::f32([sizes.batch, sizes.width]))?;
        for k in 0..layers {
            x = layer(b, k, x, sizes, writing)?;
        }
        b.set_loc(Loc { layer: LOSS.into(), ..Loc::default() });
        let square = b.mul(x, x)?;
        b.reduce_sum(square, &[0, 1])
    };
    let loss = build(&mut b).expect("the model is well-typed");
    b.output(LOSS, loss, OutputKind::Result);
    let forward = b.finish();
    let names = forward.inputs().iter().map(|i| i.name.clone()).filter(|name| name.contains("lora"));
    let adam = Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decoupled: true };
    let spec = TrainSpec::new(names.map(Into::into).collect(), Some(Optimizer::Adam(adam)));
    derive_step(&forward, &spec).unwrap_or_else(|e| panic!("{e}"))
}

fn reassoc() -> OptimizeOptions {
    OptimizeOptions { fp: NumericClass::Reassociation, ..OptimizeOptions::new(Target::of(VectorIsa::Avx2)) }
}

fn optimized(step: &Graph) -> (Graph, OptimizeReport) {
    optimize(step, &reassoc()).expect("optimizes")
}

/// The merged weight, its gradient and the products with them are gone, at every depth.
#[test]
fn merged_lora_costs_what_factored_lora_costs() {
    for layers in [1, 4, 16] {
        let (_, merged) = optimized(&lora_step(layers, &LARGE, Writing::Merged));
        let (_, factored) = optimized(&lora_step(layers, &LARGE, Writing::Factored));
        let [before, after, by_hand] = [merged.before, merged.after, factored.after].map(|t| t.cost.flops);
        println!("{layers} layers: {before:.4e} -> {after:.4e} flops, by hand {by_hand:.4e}");
        assert!(after <= 1.01 * by_hand, "{layers} layers: {after:e} against {by_hand:e}\n{merged}");
        assert!(before >= 1.3 * by_hand, "{layers} layers: there was nothing to win: {before:e} against {by_hand:e}");
    }
}

/// Nothing of that happens while every bit has to stay, or without the family.
#[test]
fn nothing_is_reassociated_unasked() {
    let step = lora_step(2, &LARGE, Writing::Merged);
    let strict = OptimizeOptions { fp: NumericClass::Bitwise, ..reassoc() };
    let families = Family::ALL.into_iter().filter(|f| *f != Family::Reassociation).collect();
    for options in [strict, OptimizeOptions { families, ..reassoc() }] {
        let (_, report) = optimize(&step, &options).expect("optimizes");
        assert!(report.after.cost.flops > 0.99 * report.before.cost.flops, "{report}");
        let small = lora_step(2, &SMALL, Writing::Merged);
        let (after, report) = optimize(&small, &OptimizeOptions { explain: true, ..options }).expect("optimizes");
        let rewrites: Vec<&Rewrite> = report.windows.iter().flat_map(|w| &w.rewrites).collect();
        assert!(!rewrites.is_empty() && rewrites.iter().all(|r| r.class == NumericClass::Bitwise), "{report}");
        assert_eq!(replay(&small, &after, 3), Ok(0.0));
    }
}

/// In f64 a reordered step agrees with the original to what rounding allows: the steps have some hundred operations
/// one after the other on numbers near 1, so 1e-11 is above any error of rounding and below any of a rule.
#[test]
fn a_reassociated_step_computes_the_same() {
    let before = lora_step(3, &SMALL, Writing::Merged);
    let (after, report) = optimize(&before, &OptimizeOptions { explain: true, ..reassoc() }).expect("optimizes");
    let rewrites: Vec<&Rewrite> = report.windows.iter().flat_map(|w| &w.rewrites).collect();
    assert!(rewrites.iter().any(|r| matches!(r.replay, Replay::Close { .. })), "{report}");
    for rewrite in rewrites {
        let agrees = matches!(rewrite.replay, Replay::Equal { .. } | Replay::Close { .. });
        assert!(rewrite.rule.is_some() && agrees, "{rewrite}");
    }
    for seed in 0..4 {
        let difference = replay(&before, &after, seed).expect("runs");
        assert!(difference < 1e-11, "{difference:e}\n{report}");
    }
}

/// The gradient of a weight that every step of an unrolled loop reads: a product per step, all added up.
fn sum_of_products(steps: usize) -> Graph {
    let mut b = Builder::new("unrolled");
    let build = |b: &mut Builder| -> Built {
        let mut sum: Option<Value> = None;
        for k in 0..steps {
            let x = b.input(&format!("x{k}"), TensorType::f32([16, 512]))?;
            let y = b.input(&format!("y{k}"), TensorType::f32([16, 128]))?;
            let term = b.dot_general(x, y, [&[], &[]], [&[0], &[0]])?;
            sum = Some(sum.map_or(Ok(term), |sum| b.add(sum, term))?);
        }
        Ok(sum.expect("at least one step"))
    };
    let sum = build(&mut b).expect("well-typed");
    b.output("sum", sum, OutputKind::Result);
    b.finish()
}

#[test]
fn products_that_are_added_up_become_one() {
    let (after, report) = optimized(&sum_of_products(32));
    let count = |op: &str| after.node_ids().filter(|&id| after.op(id).is_some_and(|o| o.name() == op)).count();
    assert_eq!([count("dot_general"), count("concat"), count("add")], [1, 2, 0], "{report}");
}

/// x·A + x·B is one product with A + B.
#[test]
fn products_that_share_a_factor_become_one() {
    let mut b = Builder::new("shared");
    let build = |b: &mut Builder| -> Built {
        let x = b.input("x", TensorType::f32([64, 128]))?;
        let (w, v) = (b.input("w", TensorType::f32([128, 96]))?, b.input("v", TensorType::f32([128, 96]))?);
        let (y, z) = (product(b, x, w)?, product(b, x, v)?);
        b.add(y, z)
    };
    let sum = build(&mut b).expect("well-typed");
    b.output("sum", sum, OutputKind::Result);
    let (after, report) = optimized(&b.finish());
    let count = |op: &str| after.node_ids().filter(|&id| after.op(id).is_some_and(|o| o.name() == op)).count();
    assert_eq!([count("dot_general"), count("add")], [1, 1], "{report}");
}

/// A weight scaled at run time (equalized learning rate; Karras et al., Progressive Growing of GANs, 2018) that is larger
/// than what the convolution makes of it: the result is scaled instead, and so is the gradient of the weight.
#[test]
fn scales_of_large_weights_move_behind_convolutions() {
    let mut b = Builder::new("equalized");
    let (image, weight) = (TensorType::f32([4, 64, 4, 4]), TensorType::f32([64, 64, 3, 3]));
    let conv =
        Convolution { stride: vec![1, 1], pad_low: vec![1, 1], pad_high: vec![1, 1], dilation: vec![1, 1], groups: 1 };
    let build = |b: &mut Builder| -> Built {
        let (x, w) = (b.input("x", image.clone())?, b.parameter("w", weight.clone())?);
        let scaled = b.scale(w, 0.059)?;
        b.convolution(x, scaled, conv)
    };
    let y = build(&mut b).expect("well-typed");
    b.output("y", y, OutputKind::Result);
    let (after, report) = optimized(&b.finish());
    let scaled = |id: &NodeId| after.op(*id).is_some_and(|op| op.name() == "mul");
    let scaled = after.node_ids().filter(scaled).flat_map(|id| after.results(id));
    let shapes: Vec<_> = scaled.map(|value| after.ty(value).shape.clone()).collect();
    assert_eq!(shapes, [image.shape], "{report}");
}

/// The ways to multiply a chain grow exponentially; fuel does not, and what is found is no dearer than the chain.
#[test]
fn long_chains_of_products_run_out_of_fuel_and_end() {
    let chain = |factors: usize| {
        let mut b = Builder::new("chain");
        let build = |b: &mut Builder| -> Built {
            let extent = |k: usize| 8 + 24 * (k % 3);
            let mut x = b.input("x0", TensorType::f32([extent(0), extent(1)]))?;
            for k in 1..factors {
                let y = b.input(&format!("x{k}"), TensorType::f32([extent(k), extent(k + 1)]))?;
                x = product(b, x, y)?;
            }
            Ok(x)
        };
        let end = build(&mut b).expect("well-typed");
        b.output("end", end, OutputKind::Result);
        b.finish()
    };
    for factors in [6, 12, 24, 48] {
        let (_, report) = optimized(&chain(factors));
        let limits = reassoc().limits;
        let e_nodes = report.windows.iter().map(|w| w.e_nodes).max().expect("a window");
        // a node's last rewrite may overshoot its share by what one rewrite makes
        assert!(e_nodes <= 2 * factors + (limits.nodes_per_place + 8) * factors, "{factors} factors: {e_nodes}");
        assert!(report.after.cost.time_ns <= report.before.cost.time_ns * (1.0 + 1e-12), "{report}");
    }
}
