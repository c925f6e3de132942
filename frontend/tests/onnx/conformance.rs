//! ONNX's own operator tests, where somebody has unpacked them.
//!
//! `GRADC_ONNX_CASES` names a folder with one folder per case: `model.onnx`, and `io.safetensors` with tensors
//! `in.<name>` and `out.<name>`. A case whose operator is not supported must say so; any other must agree.

use super::reference::read_safetensors;
use gradc_frontend::import::import;
use gradc_frontend::model::ImportOptions;
use gradc_ir::interpret::step;
use gradc_ir::tensor::{Data, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Cases that hand in negative indices as data. A session refuses those before a step; the interpreter has none.
const NEGATIVE_DATA_INDICES: [&str; 3] = [
    "test_gather_elements_negative_indices",
    "test_gather_negative_indices",
    "test_scatter_elements_with_negative_indices",
];

/// How a case came out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Agrees,
    Refused(String),
    Differs(String),
}

fn close(found: &Tensor, expected: &Tensor) -> bool {
    let near = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-4 + 1e-4 * b.abs();
    found.ty == expected.ty
        && match (&found.data, &expected.data) {
            (Data::Float(a), Data::Float(b)) => a.iter().zip(b).all(near),
            (a, b) => a == b,
        }
}

fn run(folder: &Path) -> Verdict {
    let tensors = read_safetensors(&folder.join("io.safetensors"));
    let model = match import(&folder.join("model.onnx"), &ImportOptions::default()) {
        Ok(model) => model,
        Err(e) => return Verdict::Refused(e.0.iter().map(|d| format!("{}: {}", d.code, d.message)).collect()),
    };
    // a training graph's updates are its own business, its results are the operator's
    let mut state: HashMap<String, Tensor> = model.tensors.iter().map(|(n, t)| (n.clone(), t.to_tensor())).collect();
    state.extend(tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("in.")?.to_string(), t.to_tensor()))));
    let results = match step(&model.train, &mut state) {
        Ok(results) => results,
        Err(e) => return Verdict::Differs(e.to_string()),
    };
    for (name, expected) in tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("out.")?, t.to_tensor()))) {
        match results.get(name) {
            Some(found) if close(found, &expected) => {}
            found => {
                return Verdict::Differs(format!("`{name}`: {:?} instead of {:?}", found.map(|f| &f.ty), expected.ty));
            }
        }
    }
    Verdict::Agrees
}

#[test]
fn operators_follow_the_standard() {
    let Some(cases) = std::env::var_os("GRADC_ONNX_CASES") else {
        eprintln!("SKIPPED: GRADC_ONNX_CASES is not set");
        return;
    };
    let cases = std::fs::read_dir(cases).expect("the folder of cases is readable");
    let verdicts: BTreeMap<String, Verdict> = cases
        .map(|entry| entry.expect("the folder of cases is readable"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| !NEGATIVE_DATA_INDICES.contains(&name.as_str()))
        .map(|(name, path)| (name, run(&path)))
        .collect();
    verdicts.iter().for_each(|(name, verdict)| eprintln!("{name}: {verdict:?}"));
    assert!(verdicts.values().any(|v| *v == Verdict::Agrees), "no case was run");
    assert!(!verdicts.values().any(|v| matches!(v, Verdict::Differs(_))), "some cases differ");
}
