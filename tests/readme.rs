//! README says how many operators are read, and that is how many there are.

use gradc_frontend::import::{onnx, torch_export};
use std::fs;
use std::path::Path;

#[test]
fn operators_are_counted() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README is there");
    let counts = format!("{} ATen ops, {} ONNX operators", torch_export::operators().len(), onnx::operators().len());
    assert!(text.contains(&counts), "README should say: {counts}");
}
