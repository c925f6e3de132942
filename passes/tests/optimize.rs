//! The e-graph optimizer on whole training steps.

mod transformer;

use gradc_ir::graph::Graph;
use gradc_ir::target::{Target, VectorIsa};
use gradc_passes::cost::graph_cost;
use gradc_passes::egraph::explain::Replay;
use gradc_passes::egraph::rules::{Family, NumericClass};
use gradc_passes::egraph::saturate::StopReason;
use gradc_passes::egraph::{OptimizeOptions, Strategy, optimize, replay};
use transformer::{Sizes, training_step};

/// Small enough for the interpreter.
const SMALL: Sizes = Sizes { batch: 2, tokens: 3, heads: 2, width: 4, hidden: 16 };

fn options() -> OptimizeOptions {
    OptimizeOptions::new(Target::of(VectorIsa::Avx2))
}

fn explaining() -> OptimizeOptions {
    OptimizeOptions { explain: true, ..options() }
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.node_ids().filter(|&id| graph.op(id).is_some_and(|o| o.name() == op)).count()
}

#[test]
fn a_step_keeps_every_bit_and_its_interface() {
    let before = training_step(2, SMALL);
    let (after, report) = optimize(&before, &options()).expect("optimizes");
    assert_eq!(replay(&before, &after, 7), Ok(0.0), "{report}");
    let interface = |g: &Graph| -> Vec<_> {
        let inputs = g.inputs().iter().map(|i| (i.name.clone(), Some(i.role), g.ty(i.value).clone()));
        inputs.chain(g.outputs().iter().map(|o| (o.name.clone(), None, g.ty(o.value).clone()))).collect()
    };
    assert_eq!(interface(&before), interface(&after));
    let kinds = |g: &Graph| g.outputs().iter().map(|o| o.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&before), kinds(&after));
}

#[test]
fn layout_is_folded_into_products() {
    let before = training_step(2, SMALL);
    let (after, report) = optimize(&before, &options()).expect("optimizes");
    println!("{report}");
    assert_eq!(count(&before, "dot_general"), count(&after, "dot_general"));
    assert!(count(&after, "transpose") * 4 < count(&before, "transpose"), "{report}");
    assert!(report.after.cost.bytes < report.before.cost.bytes);
}

/// A greedy rewriter keeps every bit too and never makes the graph dearer; here it finds less than saturation.
#[test]
fn greedy_rewriting_stops_earlier() {
    let before = training_step(2, SMALL);
    let (after, report) = optimize(&before, &OptimizeOptions { strategy: Strategy::Greedy, ..options() }).expect("ok");
    assert_eq!(replay(&before, &after, 7), Ok(0.0), "{report}");
    let (_, saturated) = optimize(&before, &options()).expect("optimizes");
    let [greedy_ns, saturated_ns] = [&report, &saturated].map(|r| r.after.cost.time_ns);
    assert!(greedy_ns < report.before.cost.time_ns && saturated_ns < greedy_ns, "{greedy_ns} {saturated_ns}");
}

#[test]
fn greedy_rewrites_are_explained_too() {
    let greedy = OptimizeOptions { strategy: Strategy::Greedy, ..explaining() };
    let (_, report) = optimize(&training_step(1, SMALL), &greedy).expect("optimizes");
    let rewrites: Vec<_> = report.windows.iter().flat_map(|w| &w.rewrites).collect();
    assert!(rewrites.len() > 5, "{report}");
    for rewrite in rewrites {
        assert_eq!(rewrite.replay, Replay::Equal { inputs: 2 }, "{rewrite}");
        assert!(rewrite.rule.is_some() && !rewrite.matched.is_empty(), "{rewrite}");
    }
}

