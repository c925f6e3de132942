//! What the layer tests share: build with float inputs, evaluate, compare.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{OutputKind, Value};
use gradc_ir::interpret::outputs;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{TensorType, TypeError};

/// Builds a graph on f32 inputs, evaluates it in f64 and returns all of `build`'s values.
pub fn build_all(
    inputs: &[(&[usize], &[f64])],
    build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>,
) -> Vec<Tensor> {
    let tensors: Vec<Tensor> =
        inputs.iter().map(|(shape, values)| Tensor::float(TensorType::f32(*shape), values.to_vec())).collect();
    evaluate(&tensors, build)
}

/// As [`build_all`], for one value.
pub fn build(
    inputs: &[(&[usize], &[f64])],
    build: impl FnOnce(&mut Builder, &[Value]) -> Result<Value, TypeError>,
) -> Tensor {
    build_all(inputs, |b, x| Ok(vec![build(b, x)?])).remove(0)
}

/// Builds a graph on inputs of the tensors' types and evaluates it on them.
pub fn evaluate(
    tensors: &[Tensor],
    build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>,
) -> Vec<Tensor> {
    let mut b = Builder::new("test");
    let inputs: Vec<Value> = tensors
        .iter()
        .enumerate()
        .map(|(k, t)| b.input(&format!("x{k}"), t.ty.clone()).expect("distinct names"))
        .collect();
    let results = build(&mut b, &inputs).expect("the layer accepts its operands");
    results.iter().for_each(|&v| b.output("y", v, OutputKind::Result));
    outputs(&b.finish(), tensors).expect("the graph evaluates")
}

/// Fails when any element differs by more than `tolerance`.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    for (k, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance, "{what}[{k}]: found {f}, expected {e}");
    }
}

/// `count` values in [-1, 1) that look random and are the same everywhere.
pub fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
