//! `gradc check`: training steps against numbers computed elsewhere.

use super::Failure;
use super::common::{CodeArguments, ModelArguments};
use clap::Args;
use gradc::reference::{Comparison, Reference, Tolerance, Verdict, compare};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Inputs, losses, gradients and tensors afterwards (safetensors)
    #[arg(long)]
    reference: PathBuf,
    /// Per-tensor error of another f32 run (JSON: name to largest absolute difference), the yardstick instead of 1e-3
    #[arg(long, value_name = "FILE")]
    f32_error: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let reference = Reference::read(&arguments.reference)?;
    let tolerance = match &arguments.f32_error {
        Some(path) => Tolerance::read_f32_error(path)?,
        None => Tolerance::Relative,
    };
    let recipe = arguments.model.needed_recipe()?;
    let model = arguments.model.import(Some(&recipe))?;
    let comparison = compare(&model, &recipe, &arguments.code.options()?, &reference, &tolerance)?;
    comparison.notes.iter().for_each(|note| eprintln!("note: {note}"));
    if arguments.json {
        println!("{}", serde_json::json!(comparison));
    } else {
        print_table(&comparison);
    }
    if comparison.ok { Ok(()) } else { Err(Failure::Failed) }
}

fn print_table(comparison: &Comparison) {
    let width = comparison.tensors.iter().map(|t| t.name.len()).max().unwrap_or(4);
    println!("{:width$} {:>12} {:>12} {:>12}", "tensor", "max abs", "scale", "relative");
    for t in &comparison.tensors {
        let verdict = match t.verdict {
            Verdict::Ok => "",
            Verdict::Rounding => "  zero but for rounding",
            Verdict::TooFar => "  too far off",
        };
        println!("{:width$} {:12.3e} {:12.3e} {:12.3e}{verdict}", t.name, t.max_abs, t.scale, t.rel);
    }
    let losses: Vec<String> = comparison.loss.iter().map(|l| format!("{l:.6}")).collect();
    println!("loss {}", losses.join(" "));
    println!("{}", if comparison.ok { "ok: all within tolerance" } else { "FAILED" });
}
