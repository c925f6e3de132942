//! Recurrent layers of several layers and directions, and single cells, from the single-layer builders.

use super::super::call::{Call, invalid};
use super::super::fault::Fault;
use super::random::drop_elements;
use crate::layers::recurrent::{self as layers, Squash};
use crate::layers::shape::{squeeze, unsqueeze};
use gradc_ir::graph::Value;

/// Weights of one layer in one direction.
#[derive(Clone, Copy)]
struct Weights {
    w_ih: Value,
    w_hh: Value,
    b_ih: Option<Value>,
    b_hh: Option<Value>,
}

/// One layer in one direction: from inputs `[T, N, I]` and first states to outputs `[T, N, H]` and last states.
type Layer = fn(&mut Call, Value, &[Value], Weights, bool) -> Result<(Value, Vec<Value>), Fault>;

fn lstm_layer(
    call: &mut Call,
    x: Value,
    states: &[Value],
    w: Weights,
    reverse: bool,
) -> Result<(Value, Vec<Value>), Fault> {
    let Weights { w_ih, w_hh, b_ih, b_hh } = w;
    let spec = layers::LstmSpec { x, h0: states[0], c0: states[1], w_ih, w_hh, b_ih, b_hh, reverse };
    let (y, h, c) = layers::lstm(call.b, &spec)?;
    Ok((y, vec![h, c]))
}

fn gru_layer(
    call: &mut Call,
    x: Value,
    states: &[Value],
    w: Weights,
    reverse: bool,
) -> Result<(Value, Vec<Value>), Fault> {
    let Weights { w_ih, w_hh, b_ih, b_hh } = w;
    let (y, h) = layers::gru(call.b, &layers::GruSpec { x, h0: states[0], w_ih, w_hh, b_ih, b_hh, reverse })?;
    Ok((y, vec![h]))
}

fn rnn_layer(
    call: &mut Call,
    x: Value,
    states: &[Value],
    w: Weights,
    reverse: bool,
    squash: Squash,
) -> Result<(Value, Vec<Value>), Fault> {
    let Weights { w_ih, w_hh, b_ih, b_hh } = w;
    let spec = layers::RnnSpec { x, h0: states[0], w_ih, w_hh, b_ih, b_hh, reverse, squash };
    let (y, h) = layers::rnn(call.b, &spec)?;
    Ok((y, vec![h]))
}

fn tanh_layer(call: &mut Call, x: Value, s: &[Value], w: Weights, reverse: bool) -> Result<(Value, Vec<Value>), Fault> {
    rnn_layer(call, x, s, w, reverse, Squash::Tanh)
}

fn relu_layer(call: &mut Call, x: Value, s: &[Value], w: Weights, reverse: bool) -> Result<(Value, Vec<Value>), Fault> {
    rnn_layer(call, x, s, w, reverse, Squash::Relu)
}

/// (outputs, last hidden states)
pub fn rnn_tanh(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let state = call.tensor("hx")?;
    stacked(call, &[state], tanh_layer)
}

/// (outputs, last hidden states)
pub fn rnn_relu(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let state = call.tensor("hx")?;
    stacked(call, &[state], relu_layer)
}

/// One step of a layer, for inputs `[N, I]` or `[I]`: its next states.
fn cell(call: &mut Call, states: &[Value], layer: Layer) -> Result<Vec<Value>, Fault> {
    let (w_ih, w_hh) = (call.tensor("w_ih")?, call.tensor("w_hh")?);
    let (b_ih, b_hh) = (call.optional_tensor("b_ih")?, call.optional_tensor("b_hh")?);
    let x = call.tensor("input")?;
    let shape = call.b.shape(x).to_vec();
    let single = shape.len() == 1;
    let x = call.b.reshape(x, &[&vec![1; if single { 2 } else { 1 }][..], &shape].concat())?;
    let lead = usize::from(single);
    let states = states.iter().map(|&s| unsqueeze(call.b, s, &[0][..lead])).collect::<Result<Vec<_>, _>>()?;
    let (_, next) = layer(call, x, &states, Weights { w_ih, w_hh, b_ih, b_hh }, false)?;
    Ok(next.into_iter().map(|s| squeeze(call.b, s, &[0][..lead])).collect::<Result<_, _>>()?)
}

/// (hidden state, cell state)
pub fn lstm_cell(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let states = call.tensors("hx")?;
    if states.len() != 2 {
        return Err(invalid("hx", "hidden and cell state", format!("{} tensors", states.len())));
    }
    cell(call, &states, lstm_layer)
}

