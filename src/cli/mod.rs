//! The command line: one file per command, and what they share.

mod bench;
mod check;
mod common;
mod compile;
mod explain;
mod inspect;
mod plot;
mod progress;
mod run;
mod train;

use clap::{Parser, Subcommand};
use gradc::{Diagnostic, Diagnostics};
use gradc_codegen::process::keep_heap_small;
use std::any::Any;
use std::panic::{set_hook, take_hook};
use std::process::{ExitCode, exit};

/// A check failed, or a run ended early.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Bad input or usage.
pub(crate) const EXIT_BAD_INPUT: u8 = 2;
/// A bug in gradc.
pub(crate) const EXIT_BUG: u8 = 70;

/// Compiles training steps: forward, backward and optimizer in one native function.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Derive, optimize, plan and compile; say what came out
    Compile(compile::Arguments),
    /// Train on data: progress, metrics, checkpoints, weights
    Train(train::Arguments),
    /// Run the model forward on inputs from a file
    Run(run::Arguments),
    /// Compare training steps with numbers from elsewhere
    Check(check::Arguments),
    /// Measure time and memory of one training step
    Bench(bench::Arguments),
    /// Say which rewrites fired, where, and what each saved
    Explain(explain::Arguments),
    /// Look at any stage of the compilation
    Inspect(inspect::Arguments),
}

/// Why a command stopped.
pub(crate) enum Failure {
    /// Wrong input: told in full, exit 2.
    Input(Diagnostics),
    /// The command ran and found something wrong; it has been told. Exit 1.
    Failed,
}

impl<T: Into<Diagnostics>> From<T> for Failure {
    fn from(diagnostics: T) -> Self {
        Failure::Input(diagnostics.into())
    }
}

/// Runs the command the arguments name.
pub(crate) fn run() -> ExitCode {
    keep_heap_small();
    let arguments = Arguments::parse();
    let report = take_hook();
    set_hook(Box::new(move |panic| {
        if let Some(why) = unprinted(panic.payload()) {
            exit(unprinted_exit_code(why).into());
        }
        report(panic);
        eprintln!("this is a bug in gradc: please report it with the model, the recipe and the message above");
        // Nothing is unwound, also where a build could.
        exit(EXIT_BUG.into());
    }));
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed) => ExitCode::from(EXIT_FAILED),
        Err(Failure::Input(diagnostics)) => {
            eprintln!("{diagnostics}");
            ExitCode::from(exit_code(&diagnostics))
        }
    }
}

/// Why `println!` could not print, if a panic is its.
fn unprinted(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>()?.strip_prefix("failed printing to stdout: ")
}

/// Nobody reads on, as in `gradc explain … | head`: all is well. Else the disk is full, or the like.
fn unprinted_exit_code(why: &str) -> u8 {
    if why.contains("Broken pipe") {
        return 0;
    }
    eprintln!("{}", Diagnostic::new("unwritable-file", why).in_file("standard output"));
    EXIT_BAD_INPUT
}

fn exit_code(diagnostics: &Diagnostics) -> u8 {
    if diagnostics.0.iter().any(|d| d.code.starts_with("internal")) { EXIT_BUG } else { EXIT_BAD_INPUT }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Compile(arguments) => compile::run(arguments),
        Command::Train(arguments) => train::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
    }
}
