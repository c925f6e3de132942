//! Flags and options.

use crate::files::model;
use crate::{COMPILE, Case, TRAIN, all_told};

fn flags(title: &'static str, more: &str) -> Case {
    Case::new(title, format!("{COMPILE} {more}"))
}

#[test]
fn usage() {
    let cases = [
        Case::new("nothing asked for", ""),
        Case::new("unknown command", "learn m.json"),
        Case::new("no model", "compile"),
        flags("unknown flag", "--frobnicate"),
        flags("unknown target", "--target sparc"),
        flags("unknown backend", "--backend cuda"),
        flags("unknown stage", "--emit assembly"),
        flags("no threads", "--threads 0"),
        flags("too many threads", "--threads 100000"),
        flags("memory limit too small", "--peak-mem 10"),
        flags("memory limit in unknown units", "--peak-mem 10X"),
        flags("memory limit that overflows", "--peak-mem 99999999999G"),
        flags("dimension without a size", "--dim batch"),
        flags("dimension that does not exist", "--dim width=3"),
        flags("negative dimension", "--dim batch=-3"),
        flags("batch of 0", "--batch 0"),
        flags("batch of 2^62", "--batch 4611686018427387904"),
        flags("batch for a model without one", "--batch 4")
            .file("m.json", String::from_utf8_lossy(&model(|_| {})).replace("\"batch\"", "\"rows\"")),
        Case::new("unknown stage to inspect", "inspect m.json --stage bytecode"),
        Case::new("training stage without a recipe", "inspect m.json --stage train"),
        Case::new("training without a recipe", "train m.json --data d.safetensors"),
        Case::new("benchmark without a recipe", "bench m.json"),
        Case::new("trace into a missing folder", "bench m.json --recipe r.json --trace absent/t.json"),
        Case::new("benchmark of negative length", "bench m.json --recipe r.json --seconds -1"),
        Case::new("check without a reference", "check m.json --recipe r.json"),
        Case::new("reference that is data", "check m.json --recipe r.json --reference d.safetensors"),
        Case::new("no data", "train m.json --recipe r.json"),
        Case::new("share of 150 %", format!("{TRAIN} --validation 1.5")),
        Case::new("share that is no number", format!("{TRAIN} --validation NaN")),
        Case::new("two kinds of validation", format!("{TRAIN} --validation 0.5 --validation-tail 2")),
        Case::new("epochs that are no number", "train m.json --recipe r.json --data d.safetensors --epochs many"),
    ];
    insta::assert_snapshot!(all_told(&cases));
}
