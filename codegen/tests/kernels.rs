//! Every op natively against its reference semantics.

mod common;

use common::{Case, Random, instruction_sets, options, sample_inputs};
use gradc_codegen::Pool;
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, Lowering, Scalar};
use gradc_ir::op::{Numerics, Sample};
use gradc_ir::ops::Op;
use gradc_ir::target::VectorIsa;
use gradc_ir::tensor::{Data, HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType};

/// Relative error allowed of one rounded or polynomial f32 operation.
const ROUNDING: f64 = 4e-7;

/// Error allowed of a sum, relative to the sum of the terms' magnitudes.
const SUM: f64 = 1e-6;

fn magnitudes(x: &Tensor) -> Tensor {
    match &x.data {
        Data::Float(v) => Tensor::float(x.ty.clone(), v.iter().map(|v| v.abs()).collect()),
        Data::Int(_) => x.clone(),
    }
}

fn accumulates(op: &Op, inputs: &[Tensor]) -> bool {
    let types: Vec<&TensorType> = inputs.iter().map(|t| &t.ty).collect();
    let outputs = op.infer(&types).expect("samples infer");
    matches!(op.lower(&types, &outputs), Lowering::Nests(nests) if nests.iter().any(|n| n.combine.is_some()))
}

/// How far result elements may be from the reference.
fn tolerances(op: &Op, inputs: &[Tensor], expected: &Tensor) -> Vec<f64> {
    let relative = |by: f64| expected.floats().iter().map(|v| v.abs() * by + 1e-37).collect();
    match op.numerics() {
        Numerics::Exact => vec![0.0; expected.ty.elements()],
        Numerics::Rounding if !accumulates(op, inputs) => relative(ROUNDING),
        _ => {
            let terms: Vec<Tensor> = inputs.iter().map(magnitudes).collect();
            let bound = op.eval(&terms.iter().collect::<Vec<_>>()).expect("magnitudes are in range");
            bound[0].floats().iter().map(|v| v * SUM + 1e-37).collect()
        }
    }
}

fn compare(op: &Op, inputs: &[Tensor], expected: &Tensor, found: &HostTensor) -> Result<(), String> {
    let expected = expected.rounded();
    let found = found.to_tensor();
    let Data::Float(want) = &expected.data else {
        return if expected == found { Ok(()) } else { Err(format!("{:?} != {:?}", found.data, expected.data)) };
    };
    let limits = tolerances(op, inputs, &expected);
    for (k, ((w, f), limit)) in want.iter().zip(found.floats()).zip(limits).enumerate() {
        let same = w == f || (w.is_nan() && f.is_nan());
        let near = (w - f).abs() <= limit;
        if !same && !near {
            return Err(format!("element {k}: {f} instead of {w}, {:e} allowed", limit));
        }
    }
    Ok(())
}

fn check(op: &Op, inputs: &[Tensor], isa: VectorIsa) -> Result<(), String> {
    let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
    let Some(case) = Case::of_op(op, &types) else { return Ok(()) };
    let executable = case.compile(&options(isa));
    let found = case.run(&executable, inputs, &Pool::default());
    let expected = op.eval(&inputs.iter().collect::<Vec<_>>()).expect("the reference accepts samples");
    for (e, f) in expected.iter().zip(&found) {
        compare(op, inputs, e, f).map_err(|m| format!("{op} on {types:?}, {isa:?}: {m}"))?;
    }
    Ok(())
}

fn check_all(cases: impl Iterator<Item = (Op, Vec<Tensor>)>) {
    let mut failures = vec![];
    let (mut run, isas) = (0, instruction_sets());
    for (op, inputs) in cases {
        for &isa in &isas {
            run += 1;
            failures.extend(check(&op, &inputs, isa).err());
        }
    }
    assert!(failures.is_empty(), "{} of {run} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(run > 0);
}

#[test]
fn samples_agree_with_the_reference() {
    let mut random = Random(1);
    let samples = Op::all_samples().into_iter().map(|s| {
        let inputs = sample_inputs(&s, &mut random);
        (s.op, inputs)
    });
    check_all(samples.collect::<Vec<_>>().into_iter());
}

/// Samples whose operands all have one shape, taken to another shape.
fn resized(sample: &Sample, shape: &[usize]) -> Option<Sample> {
    let first = &sample.operands.first()?.ty.shape;
    let same = sample.operands.iter().all(|o| o.ty.shape == *first) && *first == [3, 5];
    let mut sample = sample.clone();
    sample.operands.iter_mut().for_each(|o| o.ty = o.ty.with_shape(shape));
    same.then_some(sample)
}

#[test]
fn elementwise_ops_agree_at_every_length() {
    let mut random = Random(2);
    let mut cases = vec![];
    for sample in Op::all_samples() {
        for n in [1, 3, 4, 5, 16, 17, 64, 100] {
            let Some(sample) = resized(&sample, &[n]) else { continue };
            let inputs = sample_inputs(&sample, &mut random);
            let types: Vec<&TensorType> = inputs.iter().map(|t| &t.ty).collect();
            if sample.op.infer(&types).is_ok() {
                cases.push((sample.op, inputs));
            }
        }
    }
    check_all(cases.into_iter());
}

#[test]
fn special_values_pass_through_exact_ops() {
    let values = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-42, -1e-42, 3.5, -2.5, 2.5, 1e9, -3e38];
    let n = values.len();
    let ty = TensorType::f32([n * n]);
    let left = Tensor::float(ty.clone(), (0..n * n).map(|k| values[k / n]).collect()).rounded();
    let right = Tensor::float(ty, (0..n * n).map(|k| values[k % n]).collect()).rounded();
    let mut cases = vec![];
    for sample in Op::all_samples().into_iter().filter(|s| s.op.numerics() == Numerics::Exact) {
        if resized(&sample, &[1]).is_some() && sample.operands.iter().all(|o| o.ty.dtype == DType::F32) {
            let inputs = [left.clone(), right.clone()][..sample.operands.len()].to_vec();
            cases.push((sample.op, inputs));
        }
    }
    check_all(cases.into_iter());
}

