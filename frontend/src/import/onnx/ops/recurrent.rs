//! Recurrent layers.

use super::Rule::{self, Many};
use super::{Fault, Node, Walk, require, sizes};
use crate::import::onnx::node::Slot;
use crate::layers::recurrent::{GruSpec, LstmSpec, RnnSpec, Squash, gru, lstm, rnn};
use crate::layers::shape::unsqueeze;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[("GRU", Many(gru_node)), ("LSTM", Many(lstm_node)), ("RNN", Many(rnn_node))];

/// What the layers share: operands by direction, gates in PyTorch's order.
struct Recurrent {
    /// `[T, N, I]`
    x: Value,
    /// Whether each direction runs backwards in time.
    reverse: Vec<bool>,
    hidden: usize,
    /// Number of gates, and for each of PyTorch's gates the place of ONNX's.
    gates: &'static [usize],
}

impl Recurrent {
    fn read(cx: &Walk, node: &Node, gates: &'static [usize]) -> Result<Recurrent, Fault> {
        let x = node.input(0)?;
        require(cx.b.shape(x).len() == 3, "the operand must be [T, N, I]", "three axes", cx.b.ty(x))?;
        node.only_int("layout", 0)?;
        if node.has("clip") {
            return Err(Fault::unsupported("clipping of gates is not supported"));
        }
        if let Some(length) = node.optional(4)? {
            return Err(Fault::unsupported("sequences of different lengths are not supported").found(cx.b.ty(length)));
        }
        let reverse = match node.string("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(Fault::unsupported("unknown direction").found(other)),
        };
        let stated = node.optional_int("hidden_size")?;
        let shape = cx.b.shape(node.input(2)?);
        let hidden = *shape.get(2).ok_or_else(|| TypeError::new("the recurrent weight must have three axes"))?;
        let agrees = stated.is_none_or(|s| s == hidden as i64);
        require(agrees, "`hidden_size` is not the weight's", hidden, format!("{stated:?}"))?;
        Ok(Recurrent { x, reverse, hidden, gates })
    }

    /// The given activations must be the standard ones: PyTorch knows no others.
    fn only_activations(&self, node: &Node, standard: &[&str]) -> Result<(), Fault> {
        let Some(found) = node.optional_strings("activations")? else { return Ok(()) };
        let expected = standard.repeat(self.reverse.len());
        if found == expected {
            return Ok(());
        }
        Err(Fault::unsupported("other activations are not supported")
            .expected(format!("{expected:?}"))
            .found(format!("{found:?}")))
    }

    /// The slice of operand `at` that belongs to a direction, without its axis; checked to have `shape`.
    fn direction(&self, cx: &mut Walk, value: Value, k: usize, shape: &[usize]) -> Result<Value, Fault> {
        let expected = [&[self.reverse.len()], shape].concat();
        require(
            cx.b.shape(value) == expected,
            "an operand has the wrong shape",
            format!("{expected:?}"),
            cx.b.ty(value),
        )?;
        let part = cx.b.slice_axis(value, 0, k, k + 1)?;
        Ok(cx.b.reshape(part, shape)?)
    }

    /// Rows of a weight or bias in the order of PyTorch's gates.
    fn reorder(&self, cx: &mut Walk, value: Value) -> Result<Value, Fault> {
        let h = self.hidden;
        let gate = |&at: &usize| cx.b.slice_axis(value, 0, at * h, (at + 1) * h);
        let gates = self.gates.iter().map(gate).collect::<Result<Vec<_>, _>>()?;
        Ok(cx.b.concat(&gates, 0)?)
    }

    /// Input weight, recurrent weight, and both biases.
    fn weights(&self, cx: &mut Walk, node: &Node, k: usize) -> Result<(Value, Value, [Option<Value>; 2]), Fault> {
        let (rows, inputs) = (self.gates.len() * self.hidden, cx.b.shape(self.x)[2]);
        let w = self.direction(cx, node.input(1)?, k, &[rows, inputs])?;
        let r = self.direction(cx, node.input(2)?, k, &[rows, self.hidden])?;
        let (w, r) = (self.reorder(cx, w)?, self.reorder(cx, r)?);
        let Some(bias) = node.optional(3)? else { return Ok((w, r, [None; 2])) };
        let bias = self.direction(cx, bias, k, &[2 * rows])?;
        let (b_ih, b_hh) = (cx.b.slice_axis(bias, 0, 0, rows)?, cx.b.slice_axis(bias, 0, rows, 2 * rows)?);
        Ok((w, r, [Some(self.reorder(cx, b_ih)?), Some(self.reorder(cx, b_hh)?)]))
    }

