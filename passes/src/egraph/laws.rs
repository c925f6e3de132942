//! Laws: every rule keeps every bit, or re-associates within its bound, and a wrong rule does not pass.

use super::explain::{Replay, Rewrite};
use super::frame::Frame;
use super::language::Node;
use super::replay::{awkward, bounded, difference};
use super::rules::{Family, NumericClass, Random, Root, Rule, RuleIndex, Sampler, Term, all_rules};
use super::saturate::{Limits, Saturated, StopReason, saturate};
use super::{OptimizeOptions, Rules, bounds, optimize, optimize_in, optimize_with};
use gradc_ir::graph::{Graph, OutputKind};
use gradc_ir::ops::{Add, Constant, Op, Reshape};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::TensorType;

const SEEDS: u64 = 300;

/// The first class whose nodes do not all evaluate to the same, in f64 or rounded to storage: to the same bits on
/// awkward inputs, or within the bound of re-association on finite ones.
fn broken_class(window: &Graph, saturated: &Saturated, class: NumericClass, seed: u64) -> Option<String> {
    let mut random = Random::new(seed);
    let mut inputs = |make: fn(&TensorType, &mut Random) -> Tensor| -> Vec<Tensor> {
        window.inputs().iter().map(|i| make(window.ty(i.value), &mut random)).collect()
    };
    match class {
        NumericClass::Bitwise => {
            let inputs = inputs(awkward);
            [false, true].into_iter().find_map(|stored| unequal_class(saturated, &inputs, stored))
        }
        NumericClass::Reassociation => {
            let inputs = inputs(bounded);
            [false, true].into_iter().find_map(|stored| bounds::unbounded_class(saturated, &inputs, stored))
        }
    }
}

/// The results of every node of an e-graph, each rounded to its dtype where `stored`.
pub fn evaluate(saturated: &Saturated, inputs: &[Tensor], stored: bool) -> Vec<Vec<Tensor>> {
    let mut values: Vec<Vec<Tensor>> = Vec::new();
    for node in saturated.egraph.nodes() {
        let operand = |id: &egg::Id| &values[usize::from(*id)][0];
        let round = |t: Tensor| if stored { t.rounded() } else { t };
        let eval = |op: &Op, args: &[&Tensor]| op.eval(args).expect("a well-typed op").into_iter().map(round).collect();
        let results: Vec<Tensor> = match node {
            Node::Input(id) => vec![round(inputs[id.index()].clone())],
            Node::Op(op, args) => eval(op, &args.iter().map(operand).collect::<Vec<_>>()),
            Node::Sum(terms) => {
                let plus = |sum: Tensor, term| eval(&Add {}.into(), &[&sum, operand(term)]).remove(0);
                vec![terms[1..].iter().fold(operand(&terms[0]).clone(), plus)]
            }
            Node::Project(result, of) => vec![values[usize::from(*of)][*result as usize].clone()],
            Node::Roots(_) => vec![],
        };
        values.push(results);
    }
    values
}

fn unequal_class(saturated: &Saturated, inputs: &[Tensor], stored: bool) -> Option<String> {
    let egraph = &saturated.egraph;
    let values = evaluate(saturated, inputs, stored);
    let class_of = |id: usize| usize::from(egraph.find(egg::Id::from(id)));
    (0..values.len()).find_map(|id| {
        let (a, b) = (&values[id], &values[class_of(id)]);
        let same = a.len() == b.len() && a.iter().zip(b).all(|(x, y)| difference(x, y) == 0.0);
        (!same).then(|| format!("{:?}\n= {a:?}\n{:?}\n= {b:?}", egraph.nodes()[id], egraph.nodes()[class_of(id)]))
    })
}

fn example(rule: &Rule, seed: u64) -> Graph {
    let mut sampler = Sampler::new(seed);
    let root = (rule.example)(&mut sampler).unwrap_or_else(|e| panic!("example {seed} of `{}`: {e}", rule.name));
    let mut builder = sampler.into_builder();
    builder.output("y", root, OutputKind::Result);
    builder.finish()
}

/// Every other time an example is the step of a loop, of which some inputs stay the same.
fn frame(window: &Graph, seed: u64) -> Frame {
    let mut random = Random::new(seed);
    let invariant = window.inputs().iter().map(|_| random.below(2) == 0).collect();
    match seed % 2 {
        0 => Frame::default(),
        _ => Frame { steps: 40, invariant, differentiable: random.below(2) == 0 },
    }
}

