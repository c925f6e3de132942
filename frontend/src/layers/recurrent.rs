//! Recurrent layers: a `scan` over time whose body is one cell.
//!
//! The input projection of all time steps is one product outside the loop; only the hidden one is inside.

use super::activation::relu;
use super::linear::linear;
use super::shape::split;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, OutputKind, Value};
use gradc_ir::ops::Scan;
use gradc_ir::types::TypeError;
use std::sync::Arc;

/// Operands of an LSTM over time: T steps, batch N, input I, hidden H.
#[derive(Clone, Copy, Debug)]
pub struct LstmSpec {
    /// Inputs `[T, N, I]`.
    pub x: Value,
    /// First hidden state `[N, H]`.
    pub h0: Value,
    /// First cell state `[N, H]`.
    pub c0: Value,
    /// Input weights `[4H, I]`; gates in PyTorch's order: input, forget, cell, output.
    pub w_ih: Value,
    /// Hidden weights `[4H, H]`.
    pub w_hh: Value,
    /// Input bias `[4H]`.
    pub b_ih: Option<Value>,
    /// Hidden bias `[4H]`.
    pub b_hh: Option<Value>,
    /// Whether time runs from the last step to the first.
    pub reverse: bool,
}

/// Long short-term memory (Hochreiter and Schmidhuber, 1997), as `torch.nn.LSTM` defines it.
///
/// Returns the hidden states `[T, N, H]`, the last hidden state and the last cell state `[N, H]`.
pub fn lstm(b: &mut Builder, spec: &LstmSpec) -> Result<(Value, Value, Value), TypeError> {
    let length = time_steps(b, spec.x)?;
    let projected = linear(b, spec.x, spec.w_ih, spec.b_ih)?;
    let projected = spec.b_hh.map_or(Ok(projected), |bias| b.add(projected, bias))?;
    let operands = [spec.h0, spec.c0, projected, spec.w_hh];
    let body = body("lstm_cell", b, &operands, 2, lstm_cell)?;
    let op = Scan { body, carries: 2, scanned: 1, length, reverse: spec.reverse, in_order: false };
    let results = b.apply(op, &operands)?;
    Ok((results[2], results[0], results[1]))
}

/// (h, c, projected input, w_hh) → (h, c)
fn lstm_cell(b: &mut Builder, x: &[Value]) -> Result<Vec<Value>, TypeError> {
    let hidden = linear(b, x[0], x[3], None)?;
    let gates = b.add(x[2], hidden)?;
    let [i, f, g, o] = split_gates(b, gates, x[0])?;
    let (i, f, o) = (b.logistic(i)?, b.logistic(f)?, b.logistic(o)?);
    let g = b.tanh(g)?;
    let (kept, new) = (b.mul(f, x[1])?, b.mul(i, g)?);
    let c = b.add(kept, new)?;
    let squashed = b.tanh(c)?;
    Ok(vec![b.mul(o, squashed)?, c])
}

/// Operands of a GRU over time: T steps, batch N, input I, hidden H.
#[derive(Clone, Copy, Debug)]
pub struct GruSpec {
    /// Inputs `[T, N, I]`.
    pub x: Value,
    /// First hidden state `[N, H]`.
    pub h0: Value,
    /// Input weights `[3H, I]`; gates in PyTorch's order: reset, update, new.
    pub w_ih: Value,
    /// Hidden weights `[3H, H]`.
    pub w_hh: Value,
    /// Input bias `[3H]`.
    pub b_ih: Option<Value>,
    /// Hidden bias `[3H]`.
    pub b_hh: Option<Value>,
    /// Whether time runs from the last step to the first.
    pub reverse: bool,
}

