//! `sam-train`: train, evaluate, export and try promptable segmenters.
//!
//! `main` maps a result to an exit code, `run` is one match over the commands, each command is one file.

mod allocator;
mod annotate;
mod auto;
mod bench;
mod build;
mod cli;
mod config;
mod dashboard;
mod data;
mod data_texts;
mod disk;
mod doctor;
mod embeddings;
mod eval;
mod export;
mod failure;
mod init;
mod inspect;
mod interruption;
mod machine;
mod mask_files;
mod names;
mod neighbours;
mod output;
mod predict;
mod probe;
mod progress;
mod published;
mod run;
mod runs;
mod schema;
mod survey;
mod target;
mod team;
mod texts;
mod timing;
mod train;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Parser;
use sam_learn::out_of_memory;

use crate::cli::{Arguments, Command, RunArguments};
use crate::failure::{BadInput, Failure};
use crate::output::finish_output;
use crate::team::Team;

fn main() -> ExitCode {
    allocator::keep_memory();
    print_other_panics();
    let arguments = parse();
    let mut team = Team::alone();
    let result =
        catch_unwind(AssertUnwindSafe(|| run(arguments, &mut team))).unwrap_or_else(|panic| {
            match out_of_memory(&*panic) {
                Some(reason) => Err(Failure::OutOfMemory(anyhow!(
                    "the device has no memory left ({reason}); use a device with more, a smaller model, or --device cpu"
                ))),
                None => resume_unwind(panic),
            }
        });
    let printed = finish_output().context("standard output could not be written; the work itself is done");
    let code = match result.and_then(|()| Ok(printed?)) {
        Ok(()) => {
            team.finish();
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    };
    // After the message, as it ends the other processes of a failed one.
    drop(team);
    code
}

/// A device without memory left is a panic of burn's, which becomes an error here or in the training loop; all others are
/// defects and are printed.
fn print_other_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if out_of_memory(panic.payload()).is_none() {
            print(panic);
        }
    }));
}

/// The arguments; help and errors end the program. Colours are only printed where no argument could add its own.
fn parse() -> Arguments {
    let error = match Arguments::try_parse() {
        Ok(arguments) => return arguments,
        Err(error) => error,
    };
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
        let _ = error.print();
        let _ = writeln!(output::errors(), "\nTo train: sam-train --config FILE (sam-train init writes one)");
        std::process::exit(error.exit_code());
    }
    let text = error.render().to_string();
    if matches!(sam_files::printable(&text), std::borrow::Cow::Borrowed(_)) {
        error.exit();
    }
    let _ = write!(output::errors(), "{text}");
    std::process::exit(error.exit_code())
}

fn run(arguments: Arguments, team: &mut Team) -> Result<(), Failure> {
    match arguments.command {
        None => {
            *team = Team::join().bad_input()?;
            run::run(&arguments.run, team)
        }
        Some(Command::Init(arguments)) => init::run(&arguments),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
        Some(Command::Export(arguments)) => export::run(&arguments),
        Some(Command::Predict(arguments)) => predict::run(&arguments),
        Some(Command::Auto(arguments)) => {
            *team = Team::join().bad_input()?;
            auto::run(&arguments, team)
        }
        Some(Command::Eval(arguments)) => run::run_document(
            &arguments.document().bad_input()?,
            &RunArguments::of_command(arguments.measure.force, arguments.measure.verbosity),
            team,
        ),
        Some(Command::Probe(arguments)) => run::run_document(
            &arguments.document(),
            &RunArguments::of_command(arguments.measure.force, arguments.measure.verbosity),
            team,
        ),
        Some(Command::Neighbours(arguments)) => neighbours::run(&arguments),
        Some(Command::Runs(arguments)) => runs::run(&arguments),
        Some(Command::Annotate(arguments)) => annotate::run(&arguments),
        Some(Command::Data(command)) => data::run(&command),
        Some(Command::Bench(arguments)) => bench::run(&arguments),
        Some(Command::Schema) => schema::run(),
        Some(Command::Doctor(arguments)) => doctor::run(&arguments),
    }
}
