//! Loops that have to be found, and how they are rolled.

use crate::programs::{self, Built, graph, input, parameter, product, relu};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::ops::Op;
use gradc_ir::types::TensorType;
use gradc_ir::verify::verify;
use gradc_passes::egraph::replay;
use gradc_passes::expand_regions::expand_regions;
use gradc_passes::roll::{RollReport, RolledLoop, roll};

/// Rolls, and holds the result to the flat graph: well formed, the same bits, also when unrolled again.
pub fn rolled(flat: &Graph) -> (Graph, RollReport) {
    let (rolled, report) = roll(flat).expect("rolls");
    verify(&rolled).unwrap_or_else(|e| panic!("{e}\n{report}"));
    let unrolled = expand_regions(&rolled).expect("expands");
    for seed in 0..3 {
        assert_eq!(replay(flat, &rolled, seed), Ok(0.0), "rolled\n{report}");
        assert_eq!(replay(flat, &unrolled, seed), Ok(0.0), "unrolled again\n{report}");
    }
    assert_eq!(roll(flat).expect("rolls"), (rolled.clone(), report.clone()), "the same every time");
    (rolled, report)
}

/// The only loop of a graph.
fn only(flat: &Graph) -> (Graph, RolledLoop) {
    let (graph, report) = rolled(flat);
    let [only] = &report.rolled[..] else { panic!("one loop expected:\n{report}") };
    (graph, only.clone())
}

/// What counts of a loop: op, steps, carries, scanned, stacked.
fn shape(l: &RolledLoop) -> (&str, usize, usize, usize, usize) {
    (l.into, l.steps, l.carries, l.scanned, l.stacked)
}

fn count(graph: &Graph, is: impl Fn(&Op) -> bool) -> usize {
    graph.node_ids().filter_map(|id| graph.op(id)).filter(|op| is(op)).count()
}

#[test]
fn ista_is_one_iterate_whatever_its_length() {
    for steps in [4, 5, 40, 200, 1000] {
        let (graph, l) = only(&programs::ista(steps));
        assert_eq!(shape(&l), ("iterate", steps, 1, 0, 0), "{l}");
        assert_eq!(l.carried_bytes, 2 * 6 * 4, "the iterate alone is carried: {l}");
        assert!(graph.nodes().len() < 12, "{} nodes are left of {steps} steps", graph.nodes().len());
    }
}

#[test]
fn projected_gradients_are_one_iterate() {
    for steps in [8, 100] {
        assert_eq!(shape(&only(&programs::projected_gradient(steps)).1), ("iterate", steps, 1, 0, 0));
    }
}

#[test]
fn momentum_has_two_carries() {
    for steps in [6, 50] {
        assert_eq!(shape(&only(&programs::momentum(steps)).1), ("iterate", steps, 2, 0, 0));
    }
}

#[test]
fn constants_that_change_are_scanned() {
    for steps in [9, 50] {
        let (_, l) = only(&programs::fista(steps));
        assert_eq!((l.into, l.carries, l.scanned, l.stacked), ("scan", 2, 1, 0), "{l}");
        // The momentum of the first step is 0 times the difference, as it is in all others.
        assert!(l.steps + 1 >= steps, "{l}");
    }
}

/// A step size that is halved every third step: neighbours share constants.
#[test]
fn constants_that_repeat_are_scanned_too() {
    let flat = graph(|b| {
        let (q, mut x) = (parameter(b, "q", &[3, 3]), input(b, "x", &[2, 3]));
        for k in 0..12 {
            let gradient = product(b, x, q)?;
            let step = b.scale(gradient, 0.5f64.powi(k / 3))?;
            x = b.sub(x, step)?;
        }
        Ok(x)
    });
    assert_eq!(shape(&only(&flat).1), ("scan", 12, 1, 1, 0));
}

#[test]
fn recurrences_scan_slices_and_stack_their_states() {
    for (axis, backwards) in [(0, false), (0, true), (1, false), (1, true)] {
        let (graph, l) = only(&programs::lstm(10, 1, axis, backwards));
        assert_eq!(shape(&l), ("scan", 10, 2, 1, 1), "{l}");
        let backward_scans = count(&graph, |op| matches!(op, Op::Scan(scan) if scan.reverse));
        assert_eq!(backward_scans, usize::from(backwards));
        assert_eq!(count(&graph, |op| matches!(op, Op::Reverse(_))), 0);
    }
}

#[test]
fn layers_of_a_recurrence_are_one_loop() {
    assert_eq!(shape(&only(&programs::lstm(9, 2, 0, false)).1), ("scan", 9, 4, 1, 1));
}

