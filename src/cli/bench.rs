//! `gradc bench`: time and memory of one training step.

use super::Failure;
use super::common::{CodeArguments, ModelArguments, human_bytes, print_fallbacks};
use clap::Args;
use gradc::bench::{Measurement, measure, random_inputs};
use gradc::calibrate::measured_target;
use gradc::entries::EntryKind;
use gradc::profile::{KernelTime, chrome_trace, profile};
use gradc::{Diagnostic, Options, TensorView};
use gradc_codegen::Limits;
use gradc_codegen::process::release_unused_memory;
use gradc_frontend::replace::Replacement;
use gradc_frontend::weights;
use gradc_ir::target::Target;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct Arguments {
    // Absent only under `--calibrate`.
    #[command(flatten)]
    model: Option<ModelArguments>,
    #[command(flatten)]
    code: CodeArguments,
    /// Measure what the cost model takes this machine for, and compare with what is checked in
    #[arg(long, exclusive = true)]
    calibrate: bool,
    /// How long to measure
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Inputs instead of made ones (safetensors)
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// Also say where the time goes: kernel by kernel, against the measured limits of this machine
    #[arg(long)]
    profile: bool,
    /// Write one step's kernels to this file, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Some(model) = &arguments.model else {
        print_calibration();
        return Ok(());
    };
    let options = arguments.code.options()?;
    let trace = arguments.trace.as_deref().map(Trace::create).transpose()?;
    let step = model.compile(&options)?;
    model.recipe_for(&step)?;
    let entry =
        step.entry(EntryKind::Step).ok_or_else(|| Diagnostic::new("no-entry", "the package has no training step"))?;
    let tensors = match &arguments.inputs {
        Some(path) => weights::read(path)?,
        None => random_inputs(entry, model.seed),
    };
    let views: Vec<(&str, TensorView)> = tensors.iter().map(|(name, t)| (name.as_str(), TensorView::from(t))).collect();
    let seconds = Duration::try_from_secs_f64(arguments.seconds)
        .map_err(|e| Diagnostic::new("usage", format!("--seconds: {e}")))?;
    let session = step.into_session()?;
    // Making a session runs other code than its steps.
    release_unused_memory();
    let result = measure(session, &views, seconds, options.threads).map_err(|e| e.into_diagnostic())?;
    let profiled = arguments.profile || arguments.trace.is_some();
    let kernels = if profiled { profiled_kernels(model, &options, &views, seconds)? } else { vec![] };
    if let Some(trace) = trace {
        trace.write(&chrome_trace(&kernels))?;
    }
    if arguments.json {
        let mut object = serde_json::json!(result);
        if arguments.profile {
            object["profile"] = serde_json::json!(kernels);
        }
        println!("{object}");
        return Ok(());
    }
    print(&result);
    if arguments.profile {
        print_kernels(&kernels, &Limits::measure(options.target.vector_isa), options.threads);
    }
    Ok(())
}

/// Both as [`Target::host`] has them, to be put there for machines of this class.
fn print_calibration() {
    println!("measured   {:?}", measured_target());
    println!("checked in {:?}", Target::host());
}

/// A file that is written when all is measured; whether it can be is known before.
struct Trace<'a> {
    path: &'a Path,
    replacement: Replacement,
}

