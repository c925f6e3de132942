//! What is kept between steps in another order than row-major enters and leaves a session in that.

mod common;

use common::{batch, bundled, compiled, kept, step_on};
use gradc::{CompiledStep, Options, Session, Stage, TensorView};
use gradc_frontend::recipe::Trainable;
use gradc_ir::graph::{Def, Input};
use gradc_ir::ops::Op;
use gradc_ir::plan::Schedule;
use gradc_ir::text;
use gradc_passes::memory::{SharedLayout, check_plan};

/// The schedule of the training step of a model.
fn scheduled(step: &CompiledStep) -> Schedule {
    let (_, _, plan) = step.report().texts.iter().find(|(_, entry, _)| *entry == "step").expect("it was asked for");
    text::parse_plan(plan).expect("what is printed parses").schedule
}

/// What the training step of a model stores in another order between its steps.
fn reordered(step: &CompiledStep) -> Vec<String> {
    let schedule = scheduled(step);
    let kept = schedule.graph.inputs().iter().filter(|i| i.role.is_persistent());
    kept.filter(|i| schedule.layouts.contains_key(&i.value)).map(|i| i.name.clone()).collect()
}

#[test]
fn entries_have_to_agree_on_it() {
    let step = compiled("images", &Options { emit: vec![Stage::Memory], ..Options::default() });
    let plan = text::parse_plan(&step.report().texts[0].2).expect("what is printed parses");
    let row_major = SharedLayout::of([&plan.schedule.graph]);
    let told = check_plan(&plan, &row_major).expect_err("another entry may take it to be in row-major order");
    assert!(told.message.contains("another order than it is kept in"), "{told}");
    let layout = |i: &Input| Some((i.name.clone(), plan.schedule.layouts.get(&i.value)?.clone()));
    let kept = plan.schedule.graph.inputs().iter().filter_map(layout).collect();
    check_plan(&plan, &SharedLayout { kept, ..row_major }).unwrap_or_else(|e| panic!("{e}"));
}

fn trained(step: &CompiledStep, steps: u64) -> Session {
    let mut session = step.session().expect("a session");
    (0..steps).for_each(|seed| _ = step_on(&mut session, &batch(step, seed)));
    session
}

#[test]
fn weights_of_windows_and_their_moments_are_stored_as_they_are_multiplied() {
    let step = compiled("images", &Options { emit: vec![Stage::Memory], ..Options::default() });
    let moments = |name: &str| ["m", "v"].map(|moment| format!("adam.{moment}.{name}"));
    let mut expected: Vec<String> = ["first.weight", "second.weight"].map(String::from).to_vec();
    expected.extend(["first.weight", "second.weight"].iter().flat_map(|name| moments(name)));
    let mut found = reordered(&step);
    [&mut found, &mut expected].into_iter().for_each(|names| names.sort());
    assert_eq!(found, expected);
}

#[test]
fn parts_of_a_batch_read_them_as_they_are_kept() {
    let (model, recipe) = bundled("images");
    let whole = compiled("images", &Options::default());
    let limit = whole.persistent_bytes() + whole.report().arena_bytes() / 2;
    let options = Options { peak_mem_bytes: Some(limit), emit: vec![Stage::Memory], ..Options::default() };
    let step = gradc::compile(&model, Some(&recipe), &options).unwrap_or_else(|e| panic!("{e}"));
    assert!(step.report().micro_batches() > 1 && !reordered(&step).is_empty());
    let graph = scheduled(&step).graph;
    let copied = graph.nodes().iter().filter(|node| matches!(node.def, Def::Op(Op::Copy(_))));
    let inputs: Vec<_> = copied.filter_map(|node| graph.input_of(node.operands[0])).map(|input| &input.name).collect();
    assert!(inputs.is_empty(), "{inputs:?} are copied for the loop over the parts");
}

#[test]
fn they_start_and_are_set_in_row_major_order() {
    let (model, _) = bundled("images");
    let mut session = compiled("images", &Options::default()).session().expect("a session");
    let mut value = model.tensors["second.weight"].clone();
    let found = |session: &Session| session.parameter("second.weight").expect("it is kept").to_host();
    assert_eq!(found(&session), value);
    value.bytes_mut().reverse();
    session.set_parameter("second.weight", TensorView::from(&value)).expect("the same type");
    assert_eq!(found(&session), value);
}

#[test]
fn checkpoints_and_packages_have_them_in_row_major_order() {
    let step = compiled("images", &Options::default());
    let session = trained(&step, 2);
    let folder = tempfile::tempdir().expect("a folder");
    let [checkpoint, package] = ["checkpoint.safetensors", "images.gradc"].map(|name| folder.path().join(name));
    session.save(&checkpoint).expect("it is written");
    gradc::package::save(&step, &package).unwrap_or_else(|e| panic!("{e}"));
    let stored = gradc_frontend::weights::read(&checkpoint).expect("a checkpoint");
    assert_eq!(stored["second.weight"], kept(&session)["second.weight"]);

    let loaded = gradc::package::load(&package, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(kept(&loaded.session().expect("a session")), kept(&step.session().expect("a session")));
    let mut resumed = loaded.session().expect("a session");
    resumed.load(&checkpoint).expect("the same model");
    assert_eq!(kept(&resumed), kept(&session));
    let inputs = batch(&step, 2);
    let [a, b] = [resumed, session].map(|mut session| (step_on(&mut session, &inputs), kept(&session)));
    assert_eq!(a, b);
}

/// A step in which other parameters train keeps them in its own order.
#[test]
fn they_go_on_in_another_step() {
    let (model, recipe) = bundled("images");
    let head = gradc::Recipe { trainable: Some(vec![Trainable::Glob("fc.*".into())]), ..recipe };
    let options = Options { emit: vec![Stage::Memory], ..Options::default() };
    let other = gradc::compile(&model, Some(&head), &options).unwrap_or_else(|e| panic!("{e}"));
    assert!(!reordered(&other).iter().any(|name| name.contains("adam")), "frozen weights have no moments");
    let session = trained(&compiled("images", &Options::default()), 2);
    let (before, after) = (kept(&session), kept(&session.continue_with(&other).expect("the same model")));
    assert!(after.iter().all(|(name, tensor)| before[name] == *tensor));
}
