//! What `gradc bench` prints and writes.

use serde_json::Value;
use std::process::Command;

fn bench(arguments: &[&str]) -> Value {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/digits.json");
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/digits.recipe.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradc"));
    command.args(["bench", model, "--recipe", recipe, "--seconds", "0.05", "--json"]).args(arguments);
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

const FIELDS: [&str; 16] = [
    "model",
    "threads",
    "median_us",
    "mean_us",
    "min_us",
    "interrupted_share",
    "steps",
    "compile_s",
    "planned_peak_bytes",
    "worst_case_peak_bytes",
    "guarded_peak_bytes",
    "micro_batches",
    "peak_rss_mib",
    "flops_per_step",
    "kernels",
    "solver_fallbacks",
];

#[test]
fn a_profile_is_one_field_more() {
    let (plain, profiled) = (bench(&[]), bench(&["--profile"]));
    for field in FIELDS {
        assert!(!plain[field].is_null() && !profiled[field].is_null(), "{field}");
    }
    assert!(plain["profile"].is_null());
    let interrupted = plain["interrupted_share"].as_f64().expect("a number");
    assert!((0.0..1.0).contains(&interrupted), "{interrupted}");
    let kernels = profiled["profile"].as_array().expect("a list of kernels");
    // Every kernel of the step and the check of the loss.
    assert_eq!(kernels.len() as u64, profiled["kernels"].as_u64().expect("a number") + 1);
    let products: Vec<&Value> = kernels.iter().filter(|k| k["ops"].as_str().unwrap().contains("dot_general")).collect();
    assert!(!products.is_empty());
    for product in products {
        assert!(product["median_us"].as_f64() > Some(0.0) && product["flops"].as_f64() > Some(0.0), "{product}");
    }
}

#[test]
fn a_trace_has_an_event_per_kernel_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.json");
    let result = bench(&["--trace", path.to_str().expect("the path is text")]);
    let trace: Value = serde_json::from_slice(&std::fs::read(&path).expect("the trace is there")).expect("it is JSON");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    assert_eq!(events.len() as u64, result["kernels"].as_u64().expect("a number") + 1);
    for pair in events.windows(2) {
        let end = pair[0]["ts"].as_f64().expect("a start") + pair[0]["dur"].as_f64().expect("a duration");
        assert!((pair[1]["ts"].as_f64().expect("a start") - end).abs() < 1e-6);
    }
}

/// The constants of the cost model's machine, measured and as they are; needs no model.
#[test]
fn calibration_prints_a_target() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradc"));
    let output = command.args(["bench", "--calibrate"]).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.matches("Target { vector_isa: ").count() == 2, "{text}");
}