/// How often a rule fired on its examples, or what it broke.
fn check_rule(rule: Rule) -> Result<usize, String> {
    let (name, example_of, class) = (rule.name, rule.example, rule.class);
    // rules of sums see additions through the rule that makes sums of them
    let sums = all_rules().into_iter().filter(|r| r.name == "add-is-sum" && class == r.class && name != r.name);
    let index = RuleIndex::new([rule].into_iter().chain(sums).collect());
    let mut fired = 0;
    for seed in 0..SEEDS {
        let window = example(&Rule { example: example_of, ..copy(index.rule(0)) }, seed);
        let limits = Limits { iterations: 2, ..Limits::default() };
        let saturated = saturate(&window, &frame(&window, seed), &index, &limits);
        if let StopReason::Poisoned(reason) = &saturated.stop {
            return Err(format!("`{name}` on example {seed}: {reason}"));
        }
        if let Some(broken) = broken_class(&window, &saturated, class, seed) {
            return Err(format!("`{name}` changes values on example {seed}:\n{broken}"));
        }
        fired += usize::from(saturated.applications.iter().any(|a| a.rule == 0));
    }
    Ok(fired)
}

fn copy(rule: &Rule) -> Rule {
    Rule { ..*rule }
}

#[test]
fn rule_laws() {
    for rule in all_rules() {
        let name = rule.name;
        let fired = check_rule(rule).unwrap_or_else(|broken| panic!("{broken}"));
        assert!(fired > SEEDS as usize / 10, "`{name}` fired on {fired} of {SEEDS} of its own examples");
    }
}

