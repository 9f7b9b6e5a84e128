//! `sam-train`: train, evaluate, export and try promptable segmenters.
//!
//! `main` maps a result to an exit code, `run` is one match over the commands, each command is one file.

mod cli;
mod config;
mod data;
mod eval;
mod export;
mod failure;
mod inspect;
mod names;
mod output;
mod predict;
mod probe;
mod progress;
mod target;
mod timing;
mod train;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Arguments, Command};
use crate::failure::Failure;

/// Keeps the memory of one tensor for the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        None => train::run(&arguments.run),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
        Some(Command::Export(arguments)) => export::run(&arguments),
        Some(Command::Predict(arguments)) => predict::run(&arguments),
        Some(Command::Eval(arguments)) => eval::run(&arguments),
        Some(Command::Probe(arguments)) => probe::run(&arguments),
        Some(Command::Data(command)) => data::run(&command),
    }
}