/// Two slices in opposite order: one of them is turned around.
#[test]
fn slices_in_opposite_order_are_scanned_together() {
    let flat = graph(|b| {
        let (x, w) = (input(b, "x", &[7, 3]), parameter(b, "w", &[3, 3]));
        let mut h = b.splat(&TensorType::f32([1, 3]), 0.1)?;
        for t in 0..7 {
            let (up, down) = (b.slice_axis(x, 0, t, t + 1)?, b.slice_axis(x, 0, 6 - t, 7 - t)?);
            let (h_next, both) = (product(b, h, w)?, b.mul(up, down)?);
            let sum = b.add(h_next, both)?;
            h = b.tanh(sum)?;
        }
        Ok(h)
    });
    let (rolled, l) = only(&flat);
    assert_eq!((l.into, l.scanned), ("scan", 2));
    assert_eq!(count(&rolled, |op| matches!(op, Op::Reverse(_))), 1);
}

/// Blocks of two rows, three rows apart: what lies between is not read.
#[test]
fn slices_with_gaps_are_scanned() {
    for (distance, from) in [(2, 0), (3, 0), (3, 1)] {
        let flat = graph(|b| {
            let (x, w) = (input(b, "x", &[2, from + 6 * distance, 3]), parameter(b, "w", &[3, 3]));
            let mut h = b.splat(&TensorType::f32([2, 2, 3]), 0.1)?;
            for t in 0..6 {
                let slice = b.slice_axis(x, 1, from + distance * t, from + distance * t + 2)?;
                let next = product(b, h, w)?;
                let sum = b.add(next, slice)?;
                h = b.tanh(sum)?;
            }
            Ok(h)
        });
        assert_eq!(shape(&only(&flat).1), ("scan", 6, 1, 1, 0));
    }
}

/// The step reads the iterate before the last one too.
#[test]
fn values_of_two_steps_ago_are_carried_twice() {
    let flat = graph(|b| {
        let (mut old, mut x, w) = (input(b, "x0", &[2, 3]), input(b, "x1", &[2, 3]), parameter(b, "w", &[3, 3]));
        for _ in 0..9 {
            let moved = product(b, x, w)?;
            let before = b.scale(old, 0.25)?;
            let sum = b.add(moved, before)?;
            (old, x) = (x, b.tanh(sum)?);
        }
        b.mul(old, x)
    });
    assert_eq!(shape(&only(&flat).1), ("iterate", 9, 2, 0, 0));
}

/// A loss summed over the iterates belongs to the loop: stacking the iterates would cost more.
#[test]
fn sums_over_the_iterates_are_part_of_the_loop() {
    let flat = graph(|b| {
        let (w, mut x) = (parameter(b, "w", &[3, 3]), input(b, "x", &[2, 3]));
        let mut total = b.scalar(gradc_ir::types::DType::F32, 0.0)?;
        for _ in 0..8 {
            let next = product(b, x, w)?;
            x = b.tanh(next)?;
            let square = b.mul(x, x)?;
            let norm = b.reduce_sum(square, &[0, 1])?;
            total = b.add(total, norm)?;
        }
        Ok(total)
    });
    assert_eq!(shape(&only(&flat).1), ("iterate", 8, 2, 0, 0));
}

/// Intermediate values of the last step alone leave as a carry, those of several steps stacked.
#[test]
fn values_used_outside_leave_the_loop() {
    let program = |taken: &[usize]| {
        let mut outside = vec![];
        let mut b = Builder::new("outside");
        let (w, mut x) = (parameter(&mut b, "w", &[3, 3]), input(&mut b, "x", &[2, 3]));
        for k in 0..8 {
            let next = product(&mut b, x, w).unwrap();
            let inner = relu(&mut b, next).unwrap();
            x = b.sub(x, inner).unwrap();
            if taken.contains(&k) {
                outside.push(inner);
            }
        }
        for (k, value) in outside.into_iter().enumerate() {
            b.output(&format!("inner{k}"), value, OutputKind::Result);
        }
        b.output("x", x, OutputKind::Result);
        b.finish()
    };
    assert_eq!(shape(&only(&program(&[7])).1), ("iterate", 8, 2, 0, 0));
    assert_eq!(shape(&only(&program(&[2, 7])).1), ("scan", 8, 1, 0, 1));
    let (_, l) = only(&program(&[0]));
    assert_eq!((l.into, l.steps, l.stacked), ("iterate", 7, 0), "the first step stays outside: {l}");
}

