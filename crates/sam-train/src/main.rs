//! `sam-train`: train, evaluate, export and try promptable segmenters.
//!
//! `main` maps a result to an exit code, `run` is one match over the commands, each command is one file.

mod cli;
mod config;
mod dashboard;
mod data;
mod disk;
mod eval;
mod export;
mod failure;
mod init;
mod inspect;
mod interruption;
mod names;
mod output;
mod predict;
mod probe;
mod progress;
mod run;
mod runs;
mod survey;
mod target;
mod timing;
mod train;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::cli::{Arguments, Command, RunArguments};
use crate::failure::{BadInput, Failure};
use crate::output::finish_output;

/// Reuses the memory of freed tensors.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = run(parse());
    let printed = finish_output().context("standard output could not be written; the work itself is done");
    match result.and_then(|()| Ok(printed?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// The arguments; help and errors end the program. Colours are only printed where no argument could add its own.
fn parse() -> Arguments {
    let error = match Arguments::try_parse() {
        Ok(arguments) => return arguments,
        Err(error) => error,
    };
    let text = error.render().to_string();
    if matches!(sam_files::printable(&text), std::borrow::Cow::Borrowed(_)) {
        error.exit();
    }
    let _ = write!(output::errors(), "{text}");
    std::process::exit(error.exit_code())
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        None => run::run(&arguments.run),
        Some(Command::Init(arguments)) => init::run(&arguments),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
        Some(Command::Export(arguments)) => export::run(&arguments),
        Some(Command::Predict(arguments)) => predict::run(&arguments),
        Some(Command::Eval(arguments)) => run::run_document(
            &arguments.document().bad_input()?,
            &RunArguments::of_command(arguments.measure.force, arguments.measure.verbosity),
        ),
        Some(Command::Probe(arguments)) => run::run_document(
            &arguments.document(),
            &RunArguments::of_command(arguments.measure.force, arguments.measure.verbosity),
        ),
        Some(Command::Runs(arguments)) => runs::run(&arguments),
        Some(Command::Data(command)) => data::run(&command),
    }
}