impl Trace<'_> {
    fn create(path: &Path) -> Result<Trace<'_>, Diagnostic> {
        let replacement = Replacement::of(path).map_err(|e| unwritable(path, e))?;
        Ok(Trace { path, replacement })
    }

    fn write(mut self, events: &serde_json::Value) -> Result<(), Diagnostic> {
        let written = write!(self.replacement.file(), "{events}").and_then(|()| self.replacement.finish());
        written.map_err(|e| unwritable(self.path, e))
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Diagnostic {
    Diagnostic::new("unwritable-file", error.kind().to_string())
        .in_file(path.display())
        .expected("a folder that exists and can be written")
}

/// Share by which the mean has to be above the median for that to be explained.
const NOTABLE: f64 = 0.03;

fn print(result: &Measurement) {
    println!(
        "{}: median {:.1} µs, mean {:.1} µs, min {:.1} µs over {} steps",
        result.model, result.median_us, result.mean_us, result.min_us, result.steps
    );
    if result.mean_us > (1.0 + NOTABLE) * result.median_us {
        let percent = 100.0 * result.interrupted_share;
        println!(
            "  a loop that only reads the clock was interrupted for {percent:.1} % of the time: what is rare and long is in the mean alone"
        );
    }
    println!("  {} threads, {} kernels, compiled in {:.2} s", result.threads, result.kernels, result.compile_s);
    if result.threads > 1 && !result.shared {
        println!("  the last steps ran on one thread: shared, they take longer");
    }
    let gflops = result.flops_per_step as f64 / result.median_us / 1e3;
    println!("  {:.3} MFLOP per step, {gflops:.1} GFLOP/s", result.flops_per_step as f64 / 1e6);
    println!("  planned peak {}, resident peak {:.1} MiB", human_bytes(result.planned_peak_bytes), result.peak_rss_mib);
    if result.micro_batches > 1 {
        println!("  the batch is taken in {} parts", result.micro_batches);
    }
    if result.guarded_peak_bytes < result.worst_case_peak_bytes {
        println!("  peak as long as every guard holds {}", human_bytes(result.guarded_peak_bytes));
    }
    print_fallbacks(&result.solver_fallbacks);
}

/// Compiles again, with clocks, and measures every kernel.
fn profiled_kernels(
    model: &ModelArguments,
    options: &Options,
    views: &[(&str, TensorView)],
    time: Duration,
) -> Result<Vec<KernelTime>, Failure> {
    let step = model.compile(&Options { profile: true, ..options.clone() })?;
    Ok(profile(&step, views, time).map_err(|e| e.into_diagnostic())?)
}

/// Equal kernels in one line, the most expensive first.
fn print_kernels(kernels: &[KernelTime], limits: &Limits, threads: usize) {
    let total_us: f64 = kernels.iter().map(|k| k.median_us).sum();
    let by_parts = limits.parts_gflops.map_or(String::new(), |gflops| format!(" ({gflops:.1} by parts)"));
    println!(
        "\n  limits of a core: {:.1} GFLOP/s{by_parts}, {:.1} GB/s; with clocks the kernels take {total_us:.1} µs",
        limits.gflops, limits.bandwidth_gbps
    );
    println!("       µs  share  runs  GFLOP/s    GB/s  of limit  engine     ops");
    for (runs, kernel) in merged(kernels) {
        println!(
            "{:9.1}  {:4.1}%  {runs:4}  {:7.1} {:7.1}     {:4.0}%  {:9}  {}  [{}]",
            kernel.median_us,
            100.0 * kernel.median_us / total_us,
            kernel.gflops(),
            kernel.gbps(),
            100.0 * kernel.share_of_limit(limits, threads),
            kernel.engine,
            kernel.ops,
            kernel.layer,
        );
    }
}

/// Kernels of the same ops and sizes added up, each under its first layer.
fn merged(kernels: &[KernelTime]) -> Vec<(usize, KernelTime)> {
    let mut merged: Vec<(usize, KernelTime)> = vec![];
    for kernel in kernels {
        let same = |(runs, k): &&mut (usize, KernelTime)| {
            let runs = *runs as f64;
            k.ops == kernel.ops
                && k.engine == kernel.engine
                && k.flops == runs * kernel.flops
                && k.bytes == runs * kernel.bytes
        };
        match merged.iter_mut().find(same) {
            None => merged.push((1, kernel.clone())),
            Some((runs, sum)) => {
                *runs += 1;
                sum.median_us += kernel.median_us;
                sum.flops += kernel.flops;
                sum.bytes += kernel.bytes;
            }
        }
    }
    merged.sort_by(|(_, a), (_, b)| b.median_us.total_cmp(&a.median_us));
    merged
}
