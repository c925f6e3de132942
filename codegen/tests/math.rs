//! The vector functions against f64, over their whole range.

mod common;

use common::{Case, instruction_sets, nest_kernel, options};
use gradc_codegen::{CodegenOptions, Pool};
use gradc_ir::lower::{Access, BinaryFn, Nest, UnaryFn};
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

/// A result as steps store it: zero below the least normal number.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() && cfg!(target_arch = "x86_64") { 0.0f32.copysign(x) } else { x }
}

/// Whether a result near the least normal number is off by less than twice that: a summand of it may have been flushed, and
/// then the sum.
fn lacks_what_was_flushed(found: f32, expected: f64) -> bool {
    let least = f64::from(f32::MIN_POSITIVE);
    cfg!(target_arch = "x86_64") && expected.abs() < 16.0 * least && (f64::from(found) - expected).abs() < 2.0 * least
}

/// Distance in units in the last place of the expected value.
fn distance(found: f32, expected: f64) -> f64 {
    let rounded = expected as f32;
    let same = found == rounded || (found.is_nan() && rounded.is_nan());
    if same || lacks_what_was_flushed(found, expected) {
        return 0.0;
    }
    let unit =
        f64::from(f32::from_bits(rounded.abs().to_bits().max(0x0080_0000) & 0x7F80_0000)) * f64::from(f32::EPSILON);
    (f64::from(found) - expected).abs() / unit
}

/// f of all values.
fn mapped(f: UnaryFn, values: &[f32], options: &CodegenOptions) -> Vec<f32> {
    let ty = TensorType::f32([values.len()]);
    let nest = Nest::map(&ty.shape, |body| {
        let x = body.load(DType::F32, Access::identity(0, &ty.shape, 1));
        body.unary(f, x)
    });
    let case = Case::new(vec![nest_kernel(&nest)], std::slice::from_ref(&ty), std::slice::from_ref(&ty));
    let input = Tensor::float(ty, values.iter().map(|&v| f64::from(v)).collect());
    let found = case.run(&case.compile(options), &[input], &Pool::default());
    found[0].to_f32().expect("an f32 result")
}

/// f of pairs.
fn of_pairs(f: BinaryFn, pairs: &[(f32, f32)], options: &CodegenOptions) -> Vec<f32> {
    let ty = TensorType::f32([pairs.len()]);
    let nest = Nest::map(&ty.shape, |body| {
        let [x, y] = [0, 1].map(|operand| body.load(DType::F32, Access::identity(operand, &ty.shape, 1)));
        body.binary(f, x, y)
    });
    let case = Case::new(vec![nest_kernel(&nest)], &[ty.clone(), ty.clone()], std::slice::from_ref(&ty));
    let tensor =
        |of: fn(&(f32, f32)) -> f32| Tensor::float(ty.clone(), pairs.iter().map(|p| f64::from(of(p))).collect());
    let found = case.run(&case.compile(options), &[tensor(|p| p.0), tensor(|p| p.1)], &Pool::default());
    found[0].to_f32().expect("an f32 result")
}

/// Instruction sets this machine can run, with strips and without.
fn paths() -> impl Iterator<Item = (VectorIsa, CodegenOptions)> {
    let both = |isa| [true, false].map(|wide| (isa, CodegenOptions { wide, ..options(isa) }));
    instruction_sets().into_iter().flat_map(both)
}

fn worst(f: UnaryFn, values: &[f32], options: &CodegenOptions) -> (f64, f32) {
    let found = mapped(f, values, options);
    let errors = found.iter().zip(values).map(|(&y, &x)| {
        let Some(Number::Float(expected)) = f.apply(Number::Float(f64::from(x))) else { panic!("{f:?} takes floats") };
        let error = distance(y, expected);
        (if error.is_nan() { f64::INFINITY } else { error }, x)
    });
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are values")
}

