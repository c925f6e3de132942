//! Convolutions are products of rows found through tables, however few channels they have: as loops, or packed element by
//! element, they take ten times as long and more.

use gradc::entries::EntryKind;
use gradc::{ImportOptions, Options, Recipe};
use gradc_codegen::Engine;
use std::path::Path;

/// Three convolutions to and from a number of channels; their gradients are three of weights and two of inputs, one of
/// these through a strided window.
fn model(channels: usize) -> String {
    format!(
        r#"{{
  "gradc": 1,
  "inputs": [{{"name": "x", "shape": [4, 8, 16, 16]}}],
  "parameters": [
    {{"name": "into.weight", "shape": [{channels}, 8, 3, 3], "init": {{"kind": "kaiming_uniform"}}}},
    {{"name": "from.weight", "shape": [8, {channels}, 3, 3], "init": {{"kind": "kaiming_uniform"}}}},
    {{"name": "last.weight", "shape": [{channels}, 8, 3, 3], "init": {{"kind": "kaiming_uniform"}}}}
  ],
  "nodes": [
    {{"name": "into", "op": "conv2d", "inputs": ["x", "into.weight"], "attrs": {{"padding": 1}}}},
    {{"name": "from", "op": "conv2d", "inputs": ["into", "from.weight"], "attrs": {{"padding": 1, "stride": 2}}}},
    {{"name": "last", "op": "conv2d", "inputs": ["from", "last.weight"], "attrs": {{"padding": 1}}}}
  ],
  "outputs": [{{"name": "y", "value": "last"}}]
}}"#
    )
}

const RECIPE: &str =
    r#"{"loss": {"kind": "mse", "prediction": "y"}, "optimizer": {"kind": "sgd", "lr": 0.1}, "trainable": ["*"]}"#;

fn written(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the folder can be written");
    path
}

#[test]
fn convolutions_of_few_channels_are_products_of_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = Recipe::from_file(&written(folder.path(), "recipe.json", RECIPE)).expect("a recipe");
    for channels in 1..=5 {
        let path = written(folder.path(), "model.json", &model(channels));
        let model = gradc::import(&path, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let step = gradc::compile(&model, Some(&recipe), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let by_rows = step.engines(EntryKind::Step).iter().filter(|&&engine| engine == Some(Engine::Rows)).count();
        assert_eq!(by_rows, 8, "{channels} channels");
    }
}
