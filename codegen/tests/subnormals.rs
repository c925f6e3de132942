//! What steps make of numbers below the least normal one.
#![cfg(target_arch = "x86_64")]

mod common;

use common::{Case, instruction_sets, nest_kernel, options};
use gradc_codegen::{CodegenOptions, Pool};
use gradc_ir::lower::{Access, BinaryFn, Nest};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType};
use std::hint::black_box;

/// Enough for several chunks, which all threads compute.
const LENGTH: usize = 1 << 20;

/// All of `x` times a number.
fn products(x: f32, factor: f64, options: &CodegenOptions, pool: &Pool) -> Vec<f32> {
    let ty = TensorType::f32([LENGTH]);
    let nest = Nest::map(&ty.shape, |body| {
        let x = body.load(DType::F32, Access::identity(0, &ty.shape, 1));
        let factor = body.constant(DType::F32, factor);
        body.binary(BinaryFn::Mul, x, factor)
    });
    let case = Case::new(vec![nest_kernel(&nest)], std::slice::from_ref(&ty), std::slice::from_ref(&ty));
    let input = Tensor::float(ty, vec![f64::from(x); LENGTH]);
    case.run(&case.compile(options), &[input], pool)[0].to_f32().expect("an f32 result")
}

#[test]
fn results_are_zero_and_operands_count() {
    let least = f32::from_bits(1);
    for isa in instruction_sets() {
        for wide in [true, false] {
            let options = CodegenOptions { wide, ..options(isa) };
            for threads in [1, 3] {
                let pool = Pool::new(threads).expect("threads");
                let all = |x: f32, factor: f64, expected: f32| {
                    let found = products(x, factor, &options, &pool);
                    assert!(found.iter().all(|y| y.to_bits() == expected.to_bits()), "{isa:?} {x:e} times {factor}");
                };
                all(-f32::MIN_POSITIVE, 0.5, -0.0);
                all(f32::MIN_POSITIVE, 1.0, f32::MIN_POSITIVE);
                all(least, f64::from(1u32 << 30), least * (1u32 << 30) as f32);
            }
        }
    }
}

/// The thread that calls a step has subnormal numbers again when the step has ended.
#[test]
fn callers_keep_their_arithmetic() {
    products(1.0, 1.0, &options(instruction_sets()[0]), &Pool::default());
    assert!(black_box(f32::MIN_POSITIVE) * black_box(0.5) > 0.0);
}
