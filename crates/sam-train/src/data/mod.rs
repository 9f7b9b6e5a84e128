//! `sam-train data`: inspect, convert and generate data sets.

mod check;
mod convert;
mod preview;
mod split;
mod synth;

pub(crate) use check::checked;
pub(crate) use convert::{converted, print_report};

use crate::cli::DataCommand;
use crate::failure::Failure;

pub(crate) fn run(command: &DataCommand) -> Result<(), Failure> {
    match command {
        DataCommand::Check(arguments) => check::run(arguments),
        DataCommand::Preview(arguments) => preview::run(arguments),
        DataCommand::Convert(arguments) => convert::run(arguments),
        DataCommand::Split(arguments) => split::run(arguments),
        DataCommand::Synth(arguments) => synth::run(arguments),
    }
}