/// Functions that run lane by lane after sums of which every lane has its own.
#[test]
fn what_follows_sums_down_columns_sees_every_column() {
    let (rows, columns) = (3, 23);
    let ty = TensorType::f32([rows, columns]);
    let (space, access) = (vec![columns], [Affine::dim(2, 1), Affine::dim(2, 0)]);
    let mut terms = Body::default();
    let value = terms.load(DType::F32, Access::new(0, &ty.shape, access.to_vec()));
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let exponent = body.constant(DType::F32, 1.5);
    let power = body.binary(BinaryFn::Pow, sum, exponent);
    let accumulate =
        Accumulate::Reduce { extents: vec![rows], combine: Combine::Sum, body: terms, values: vec![value] };
    let kernel = LoopKernel { space, accumulate: Some(accumulate), body, stores: vec![power] };
    let case = Case::new(vec![KernelKind::Loops(kernel)], std::slice::from_ref(&ty), &[TensorType::f32([columns])]);
    let x = Tensor::float(ty, (0..rows * columns).map(|k| k as f64).collect());
    for isa in instruction_sets() {
        let found = case.run(&case.compile(&options(isa)), std::slice::from_ref(&x), &Pool::default());
        for (column, found) in found[0].to_f32().expect("f32").into_iter().enumerate() {
            let sum: f64 = (0..rows).map(|row| (row * columns + column) as f64).sum();
            let expected = sum.powf(1.5);
            assert!((f64::from(found) - expected).abs() <= ROUNDING * expected, "{isa:?} column {column}: {found}");
        }
    }
}

/// Several values that one kernel combines, of every kind, along rows that vectors run in and by single points.
#[test]
fn values_combined_together_are_each_right() {
    for (combine, columns) in [Combine::Sum, Combine::Max, Combine::Min].into_iter().flat_map(|c| [(c, 3), (c, 100)]) {
        let rows = 7;
        let view = TensorType::f32([rows, columns]);
        let mut terms = Body::default();
        let x = terms.load(DType::F32, Access::identity(0, &view.shape, 2));
        let twice = terms.binary(BinaryFn::Add, x, x);
        let mut body = Body::default();
        let stores = [1, 0].map(|number| body.push(Scalar::Accumulated(number), DType::F32)).to_vec();
        let accumulate = Accumulate::Reduce { extents: vec![columns], combine, body: terms, values: vec![x, twice] };
        let kernel = LoopKernel { space: vec![rows], accumulate: Some(accumulate), body, stores };
        let results = [(); 2].map(|()| TensorType::f32([rows]));
        let case = Case::new(vec![KernelKind::Loops(kernel)], std::slice::from_ref(&view), &results);
        let x = Tensor::float(view, (0..rows * columns).map(|k| (k * 37 % 101) as f64 - 50.0).collect());
        let met = |row: &[f64]| match combine {
            Combine::Sum => row.iter().sum(),
            Combine::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            _ => row.iter().copied().fold(f64::INFINITY, f64::min),
        };
        let once: Vec<f32> = x.floats().chunks(columns).map(|row| met(row) as f32).collect();
        let twice: Vec<f32> = once.iter().map(|v| 2.0 * v).collect();
        for isa in instruction_sets() {
            let found = case.run(&case.compile(&options(isa)), std::slice::from_ref(&x), &Pool::default());
            let found: Vec<Vec<f32>> = found.iter().map(|tensor| tensor.to_f32().expect("f32")).collect();
            assert_eq!(found, [twice.clone(), once.clone()], "{combine:?} of {columns}, {isa:?}");
        }
    }
}
