//! `gradc compile`.

use super::Failure;
use super::common::{CodeArguments, ModelArguments, human_bytes, no_stage};
use clap::Args;
use gradc::budget::ParameterCost;
use gradc::entries::EntryKind;
use gradc::micro_batches::MicroBatches;
use gradc::parameters::ParameterReport;
use gradc::training_cost::TrainingCost;
use gradc::{CompiledStep, Diagnostic, Options, Stage};
use gradc_codegen::Engine;
use gradc_frontend::replace::replace;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Write a package that loads without deriving or optimizing again
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the text of these stages as <number>.<entry>.<stage>.gir into the current folder, or into GRADC_DUMP
    #[arg(long, value_enum, num_args = 1.., value_name = "STAGE")]
    emit: Vec<Stage>,
    /// Say what every stage did
    #[arg(long)]
    report: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let dump = std::env::var_os("GRADC_DUMP").map(PathBuf::from);
    let mut options = arguments.code.options()?;
    options.emit = stages(&arguments.emit, dump.is_some());
    let step = arguments.model.compile(&options)?;
    if step.report().texts.is_empty() && !arguments.emit.is_empty() {
        return Err(no_stage(&arguments.model).into());
    }
    write_texts(&step, dump.as_deref().unwrap_or(Path::new(".")))?;
    if let Some(path) = &arguments.output {
        gradc::package::save(&step, path)?;
    }
    print_summary(&step);
    if arguments.report {
        print_report(&step, &options, &arguments.model.parameter_costs(&options)?);
    }
    Ok(())
}

fn stages(asked: &[Stage], all: bool) -> Vec<Stage> {
    if all { <Stage as clap::ValueEnum>::value_variants().to_vec() } else { asked.to_vec() }
}

fn write_texts(step: &CompiledStep, folder: &Path) -> Result<(), Failure> {
    let unwritable = |e: std::io::Error| Diagnostic::new("unwritable-file", e.to_string()).in_file(folder.display());
    for (k, (stage, entry, text)) in step.report().texts.iter().enumerate() {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
        let name = format!("{k:02}.{entry}.{}.gir", stage.name());
        replace(&folder.join(name), text.as_bytes()).map_err(unwritable)?;
    }
    Ok(())
}

fn print_summary(step: &CompiledStep) {
    let report = step.report();
    println!("{}: {} kernels in {:.0} ms", step.name(), report.kernels, report.total().as_secs_f64() * 1e3);
    for entry in &report.entries {
        let (program, chosen) = (entry.peaks.program_bytes, entry.peaks.chosen_bytes);
        println!(
            "  {:8} {:5} nodes, arena {} (live peak {}; {} without reordering)",
            entry.name,
            entry.nodes,
            human_bytes(entry.arena_bytes),
            human_bytes(chosen),
            human_bytes(program)
        );
        if let Some(guarded) = entry.guarded_bytes {
            println!("           {} alive at most as long as every guard holds", human_bytes(guarded));
        }
        entry.parts.iter().for_each(print_parts);
        if entry.checkpointed > 0 {
            println!("           {} loops checkpointed", entry.checkpointed);
        }
        if let Some(again) = &entry.again {
            println!(
                "           {} values made again for {:.3} MFLOP; {} would be alive with them kept",
                again.values,
                again.flops / 1e6,
                human_bytes(again.without_bytes)
            );
        }
    }
    println!("  kept between steps: {}, code {}", human_bytes(step.persistent_bytes()), human_bytes(step.code_bytes()));
}

fn print_parts(split: &MicroBatches) {
    println!(
        "           {} examples taken in {} parts for {:.3} MFLOP, sums in another order; {} would be alive at once",
        split.examples,
        split.parts,
        split.flops / 1e6,
        human_bytes(split.without_bytes)
    );
}

fn print_report(step: &CompiledStep, options: &Options, costs: &[ParameterCost]) {
    println!("target {:?}, {} threads", options.target.vector_isa, options.threads);
    for (stage, time) in &step.report().stages {
        println!("  {stage:10} {:8.2} ms", time.as_secs_f64() * 1e3);
    }
    EntryKind::ALL.into_iter().for_each(|kind| print_engines(step, kind));
    print_parameters(&step.report().parameters);
    print_costs(step, costs);
    step.report().selection.iter().for_each(|selection| println!("  budget: {selection}"));
    step.report().training.iter().for_each(print_training);
    for (graph, loops) in step.report().rolls.iter().filter(|(_, loops)| !loops.is_empty()) {
        print!("loops of {graph}:\n{loops}");
    }
    for (name, rewrites) in step.report().told() {
        println!("rewrites of {name}: {rewrites}");
        rewrites.windows.iter().for_each(|window| println!("  window at {window}"));
    }
}

/// How many kernels of an entry each engine computes.
fn print_engines(step: &CompiledStep, kind: EntryKind) {
    let mut counts: BTreeMap<Engine, usize> = BTreeMap::new();
    step.engines(kind).iter().flatten().for_each(|&engine| *counts.entry(engine).or_insert(0) += 1);
    if !counts.is_empty() {
        let counts: Vec<String> = counts.iter().map(|(engine, count)| format!("{count} {}", engine.name())).collect();
        println!("kernels of {}: {}", kind.name(), counts.join(", "));
    }
}

fn print_parameters(parameters: &[ParameterReport]) {
    let width = parameters.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for p in parameters {
        println!("  {:width$}  trains {:>9} of {:>9}: {}", p.name, p.trained_elements, p.elements, p.training);
    }
}

/// What each parameter costs that may train: what only it needs + its gradient's way from the parameter before (all
/// that it needs).
fn print_costs(step: &CompiledStep, costs: &[ParameterCost]) {
    let width = costs.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    if !costs.is_empty() {
        println!("costs, own + way (alone): backward pass, MFLOP; update, MFLOP; kept, KiB");
    }
    for ParameterCost { name, backward_flops: flops, update_flops, kept_bytes: kept } in costs {
        let [own, path, alone, update] =
            [flops.own, flops.path, flops.alone, *update_flops].map(|flops| flops as f64 / 1e6);
        print!("  {name:width$}  {own:9.3} + {path:9.3} ({alone:9.3}); {update:7.3}");
        print!("; {:9.1} + {:9.1} ({:9.1})", kib(kept.own), kib(kept.path), kib(kept.alone));
        let importance = step.report().selection.as_ref().and_then(|s| s.importances.get(name));
        println!("{}", importance.map(|i| format!("; importance {i:.4e}")).unwrap_or_default());
    }
}

fn print_training(cost: &TrainingCost) {
    let mflop = |flops: u64| flops as f64 / 1e6;
    println!(
        "  step: {:.2} MFLOP forward, {:.2} backward, {:.2} update",
        mflop(cost.forward_flops),
        mflop(cost.backward_flops),
        mflop(cost.update_flops)
    );
    println!(
        "  training memory {}: arena {} (saved for the backward pass {}), optimizer state {}; gradients are {}",
        human_bytes(cost.training_bytes()),
        human_bytes(cost.arena_bytes),
        human_bytes(cost.saved_bytes),
        human_bytes(cost.state_bytes),
        human_bytes(cost.gradient_bytes)
    );
}
