//! The vector functions against f64, over their whole range.

mod common;

use common::{Case, instruction_sets, nest_kernel, options};
use gradc_codegen::Pool;
use gradc_ir::lower::{Access, Nest, UnaryFn};
use gradc_ir::scalar::Number;
use gradc_ir::target::VectorIsa;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType};

/// Every 997th float of a range of magnitudes with both signs, and the special ones.
fn samples(least: f32, greatest: f32) -> Vec<f32> {
    let magnitudes = (least.to_bits()..=greatest.to_bits()).step_by(997).map(f32::from_bits);
    let special = [0.0, f32::MIN_POSITIVE, 1e-42, 1.0, greatest, f32::INFINITY, f32::NAN];
    magnitudes.chain(special).flat_map(|x| [x, -x]).collect()
}

/// Distance in units in the last place of the expected value.
fn distance(found: f32, expected: f64) -> f64 {
    let rounded = expected as f32;
    if found == rounded || (found.is_nan() && rounded.is_nan()) {
        return 0.0;
    }
    let unit =
        f64::from(f32::from_bits(rounded.abs().to_bits().max(0x0080_0000) & 0x7F80_0000)) * f64::from(f32::EPSILON);
    (f64::from(found) - expected).abs() / unit
}

fn worst(f: UnaryFn, values: &[f32], isa: VectorIsa) -> (f64, f32) {
    let ty = TensorType::f32([values.len()]);
    let shape = ty.shape.clone();
    let nest = Nest::map(&shape, |body| {
        let x = body.load(DType::F32, Access::identity(0, &shape, 1));
        body.unary(f, x)
    });
    let case = Case::new(vec![nest_kernel(&nest)], std::slice::from_ref(&ty), std::slice::from_ref(&ty));
    let input = Tensor::float(ty, values.iter().map(|&v| f64::from(v)).collect());
    let found = case.run(&case.compile(&options(isa)), &[input], &Pool::default());
    let found = found[0].to_f32().expect("an f32 result");
    let errors = found.iter().zip(values).map(|(&y, &x)| {
        let Some(Number::Float(expected)) = f.apply(Number::Float(f64::from(x))) else { panic!("{f:?} takes floats") };
        let error = distance(y, expected);
        (if error.is_nan() { f64::INFINITY } else { error }, x)
    });
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are values")
}

/// Below the least normal number a unit in the last place says little: powers are those of f64, rounded, but for the last
/// bit, and 0 from where they are nearer to it.
#[test]
fn small_powers_of_e_become_denormal_and_then_zero() {
    let values: Vec<f32> = (0..40_000).map(|k| -87.0 - k as f32 / 400.0).chain([-1e9, f32::MIN]).collect();
    let ty = TensorType::f32([values.len()]);
    let nest = Nest::map(&ty.shape, |body| {
        let x = body.load(DType::F32, Access::identity(0, &ty.shape, 1));
        body.unary(UnaryFn::Exp, x)
    });
    let case = Case::new(vec![nest_kernel(&nest)], std::slice::from_ref(&ty), std::slice::from_ref(&ty));
    let input = Tensor::float(ty.clone(), values.iter().map(|&v| f64::from(v)).collect());
    for isa in instruction_sets() {
        let found = case.run(&case.compile(&options(isa)), std::slice::from_ref(&input), &Pool::default());
        for (x, y) in values.iter().zip(found[0].to_f32().expect("an f32 result")) {
            let expected = f64::from(*x).exp() as f32;
            assert!(
                y.to_bits().abs_diff(expected.to_bits()) <= 1,
                "{isa:?}: exp({x}) is {y:e} instead of {expected:e}"
            );
            assert!(*x > -104.0 || y.to_bits() == 0, "{isa:?}: exp({x}) is {y:e}");
        }
    }
}

#[test]
fn functions_stay_within_their_stated_error() {
    let mut failures = vec![];
    for (f, greatest, allowed) in [
        (UnaryFn::Exp, f32::MAX, 1.0),
        (UnaryFn::Log, f32::MAX, 0.8),
        (UnaryFn::Tanh, f32::MAX, 1.3),
        (UnaryFn::Erf, f32::MAX, 1.1),
        (UnaryFn::Sin, 1e6, 1.5),
        (UnaryFn::Cos, 1e6, 1.5),
    ] {
        let values = samples(1e-44, greatest);
        for isa in instruction_sets() {
            let (error, at) = worst(f, &values, isa);
            println!("{} {isa:?}: {error:.3} units in the last place at {at:e}", f.word());
            if error > allowed {
                failures.push(format!("{} {isa:?}: {error} at {at:e}", f.word()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
