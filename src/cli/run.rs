//! `gradc run`.

use super::Failure;
use super::common::{CodeArguments, ModelArguments};
use clap::Args;
use gradc::TensorView;
use gradc_frontend::weights;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Inputs by the model's own names (safetensors)
    #[arg(long)]
    inputs: PathBuf,
    /// Where outputs go, by the model's own names (safetensors)
    #[arg(long)]
    output: PathBuf,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let inputs = weights::read(&arguments.inputs)?;
    let step = arguments.model.compile(&arguments.code.options()?)?;
    let mut session = step.into_session()?;
    let views: Vec<(&str, TensorView)> = inputs.iter().map(|(name, t)| (name.as_str(), TensorView::from(t))).collect();
    let outputs = session.predict(&views).map_err(|e| e.into_diagnostic().in_file(arguments.inputs.display()))?;
    let tensors = outputs.iter().map(|(name, view)| (name.to_string(), view.to_host())).collect();
    weights::write(&arguments.output, &tensors, &BTreeMap::new())?;
    outputs.iter().for_each(|(name, view)| println!("{name}: {}", view.ty()));
    Ok(())
}