    /// First state `[N, H]` from operand `at`, zero when it is left out.
    fn state(&self, cx: &mut Walk, node: &Node, at: usize, k: usize) -> Result<Value, Fault> {
        let shape = [cx.b.shape(self.x)[1], self.hidden];
        match node.optional(at)? {
            Some(value) => self.direction(cx, value, k, &shape),
            None => {
                let ty = cx.b.ty(self.x).with_shape(shape);
                Ok(cx.b.splat(&ty, 0.0)?)
            }
        }
    }

    /// Results of all directions stacked along a new axis.
    fn stack(&self, cx: &mut Walk, parts: &[Value], at: usize) -> Result<Slot, Fault> {
        let parts = parts.iter().map(|&p| unsqueeze(&mut cx.b, p, &[at])).collect::<Result<Vec<_>, _>>()?;
        Ok(cx.b.concat(&parts, at)?.into())
    }
}

/// ONNX's gates are input, output, forget, cell; PyTorch's input, forget, cell, output.
fn lstm_node(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let layer = Recurrent::read(cx, node, &[0, 2, 3, 1])?;
    layer.only_activations(node, &["Sigmoid", "Tanh", "Tanh"])?;
    node.only_int("input_forget", 0)?;
    if node.optional(7)?.is_some() {
        return Err(Fault::unsupported("peephole weights are not supported"));
    }
    let (mut ys, mut hs, mut cs) = (vec![], vec![], vec![]);
    for (k, &reverse) in layer.reverse.iter().enumerate() {
        let (w_ih, w_hh, [b_ih, b_hh]) = layer.weights(cx, node, k)?;
        let (h0, c0) = (layer.state(cx, node, 5, k)?, layer.state(cx, node, 6, k)?);
        let (y, h, c) = lstm(&mut cx.b, &LstmSpec { x: layer.x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse })?;
        ys.push(y);
        hs.push(h);
        cs.push(c);
    }
    Ok(vec![layer.stack(cx, &ys, 1)?, layer.stack(cx, &hs, 0)?, layer.stack(cx, &cs, 0)?])
}

/// ONNX's gates are update, reset, hidden; PyTorch's reset, update, new. PyTorch's recurrence resets after the
/// product, which ONNX calls `linear_before_reset`.
fn gru_node(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let layer = Recurrent::read(cx, node, &[1, 0, 2])?;
    layer.only_activations(node, &["Sigmoid", "Tanh"])?;
    let after = sizes(&[node.int("linear_before_reset", 0)?])?[0];
    require(after == 1, "only `linear_before_reset` 1 is supported", 1, after)?;
    let (mut ys, mut hs) = (vec![], vec![]);
    for (k, &reverse) in layer.reverse.iter().enumerate() {
        let (w_ih, w_hh, [b_ih, b_hh]) = layer.weights(cx, node, k)?;
        let h0 = layer.state(cx, node, 5, k)?;
        let (y, h) = gru(&mut cx.b, &GruSpec { x: layer.x, h0, w_ih, w_hh, b_ih, b_hh, reverse })?;
        ys.push(y);
        hs.push(h);
    }
    Ok(vec![layer.stack(cx, &ys, 1)?, layer.stack(cx, &hs, 0)?])
}

/// One gate, squashed by `Tanh` or in all directions by `Relu`.
fn rnn_node(cx: &mut Walk, node: &Node) -> Result<Vec<Slot>, Fault> {
    let layer = Recurrent::read(cx, node, &[0])?;
    let relu = node.optional_strings("activations")?.is_some_and(|names| names.iter().all(|&name| name == "Relu"));
    let squash = if relu { Squash::Relu } else { Squash::Tanh };
    layer.only_activations(node, &[if relu { "Relu" } else { "Tanh" }])?;
    let (mut ys, mut hs) = (vec![], vec![]);
    for (k, &reverse) in layer.reverse.iter().enumerate() {
        let (w_ih, w_hh, [b_ih, b_hh]) = layer.weights(cx, node, k)?;
        let h0 = layer.state(cx, node, 5, k)?;
        let (y, h) = rnn(&mut cx.b, &RnnSpec { x: layer.x, h0, w_ih, w_hh, b_ih, b_hh, reverse, squash })?;
        ys.push(y);
        hs.push(h);
    }
    Ok(vec![layer.stack(cx, &ys, 1)?, layer.stack(cx, &hs, 0)?])
}