/// Gated recurrent unit (Cho et al., 2014), as `torch.nn.GRU` defines it: the reset gate multiplies the product.
///
/// Returns the hidden states `[T, N, H]` and the last one `[N, H]`.
pub fn gru(b: &mut Builder, spec: &GruSpec) -> Result<(Value, Value), TypeError> {
    let length = time_steps(b, spec.x)?;
    let projected = linear(b, spec.x, spec.w_ih, spec.b_ih)?;
    let operands: Vec<Value> = [spec.h0, projected, spec.w_hh].into_iter().chain(spec.b_hh).collect();
    let body = body("gru_cell", b, &operands, 1, gru_cell)?;
    let op = Scan { body, carries: 1, scanned: 1, length, reverse: spec.reverse, in_order: false };
    let results = b.apply(op, &operands)?;
    Ok((results[1], results[0]))
}

/// (h, projected input, w_hh, optional b_hh) → h
fn gru_cell(b: &mut Builder, x: &[Value]) -> Result<Vec<Value>, TypeError> {
    let hidden = linear(b, x[0], x[2], x.get(3).copied())?;
    let ([xr, xz, xn], [hr, hz, hn]) = (split_gates(b, x[1], x[0])?, split_gates(b, hidden, x[0])?);
    let (r, z) = (b.add(xr, hr)?, b.add(xz, hz)?);
    let (r, z) = (b.logistic(r)?, b.logistic(z)?);
    let reset = b.mul(r, hn)?;
    let n = b.add(xn, reset)?;
    let n = b.tanh(n)?;
    // (1 − z) n + z h = n + z (h − n)
    let change = b.sub(x[0], n)?;
    let kept = b.mul(z, change)?;
    Ok(vec![b.add(n, kept)?])
}

/// What squashes the state of a plain recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squash {
    /// Hyperbolic tangent.
    Tanh,
    /// max(x, 0)
    Relu,
}

/// Operands of a plain recurrent layer over time: T steps, batch N, input I, hidden H.
#[derive(Clone, Copy, Debug)]
pub struct RnnSpec {
    /// Inputs `[T, N, I]`.
    pub x: Value,
    /// First hidden state `[N, H]`.
    pub h0: Value,
    /// Input weights `[H, I]`.
    pub w_ih: Value,
    /// Hidden weights `[H, H]`.
    pub w_hh: Value,
    /// Input bias `[H]`.
    pub b_ih: Option<Value>,
    /// Hidden bias `[H]`.
    pub b_hh: Option<Value>,
    /// Whether time runs from the last step to the first.
    pub reverse: bool,
    /// What squashes the state.
    pub squash: Squash,
}

/// h ← squash(W_ih x + b_ih + W_hh h + b_hh) (Elman, 1990), as `torch.nn.RNN` defines it.
///
/// Returns the hidden states `[T, N, H]` and the last one `[N, H]`.
pub fn rnn(b: &mut Builder, spec: &RnnSpec) -> Result<(Value, Value), TypeError> {
    let length = time_steps(b, spec.x)?;
    let projected = linear(b, spec.x, spec.w_ih, spec.b_ih)?;
    let projected = spec.b_hh.map_or(Ok(projected), |bias| b.add(projected, bias))?;
    let operands = [spec.h0, projected, spec.w_hh];
    let cell: Cell = match spec.squash {
        Squash::Tanh => |b, x| rnn_cell(b, x, Builder::tanh),
        Squash::Relu => |b, x| rnn_cell(b, x, relu),
    };
    let body = body("rnn_cell", b, &operands, 1, cell)?;
    let op = Scan { body, carries: 1, scanned: 1, length, reverse: spec.reverse, in_order: false };
    let results = b.apply(op, &operands)?;
    Ok((results[1], results[0]))
}

/// (h, projected input, w_hh) → h
fn rnn_cell(
    b: &mut Builder,
    x: &[Value],
    squash: fn(&mut Builder, Value) -> Result<Value, TypeError>,
) -> Result<Vec<Value>, TypeError> {
    let hidden = linear(b, x[0], x[2], None)?;
    let sum = b.add(x[1], hidden)?;
    Ok(vec![squash(b, sum)?])
}

