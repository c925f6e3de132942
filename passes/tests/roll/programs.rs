//! Unrolled solvers and recurrences, as exporters write them.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{TensorType, TypeError};

/// What every builder here answers with.
pub type Built = Result<Value, TypeError>;

/// `x · w`, contracting the last axis of `x` with the first of `w`.
pub fn product(b: &mut Builder, x: Value, w: Value) -> Built {
    let last = b.shape(x).len() - 1;
    b.dot_general(x, w, [&[], &[]], [&[last], &[0]])
}

/// `x · wᵀ`
pub fn product_transposed(b: &mut Builder, x: Value, w: Value) -> Built {
    let w = b.transpose(w, &[1, 0])?;
    product(b, x, w)
}

pub fn relu(b: &mut Builder, x: Value) -> Built {
    let zero = b.full_like(x, 0.0)?;
    let positive = b.compare(CompareFn::Gt, x, zero)?;
    b.select(positive, x, zero)
}

/// The scalar `s` times `x`.
pub fn scaled_by(b: &mut Builder, x: Value, s: Value) -> Built {
    let shape = b.shape(x).to_vec();
    let s = b.broadcast(s, &shape, &[])?;
    b.mul(x, s)
}

/// sign(z) · relu(|z| − threshold)
pub fn soft_threshold(b: &mut Builder, z: Value, threshold: Value) -> Built {
    let (sign, magnitude) = (b.sign(z)?, b.abs(z)?);
    let shape = b.shape(z).to_vec();
    let threshold = b.broadcast(threshold, &shape, &[])?;
    let above = b.sub(magnitude, threshold)?;
    let above = relu(b, above)?;
    b.mul(sign, above)
}

/// A graph with one output.
pub fn graph(build: impl FnOnce(&mut Builder) -> Built) -> Graph {
    let mut b = Builder::new("program");
    let y = build(&mut b).expect("the program is well typed");
    b.output("y", y, OutputKind::Result);
    b.finish()
}

pub fn input(b: &mut Builder, name: &str, shape: &[usize]) -> Value {
    b.input(name, TensorType::f32(shape)).expect("a new name")
}

pub fn parameter(b: &mut Builder, name: &str, shape: &[usize]) -> Value {
    b.parameter(name, TensorType::f32(shape)).expect("a new name")
}

/// The gradient step of sparse coding: u − step · (u · dᵀ − y) · d
fn sparse_step(b: &mut Builder, u: Value, d: Value, y: Value, step: f64) -> Built {
    let residual = product_transposed(b, u, d)?;
    let residual = b.sub(residual, y)?;
    let gradient = product(b, residual, d)?;
    let gradient = b.scale(gradient, step)?;
    b.sub(u, gradient)
}

/// Sparse coding by ISTA (Daubechies et al., 2004), decoded.
pub fn ista(steps: usize) -> Graph {
    graph(|b| {
        let (y, d, lam) = (input(b, "y", &[2, 4]), parameter(b, "D", &[4, 6]), parameter(b, "log_lam", &[]));
        let lam = b.exp(lam)?;
        let mut x = b.splat(&TensorType::f32([2, 6]), 0.0)?;
        for _ in 0..steps {
            let z = sparse_step(b, x, d, y, 0.1)?;
            let threshold = b.scale(lam, 0.1)?;
            x = soft_threshold(b, z, threshold)?;
        }
        product_transposed(b, x, d)
    })
}

/// FISTA (Beck and Teboulle, 2009): ISTA with momentum whose weight changes from step to step.
pub fn fista(steps: usize) -> Graph {
    graph(|b| {
        let (y, d, lam) = (input(b, "y", &[2, 4]), parameter(b, "D", &[4, 6]), parameter(b, "lam", &[]));
        let mut x = b.splat(&TensorType::f32([2, 6]), 0.0)?;
        let (mut u, mut t) = (x, 1.0f64);
        for _ in 0..steps {
            let z = sparse_step(b, u, d, y, 0.1)?;
            let next = soft_threshold(b, z, lam)?;
            let t_next = (1.0 + (1.0 + 4.0 * t * t).sqrt()) / 2.0;
            let change = b.sub(next, x)?;
            let momentum = b.scale(change, (t - 1.0) / t_next)?;
            u = b.add(next, momentum)?;
            (x, t) = (next, t_next);
        }
        Ok(x)
    })
}

