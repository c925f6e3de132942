//! Unrolled solvers in files: what is rolled computes the same bits as the flat graph, natively and in the interpreter.

mod common;

use gradc::{CompiledStep, HostTensor, ImportOptions, Model, Options, Recipe, import};
use gradc_frontend::recipe::{Solver, SolverBackward};
use gradc_ir::graph::Role;
use gradc_passes::egraph::replay;
use gradc_passes::roll::roll;
use std::collections::BTreeMap;

/// A file of the sparse coder among the reference models, and its recipe.
fn reference(file: &str) -> Option<(Model, Recipe)> {
    let folder = common::shared("reference/models")?.join("ista_denoiser");
    let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
    Some((import(&folder.join(file), &ImportOptions::default()).expect("it imports"), recipe))
}

/// Losses of three steps, and everything kept after them.
type Run = (Vec<f32>, BTreeMap<String, HostTensor>);

fn run(step: CompiledStep) -> Run {
    let mut session = step.session().expect("a session");
    let inputs = common::batch(session.compiled(), 5);
    let losses = (0..3).map(|_| common::step_on(&mut session, &inputs)).collect();
    (losses, common::kept(&session))
}

/// Holds a model to have one loop of `steps` steps in both of its graphs, and rolled steps to flat ones.
fn assert_rolls(name: &str, model: &Model, recipe: &Recipe, steps: usize) {
    for graph in [&model.train, &model.infer] {
        let (rolled, report) = roll(graph).expect("rolls");
        let found: Vec<_> = report.rolled.iter().map(|l| (l.into, l.steps, l.carries)).collect();
        assert_eq!(found, [("iterate", steps, 1)], "{name}: {report}");
        assert_eq!(replay(graph, &rolled, 1), Ok(0.0), "{name}");
        let parameters = |g: &gradc_ir::graph::Graph| g.inputs().iter().filter(|i| i.role == Role::Parameter).count();
        assert_eq!(parameters(graph), parameters(&rolled), "{name}");
    }
    let compiled = |roll, recipe: &Recipe| {
        let options = Options { roll, ..Options::default() };
        gradc::compile(model, Some(recipe), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let (rolled, flat) = (compiled(true, recipe), compiled(false, recipe));
    assert_eq!((rolled.report().rolls.len(), flat.report().rolls.len()), (2, 0), "{name}");
    assert!(rolled.report().kernels < flat.report().kernels, "{name}: the step has loops");
    let (rolled, flat) = (run(rolled), run(flat));
    assert_near(name, &rolled, &flat);
    let unrolled = Recipe { solvers: vec![unrolled_everywhere()], ..recipe.clone() };
    assert!(run(compiled(true, &unrolled)) == flat, "{name}: unrolled again, it has other bits");
}

/// The same but for what fused multiply-adds round: where a loop ends, a sum and its last product are two kernels.
fn assert_near(name: &str, rolled: &Run, flat: &Run) {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    assert!(rolled.0.iter().zip(&flat.0).all(close), "{name}: losses {:?} and {:?}", rolled.0, flat.0);
    for (of, kept) in &rolled.1 {
        let [rolled, flat] = [kept, &flat.1[of]].map(|t| t.to_f32());
        let both = rolled.into_iter().flatten().zip(flat.into_iter().flatten());
        both.for_each(|(a, b)| assert!(close((&a, &b)), "{name}, {of}: {a} and {b}"));
    }
}

fn unrolled_everywhere() -> Solver {
    Solver { at: "*".into(), backward: SolverBackward::Unrolled, tolerance: Default::default() }
}

#[test]
fn the_sparse_coder_rolls_from_every_format() {
    for file in ["model.pt2", "model.onnx", "model_dynamo.onnx"] {
        if let Some((model, recipe)) = reference(file) {
            assert_rolls(file, &model, &recipe, 40);
        }
    }
}
