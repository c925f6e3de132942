//! Laws that every op keeps, checked on the op's own samples.

use gradc_ir::attr::Attr;
use gradc_ir::interpret_lowered;
use gradc_ir::op::{Numerics, Sample};
use gradc_ir::ops::Op;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType};

/// Largest difference allowed between two ways to compute a float in f64, relative to the tensor's largest value.
const TOLERANCE: f64 = 1e-12;

/// Runs `law` on every sample, under several seeds, and reports all that break it at once.
fn for_all_samples(law: impl Fn(&Sample, &[Tensor]) -> Result<(), String>) {
    let samples = Op::all_samples();
    let failures: Vec<String> = samples
        .iter()
        .flat_map(|sample| (0..3).map(move |seed| (sample, seed)))
        .filter_map(|(sample, seed)| {
            let types: Vec<String> = sample.operands.iter().map(|o| o.ty.to_string()).collect();
            law(sample, &sample.draw(seed))
                .err()
                .map(|e| format!("{} ({}) seed {seed}: {e}", sample.op, types.join(", ")))
        })
        .collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

fn infer(sample: &Sample) -> Result<Vec<TensorType>, String> {
    let types: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
    sample.op.infer(&types).map_err(|e| e.to_string())
}

fn eval(sample: &Sample, operands: &[Tensor]) -> Result<Vec<Tensor>, String> {
    sample.op.eval(&operands.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())
}

#[test]
fn every_op_has_a_sample() {
    let samples = Op::all_samples();
    let without: Vec<_> = Op::NAMES.iter().filter(|&&name| !samples.iter().any(|s| s.op.name() == name)).collect();
    assert!(without.is_empty(), "ops without a sample: {without:?}");
}

#[test]
fn inference_agrees_with_evaluation() {
    for_all_samples(|sample, operands| {
        let (inferred, results) = (infer(sample)?, eval(sample, operands)?);
        let evaluated: Vec<TensorType> = results.iter().map(|t| t.ty.clone()).collect();
        let complete = results.iter().all(|t| match &t.data {
            Data::Float(v) => t.ty.dtype.is_float() && v.len() == t.ty.elements(),
            Data::Int(v) => !t.ty.dtype.is_float() && v.len() == t.ty.elements(),
        });
        if inferred == evaluated && complete {
            Ok(())
        } else {
            Err(format!("inferred {inferred:?}, got {evaluated:?}"))
        }
    });
}

#[test]
fn integers_stay_within_their_dtype() {
    for_all_samples(|sample, operands| {
        let stored = |t: &Tensor| matches!(t.data, Data::Float(_)) || t.rounded() == *t;
        let broken = eval(sample, operands)?.into_iter().find(|t| !stored(t));
        broken.map_or(Ok(()), |t| Err(format!("{t:?} does not fit its dtype")))
    });
}

#[test]
fn lowered_form_agrees_with_evaluation() {
    for_all_samples(|sample, operands| {
        let exact = sample.op.numerics() == Numerics::Exact;
        let lowered = interpret_lowered::evaluate(&sample.op, &operands.iter().collect::<Vec<_>>());
        let lowered = lowered.map_err(|e| e.to_string())?;
        let expected = eval(sample, operands)?;
        expected.iter().zip(&lowered).try_for_each(|(e, l)| agree(e, l, if exact { 0.0 } else { TOLERANCE }))
    });
}

fn agree(expected: &Tensor, found: &Tensor, tolerance: f64) -> Result<(), String> {
    let (Data::Float(e), Data::Float(f)) = (&expected.data, &found.data) else {
        return if expected == found { Ok(()) } else { Err(format!("expected {expected:?}, found {found:?}")) };
    };
    let scale = e.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    let close = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * scale;
    match e.iter().zip(f).position(|(&a, &b)| !close(a, b)) {
        _ if expected.ty != found.ty => Err(format!("expected {}, found {}", expected.ty, found.ty)),
        Some(k) => Err(format!("element {k}: expected {:e}, found {:e}", e[k], f[k])),
        None => Ok(()),
    }
}

#[test]
fn name_and_attributes_parse_back() {
    for_all_samples(|sample, _| {
        let attrs: Vec<(String, Attr)> = sample.op.attrs().into_iter().map(|(n, a)| (n.to_string(), a)).collect();
        match Op::parse(sample.op.name(), attrs) {
            Some(Ok(op)) if op == sample.op => Ok(()),
            other => Err(format!("parsed {other:?}")),
        }
    });
}

#[test]
fn unknown_attributes_are_refused() {
    for_all_samples(|sample, _| {
        let mut attrs: Vec<(String, Attr)> = sample.op.attrs().into_iter().map(|(n, a)| (n.to_string(), a)).collect();
        attrs.push(("no_such_attribute".into(), Attr::Int(1)));
        match Op::parse(sample.op.name(), attrs) {
            Some(Err(_)) => Ok(()),
            other => Err(format!("parsed {other:?}")),
        }
    });
}

#[test]
fn operands_of_wrong_number_are_refused() {
    for_all_samples(|sample, _| {
        let mut types: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
        let extra = TensorType::new(DType::Bool, []);
        types.push(&extra);
        if sample.op.infer(&types).is_err() { Ok(()) } else { Err("a surplus operand was accepted".into()) }
    });
}
