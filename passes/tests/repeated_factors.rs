//! Gradients of what repeats: a factor that repeats along the same axes stands outside of the sum.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::interpret;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::differentiate::differentiate;

const SHAPE: [usize; 3] = [4, 3, 5];

/// Σ tanh((x + centre) · factor + shift), with centre and shift per channel and a factor along `dims`; and what it is
/// the gradient of centre and of shift, in this order.
fn centred_and_scaled(dims: &[usize]) -> Result<Graph, TypeError> {
    let mut b = Builder::new("scaled");
    let float = |shape: &[usize]| TensorType::new(DType::F64, shape.to_vec());
    let x = b.input("x", float(&SHAPE))?;
    let [centre, shift] = [b.input("centre", float(&SHAPE[1..2]))?, b.input("shift", float(&SHAPE[1..2]))?];
    let factor = b.input("factor", float(&dims.iter().map(|&d| SHAPE[d]).collect::<Vec<_>>()))?;
    let [c, s] = [b.broadcast(centre, &SHAPE, &[1])?, b.broadcast(shift, &SHAPE, &[1])?];
    let f = b.broadcast(factor, &SHAPE, dims)?;
    let centred = b.add(x, c)?;
    let scaled = b.mul(centred, f)?;
    let shifted = b.add(scaled, s)?;
    let y = b.tanh(shifted)?;
    let loss = b.reduce_sum(y, &[0, 1, 2])?;
    b.output("loss", loss, OutputKind::Result);
    let gradients = differentiate(&mut b, loss, &[centre, shift]).expect("everything has a derivative");
    for (name, gradient) in ["centre", "shift"].into_iter().zip(gradients) {
        b.output(name, gradient.expect("a gradient flows"), OutputKind::Result);
    }
    Ok(b.finish())
}

/// Inputs without symmetries.
fn inputs(graph: &Graph) -> Vec<Tensor> {
    let value = |seed: usize| move |k: usize| ((k * 7 + seed * 3 + 1) as f64 * 0.37).sin();
    let tensor =
        |(seed, ty): (usize, &TensorType)| Tensor::float(ty.clone(), (0..ty.elements()).map(value(seed)).collect());
    graph.inputs().iter().map(|input| graph.ty(input.value)).enumerate().map(tensor).collect()
}

fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    interpret::outputs(graph, inputs).expect("the graph runs")
}

/// The sums over whole tensors, the loss not counted.
fn long_sums(graph: &Graph) -> usize {
    let is_sum = |id| graph.op(id).is_some_and(|op| op.name() == "reduce_sum");
    let long = |id: &gradc_ir::graph::NodeId| is_sum(*id) && graph.ty(graph.node(*id).operands[0]).shape == SHAPE;
    graph.node_ids().filter(long).count() - 1
}

#[test]
fn factors_that_repeat_leave_the_sum() {
    for dims in [&[][..], &[1]] {
        assert_eq!(long_sums(&centred_and_scaled(dims).unwrap()), 1, "{dims:?}: centre and shift share their sum");
    }
    for dims in [&[0][..], &[0, 1], &[1, 2]] {
        assert_eq!(long_sums(&centred_and_scaled(dims).unwrap()), 2, "{dims:?}: the factor differs between terms");
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    const STEP: f64 = 1e-5;
    for dims in [&[][..], &[0], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let graph = centred_and_scaled(dims).unwrap();
        let at = inputs(&graph);
        let found = run(&graph, &at);
        for (operand, gradient) in [(1, &found[1]), (2, &found[2])] {
            for (channel, &gradient) in gradient.floats().iter().enumerate() {
                let [above, below] = [STEP, -STEP].map(|by| {
                    let mut moved = at.clone();
                    let mut values = moved[operand].floats().to_vec();
                    values[channel] += by;
                    moved[operand] = Tensor::float(moved[operand].ty.clone(), values);
                    run(&graph, &moved)[0].floats()[0]
                });
                let expected = (above - below) / (2.0 * STEP);
                assert!((gradient - expected).abs() < 1e-8, "{dims:?}: {gradient} for {expected}");
            }
        }
    }
}
