//! The e-graph optimizer on whole training steps.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::egraph::rules::Family;
use gradc_passes::egraph::saturate::StopReason;
use gradc_passes::egraph::{OptimizeOptions, Strategy, optimize, replay};
use gradc_passes::optimizers::{Adam, Optimizer, Schedule};
use gradc_passes::train::{LOSS, TrainSpec, derive_step};

type Built = Result<Value, TypeError>;

/// Batch, tokens, heads, width of a head, width of the hidden layer.
const SIZES: [usize; 5] = [2, 3, 2, 4, 16];

/// A transformer as exporters write it: weights transposed, tokens flattened before every product.
struct Transformer {
    b: Builder,
    layer: String,
}

impl Transformer {
    fn at(&mut self, layer: &str) {
        self.layer = layer.into();
        self.b.set_loc(Loc { layer: layer.into(), ..Loc::default() });
    }

    fn parameter(&mut self, name: &str, shape: &[usize]) -> Built {
        self.b.parameter(&format!("{}.{name}", self.layer), TensorType::f32(shape))
    }

    fn linear(&mut self, name: &str, x: Value, out: usize) -> Built {
        let shape = self.b.shape(x).to_vec();
        let inner = shape[shape.len() - 1];
        let weight = self.parameter(&format!("{name}.weight"), &[out, inner])?;
        let bias = self.parameter(&format!("{name}.bias"), &[out])?;
        let flat = self.b.reshape(x, &[shape.iter().product::<usize>() / inner, inner])?;
        let weight = self.b.transpose(weight, &[1, 0])?;
        let y = self.b.dot_general(flat, weight, [&[], &[]], [&[1], &[0]])?;
        let y = self.b.add(y, bias)?;
        self.b.reshape(y, &[&shape[..shape.len() - 1], &[out]].concat())
    }

    fn mean(&mut self, x: Value) -> Built {
        let mut shape = self.b.shape(x).to_vec();
        let last = shape.len() - 1;
        let sum = self.b.reduce_sum(x, &[last])?;
        let mean = self.b.scale(sum, 1.0 / shape[last] as f64)?;
        shape[last] = 1;
        self.b.reshape(mean, &shape)
    }

    fn norm(&mut self, x: Value) -> Built {
        let width = *self.b.shape(x).last().expect("a token has a width");
        let mean = self.mean(x)?;
        let centred = self.b.sub(x, mean)?;
        let square = self.b.mul(centred, centred)?;
        let variance = self.mean(square)?;
        let eps = self.b.full_like(variance, 1e-5)?;
        let variance = self.b.add(variance, eps)?;
        let scale = self.b.rsqrt(variance)?;
        let normal = self.b.mul(centred, scale)?;
        let gamma = self.parameter("weight", &[width])?;
        self.b.mul(normal, gamma)
    }

    fn heads(&mut self, x: Value) -> Built {
        let [batch, tokens, heads, width, _] = SIZES;
        let split = self.b.reshape(x, &[batch, tokens, heads, width])?;
        self.b.transpose(split, &[0, 2, 1, 3])
    }

    fn attention(&mut self, x: Value) -> Built {
        let [batch, tokens, heads, width, _] = SIZES;
        let mut qkv = Vec::new();
        for name in ["q", "k", "v"] {
            let y = self.linear(name, x, heads * width)?;
            qkv.push(self.heads(y)?);
        }
        let keys = self.b.transpose(qkv[1], &[0, 1, 3, 2])?;
        let scores = self.b.dot_general(qkv[0], keys, [&[0, 1], &[0, 1]], [&[3], &[2]])?;
        let scores = self.b.scale(scores, 0.5)?;
        let weights = self.b.exp(scores)?;
        let sum = self.b.reduce_sum(weights, &[3])?;
        let sum = self.b.reshape(sum, &[batch, heads, tokens, 1])?;
        let weights = self.b.div(weights, sum)?;
        let y = self.b.dot_general(weights, qkv[2], [&[0, 1], &[0, 1]], [&[3], &[2]])?;
        let y = self.b.transpose(y, &[0, 2, 1, 3])?;
        let y = self.b.reshape(y, &[batch, tokens, heads * width])?;
        self.linear("out", y, heads * width)
    }

    fn block(&mut self, k: usize, x: Value) -> Built {
        let [_, _, heads, width, hidden] = SIZES;
        self.at(&format!("blocks.{k}.norm1"));
        let y = self.norm(x)?;
        self.at(&format!("blocks.{k}.attention"));
        let y = self.attention(y)?;
        let x = self.b.add(x, y)?;
        self.at(&format!("blocks.{k}.norm2"));
        let y = self.norm(x)?;
        self.at(&format!("blocks.{k}.mlp"));
        let y = self.linear("up", y, hidden)?;
        let y = self.b.tanh(y)?;
        let y = self.linear("down", y, heads * width)?;
        self.b.add(x, y)
    }
}

