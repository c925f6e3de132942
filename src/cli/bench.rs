//! `gradc bench`: time and memory of one training step.

use super::Failure;
use super::common::{CodeArguments, ModelArguments, human_bytes};
use clap::Args;
use gradc::bench::{measure, random_inputs};
use gradc::entries::EntryKind;
use gradc::{Diagnostic, TensorView};
use gradc_frontend::weights;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// How long to measure
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Inputs instead of made ones (safetensors)
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let options = arguments.code.options()?;
    let step = arguments.model.compile(&options)?;
    arguments.model.recipe_for(&step)?;
    let entry =
        step.entry(EntryKind::Step).ok_or_else(|| Diagnostic::new("no-entry", "the package has no training step"))?;
    let tensors = match &arguments.inputs {
        Some(path) => weights::read(path)?,
        None => random_inputs(entry, arguments.model.seed),
    };
    let views: Vec<(&str, TensorView)> = tensors.iter().map(|(name, t)| (name.as_str(), TensorView::from(t))).collect();
    let seconds = Duration::try_from_secs_f64(arguments.seconds)
        .map_err(|e| Diagnostic::new("usage", format!("--seconds: {e}")))?;
    let result = measure(&step, &views, seconds, options.threads).map_err(|e| e.into_diagnostic())?;
    if arguments.json {
        println!("{}", serde_json::json!(result));
    } else {
        println!(
            "{}: median {:.1} µs, min {:.1} µs over {} steps",
            result.model, result.median_us, result.min_us, result.steps
        );
        println!("  {} threads, {} kernels, compiled in {:.2} s", result.threads, result.kernels, result.compile_s);
        let gflops = result.flops_per_step as f64 / result.median_us / 1e3;
        println!("  {:.3} MFLOP per step, {gflops:.1} GFLOP/s", result.flops_per_step as f64 / 1e6);
        println!(
            "  planned peak {}, resident peak {:.1} MiB",
            human_bytes(result.planned_peak_bytes),
            result.peak_rss_mib
        );
    }
    Ok(())
}