/// Gradient descent with momentum on ½ xᵀqx − cᵀx.
pub fn momentum(steps: usize) -> Graph {
    graph(|b| {
        let (q, c, x0) = (parameter(b, "q", &[5, 5]), input(b, "c", &[3, 5]), input(b, "x0", &[3, 5]));
        let mut x = x0;
        let mut v = b.splat(&TensorType::f32([3, 5]), 0.0)?;
        for _ in 0..steps {
            let qx = product(b, x, q)?;
            let gradient = b.sub(qx, c)?;
            let (kept, step) = (b.scale(v, 0.9)?, b.scale(gradient, 0.05)?);
            v = b.sub(kept, step)?;
            x = b.add(x, v)?;
        }
        Ok(x)
    })
}

/// A box-constrained QP by projected gradients: clip(x − step · (q x + c), 0, 1).
pub fn projected_gradient(steps: usize) -> Graph {
    graph(|b| {
        let (q, c) = (parameter(b, "q", &[5, 5]), input(b, "c", &[3, 5]));
        let mut x = b.splat(&TensorType::f32([3, 5]), 0.5)?;
        for _ in 0..steps {
            let qx = product(b, x, q)?;
            let gradient = b.add(qx, c)?;
            let step = b.scale(gradient, 0.1)?;
            let moved = b.sub(x, step)?;
            let (zero, one) = (b.full_like(x, 0.0)?, b.full_like(x, 1.0)?);
            let above = b.maximum(moved, zero)?;
            x = b.minimum(above, one)?;
        }
        Ok(x)
    })
}

fn sigmoid(b: &mut Builder, x: Value) -> Built {
    let minus = b.neg(x)?;
    let e = b.exp(minus)?;
    let one = b.full_like(e, 1.0)?;
    let sum = b.add(one, e)?;
    b.recip(sum)
}

/// Weights of one LSTM layer: input, hidden.
pub type Cell = [Value; 2];

/// One LSTM step on `[n, i]` with hidden size 3; answers with (h, c).
pub fn lstm_cell(b: &mut Builder, x: Value, [h, c]: [Value; 2], [wi, wh]: Cell) -> Result<[Value; 2], TypeError> {
    let (from_x, from_h) = (product(b, x, wi)?, product(b, h, wh)?);
    let gates = b.add(from_x, from_h)?;
    let gate = |b: &mut Builder, k: usize| b.slice_axis(gates, 1, 3 * k, 3 * k + 3);
    let [i, f, g, o] = [gate(b, 0)?, gate(b, 1)?, gate(b, 2)?, gate(b, 3)?];
    let (i, f, o, g) = (sigmoid(b, i)?, sigmoid(b, f)?, sigmoid(b, o)?, b.tanh(g)?);
    let (kept, new) = (b.mul(f, c)?, b.mul(i, g)?);
    let c = b.add(kept, new)?;
    let squashed = b.tanh(c)?;
    Ok([b.mul(o, squashed)?, c])
}

/// Layers of LSTM over `[2, steps, 4]` (time along `axis` 1) or `[steps, 2, 4]`; all hidden states, joined along time.
pub fn lstm(steps: usize, layers: usize, axis: usize, backwards: bool) -> Graph {
    graph(|b| {
        let shape = if axis == 1 { [2, steps, 4] } else { [steps, 2, 4] };
        let x = input(b, "x", &shape);
        let zero = b.splat(&TensorType::f32([2, 3]), 0.0)?;
        let mut states = vec![[zero, zero]; layers];
        let weights: Vec<Cell> = (0..layers)
            .map(|k| {
                let rows = if k == 0 { 4 } else { 3 };
                [parameter(b, &format!("wi{k}"), &[rows, 12]), parameter(b, &format!("wh{k}"), &[3, 12])]
            })
            .collect();
        let mut all = Vec::new();
        for t in 0..steps {
            let t = if backwards { steps - 1 - t } else { t };
            let slice = b.slice_axis(x, axis, t, t + 1)?;
            let mut h = b.reshape(slice, &[2, 4])?;
            for (state, &cell) in states.iter_mut().zip(&weights) {
                *state = lstm_cell(b, h, *state, cell)?;
                h = state[0];
            }
            all.push(b.reshape(h, &[2, 1, 3])?);
        }
        b.concat(&all, 1)
    })
}