/// What all later steps read depends on the first: that one stays outside.
#[test]
fn steps_that_the_others_depend_on_are_peeled() {
    let flat = graph(|b| {
        let (w, mut x) = (parameter(b, "w", &[3, 3]), input(b, "x", &[2, 3]));
        let mut scale = None;
        for _ in 0..9 {
            let next = product(b, x, w)?;
            let square = b.mul(next, next)?;
            let scale = match scale {
                Some(scale) => scale,
                None => *scale.insert(b.reduce_sum(square, &[0, 1])?),
            };
            let moved = programs::scaled_by(b, square, scale)?;
            x = b.tanh(moved)?;
        }
        Ok(x)
    });
    assert_eq!(shape(&only(&flat).1), ("iterate", 8, 1, 0, 0));
}

/// Solvers inside a recurrence: the inner loops share a body, the outer one scans over time.
#[test]
fn loops_in_loops_are_rolled_from_the_inside() {
    let flat = graph(|b| {
        let (w, x) = (parameter(b, "w", &[3, 3]), input(b, "x", &[6, 2, 3]));
        let mut state = b.splat(&TensorType::f32([2, 3]), 0.0)?;
        for t in 0..6 {
            let slice = b.slice_axis(x, 0, t, t + 1)?;
            let target = b.reshape(slice, &[2, 3])?;
            let mut z = b.add(state, target)?;
            for _ in 0..7 {
                let moved = product(b, z, w)?;
                let error = b.sub(moved, target)?;
                let step = b.scale(error, 0.1)?;
                z = b.sub(z, step)?;
            }
            state = b.tanh(z)?;
        }
        Ok(state)
    });
    let (graph, report) = rolled(&flat);
    assert_eq!(report.rolled.iter().filter(|l| l.into == "iterate" && l.steps == 7).count(), 6, "{report}");
    assert_eq!(shape(report.rolled.last().unwrap()), ("scan", 6, 1, 1, 0), "{report}");
    assert!(graph.nodes().len() < 10);
}

/// Two solvers with one set of weights, and one solver after another.
#[test]
fn loops_side_by_side_and_in_a_row_are_loops_of_their_own() {
    let solve = |b: &mut Builder, mut x, w, c| -> Built {
        for _ in 0..6 {
            let moved = product(b, x, w)?;
            let sum = b.add(moved, c)?;
            x = b.tanh(sum)?;
        }
        Ok(x)
    };
    let flat = graph(|b| {
        let (w, p, q) = (parameter(b, "w", &[3, 3]), input(b, "p", &[2, 3]), input(b, "q", &[2, 3]));
        let (x, y) = (solve(b, p, w, p)?, solve(b, q, w, q)?);
        let sum = b.mul(x, y)?;
        let squashed = b.abs(sum)?;
        solve(b, squashed, w, p)
    });
    let (_, report) = rolled(&flat);
    let shapes: Vec<_> = report.rolled.iter().map(shape).collect();
    assert_eq!(shapes, [("iterate", 6, 1, 0, 0); 3], "{report}");
}

#[test]
fn bodies_have_the_places_of_the_first_step() {
    let mut b = Builder::new("placed");
    let (w, mut x) = (parameter(&mut b, "w", &[3, 3]), input(&mut b, "x", &[2, 3]));
    for k in 0..6 {
        b.set_loc(Loc { layer: format!("steps.{k}"), ..Loc::default() });
        let moved = product(&mut b, x, w).unwrap();
        x = b.tanh(moved).unwrap();
    }
    b.output("x", x, OutputKind::Result);
    let (graph, l) = only(&b.finish());
    assert_eq!(l.place, "`steps.0`");
    let body = graph.node_ids().find_map(|id| match graph.op(id)? {
        Op::Iterate(iterate) => Some(iterate.body.clone()),
        _ => None,
    });
    let body = body.expect("an iterate");
    let ops = body.node_ids().filter(|&id| body.op(id).is_some());
    assert!(ops.into_iter().all(|id| body.loc(id).layer == "steps.0"));
}

#[test]
fn graphs_without_loops_come_back_equal() {
    let flat = graph(|b| {
        let (x, w) = (input(b, "x", &[2, 3]), parameter(b, "w", &[3, 3]));
        let y = product(b, x, w)?;
        b.exp(x)?;
        b.tanh(y)
    });
    let (same, report) = roll(&flat).unwrap();
    assert_eq!(same, flat);
    assert!(report.is_empty());
}