/// With a family off none of its rules is used; with all of them off the graph stays as it is. Here all else waits for
/// the layout rules.
#[test]
fn families_can_be_left_out() {
    let before = training_step(1, SMALL);
    for left_out in Family::ALL {
        let families = Family::ALL.into_iter().filter(|f| *f != left_out).collect();
        let (_, report) = optimize(&before, &OptimizeOptions { families, ..explaining() }).expect("optimizes");
        let rewrites: Vec<_> = report.windows.iter().flat_map(|w| &w.rewrites).collect();
        assert_eq!(rewrites.is_empty(), left_out == Family::Layout, "{report}");
        assert!(rewrites.iter().all(|r| r.family != Some(left_out)), "{report}");
    }
    let (_, report) = optimize(&before, &OptimizeOptions { families: [].into(), ..explaining() }).expect("optimizes");
    assert!(report.windows.iter().all(|w| w.rewrites.is_empty()));
}

#[test]
fn the_same_graph_twice() {
    let before = training_step(3, SMALL);
    let first = optimize(&before, &options()).expect("optimizes");
    assert_eq!(optimize(&before, &options()).expect("optimizes"), first);
}

/// Equal layers are solved once: what is left to do for each is to find that it is known. So time is linear in the
/// number of layers, and almost all of it is copying (`cargo run -p gradc-passes --example optimizer_time`).
#[test]
fn more_equal_layers_are_no_more_to_solve() {
    for fp in [NumericClass::Bitwise, NumericClass::Reassociation] {
        let solved = |layers: usize| {
            let step = training_step(layers, SMALL);
            let (_, report) = optimize(&step, &OptimizeOptions { fp, ..options() }).expect("optimizes");
            assert_eq!(report.windows.len(), layers + 1, "a window for each layer and one for the rest");
            let solved = report.windows.into_iter().filter(|w| !w.stamped);
            solved.map(|w| (w.nodes_before, w.e_nodes)).collect::<Vec<_>>()
        };
        let few = solved(6);
        assert!(few.len() <= 4, "the first layer, the last, one between them, the rest: {few:?}");
        assert_eq!(solved(12), few);
    }
}

/// Without re-association windows stop by themselves, long before they are full.
#[test]
fn windows_saturate() {
    let (_, report) = optimize(&training_step(3, SMALL), &options()).expect("optimizes");
    assert!(report.windows.iter().all(|w| w.stop == StopReason::Saturated), "{report}");
}

#[test]
fn every_node_keeps_a_place() {
    let before = training_step(2, SMALL);
    let (after, _) = optimize(&before, &options()).expect("optimizes");
    let layers = |g: &Graph| -> Vec<String> {
        let mut layers: Vec<String> = g.node_ids().map(|id| g.loc(id).layer.clone()).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    };
    assert_eq!(layers(&before), layers(&after));
}

/// Every rewrite is known by its rule, runs to equal bits, and is priced so that the changes add up to the whole.
#[test]
fn rewrites_lead_from_the_original_to_the_result() {
    let before = training_step(2, SMALL);
    let (after, report) = optimize(&before, &explaining()).expect("optimizes");
    assert_eq!(after, optimize(&before, &options()).expect("optimizes").0);
    for window in &report.windows {
        let [first, last] = window.programs.as_ref().expect("asked for");
        let [before, after] = [first, last].map(|program| graph_cost(program, &options().target));
        let flops: f64 = window.rewrites.iter().map(|r| r.delta_flops).sum();
        let bytes: f64 = window.rewrites.iter().map(|r| r.delta_bytes).sum();
        assert!((after.flops - before.flops - flops).abs() < 1e-6 && (after.bytes - before.bytes - bytes).abs() < 1e-6);
        for rewrite in &window.rewrites {
            assert!(rewrite.rule.is_some(), "{rewrite}");
            assert_eq!(rewrite.replay, Replay::Equal { inputs: 2 }, "{rewrite}");
        }
    }
    let rewrites = report.windows.iter().flat_map(|w| &w.rewrites);
    assert!(rewrites.clone().count() > 20 && rewrites.filter(|r| r.enabling).count() > 0, "{report}");
}