/// Cuts `[N, gates · H]` into its gates; `h` is a hidden state `[N, H]`.
fn split_gates<const N: usize>(b: &mut Builder, gates: Value, h: Value) -> Result<[Value; N], TypeError> {
    let size = b.shape(h).get(1).copied().unwrap_or_default();
    split(b, gates, 1, size)?.try_into().map_err(|parts: Vec<Value>| {
        TypeError::new("the weights of a recurrent layer have the wrong number of rows")
            .expected(format!("{N} gates of the hidden size {size}"))
            .found(format!("{} gates", parts.len()))
    })
}

/// Extent of the time axis of `[T, N, I]`.
fn time_steps(b: &Builder, x: Value) -> Result<usize, TypeError> {
    match b.shape(x) {
        [steps, _, _] => Ok(*steps),
        _ => Err(TypeError::new("a recurrent layer reads sequences").expected("[T, N, I]").found(b.ty(x))),
    }
}

/// One time step: from the carries, the slice of the scanned operand and the constants to the next carries.
type Cell = fn(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>;

/// The body of a scan over `operands` (carries, one scanned operand, constants) that stacks the first carry.
fn body(name: &str, b: &Builder, operands: &[Value], carries: usize, cell: Cell) -> Result<Function, TypeError> {
    let mut body = Builder::new(name);
    let mut inputs = Vec::with_capacity(operands.len());
    for (k, &operand) in operands.iter().enumerate() {
        let ty = b.ty(operand);
        let ty = if k == carries { ty.with_shape(&ty.shape[1..]) } else { ty.clone() };
        inputs.push(body.input(&format!("x{k}"), ty)?);
    }
    let next = cell(&mut body, &inputs)?;
    for (k, &value) in next.iter().chain(&next[..1]).enumerate() {
        body.output(&format!("y{k}"), value, OutputKind::Result);
    }
    Ok(Arc::new(body.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build_all, noise};

    const T: usize = 3;
    const N: usize = 2;
    const I: usize = 4;
    const H: usize = 5;

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// Row `row` of `w` `[_, x.len()]` times `x`, plus `bias[row]`.
    fn row_product(w: &[f64], row: usize, x: &[f64], bias: &[f64]) -> f64 {
        x.iter().enumerate().map(|(k, v)| w[row * x.len() + k] * v).sum::<f64>() + bias[row]
    }

    struct Data {
        x: Vec<f64>,
        h: Vec<f64>,
        c: Vec<f64>,
        w_ih: Vec<f64>,
        w_hh: Vec<f64>,
        b_ih: Vec<f64>,
        b_hh: Vec<f64>,
        gates: usize,
    }

    impl Data {
        fn new(gates: usize) -> Data {
            let rows = gates * H;
            Data {
                x: noise(T * N * I, 1),
                h: noise(N * H, 2),
                c: noise(N * H, 3),
                w_ih: noise(rows * I, 4),
                w_hh: noise(rows * H, 5),
                b_ih: noise(rows, 6),
                b_hh: noise(rows, 7),
                gates,
            }
        }

        /// x, h, c, w_ih, w_hh, b_ih, b_hh
        fn run(&self, layer: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>) -> Vec<Vec<f64>> {
            let rows = self.gates * H;
            let inputs: [(&[usize], &[f64]); 7] = [
                (&[T, N, I], &self.x),
                (&[N, H], &self.h),
                (&[N, H], &self.c),
                (&[rows, I], &self.w_ih),
                (&[rows, H], &self.w_hh),
                (&[rows], &self.b_ih),
                (&[rows], &self.b_hh),
            ];
            build_all(&inputs, layer).iter().map(|t| t.floats().to_vec()).collect()
        }

        /// Input and hidden parts of gate `gate` of unit `k`, example `n`, step `t`, given the hidden state.
        fn parts(&self, gate: usize, k: usize, [t, n]: [usize; 2], h: &[f64]) -> [f64; 2] {
            let (row, x) = (gate * H + k, &self.x[(t * N + n) * I..][..I]);
            [row_product(&self.w_ih, row, x, &self.b_ih), row_product(&self.w_hh, row, &h[n * H..][..H], &self.b_hh)]
        }

        fn steps(&self, reverse: bool) -> Vec<usize> {
            if reverse { (0..T).rev().collect() } else { (0..T).collect() }
        }

        /// y, last h, last c by the definition's loops.
        fn lstm_loop(&self, reverse: bool) -> [Vec<f64>; 3] {
            let (mut y, mut h, mut c) = (vec![0.0; T * N * H], self.h.clone(), self.c.clone());
            for t in self.steps(reverse) {
                let old = h.clone();
                for (n, k) in (0..N).flat_map(|n| (0..H).map(move |k| (n, k))) {
                    let gate = |g: usize| self.parts(g, k, [t, n], &old).iter().sum::<f64>();
                    let at = n * H + k;
                    c[at] = sigmoid(gate(1)) * c[at] + sigmoid(gate(0)) * gate(2).tanh();
                    h[at] = sigmoid(gate(3)) * c[at].tanh();
                    y[t * N * H + at] = h[at];
                }
            }
            [y, h, c]
        }

        /// y, last h by the definition's loops.
        fn gru_loop(&self, reverse: bool) -> [Vec<f64>; 2] {
            let (mut y, mut h) = (vec![0.0; T * N * H], self.h.clone());
            for t in self.steps(reverse) {
                let old = h.clone();
                for (n, k) in (0..N).flat_map(|n| (0..H).map(move |k| (n, k))) {
                    let gate = |g: usize| self.parts(g, k, [t, n], &old);
                    let [r, z] = [0, 1].map(|g| sigmoid(gate(g).iter().sum()));
                    let [new_x, new_h] = gate(2);
                    let at = n * H + k;
                    h[at] = (1.0 - z) * (new_x + r * new_h).tanh() + z * old[at];
                    y[t * N * H + at] = h[at];
                }
            }
            [y, h]
        }
    }

    #[test]
    fn lstm_follows_its_loop() {
        let data = Data::new(4);
        for reverse in [false, true] {
            let found = data.run(|b, v| {
                let (b_ih, b_hh) = (Some(v[5]), Some(v[6]));
                let spec = LstmSpec { x: v[0], h0: v[1], c0: v[2], w_ih: v[3], w_hh: v[4], b_ih, b_hh, reverse };
                let (y, h, c) = lstm(b, &spec)?;
                Ok(vec![y, h, c])
            });
            for (what, (f, e)) in ["y", "h", "c"].iter().zip(found.iter().zip(&data.lstm_loop(reverse))) {
                assert_close(what, f, e, 1e-12);
            }
        }
    }

    #[test]
    fn gru_follows_its_loop() {
        let data = Data::new(3);
        for reverse in [false, true] {
            let found = data.run(|b, v| {
                let (b_ih, b_hh) = (Some(v[5]), Some(v[6]));
                let (y, h) = gru(b, &GruSpec { x: v[0], h0: v[1], w_ih: v[3], w_hh: v[4], b_ih, b_hh, reverse })?;
                Ok(vec![y, h])
            });
            for (what, (f, e)) in ["y", "h"].iter().zip(found.iter().zip(&data.gru_loop(reverse))) {
                assert_close(what, f, e, 1e-12);
            }
        }
    }

    #[test]
    fn weights_with_the_wrong_number_of_gates_are_refused() {
        let mut b = Builder::new("test");
        let mut input = |name: &str, shape: &[usize]| b.input(name, gradc_ir::types::TensorType::f32(shape)).unwrap();
        let (x, h0, w_ih, w_hh) =
            (input("x", &[T, N, I]), input("h", &[N, H]), input("wi", &[10, I]), input("wh", &[10, H]));
        let error = gru(&mut b, &GruSpec { x, h0, w_ih, w_hh, b_ih: None, b_hh: None, reverse: false }).unwrap_err();
        assert!(error.message.contains("wrong number of rows"), "{error}");
    }
}
