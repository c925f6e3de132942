//! Unrolled solvers in files: what is rolled computes the same bits as the flat graph, natively and in the interpreter.

mod common;

use gradc::{CompiledStep, HostTensor, ImportOptions, Model, Options, Recipe, Stage, import};
use gradc_frontend::recipe::{Solver, SolverBackward};
use gradc_ir::graph::Role;
use gradc_passes::egraph::replay;
use gradc_passes::expand_regions::{ExpandLimits, expand_regions};
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
    assert!(run(rolled) == run(flat), "{name}: rolled, it has other bits");
}

#[test]
fn the_sparse_coder_rolls_from_every_format() {
    for file in ["model.pt2", "model.onnx", "model_dynamo.onnx"] {
        if let Some((model, recipe)) = reference(file) {
            assert_rolls(file, &model, &recipe, 40);
        }
    }
}

/// An example's or a bundled model's recurrence written out step by step, and a recipe that trains loops as loops.
fn written_out(name: &str) -> (Model, Recipe) {
    let (model, recipe) = match name {
        "lstm" => common::bundled(name),
        _ => {
            let [model, recipe] = ["json", "recipe.json"].map(|e| common::file(&format!("examples/models/{name}.{e}")));
            let model = import(&model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
            (model, Recipe::from_file(&recipe).unwrap_or_else(|e| panic!("{name}: {e}")))
        }
    };
    let flat = |graph| expand_regions(graph).expect("it unrolls");
    let (train, infer) = (flat(&model.train), flat(&model.infer));
    let solvers = vec![Solver { at: "*".into(), backward: SolverBackward::Exact, tolerance: Default::default() }];
    (Model { train, infer, ..model }, Recipe { solvers, ..recipe })
}

#[test]
fn what_is_rolled_trains_with_the_bits_of_the_flat_graph() {
    for name in ["ista", "qp", "lstm"] {
        let (model, recipe) = written_out(name);
        let flat_recipe = Recipe { solvers: vec![], ..recipe.clone() };
        let compiled = |roll, recipe| {
            let expand = ExpandLimits { loop_nodes: 0, ..ExpandLimits::default() };
            let options = Options { roll, expand, emit: vec![Stage::Train], ..Options::default() };
            gradc::compile(&model, Some(recipe), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let (rolled, flat) = (compiled(true, &recipe), compiled(false, &flat_recipe));
        let [loops, none] = [&rolled, &flat].map(|step| step.report().texts[0].2.matches("scan").count());
        assert!(loops >= 2 && none == 0, "{name}: {loops} loops forward and backward, {none} in the flat graph");
        assert!(run(rolled) == run(flat), "{name}: rolled, it has other bits");
    }
}
