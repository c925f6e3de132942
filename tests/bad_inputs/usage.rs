//! Flags and options.

use crate::files::{features, labels, model, recipe, safetensors};
use crate::{COMPILE, Case, TRAIN, all_told, gradc};

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
        Case::new("window that does not exist", "explain m.json --recipe r.json --window 99"),
        Case::new("rule that does not exist", "explain m.json --recipe r.json --rule fold"),
        Case::new("picture of another kind", "explain m.json --recipe r.json --graph g.png"),
        Case::new("two batch sizes", "compile m.json --batch 4 --dim batch=3"),
        Case::new("no data", "train m.json --recipe r.json"),
        Case::new("share of 150 %", format!("{TRAIN} --validation 1.5")),
        Case::new("share that is no number", format!("{TRAIN} --validation NaN")),
        Case::new("two kinds of validation", format!("{TRAIN} --validation 0.5 --validation-tail 2")),
        Case::new("epochs that are no number", "train m.json --recipe r.json --data d.safetensors --epochs many"),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

/// What a package cannot do any more is refused, not ignored.
#[test]
fn packages() {
    const PACK: &str = "compile m.json --recipe r.json -o p.gradc";
    let package = |title, command: &str| Case::new(title, command).after(PACK);
    let other = recipe(|r| r["optimizer"]["lr"] = serde_json::json!(0.2));
    let cases = [
        package("another batch size", "compile p.gradc --batch 4"),
        package("a dimension", "bench p.gradc --dim batch=4"),
        package("weights", "bench p.gradc --weights d.safetensors"),
        package("other rewrites", "bench p.gradc --fp reassoc"),
        package("memory limit", "bench p.gradc --peak-mem 1K"),
        package("unrolled loops", "bench p.gradc --no-roll"),
        package("stages", "compile p.gradc --emit train"),
        package("a stage", "inspect p.gradc"),
        package("rewrites", "explain p.gradc"),
        package("comparison", "check p.gradc --recipe r.json --reference loss.safetensors")
            .file("loss.safetensors", safetensors(&[("loss", features())])),
        package("another recipe", &TRAIN.replace("m.json", "p.gradc").replace("r.json", "other.json"))
            .file("other.json", other),
        Case::new("recipe for a package without one", "bench p.gradc --recipe r.json")
            .after("compile m.json -o p.gradc"),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

/// Where data comes from is not part of a package.
#[test]
fn packages_train_on_other_columns() {
    let folder = tempfile::tempdir().expect("a folder");
    let renamed = recipe(|r| r["data"] = serde_json::json!({"x": {"column": "features"}}));
    let columns = safetensors(&[("features", features()), ("target", labels([0, 1, 2, 3, 0, 1, 2, 3]))]);
    let valid =
        [("m.json", model(|_| {})), ("r.json", recipe(|_| {})), ("other.json", renamed), ("d.safetensors", columns)];
    for (name, content) in valid {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    let commands = [
        "compile m.json --recipe r.json -o p.gradc",
        "train p.gradc --recipe other.json --data d.safetensors --epochs 1 --out run --quiet",
    ];
    for command in commands {
        assert_eq!(gradc(folder.path(), command), (Some(0), String::new()), "{command}");
    }
}
