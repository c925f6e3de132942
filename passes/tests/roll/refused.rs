//! What repeats and is no loop stays, and the report says why.

use crate::cases::rolled;
use crate::programs::{graph, input, parameter, product, relu};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Role};
use gradc_ir::types::{DType, TensorType};

/// Holds a graph to be left as it is, for a reason that says `why`.
fn assert_refused(flat: &Graph, why: &str) {
    let (graph, report) = rolled(flat);
    assert_eq!(graph, *flat, "{report}");
    assert!(report.refused.iter().any(|r| r.reason.contains(why)), "`{why}` is not among the reasons:\n{report}");
}

#[test]
fn layers_with_weights_of_their_own() {
    let flat = graph(|b| {
        let mut x = input(b, "x", &[4, 8]);
        for k in 0..12 {
            let w = parameter(b, &format!("fc{k}.weight"), &[8, 8]);
            let next = product(b, x, w)?;
            x = relu(b, next)?;
        }
        Ok(x)
    });
    assert_refused(&flat, "tensors of their own (`fc");
}

/// Weights that are slices of one tensor cost nothing to scan.
#[test]
fn but_not_layers_whose_weights_are_one_tensor() {
    let flat = graph(|b| {
        let (mut x, all) = (input(b, "x", &[4, 8]), parameter(b, "weights", &[12, 8, 8]));
        for k in 0..12 {
            let slice = b.slice_axis(all, 0, k, k + 1)?;
            let w = b.reshape(slice, &[8, 8])?;
            let next = product(b, x, w)?;
            x = relu(b, next)?;
        }
        Ok(x)
    });
    let (_, report) = rolled(&flat);
    assert_eq!((report.rolled[0].into, report.rolled[0].steps, report.rolled[0].scanned), ("scan", 12, 1));
}

/// Dropout draws from another stream in every step.
#[test]
fn random_numbers_of_each_step() {
    let mut b = Builder::new("dropout");
    let state = b.declare("seed", Role::State, TensorType::new(DType::I64, [2]), Some(0.0)).unwrap();
    let (w, mut x) = (parameter(&mut b, "w", &[3, 3]), input(&mut b, "x", &[2, 3]));
    for k in 0..8 {
        let next = product(&mut b, x, w).unwrap();
        let noise = b.random_uniform(state, &[2, 3], k).unwrap();
        x = b.mul(next, noise).unwrap();
    }
    b.output("x", x, OutputKind::Result);
    assert_refused(&b.finish(), "attribute `stream` of random_uniform differs");
}

/// Each step sees one element less.
#[test]
fn shapes_that_change() {
    let flat = graph(|b| {
        let mut x = input(b, "x", &[12]);
        for k in 0..10 {
            let tail = b.slice_axis(x, 0, 1, 12 - k)?;
            let head = b.slice_axis(x, 0, 0, 11 - k)?;
            x = b.mul(tail, head)?;
        }
        Ok(x)
    });
    let (graph, report) = rolled(&flat);
    assert_eq!(graph, flat, "{report}");
}

/// Every step reads what the one in the middle computed, and that one reads it too.
#[test]
fn steps_that_read_what_a_later_one_computes() {
    let flat = graph(|b| {
        let (w, mut x) = (parameter(b, "w", &[3, 3]), input(b, "x", &[2, 3]));
        let mut scale = None;
        for k in 0..6 {
            let next = product(b, x, w)?;
            let square = b.mul(next, next)?;
            if k < 3 {
                scale = Some(b.exp(next)?);
            }
            let scaled = b.mul(square, scale.expect("set by the first step"))?;
            x = b.tanh(scaled)?;
        }
        Ok(x)
    });
    let (graph, report) = rolled(&flat);
    assert_eq!(graph, flat, "{report}");
}

#[test]
fn slices_that_overlap() {
    let flat = graph(|b| {
        let (x, w) = (input(b, "x", &[9, 3]), parameter(b, "w", &[3, 3]));
        let mut h = b.splat(&TensorType::f32([2, 3]), 0.1)?;
        for t in 0..8 {
            let window = b.slice_axis(x, 0, t, t + 2)?;
            let next = product(b, h, w)?;
            let sum = b.add(next, window)?;
            h = b.tanh(sum)?;
        }
        Ok(h)
    });
    assert_refused(&flat, "not evenly spaced along one axis, or overlap");
}

/// A sum over values made by unrelated ops is no loop.
#[test]
fn values_of_its_own_for_each_step() {
    let flat = graph(|b| {
        let x = input(b, "x", &[2, 3]);
        let (exp, tanh, abs, sign) = (b.exp(x)?, b.tanh(x)?, b.abs(x)?, b.sign(x)?);
        let (sin, cos, neg, floor) = (b.sin(x)?, b.cos(x)?, b.neg(x)?, b.floor(x)?);
        let mut sum = x;
        for term in [exp, tanh, abs, sign, sin, cos, neg, floor] {
            let half = b.scale(sum, 0.5)?;
            sum = b.add(half, term)?;
        }
        Ok(sum)
    });
    let (graph, report) = rolled(&flat);
    assert_eq!(graph, flat, "{report}");
}
