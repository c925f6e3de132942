//! Limits of memory that nothing but taking the batch in parts can hold, natively.

mod common;

use common::{BUNDLED, batch, bundled, compiled, kept, step_on};
use gradc::entries::EntryKind;
use gradc::{CompiledStep, HostTensor, Options, TensorView};
use std::collections::BTreeMap;

/// Largest difference after a few steps, relative to the largest magnitude of a tensor: sums of f32 terms in another
/// order, and Adam's quotients of moments that they make.
const TOLERANCE: f32 = 2e-3;

fn planned_bytes(step: &CompiledStep) -> usize {
    step.report().arena_bytes() + step.persistent_bytes()
}

/// The model compiled for the largest limit at which its step is taken in parts, stepping down by an eighth of the arena;
/// `None` if that never fits.
fn in_parts(name: &str, options: &Options) -> Option<(CompiledStep, usize)> {
    let (model, recipe) = bundled(name);
    let free = compiled(name, options);
    let (kept_bytes, arena_bytes) = (free.persistent_bytes(), free.report().arena_bytes());
    (1..8).rev().find_map(|eighths| {
        let limit = kept_bytes + arena_bytes * eighths / 8;
        let options = Options { peak_mem_bytes: Some(limit), ..options.clone() };
        match gradc::compile(&model, Some(&recipe), &options) {
            Ok(step) => step.report().entries[0].parts.is_some().then_some((step, limit)),
            Err(problems) => {
                assert!(problems.0.iter().all(|d| d.code == "peak-mem"), "{name}: {problems}");
                None
            }
        }
    })
}

fn assert_near(what: &str, found: &HostTensor, expected: &HostTensor) {
    let (Some(found), Some(expected)) = (found.to_f32(), expected.to_f32()) else {
        return assert_eq!(found, expected, "{what}");
    };
    let scale = expected.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
    let apart = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    assert!(apart <= TOLERANCE * scale, "{what}: {apart:e} apart at a scale of {scale:e}");
}

#[test]
fn parts_fit_and_train_alike() {
    let mut fitted = vec![];
    for name in BUNDLED.into_iter().chain(["images"]) {
        let Some((limited, limit)) = in_parts(name, &Options::default()) else { continue };
        assert!(planned_bytes(&limited) <= limit, "{name}: {} of {limit}", planned_bytes(&limited));
        let entry = &limited.report().entries[0];
        let parts = entry.parts.clone().expect("the step is taken in parts");
        assert!(parts.parts > 1 && parts.examples.is_multiple_of(parts.parts), "{name}: {parts:?}");
        assert!(entry.arena_bytes < parts.without_bytes, "{name}: {parts:?}");
        let cost = limited.report().training.expect("it trains");
        assert!(cost.backward_flops > cost.forward_flops && cost.saved_bytes > 0, "{name}: {cost:?}");
        let [mut a, mut b] =
            [compiled(name, &Options::default()), limited].map(|step| step.session().expect("a session"));
        for seed in 0..3 {
            let inputs = batch(a.compiled(), seed);
            let losses = [step_on(&mut a, &inputs), step_on(&mut b, &inputs)];
            assert!((losses[0] - losses[1]).abs() <= TOLERANCE * losses[0].abs().max(1.0), "{name} {seed}: {losses:?}");
        }
        let (expected, found) = (kept(&a), kept(&b));
        for (tensor, value) in &expected {
            assert_near(&format!("{name}: {tensor}"), &found[tensor], value);
        }
        fitted.push(name);
    }
    assert!(fitted.len() > 3 && fitted.contains(&"images"), "only {fitted:?} fit in parts");
}

#[test]
fn importances_measured_in_parts_are_those_of_the_batch() {
    let options = Options { importances: true, ..Options::default() };
    let measured = |step: &CompiledStep| {
        let inputs = batch(step, 1);
        let views: Vec<(&str, TensorView)> = inputs.iter().map(|(n, t)| (n.as_str(), TensorView::from(t))).collect();
        let mut session = step.session().expect("a session");
        let outputs = session.call(EntryKind::Step, &views).expect("a valid step");
        let worth = outputs.iter().filter(|(name, _)| name.starts_with("importance."));
        worth
            .map(|(name, value)| (name.to_string(), value.to_host().to_tensor().floats()[0]))
            .collect::<BTreeMap<_, _>>()
    };
    let mut fitted = vec![];
    for name in BUNDLED {
        let Some((limited, _)) = in_parts(name, &options) else { continue };
        let (expected, found) = (measured(&compiled(name, &options)), measured(&limited));
        assert!(!expected.is_empty() && expected.keys().eq(found.keys()), "{name}: {:?}", found.keys());
        for (parameter, value) in &expected {
            let found = found[parameter];
            assert!((found - value).abs() <= f64::from(TOLERANCE) * value, "{name}: {parameter} {found}, not {value}");
        }
        fitted.push(name);
    }
    assert!(fitted.len() >= 3, "only {fitted:?} fit in parts");
}
