//! The cost model's claims that decide between equal windows.

use gradc_ir::ops::{Concat, DotGeneral, Neg, Op, Slice};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::types::TensorType;
use gradc_passes::cost::{Cost, op_cost};

fn cost(op: impl Into<Op>, inputs: &[&TensorType]) -> Cost {
    let op = op.into();
    let outputs = op.infer(inputs).expect("well-typed");
    op_cost(&op, inputs, &outputs, &Target::of(VectorIsa::Avx2))
}

fn product(m: usize, k: usize, n: usize) -> Cost {
    let op = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![0] };
    cost(op, &[&TensorType::f32([m, k]), &TensorType::f32([k, n])])
}

/// Products of an unrolled loop's steps are worth putting one after the other when they are small.
#[test]
fn many_small_products_cost_more_than_one_large_one() {
    let (many, one) = (product(32, 16, 48) * 80.0, product(32, 16 * 80, 48));
    assert_eq!(many.flops, one.flops);
    assert!(many.time_ns > 1.5 * one.time_ns, "{many:?} {one:?}");
    let (many, one) = (product(512, 512, 512) * 2.0, product(512, 1024, 512));
    assert!(many.time_ns < 1.01 * one.time_ns, "large products do not care: {many:?} {one:?}");
}

#[test]
fn a_concatenation_computes_nothing() {
    let part = TensorType::f32([8, 16]);
    let joined = cost(Concat { axis: 0 }, &[&part; 5]);
    assert_eq!(joined.flops, 0.0);
}

/// Nothing computes into a part of a tensor: what is put together for one product instead of two is copied first.
#[test]
fn a_concatenation_is_a_kernel_that_copies() {
    let part = TensorType::f32([64, 256]);
    let joined = cost(Concat { axis: 1 }, &[&part; 2]);
    assert_eq!(joined.bytes, 4.0 * part.size_bytes() as f64, "both parts are read and written");
    let small = TensorType::f32([2, 2]);
    assert!(cost(Concat { axis: 0 }, &[&small; 2]).time_ns > 50.0 * cost(Neg {}, &[&small]).time_ns);
}

/// What a slice reads was stored whole before; what a map reads may never have been.
#[test]
fn a_part_is_read_from_memory_and_a_whole_may_be_fused() {
    let whole = TensorType::f32([64, 64]);
    let mapped = cost(Neg {}, &[&whole]);
    let taken = cost(Slice { start: vec![0, 0], limit: vec![32, 64], stride: vec![1, 1] }, &[&whole]);
    assert!(mapped.bytes < 2.0 * whole.size_bytes() as f64);
    assert_eq!(taken.bytes, whole.size_bytes() as f64, "half is read and half is written");
}
