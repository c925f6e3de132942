//! Unrolled solvers in files: what is rolled computes the same bits as the flat graph, natively and in the interpreter.

mod common;

use gradc::{CompiledStep, ImportOptions, Model, Options, Recipe, import};
use gradc_ir::graph::Role;
use gradc_passes::egraph::replay;
use gradc_passes::roll::roll;

/// A file of the sparse coder among the reference models, and its recipe.
fn reference(file: &str) -> Option<(Model, Recipe)> {
    let folder = common::shared("reference/models")?.join("ista_denoiser");
    let recipe = Recipe::from_file(&folder.join("recipe.json")).expect("the recipe is valid");
    Some((import(&folder.join(file), &ImportOptions::default()).expect("it imports"), recipe))
}

/// Losses of three steps, and everything kept after them, bit for bit.
fn run(step: CompiledStep) -> impl PartialEq {
    let mut session = step.session().expect("a session");
    let inputs = common::batch(session.compiled(), 5);
    let losses: Vec<u32> = (0..3).map(|_| common::step_on(&mut session, &inputs).to_bits()).collect();
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
    let compiled = |roll| gradc::compile(model, Some(recipe), &Options { roll, ..Options::default() });
    let [rolled, flat] = [true, false].map(|roll| compiled(roll).unwrap_or_else(|e| panic!("{name}: {e}")));
    assert_eq!((rolled.report().rolls.len(), flat.report().rolls.len()), (2, 0), "{name}");
    assert!(run(rolled) == run(flat), "{name}: rolled steps have other bits");
}

#[test]
fn the_sparse_coder_rolls_from_every_format() {
    for file in ["model.pt2", "model.onnx", "model_dynamo.onnx"] {
        if let Some((model, recipe)) = reference(file) {
            assert_rolls(file, &model, &recipe, 40);
        }
    }
}
