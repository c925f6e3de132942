//! `gradc train`.

use super::Failure;
use super::common::{CodeArguments, ModelArguments, print_fallbacks};
use super::plot;
use super::progress::Progress;
use clap::Args;
use gradc::entries::EntryKind;
use gradc::training::{Ending, Feeds, Holdout, RunSettings, Source, Split, Trained, Trainer};
use gradc::{CompiledStep, Diagnostic, Recipe};
use gradc_frontend::data;
use gradc_frontend::recipe::NonFinite;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Data: FILE or COLUMN=FILE (safetensors, npy, npz, csv, IDX, each also .gz; or one .txt)
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<String>,
    /// Validation data of its own
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with_all = ["validation", "validation_tail"])]
    validation_data: Vec<String>,
    /// Share of the rows held out for validation, drawn with the seed
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    validation: Option<f64>,
    /// Hold out the last rows instead: a count, or a share below 1
    #[arg(long, value_name = "ROWS", conflicts_with = "validation", value_parser = parse_tail)]
    validation_tail: Option<f64>,
    /// Passes over the training rows [default: 10, or as many as --steps takes]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Stop after this many steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Folder for checkpoint, weights, history and plot [default: <model>.run]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Go on where the folder's checkpoint left off
    #[arg(long)]
    resume: bool,
    /// Skip steps whose loss is not finite instead of stopping
    #[arg(long)]
    skip_non_finite: bool,
    /// No progress bar, no plot on the terminal
    #[arg(long)]
    quiet: bool,
}

fn parse_share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.0..1.0).contains(s)).ok_or_else(|| "expected a share from 0 to below 1".into())
}

fn parse_tail(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number of rows, or a share below 1")?;
    let valid = value >= 0.0 && (value < 1.0 || value.fract() == 0.0);
    if valid { Ok(value) } else { Err("expected a number of rows, or a share below 1".into()) }
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let trained = arguments.model.trained(&arguments.code.options()?)?;
    let mut trainer = trainer(&arguments, trained)?;
    let stop = interrupt_flag()?;
    let mut progress = Progress::new(trainer.total_steps(), trainer.steps_done(), arguments.quiet);
    let ending = trainer.run(&mut progress, &stop);
    progress.finish();
    match ending {
        Ok(ending) => summarize(&trainer, ending, arguments.quiet),
        Err(error) => Err(stopped(error, &trainer)),
    }
}

/// A run that ends early has been told in full; what was trained so far is on disk.
fn stopped(error: gradc::SessionError, trainer: &Trainer) -> Failure {
    let numeric = matches!(error, gradc::SessionError::NonFinite { .. });
    let diagnostic = error.into_diagnostic();
    if !numeric {
        return diagnostic.into();
    }
    eprintln!("{diagnostic}\nnote: the last good state is in {}", trainer.checkpoint_path().display());
    Failure::Failed
}

fn trainer(arguments: &Arguments, trained: Trained) -> Result<Trainer, Failure> {
    let step = trained.compiled();
    let recipe = &arguments.model.recipe_for(step)?;
    let feeds = feeds(&arguments.data, recipe, step)?;
    let validation = match arguments.validation_data.as_slice() {
        [] => None,
        files => Some(self::feeds(files, recipe, step)?),
    };
    let split = Split::new(feeds.rows(), holdout(arguments), arguments.model.seed)?;
    let settings = settings(arguments, recipe, step.name());
    if arguments.resume {
        Trainer::resume(trained, feeds, split, validation, settings).map_err(|e| e.into_diagnostic().into())
    } else {
        Ok(Trainer::new(trained, feeds, split, validation, settings)?)
    }
}

fn feeds(files: &[String], recipe: &Recipe, step: &CompiledStep) -> Result<Feeds, Failure> {
    let source = match files {
        [only] if only.ends_with(".txt") || only.ends_with(".txt.gz") => {
            Source::Text(data::text::read_text(Path::new(only))?)
        }
        files => Source::Columns(data::read(files)?),
    };
    let entry =
        step.entry(EntryKind::Step).ok_or_else(|| Diagnostic::new("no-entry", "the package has no training step"))?;
    let target = step.loss().and_then(|l| l.target.as_deref());
    let feeds = Feeds::new(source, entry, target, &recipe.data)?;
    feeds.notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(feeds)
}

fn holdout(arguments: &Arguments) -> Holdout {
    match (arguments.validation, arguments.validation_tail) {
        (Some(share), _) => Holdout::Shuffled(share),
        (None, Some(rows)) => Holdout::Tail(rows),
        (None, None) => Holdout::Nothing,
    }
}

fn settings(arguments: &Arguments, recipe: &Recipe, name: &str) -> RunSettings {
    let default_epochs = if arguments.steps.is_some() { usize::MAX / (1 << 32) } else { 10 };
    RunSettings {
        epochs: arguments.epochs.unwrap_or(default_epochs),
        max_steps: arguments.steps,
        seed: arguments.model.seed,
        last_batch: recipe.last_batch,
        non_finite: if arguments.skip_non_finite { NonFinite::Skip } else { recipe.non_finite },
        folder: arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.run"))),
    }
}

/// Set by the first Ctrl-C; the step under way is finished and a checkpoint written. A second one ends the process.
fn interrupt_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Diagnostic::new("signal-handler", e.to_string()))?;
    Ok(stop)
}

fn summarize(trainer: &Trainer, ending: Ending, quiet: bool) -> Result<(), Failure> {
    let records = &trainer.history().records;
    let folder = trainer.weights_path().parent().map(Path::to_path_buf).unwrap_or_default();
    if !quiet && records.len() > 1 {
        plot::terminal(records);
    }
    if !records.is_empty() {
        plot::svg(records, &folder.join("history.svg"))?;
    }
    if let Some(last) = records.last() {
        println!("{}", plot::line(last));
    }
    print_fallbacks(&trainer.solver_fallbacks());
    println!("weights {}, checkpoint {}", trainer.weights_path().display(), trainer.checkpoint_path().display());
    if ending == Ending::Interrupted {
        println!("interrupted after {} steps; go on with --resume", trainer.steps_done());
    }
    Ok(())
}
