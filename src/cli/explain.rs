//! `gradc explain`.

use super::Failure;
use super::common::{CodeArguments, ModelArguments};
use clap::Args;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let step = arguments.model.compile(&arguments.code.options()?)?;
    let rewrites = &step.report().rewrites;
    if arguments.json {
        let by_entry: serde_json::Map<String, serde_json::Value> =
            rewrites.iter().map(|(entry, report)| (entry.to_string(), serde_json::json!(report))).collect();
        println!("{}", serde_json::Value::Object(by_entry));
    } else {
        rewrites.iter().for_each(|(entry, report)| println!("{entry}\n{report}"));
    }
    Ok(())
}
