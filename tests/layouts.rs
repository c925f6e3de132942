//! Layouts change where elements stand, never what they are: any assignment gives the values of the interpreter.

mod common;

use common::planned::run;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{OutputKind, Value};
use gradc_ir::layout::{Layout, Layouts};
use gradc_ir::op::Sample;
use gradc_ir::ops::{Copy, Op};
use gradc_ir::plan::{Action, MemoryPlan};
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::text::{parse_plan, print_plan};
use gradc_passes::layout::LaidOut;
use gradc_passes::memory::{SharedLayout, check_plan, plan_memory};
use gradc_passes::schedule::{Ordering, schedule};

/// Assignments tried per sample.
const ASSIGNMENTS: u64 = 6;

/// Permutations, the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn order(&mut self, rank: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rank).collect();
        (1..rank).for_each(|k| order.swap(k, self.below(k + 1)));
        order
    }
}

/// The op of a sample between copies that bring its operands into random layouts and its results out of them.
fn surrounded(sample: &Sample, random: &mut Random) -> LaidOut {
    let mut builder = Builder::new("sample");
    let mut layouts = Layouts::new();
    let mut laid_out = |b: &Builder, value: Value, order: &[usize]| {
        layouts.extend(Layout::new(order, b.shape(value)).map(|layout| (value, layout)));
    };
    let mut operands = vec![];
    for (k, operand) in sample.operands.iter().enumerate() {
        let input = builder.input(&k.to_string(), operand.ty.clone()).expect("unique names");
        let order = random.order(operand.ty.rank());
        let copy = builder.op(Copy { order: order.clone() }, &[input]).expect("a copy of anything");
        laid_out(&builder, copy, &order);
        operands.push(copy);
    }
    let results = builder.apply(sample.op.clone(), &operands).expect("samples infer");
    let order = random.order(builder.shape(results[0]).len());
    for (k, &result) in results.iter().enumerate() {
        let rank = builder.shape(result).len();
        laid_out(&builder, result, &if rank == order.len() { order.clone() } else { random.order(rank) });
        let out = builder.op(Copy { order: (0..rank).collect() }, &[result]).expect("a copy of anything");
        builder.output(&k.to_string(), out, OutputKind::Result);
    }
    LaidOut::new(builder.finish(), layouts)
}

fn planned(laid_out: LaidOut) -> Option<MemoryPlan> {
    let shared = SharedLayout::of([&laid_out.graph]);
    let plan = plan_memory(schedule(laid_out, Ordering::default()).ok()?.0, &shared);
    check_plan(&plan, &shared).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(parse_plan(&print_plan(&plan)).unwrap_or_else(|e| panic!("{e}")), plan, "plans with layouts parse back");
    // What runs under loops and branches is in `tests/regions.rs`.
    let is_region = |action: &Action| matches!(action, Action::Region(_));
    (!plan.schedule.actions.iter().any(is_region)).then_some(plan)
}

fn assert_near(op: &Op, found: &Tensor, expected: &Tensor) {
    let (Data::Float(f), Data::Float(e)) = (&found.data, &expected.data) else {
        return assert_eq!(found, expected, "{op}");
    };
    let scale = e.iter().filter(|v| v.is_finite()).fold(1e-3, |m: f64, v| m.max(v.abs()));
    let near = |(f, e): (&f64, &f64)| f == e || (f.is_nan() && e.is_nan()) || (f - e).abs() <= 2e-5 * scale;
    assert!(f.iter().zip(e).all(near), "{op}: {f:?} instead of {e:?}");
}

#[test]
fn any_layouts_give_the_same_values() {
    let (mut tried, mut laid_out) = (0, 0);
    for (number, sample) in Op::all_samples().into_iter().enumerate() {
        for seed in 0..ASSIGNMENTS {
            let mut random = Random(seed + 1000 * number as u64);
            let graph = surrounded(&sample, &mut random);
            let has_layouts = !graph.layouts.is_empty();
            let Some(plan) = planned(graph) else { continue };
            let inputs = sample.draw(seed);
            let expected = sample.op.eval(&inputs.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e:?}"));
            let found = run(&plan, &inputs, 1);
            found.iter().zip(&expected).for_each(|(f, e)| assert_near(&sample.op, f, &e.clone().rounded()));
            tried += 1;
            laid_out += usize::from(has_layouts);
        }
    }
    assert!(laid_out * 3 > tried, "{laid_out} of {tried} samples had layouts");
}