#[test]
fn rule_names_are_unique() {
    let mut names: Vec<&str> = all_rules().iter().map(|r| r.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// A rule for tests, whose example is `x·0` and `x + 0`.
fn rule(name: &'static str, rewrite: fn(&super::rules::Site) -> Vec<Term>) -> Rule {
    Rule {
        name,
        family: Family::Layout,
        class: NumericClass::Bitwise,
        pattern: "",
        replacement: "",
        guard: "",
        root: Root::Any,
        rewrite,
        example: |s| {
            let x = s.any()?;
            let zero = s.constant_like(x, 0.0)?;
            if s.below(2) == 0 { s.mul(x, zero) } else { s.add(x, zero) }
        },
    }
}

/// A sum is not twice its first term.
#[test]
fn wrong_reassociations_are_caught() {
    let doubled = |site: &super::rules::Site| match site.op {
        Op::Add(_) => vec![Term::sum(vec![site.args[0].into(), site.args[0].into()])],
        _ => vec![],
    };
    let wrong = Rule { class: NumericClass::Reassociation, ..rule("doubled", doubled) };
    let broken = check_rule(wrong).expect_err("x + 0 is not x + x");
    assert!(broken.contains("doubled"), "{broken}");
}

#[test]
fn wrong_rules_are_caught() {
    let mul_zero = rule("mul-zero", |site| match site.op {
        Op::Mul(_) => vec![site.args[1].into()],
        _ => vec![],
    });
    let add_zero = rule("add-zero", |site| match site.op {
        Op::Add(_) => vec![site.args[0].into()],
        _ => vec![],
    });
    for wrong in [mul_zero, add_zero] {
        let name = wrong.name;
        let broken = check_rule(wrong).expect_err("x·0 and x + 0 are not 0 and x for NaN and −0");
        assert!(broken.contains(name), "{broken}");
    }
}

fn options() -> OptimizeOptions {
    OptimizeOptions::new(Target::of(VectorIsa::Avx2))
}

/// A rule that changes a type, one that builds an ill-typed node and one that makes 1 = 2 leave the window as it is.
#[test]
fn invariant_breaking_rules_poison_the_window() {
    let changes_type = rule("changes-type", |site| match site.op {
        Op::Mul(_) => vec![Term::op(Constant { value: 0.0.into(), dtype: site.ty.dtype, shape: vec![77] }, [])],
        _ => vec![],
    });
    let ill_typed = rule("ill-typed", |site| match site.op {
        Op::Mul(_) => vec![Term::op(Reshape { shape: vec![77] }, [site.args[0].into()])],
        _ => vec![],
    });
    let one_is_two = rule("one-is-two", |site| match site.op {
        Op::Constant(c) => vec![Term::op(Constant { value: 2.0.into(), ..c.clone() }, [])],
        _ => vec![],
    });
    for wrong in [changes_type, ill_typed, one_is_two] {
        let window = example(&wrong, 1);
        let window = (2..20).map(|s| example(&wrong, s)).find(|g| g.nodes().iter().any(is_mul)).unwrap_or(window);
        let name = wrong.name;
        let (after, report) = optimize_with(
            &window,
            &Frame::default(),
            &options(),
            &Rules { first: None, all: &RuleIndex::new(vec![wrong]) },
        )
        .expect("no type error");
        assert_eq!(after.nodes().len(), window.nodes().len(), "`{name}` got through");
        assert!(matches!(report.windows[0].stop, StopReason::Poisoned(_)), "`{name}`: {report}");
    }
}

/// A rule with sound types and wrong values gets past the analysis; the replay of its rewrite does not agree.
#[test]
fn wrong_rules_fail_their_replay() {
    let mul_zero = rule("mul-zero", |site| match site.op {
        Op::Mul(_) => vec![site.args[1].into()],
        _ => vec![],
    });
    let add_zero = rule("add-zero", |site| match site.op {
        Op::Add(_) => vec![site.args[0].into()],
        _ => vec![],
    });
    for wrong in [mul_zero, add_zero] {
        let (name, index) = (wrong.name, RuleIndex::new(vec![copy(&wrong)]));
        let windows = (1..40).map(|seed| example(&wrong, seed));
        let explaining = OptimizeOptions { explain: true, ..options() };
        let replays: Vec<Rewrite> = windows
            .flat_map(|window| {
                optimize_with(&window, &Frame::default(), &explaining, &Rules { first: None, all: &index })
                    .expect("well typed")
                    .1
                    .windows
            })
            .flat_map(|window| window.rewrites)
            .collect();
        let caught: Vec<&Rewrite> = replays.iter().filter(|r| matches!(r.replay, Replay::Differs { .. })).collect();
        assert!(!caught.is_empty(), "`{name}` got past {} replays", replays.len());
        for rewrite in caught {
            assert_eq!(rewrite.bug().code, "internal-replay");
            assert!(rewrite.bug().to_string().contains(name) && rewrite.disagreeing.is_some(), "{rewrite}");
        }
    }
}

fn is_mul(node: &gradc_ir::graph::Node) -> bool {
    matches!(node.def, gradc_ir::graph::Def::Op(Op::Mul(_)))
}

/// All rules together on the examples of all rules: every class of every e-graph holds one value, and the result is
/// the same bits, in the same order, every time.
#[test]
fn all_rules_together_keep_every_bit() {
    let explaining = OptimizeOptions { explain: true, ..options() };
    let index = RuleIndex::of(&Family::ALL.into(), NumericClass::Bitwise);
    for rule in all_rules().iter().filter(|rule| rule.class == NumericClass::Bitwise) {
        for seed in 1000..1030 {
            let window = example(rule, seed);
            let saturated = saturate(&window, &frame(&window, seed), &index, &Limits::default());
            assert_eq!(saturated.egraph.analysis.poison, None, "`{}` {seed}", rule.name);
            if let Some(broken) = broken_class(&window, &saturated, NumericClass::Bitwise, seed) {
                panic!("example {seed} of `{}`:\n{broken}", rule.name);
            }
            let (after, report) = optimize(&window, &explaining).expect("optimizes");
            assert_eq!(super::replay::replay(&window, &after, seed), Ok(0.0), "{report}");
            for rewrite in report.windows.iter().flat_map(|window| &window.rewrites) {
                assert!(rewrite.rule.is_some() && rewrite.replay == Replay::Equal { inputs: 2 }, "{rewrite}");
            }
            assert!(report.after.cost.time_ns <= report.before.cost.time_ns, "{report}");
            assert_eq!(optimize(&window, &explaining).expect("optimizes"), (after, report));
        }
    }
}

/// All rules together, re-association included, on the examples of all rules: every class stays within the bound, and
/// the result is the same every time.
#[test]
fn all_rules_together_stay_within_the_bound() {
    let reassoc = OptimizeOptions { fp: NumericClass::Reassociation, explain: true, ..options() };
    let index = RuleIndex::of(&Family::ALL.into(), NumericClass::Reassociation);
    for rule in all_rules().iter().filter(|rule| rule.class == NumericClass::Reassociation) {
        for seed in 1000..1030 {
            let window = example(rule, seed);
            let frame = frame(&window, seed);
            let saturated = saturate(&window, &frame, &index, &Limits { nodes: 500, ..Limits::default() });
            assert_eq!(saturated.egraph.analysis.poison, None, "`{}` {seed}", rule.name);
            if let Some(broken) = broken_class(&window, &saturated, NumericClass::Reassociation, seed) {
                panic!("example {seed} of `{}`:\n{broken}", rule.name);
            }
            let (after, report) = optimize_in(&window, &frame, &reassoc).expect("optimizes");
            for rewrite in report.windows.iter().flat_map(|window| &window.rewrites) {
                let agrees = matches!(rewrite.replay, Replay::Equal { .. } | Replay::Close { .. });
                assert!(rewrite.rule.is_some() && agrees, "`{}` {seed}: {rewrite}", rule.name);
            }
            // equal costs added in another order may differ in the last bits
            assert!(report.after.cost.time_ns <= report.before.cost.time_ns * (1.0 + 1e-12), "{report}");
            assert_eq!(optimize_in(&window, &frame, &reassoc).expect("optimizes"), (after, report));
        }
    }
}

/// Wherever exploring is cut short, what was found until then is sound.
#[test]
fn any_limit_keeps_every_bit() {
    let mut cut_short = 0;
    for nodes in [5, 10, 20, 40] {
        let limits = Limits { nodes, ..Limits::default() };
        for (seed, rule) in all_rules().iter().enumerate() {
            let window = example(rule, seed as u64);
            let (after, report) = optimize(&window, &OptimizeOptions { limits, ..options() }).expect("optimizes");
            assert_eq!(super::replay::replay(&window, &after, 1), Ok(0.0), "{report}");
            cut_short += report.windows.iter().filter(|w| w.stop == StopReason::NodeLimit).count();
        }
    }
    assert!(cut_short > 20, "only {cut_short} windows reached their limit");
}