/// Down to the least normal number, with the last bit that powers may be off by, and zero below, however far.
#[test]
fn small_powers_of_e_become_zero() {
    let values: Vec<f32> = (0..40_000).map(|k| -87.0 - k as f32 / 400.0).chain([-1e9, f32::MIN]).collect();
    for (isa, options) in paths() {
        for (x, y) in values.iter().zip(mapped(UnaryFn::Exp, &values, &options)) {
            let expected = f64::from(*x).exp() as f32;
            let near = y.to_bits().abs_diff(flushed(expected).to_bits()) <= 1;
            let at_border = expected.to_bits().abs_diff(f32::MIN_POSITIVE.to_bits()) <= 1 && flushed(y) == y;
            assert!(near || at_border, "{isa:?}: exp({x}) is {y:e} instead of {expected:e}");
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
        (UnaryFn::Tanh, f32::MAX, 1.1),
        (UnaryFn::Erf, f32::MAX, 1.1),
        (UnaryFn::Sin, 1e6, 1.5),
        (UnaryFn::Cos, 1e6, 1.5),
    ] {
        let values = samples(1e-44, greatest);
        for (isa, options) in paths() {
            let (error, at) = worst(f, &values, &options);
            let case = format!("{} {isa:?}, strips: {}", f.word(), options.wide);
            println!("{case}: {error:.3} units in the last place at {at:e}");
            if error > allowed {
                failures.push(format!("{case}: {error} at {at:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn odd_functions_keep_the_sign_of_zero() {
    // Long enough for strips.
    let values = [0.0, -0.0, 1e-45, -1e-45].repeat(5);
    for f in [UnaryFn::Tanh, UnaryFn::Erf] {
        for (isa, options) in paths() {
            let found = mapped(f, &values, &options);
            let same = found.iter().zip(&values).all(|(y, x)| y.to_bits() == flushed(*x).to_bits());
            assert!(same, "{isa:?}: {} of zeros and the least numbers is {found:?}", f.word());
        }
    }
}

#[test]
fn powers_stay_within_their_stated_error() {
    let bases = samples(1e-44, f32::MAX).into_iter().step_by(7);
    let exponents = [1.7, -0.5, 3.0, 0.013, -7.25, 20.0];
    // Large exponents of bases near 1, whose logarithms need all their bits.
    let near_one = (-4000..4000).map(|k| (1.0 + k as f32 * 3e-7, if k % 2 == 0 { 6e4 } else { -6e4 }));
    let pairs: Vec<_> = bases.flat_map(|x| exponents.map(|y| (x, y))).chain(near_one).collect();
    for (isa, options) in paths() {
        for (&(x, y), found) in pairs.iter().zip(of_pairs(BinaryFn::Pow, &pairs, &options)) {
            let expected = f64::from(x).powf(f64::from(y));
            let error = distance(found, expected);
            assert!(error <= 1.1, "{isa:?}: {x:e} to the {y} is {found:e} instead of {expected:e} ({error} units)");
        }
    }
}

/// Signs, infinities, NaN and what 1 is for each pair of special operands, as IEEE 754 has them.
#[test]
fn powers_of_special_operands_are_those_of_the_standard() {
    let (infinity, nan, odd) = (f32::INFINITY, f32::NAN, 16_777_215.0);
    let positive = [0.0, 1e-30, 0.5, 1.0, 1.5, 2.0, 3.0, odd, odd + 1.0, 1e30, f32::MAX, infinity, nan];
    let special = positive.iter().flat_map(|&x| [x, -x]);
    let pairs: Vec<_> = special.clone().flat_map(|x| special.clone().map(move |y| (x, y))).collect();
    for (isa, options) in paths() {
        for (&(x, y), found) in pairs.iter().zip(of_pairs(BinaryFn::Pow, &pairs, &options)) {
            let expected = f64::from(x).powf(f64::from(y));
            let same_sign = expected.is_nan() || found.is_sign_negative() == expected.is_sign_negative();
            let near = distance(found, expected) <= 1.1;
            assert!(near && same_sign, "{isa:?}: {x:e} to the {y:e} is {found:e} instead of {expected:e}");
        }
    }
}

#[test]
fn remainders_are_exact() {
    let mut pairs = vec![];
    let numbers = samples(1e-30, 1e30).into_iter().step_by(19_001).chain([0.3, 1.0, -3.0, 7.0, 1e-20, 1e20]);
    let numbers: Vec<f32> = numbers.chain([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0]).collect();
    numbers.iter().for_each(|&x| pairs.extend(numbers.iter().map(|&y| (x, y))));
    // Multiples and their neighbours, up to quotients that are no longer exact in f64.
    for exponent in 0..32 {
        for y in [0.3f32, 1.0, 3.0, -1.999_999_9, 16_777_215.0] {
            let multiple = y * (f64::from(exponent).exp2() as f32 + 1.0);
            let around = [multiple.next_down(), multiple, multiple.next_up()];
            pairs.extend(around.iter().flat_map(|&x| [(x, y), (-x, y)]));
        }
    }
    for (isa, options) in paths() {
        let found = of_pairs(BinaryFn::Rem, &pairs, &options);
        for (&(x, y), found) in pairs.iter().zip(found) {
            let expected = flushed(x % y);
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{isa:?}: {x:e} % {y:e} is {found:e} instead of {expected:e}");
        }
    }
}
