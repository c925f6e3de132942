//! Numeric replay: two graphs run side by side on the same random inputs.

use super::rules::Random;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::Graph;
use gradc_ir::interpret::outputs;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::TensorType;

/// The largest absolute difference between corresponding outputs of two graphs in the interpreter.
///
/// Inputs are random: floats in [−1, 1), a hundredth of them zeros of either sign; integers 0 or 1, which index
/// anything. 0 means the same bits, NaN counting as equal to NaN; infinity that shapes differ, that a NaN stands
/// against a number, or that equal numbers differ in the sign of zero.
/// Fails when the graphs take different inputs or the interpreter fails.
pub fn replay(before: &Graph, after: &Graph, seed: u64) -> Result<f64, Diagnostic> {
    let mut random = Random::new(seed);
    let inputs: Vec<Tensor> = before.inputs().iter().map(|i| random_tensor(before.ty(i.value), &mut random)).collect();
    let (a, b) = (outputs(before, &inputs)?, outputs(after, &inputs)?);
    if a.len() != b.len() {
        return Ok(f64::INFINITY);
    }
    Ok(a.iter().zip(&b).map(|(x, y)| difference(x, y)).fold(0.0, f64::max))
}

/// A random tensor of a type, as [`replay`] feeds them.
pub fn random_tensor(ty: &TensorType, random: &mut Random) -> Tensor {
    let count = ty.elements();
    if !ty.dtype.is_float() {
        return Tensor::int(ty.clone(), (0..count).map(|_| random.below(2) as i64).collect());
    }
    let draw = |random: &mut Random| match random.below(100) {
        0 => [0.0, -0.0][random.below(2)],
        _ => 2.0 * random.unit() - 1.0,
    };
    Tensor::float(ty.clone(), (0..count).map(|_| draw(random)).collect())
}

/// Largest absolute difference of two tensors; see [`replay`].
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    if a.ty != b.ty {
        return f64::INFINITY;
    }
    match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => x.iter().zip(y).map(|(&x, &y)| distance(x, y)).fold(0.0, f64::max),
        (Data::Int(x), Data::Int(y)) => x.iter().zip(y).map(|(&x, &y)| x.abs_diff(y) as f64).fold(0.0, f64::max),
        _ => f64::INFINITY,
    }
}

fn distance(x: f64, y: f64) -> f64 {
    if x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) {
        0.0
    } else if x == y || x.is_nan() || y.is_nan() {
        f64::INFINITY
    } else {
        (x - y).abs()
    }
}
