//! A transformer's training step, as exporters write it: weights transposed, tokens flattened before every product.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::optimizers::{Adam, Optimizer};
use gradc_passes::train::{LOSS, TrainSpec, derive_step};

type Built = Result<Value, TypeError>;

/// Extents of a transformer.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Examples.
    pub batch: usize,
    /// Tokens of an example.
    pub tokens: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Width of the hidden layer.
    pub hidden: usize,
}

struct Transformer {
    b: Builder,
    sizes: Sizes,
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
        let Sizes { batch, tokens, heads, width, .. } = self.sizes;
        let split = self.b.reshape(x, &[batch, tokens, heads, width])?;
        self.b.transpose(split, &[0, 2, 1, 3])
    }

    fn attention(&mut self, x: Value) -> Built {
        let Sizes { batch, tokens, heads, width, .. } = self.sizes;
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
        let Sizes { heads, width, hidden, .. } = self.sizes;
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
pub fn training_step(layers: usize, sizes: Sizes) -> Graph {
    let Sizes { batch, tokens, heads, width, .. } = sizes;
    let mut t = Transformer { sizes, b: Builder::new("transformer"), layer: String::new() };
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
    let names = forward.inputs()[1..].iter().map(|i| i.name.clone().into()).collect();
    let adam = Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, decoupled: true };
    let spec = TrainSpec::new(names, Some(Optimizer::Adam(adam)));
    derive_step(&forward, &spec).unwrap_or_else(|e| panic!("{e}"))
}
