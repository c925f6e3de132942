//! Programs of torch.export, one for each family of ATen ops, against PyTorch's numbers: losses, and every gradient.
//!
//! Some are there as ONNX too. `tests/cases/aten/make.py` says what they are, and made them. Tolerances are those of
//! `tests/reference_models.rs`.

mod common;

use common::file;
use gradc::reference::{Reference, Tolerance, Verdict, compare};
use gradc::{ImportOptions, Options, Recipe};

/// Trains a family's program for two steps. The recipe for ONNX files names what trains, for their constants could.
fn check(family: &str, ending: &str) {
    let path = |ending: &str| file(&format!("tests/cases/aten/{family}.{ending}"));
    let model = gradc::import(&path(ending), &ImportOptions::default()).unwrap_or_else(|e| panic!("{family}: {e}"));
    let recipe =
        Recipe::from_file(&file(&format!("tests/cases/aten/{ending}.recipe.json"))).unwrap_or_else(|e| panic!("{e}"));
    let reference = Reference::read(&path("safetensors")).unwrap_or_else(|e| panic!("{e}"));
    let tolerance = Tolerance::read_f32_error(&path("f32.json")).unwrap_or_else(|e| panic!("{e}"));
    let options = Options { threads: 1, ..Options::default() };
    let found = compare(&model, &recipe, &options, &reference, &tolerance).unwrap_or_else(|e| panic!("{family}: {e}"));
    let wrong: Vec<_> = found.tensors.iter().filter(|t| t.verdict == Verdict::TooFar).collect();
    assert!(wrong.is_empty(), "{family}: {wrong:#?}");
    assert!(found.tensors.len() > 10, "{family}: the loss and a gradient for each op");
}

macro_rules! families {
    ($($family:ident),+ $(,)?) => {
        $(#[test]
        fn $family() {
            check(stringify!($family), "pt2");
        })+

        #[test]
        fn every_family_is_checked() {
            let folder = std::fs::read_dir(file("tests/cases/aten")).expect("the folder is there").flatten();
            let names = folder.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".pt2")?.to_string()));
            let mut found: Vec<String> = names.collect();
            found.sort();
            assert_eq!(found, [$(stringify!($family)),+]);
        }
    };
}

families! { activation, combine, image, index, inverse, loss, math, module, product, rearrange, reduction, region, sample }

#[test]
fn onnx_programs_are_the_same() {
    for family in ["activation", "index", "inverse", "sample"] {
        check(family, "onnx");
    }
}
