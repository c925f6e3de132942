//! `gradc inspect`.

use super::Failure;
use super::common::{CodeArguments, ModelArguments, no_stage};
use clap::{Args, ValueEnum};
use gradc::{Diagnostic, Stage};
use gradc_ir::text;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Stage to show
    #[arg(long, value_enum, default_value = "forward")]
    stage: Stage,
    /// How to show it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// The text format, which parses back.
    Text,
    /// Graphviz.
    Dot,
    /// A picture.
    Svg,
    /// For programs.
    Json,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut options = arguments.code.options()?;
    options.emit = vec![arguments.stage];
    let step = arguments.model.compile(&options)?;
    let texts = &step.report().texts;
    if texts.is_empty() || (arguments.stage == Stage::Train && step.loss().is_none()) {
        return Err(no_stage(&arguments.model).into());
    }
    for (stage, entry, text) in texts {
        if arguments.format == Format::Text {
            println!("; {entry} after {}\n{text}", stage.name());
        } else {
            println!("{}", formatted(arguments.format, *stage, text)?);
        }
    }
    Ok(())
}

fn formatted(format: Format, stage: Stage, text: &str) -> Result<String, Failure> {
    if !matches!(stage, Stage::Forward | Stage::Rolled | Stage::Train | Stage::Optimized) {
        let message = format!("stage `{}` has only a text form", stage.name());
        return Err(Diagnostic::new("no-format", message).expected("forward, rolled, train or optimized").into());
    }
    let graph = text::parse(text)?;
    Ok(match format {
        Format::Text => text.to_string(),
        Format::Dot => text::dot(&graph),
        Format::Svg => text::svg(&graph),
        Format::Json => text::json(&graph).to_string(),
    })
}
