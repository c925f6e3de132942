//! Every op's derivative against finite differences in f64 along a direction, and the derivative of that derivative.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, OutputKind, Value};
use gradc_ir::interpret;
use gradc_ir::op::{Cotangent, Sample, SampleOperand};
use gradc_ir::ops::{Call, Op};
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::differentiate::vjp_alone;
use std::sync::Arc;

/// Half the distance of a central difference; its error is about its square times the third derivative.
const STEP: f64 = 1e-5;

/// Largest difference allowed, relative to the directional derivative or 1.
const TOLERANCE: f64 = 1e-6;

/// `(x…, dy…) → (dx…)`: the VJP of the sample's op in its differentiable operands, one `dy` per float result.
fn vjp_function(sample: &Sample) -> Result<Function, TypeError> {
    let mut b = Builder::new(format!("{} vjp", sample.op.name()));
    let declare = |(k, o): (usize, &SampleOperand)| b.input(&format!("x{k}"), o.ty.clone());
    let inputs = sample.operands.iter().enumerate().map(declare).collect::<Result<Vec<_>, _>>()?;
    let outputs = b.apply(sample.op.clone(), &inputs)?;
    let mut cotangents = Vec::new();
    for (k, &output) in outputs.iter().enumerate() {
        let ty = b.ty(output).clone();
        cotangents.push(if ty.dtype.is_float() { Some(b.input(&format!("dy{k}"), ty)?) } else { None });
    }
    let wanted: Vec<bool> = sample.operands.iter().map(|o| o.differentiable).collect();
    let answers = vjp_alone(&mut b, &sample.op, [&inputs, &outputs], &cotangents, &wanted)?;
    for (k, answer) in answers.into_iter().enumerate().filter(|&(k, _)| wanted[k]) {
        let gradient = gradient_of(&mut b, answer, inputs[k])?;
        b.output(&format!("dx{k}"), gradient, OutputKind::Result);
    }
    Ok(Arc::new(b.finish()))
}

fn gradient_of(b: &mut Builder, answer: Cotangent, operand: Value) -> Result<Value, TypeError> {
    match answer {
        Cotangent::Flows(gradient) => Ok(gradient),
        Cotangent::Zero => b.splat(&b.ty(operand).clone(), 0.0),
        Cotangent::NotDifferentiable(reason) => Err(TypeError::new(reason)),
    }
}

fn float_results(op: &Op, inputs: &[Tensor]) -> Vec<Tensor> {
    let results = op.eval(&inputs.iter().collect::<Vec<_>>()).expect("samples evaluate");
    results.into_iter().filter(|t| t.ty.dtype.is_float()).collect()
}

/// `Σ dy · op(x)` over all float results.
fn pairing(op: &Op, inputs: &[Tensor], cotangents: &[Tensor]) -> f64 {
    let results = float_results(op, inputs);
    results.iter().zip(cotangents).flat_map(|(y, dy)| y.floats().iter().zip(dy.floats())).map(|(y, dy)| y * dy).sum()
}

/// The operands with `by` times `direction` added to one of them.
fn moved(inputs: &[Tensor], operand: usize, direction: &[f64], by: f64) -> Vec<Tensor> {
    let mut inputs = inputs.to_vec();
    match &mut inputs[operand].data {
        Data::Float(values) => values.iter_mut().zip(direction).for_each(|(v, d)| *v += by * d),
        Data::Int(_) => unreachable!("only floats are differentiated"),
    }
    inputs
}

/// Cotangents and directions that no symmetry of a sample hides.
fn uneven(ty: &TensorType, seed: usize) -> Tensor {
    let value = |k: usize| ((k * 7 + seed * 3 + 1) as f64 * 0.37).sin();
    Tensor::float(ty.clone(), (0..ty.elements()).map(value).collect())
}

fn check(sample: &Sample, vjp: &Function, seed: u64) -> Result<(), String> {
    let inputs = sample.draw(seed);
    let results = float_results(&sample.op, &inputs);
    let cotangents: Vec<Tensor> = results.iter().enumerate().map(|(k, y)| uneven(&y.ty, k)).collect();
    let gradients = interpret::outputs(vjp, &[&inputs[..], &cotangents].concat()).map_err(|e| e.to_string())?;
    let wanted = (0..inputs.len()).filter(|&k| sample.operands[k].differentiable);
    for (operand, gradient) in wanted.zip(gradients) {
        let direction = uneven(&inputs[operand].ty, 17 + operand);
        let at = |by| pairing(&sample.op, &moved(&inputs, operand, direction.floats(), by), &cotangents);
        let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let found: f64 = gradient.floats().iter().zip(direction.floats()).map(|(g, d)| g * d).sum();
        let close = (expected - found).abs() <= TOLERANCE * expected.abs().max(1.0);
        if gradient.ty != inputs[operand].ty || !close {
            return Err(format!(
                "operand {operand}, seed {seed}: expected {expected}, found {found}, gradient {gradient:?}"
            ));
        }
    }
    Ok(())
}

/// The VJP itself as a sample: the operands, then the cotangents of the float results.
fn derivative_sample(sample: &Sample, vjp: Function) -> Sample {
    let dys = vjp.inputs()[sample.operands.len()..].iter().map(|i| vjp.ty(i.value).clone());
    let mut operands = sample.operands.clone();
    operands.extend(dys.map(|ty| SampleOperand { ty, range: -1.0..1.0, differentiable: true, distinct: false }));
    Sample { op: Call { body: vjp }.into(), operands }
}

/// Checks all samples; returns their derivatives as samples.
fn law(samples: &[Sample]) -> Vec<Sample> {
    let mut derivatives = Vec::new();
    let mut failures = Vec::new();
    for sample in samples.iter().filter(|s| s.operands.iter().any(|o| o.differentiable)) {
        let result = vjp_function(sample).map_err(|e| e.to_string());
        let checked = result.and_then(|vjp| {
            (0..3).try_for_each(|seed| check(sample, &vjp, seed)).map(|()| derivative_sample(sample, vjp))
        });
        match checked {
            Ok(derivative) => derivatives.push(derivative),
            Err(e) => failures.push(format!("{} {:?}: {e}", sample.op, sample.operands)),
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    derivatives
}

#[test]
fn first_and_second_derivatives_match_finite_differences() {
    let first = law(&Op::all_samples());
    assert!(first.len() > 50, "most ops have a derivative");
    law(&first);
}