fn only_state(call: &mut Call, layer: Layer) -> Result<Value, Fault> {
    let state = call.tensor("hx")?;
    Ok(cell(call, &[state], layer)?[0])
}

pub fn gru_cell(call: &mut Call) -> Result<Value, Fault> {
    only_state(call, gru_layer)
}

pub fn rnn_tanh_cell(call: &mut Call) -> Result<Value, Fault> {
    only_state(call, tanh_layer)
}

pub fn rnn_relu_cell(call: &mut Call) -> Result<Value, Fault> {
    only_state(call, relu_layer)
}

/// (outputs, last hidden states, last cell states)
pub fn lstm(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let states = call.tensors("hx")?;
    if states.len() != 2 {
        return Err(invalid("hx", "hidden and cell state", format!("{} tensors", states.len())));
    }
    stacked(call, &states, lstm_layer)
}

/// (outputs, last hidden states)
pub fn gru(call: &mut Call) -> Result<Vec<Value>, Fault> {
    let state = call.tensor("hx")?;
    stacked(call, &[state], gru_layer)
}

/// Layers one after the other; the directions of a layer read the same inputs and their outputs are joined.
fn stacked(call: &mut Call, states: &[Value], layer: Layer) -> Result<Vec<Value>, Fault> {
    let directions = 1 + usize::from(call.bool("bidirectional")?);
    let weights = weights(call)?;
    let depth = call.count("num_layers")?;
    if depth == 0 || depth.checked_mul(directions) != Some(weights.len()) {
        return Err(invalid("params", &format!("weights of {depth} layers"), format!("those of {}", weights.len())));
    }
    let batch_first = call.bool("batch_first")?;
    let dropout = if call.bool("train")? { call.float("dropout")? } else { 0.0 };
    let mut x = call.tensor("input")?;
    if batch_first {
        x = call.b.swap_axes(x, 0, 1)?;
    }
    let mut last: Vec<Vec<Value>> = vec![vec![]; states.len()];
    for (k, pair) in weights.chunks(directions).enumerate() {
        if k > 0 {
            x = drop_elements(call, x, dropout)?;
        }
        let mut outputs = Vec::new();
        for (d, &weights) in pair.iter().enumerate() {
            let first = states.iter().map(|&s| row(call, s, k * directions + d)).collect::<Result<Vec<_>, _>>()?;
            let (y, ends) = layer(call, x, &first, weights, d == 1)?;
            outputs.push(y);
            last.iter_mut().zip(ends).for_each(|(list, end)| list.push(end));
        }
        x = call.b.concat(&outputs, 2)?;
    }
    if batch_first {
        x = call.b.swap_axes(x, 0, 1)?;
    }
    let mut results = vec![x];
    for ends in last {
        results.push(stack(call, &ends)?);
    }
    Ok(results)
}

/// Parameters by layer and direction, as `torch.nn` lists them: w_ih, w_hh and, with biases, b_ih, b_hh.
fn weights(call: &Call) -> Result<Vec<Weights>, Fault> {
    let (params, has_biases) = (call.tensors("params")?, call.bool("has_biases")?);
    let each = if has_biases { 4 } else { 2 };
    if !params.len().is_multiple_of(each) {
        return Err(invalid("params", &format!("{each} per layer and direction"), params.len()));
    }
    let of = |p: &[Value]| Weights { w_ih: p[0], w_hh: p[1], b_ih: p.get(2).copied(), b_hh: p.get(3).copied() };
    Ok(params.chunks(each).map(of).collect())
}

/// Element `k` of the leading axis of a stack of states.
fn row(call: &mut Call, states: Value, k: usize) -> Result<Value, Fault> {
    let shape = call.b.shape(states).to_vec();
    if shape.len() != 3 || k >= shape[0] {
        return Err(Fault::new("invalid-operands", "the first states have the wrong shape")
            .expected("[layers · directions, N, H]")
            .found(format!("{shape:?}")));
    }
    let row = call.b.slice_axis(states, 0, k, k + 1)?;
    Ok(call.b.reshape(row, &shape[1..])?)
}

fn stack(call: &mut Call, values: &[Value]) -> Result<Value, Fault> {
    let rows = values.iter().map(|&v| {
        let shape = [&[1], call.b.shape(v)].concat();
        call.b.reshape(v, &shape)
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    Ok(call.b.concat(&rows, 0)?)
}
