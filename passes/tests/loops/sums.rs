//! Sums over the steps that leave a loop, and those that stay.

use super::{Forward, assert_close, bits, contractions, declare, idle_carries, ista, product, quadratic, recurrence};
use super::{results, rolled, scans, squared, unrolled};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, OutputKind, Value};
use gradc_ir::ops::{Iterate, Op};
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::egraph::rules::NumericClass;
use gradc_passes::loops::sum_after_loops;

#[test]
fn a_weight_gradient_of_stacked_values_is_one_product_after_the_loop() {
    let before = rolled(recurrence);
    let after = sum_after_loops(&before, NumericClass::Bitwise).expect("well typed");
    let products = |graph: &Graph| scans(graph).iter().map(|scan| contractions(&scan.body)).sum::<usize>();
    assert_eq!((products(&before), products(&after)), (3, 2), "the gradient of the weight leaves the loop");
    assert_eq!((scans(&before)[1].carries, scans(&after)[1].carries), (2, 1));
    assert_eq!(contractions(&after), 1);
    assert_close(&results(&after), &results(&before));
}

/// Six steps of a recurrence without inputs; of a step, a row of 8 numbers is stacked for a sum of 8 × 8.
fn wide(b: &mut Builder, in_order: bool) -> Result<(Vec<Value>, Value), TypeError> {
    cell(b, 1, 8, in_order)
}

/// The same of `rows` of `n` numbers, for a sum of n × n.
fn cell(b: &mut Builder, rows: usize, n: usize, in_order: bool) -> Result<(Vec<Value>, Value), TypeError> {
    let types = [TensorType::f32([rows, n]), TensorType::f32([n, n])];
    let body = Builder::function("cell", &types, |b, x| {
        let hidden = product(b, x[0], x[1], false)?;
        Ok(vec![b.tanh(hidden)?])
    })?;
    let inputs = declare(b, &types)?;
    let x = b.apply(Iterate { body, count: 6, carries: 1, in_order }, &inputs)?[0];
    Ok((inputs, squared(b, x)?))
}

#[test]
fn loops_in_order_keep_their_sums_unless_those_may_be_reassociated() {
    let in_order: Forward = |b| wide(b, true);
    let graph = rolled(in_order);
    assert_eq!(bits(&results(&graph)), bits(&results(&unrolled(in_order))));
    assert_eq!(sum_after_loops(&graph, NumericClass::Bitwise).expect("well typed"), graph);
    let after = sum_after_loops(&graph, NumericClass::Reassociation).expect("well typed");
    assert_eq!(contractions(&after), 1, "the sum is one product after the loop");
}

#[test]
fn what_is_small_beside_a_sum_is_stacked_for_it() {
    let before = rolled(|b| wide(b, false));
    let after = sum_after_loops(&before, NumericClass::Bitwise).expect("well typed");
    let [of_before, of_after] = [&before, &after].map(|graph| scans(graph).remove(1));
    assert_eq!((of_before.carries - of_after.carries, contractions(&after)), (1, 1));
    assert_eq!(of_after.body.outputs().len(), of_before.body.outputs().len(), "a stacked result in place of the sum");
    assert_close(&results(&after), &results(&before));
}

/// A third of a sum is stacked where sums are re-associated to be fast, not where memory would grow unasked.
#[test]
fn more_is_stacked_for_sums_that_are_reassociated() {
    let before = rolled(|b| cell(b, 2, 7, false));
    assert_eq!(sum_after_loops(&before, NumericClass::Bitwise).expect("well typed"), before);
    let after = sum_after_loops(&before, NumericClass::Reassociation).expect("well typed");
    assert_eq!(contractions(&after), 1, "the sum is one product after the loop");
    assert_close(&results(&after), &results(&before));
}

#[test]
fn sums_whose_operands_are_not_stacked_stay_in_the_loop() {
    for forward in [ista as Forward, quadratic, idle_carries] {
        let graph = rolled(forward);
        assert_eq!(sum_after_loops(&graph, NumericClass::Bitwise).expect("well typed"), graph);
    }
}

#[test]
fn sums_of_rows_and_moved_products_leave_the_loop_in_bodies_too() {
    // (x, y) ↦ Σₜ (xₜᵀ yₜ)ᵀ and Σₜ Σ_rows xₜ, of a loop that makes nothing else; in a branch.
    let (product, sum) = (TensorType::f32([4, 3]), TensorType::f32([3]));
    let slices = [TensorType::f32([2, 3]), TensorType::f32([2, 4])];
    let step = Builder::function("sums", &[&[product.clone(), sum.clone()], &slices[..]].concat(), |b, x| {
        let outer = b.dot_general(x[2], x[3], [&[], &[]], [&[0], &[0]])?;
        let outer = b.transpose(outer, &[1, 0])?;
        let rows = b.reduce_sum(x[2], &[0])?;
        Ok(vec![b.add(outer, x[0])?, b.add(x[1], rows)?])
    })
    .expect("well typed");
    let branch_types = [product, sum, TensorType::f32([5, 2, 3]), TensorType::f32([5, 2, 4])];
    let branch = |reverse| {
        Builder::function("branch", &branch_types, |b, x| Ok(b.scan(&step, &x[..2], &x[2..], &[], reverse)?.0))
            .expect("well typed")
    };
    let mut b = Builder::new("sums");
    let inputs = declare(&mut b, &branch_types).expect("fresh names");
    let yes = b.scalar(DType::Bool, 1.0).expect("well typed");
    let results_of = b.cond(yes, &branch(false), &branch(true), &inputs).expect("well typed");
    results_of.into_iter().for_each(|v| b.output("y", v, OutputKind::Result));
    let before = b.finish();
    let after = sum_after_loops(&before, NumericClass::Bitwise).expect("well typed");
    let bodies = |graph: &Graph| {
        graph.nodes().iter().find_map(|n| match &n.def {
            Def::Op(Op::Cond(cond)) => Some([cond.then_body.clone(), cond.else_body.clone()]),
            _ => None,
        })
    };
    for body in bodies(&after).expect("the branch") {
        assert!(scans(&body).is_empty() && contractions(&body) == 1, "no loop is left");
    }
    assert_close(&results(&after), &results(&before));
}

#[test]
fn sums_that_steps_read_stay_in_the_loop() {
    // Running sums of xₜᵀ yₜ: those after a step, or before it, are stacked as well.
    let sum = TensorType::f32([4, 3]);
    let types = [sum.clone(), TensorType::f32([2, 4]), TensorType::f32([2, 3])];
    for reads_result in [false, true] {
        let step = Builder::function("running", &types, |b, x| {
            let outer = b.dot_general(x[1], x[2], [&[], &[]], [&[0], &[0]])?;
            let next = b.add(x[0], outer)?;
            let read = b.tanh(if reads_result { next } else { x[0] })?;
            Ok(vec![next, read])
        })
        .expect("well typed");
        let mut b = Builder::new("running");
        let inputs = [sum.clone(), TensorType::f32([5, 2, 4]), TensorType::f32([5, 2, 3])];
        let inputs = declare(&mut b, &inputs).expect("fresh names");
        let (carries, stacked) = b.scan(&step, &inputs[..1], &inputs[1..], &[], false).expect("well typed");
        carries.into_iter().chain(stacked).for_each(|v| b.output("y", v, OutputKind::Result));
        let graph = b.finish();
        assert_eq!(sum_after_loops(&graph, NumericClass::Bitwise).expect("well typed"), graph, "{reads_result}");
    }
}
