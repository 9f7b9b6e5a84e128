//! How much is printed.

use clap::Args;

#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct VerbosityArguments {
    /// Print only warnings, errors and the result
    #[arg(long, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more: program, device and data, and of a run every step
    #[arg(long)]
    verbose: bool,
}

/// How much is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Warnings, errors and the result.
    Quiet,
    #[default]
    Normal,
    /// Every step, and what the program works with.
    Verbose,
}

impl VerbosityArguments {
    pub(crate) fn level(self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        }
    }
}
