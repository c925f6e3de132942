//! What the optimizer makes of small models, as text: a change of a rule or of a cost shows here.

mod common;

use gradc::{Options, Stage};
use gradc_ir::target::{Target, VectorIsa};

/// The text without the places nodes come from.
fn without_places(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(" #").map_or(line, |(node, _)| node).to_string() + "\n").collect()
}

#[test]
fn optimized_steps() {
    let target = Target::of(VectorIsa::Avx2);
    let options = Options { emit: vec![Stage::Optimized], target, threads: 1, ..Options::default() };
    for name in common::BUNDLED {
        let step = common::compiled(name, &options);
        let text = step.report().texts.iter().find(|(_, entry, _)| *entry == "step").map(|(_, _, text)| text);
        insta::assert_snapshot!(name, without_places(text.expect("the stage was asked for")));
    }
}