/// Forward, backward and AdamW of a transformer.
fn training_step(layers: usize) -> Graph {
    let [batch, tokens, heads, width, _] = SIZES;
    let mut t = Transformer { b: Builder::new("transformer"), layer: String::new() };
    let build = |t: &mut Transformer| -> Built {
        let mut x = t.b.input("x", TensorType::f32([batch, tokens, heads * width]))?;
        for k in 0..layers {
            x = t.block(k, x)?;
        }
        t.at("loss");
        let square = t.b.mul(x, x)?;
        t.b.reduce_sum(square, &[0, 1, 2])
    };
    let loss = build(&mut t).expect("the model is well-typed");
    t.b.output(LOSS, loss, OutputKind::Result);
    let forward = t.b.finish();
    let names = forward.inputs()[1..].iter().map(|i| i.name.clone()).collect();
    let adam = Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, decoupled: true };
    let spec = TrainSpec {
        trainable: names,
        optimizer: Some(Optimizer::Adam(adam)),
        schedule: Schedule::default(),
        clip_norm: None,
        accumulate: 1,
        gradient_outputs: false,
    };
    derive_step(&forward, &spec).unwrap_or_else(|e| panic!("{e}"))
}

fn options() -> OptimizeOptions {
    OptimizeOptions::new(Target::of(VectorIsa::Avx2))
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.node_ids().filter(|&id| graph.op(id).is_some_and(|o| o.name() == op)).count()
}

#[test]
fn a_step_keeps_every_bit_and_its_interface() {
    let before = training_step(2);
    let (after, report) = optimize(&before, &options()).expect("optimizes");
    assert_eq!(replay(&before, &after, 7), Ok(0.0), "{report}");
    let interface = |g: &Graph| -> Vec<_> {
        let inputs = g.inputs().iter().map(|i| (i.name.clone(), Some(i.role), g.ty(i.value).clone()));
        inputs.chain(g.outputs().iter().map(|o| (o.name.clone(), None, g.ty(o.value).clone()))).collect()
    };
    assert_eq!(interface(&before), interface(&after));
    let kinds = |g: &Graph| g.outputs().iter().map(|o| o.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&before), kinds(&after));
}

#[test]
fn layout_is_folded_into_products() {
    let before = training_step(2);
    let (after, report) = optimize(&before, &options()).expect("optimizes");
    println!("{report}");
    assert_eq!(count(&before, "dot_general"), count(&after, "dot_general"));
    assert!(count(&after, "transpose") * 4 < count(&before, "transpose"), "{report}");
    assert!(report.after.cost.bytes < report.before.cost.bytes);
}

/// A greedy rewriter keeps every bit too and never makes the graph dearer; here it finds less than saturation.
#[test]
fn greedy_rewriting_stops_earlier() {
    let before = training_step(2);
    let (after, report) = optimize(&before, &OptimizeOptions { strategy: Strategy::Greedy, ..options() }).expect("ok");
    assert_eq!(replay(&before, &after, 7), Ok(0.0), "{report}");
    let (_, saturated) = optimize(&before, &options()).expect("optimizes");
    let [greedy_ns, saturated_ns] = [&report, &saturated].map(|r| r.after.cost.time_ns);
    assert!(greedy_ns < report.before.cost.time_ns && saturated_ns < greedy_ns, "{greedy_ns} {saturated_ns}");
}

/// With a family off none of its rules is used; with all of them off the graph stays as it is.
#[test]
fn families_can_be_left_out() {
    let before = training_step(1);
    for left_out in Family::ALL {
        let families = Family::ALL.into_iter().filter(|f| *f != left_out).collect();
        let (_, report) = optimize(&before, &OptimizeOptions { families, ..options() }).expect("optimizes");
        assert!(report.windows.iter().flat_map(|w| &w.rewrites).all(|r| r.family != left_out), "{report}");
    }
    let (_, report) = optimize(&before, &OptimizeOptions { families: [].into(), ..options() }).expect("optimizes");
    assert!(report.windows.iter().all(|w| w.rewrites.is_empty()));
}

#[test]
fn the_same_graph_twice() {
    let before = training_step(3);
    let first = optimize(&before, &options()).expect("optimizes");
    assert_eq!(optimize(&before, &options()).expect("optimizes"), first);
}

/// Work grows with the number of layers, not with its square: windows stay the same size and stop by themselves.
#[test]
fn effort_is_linear_in_layers() {
    let effort = |layers: usize| {
        let (_, report) = optimize(&training_step(layers), &options()).expect("optimizes");
        assert!(report.windows.iter().all(|w| w.stop == StopReason::Saturated), "{report}");
        report.windows.iter().map(|w| w.e_nodes).sum::<usize>()
    };
    let (few, many) = (effort(4), effort(12));
    assert!(many < few * 4, "{few} e-nodes for 4 layers, {many} for 12");
}

#[test]
fn every_node_keeps_a_place() {
    let before = training_step(2);
    let (after, _) = optimize(&before, &options()).expect("optimizes");
    let layers = |g: &Graph| -> Vec<String> {
        let mut layers: Vec<String> = g.node_ids().map(|id| g.loc(id).layer.clone()).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    };
    assert_eq!(layers(&before), layers(&after));
}
