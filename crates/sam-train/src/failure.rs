//! Errors with their exit codes: 1 when a run failed, 2 for bad input, 3 when the memory was too small.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use sam_eval::EvalError;
use sam_model::weights::WeightsError;

use crate::interruption::INTERRUPTED;
use crate::output::errors;
use crate::published::{self, Published};
use crate::team;

/// The exit code of a program whose device had no memory left.
pub(crate) const OUT_OF_MEMORY: u8 = 3;

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file, an argument or a configuration is wrong, which is for the caller to fix. Exit code 2.
    Input(anyhow::Error),
    /// A device has no memory left. Exit code 3.
    OutOfMemory(anyhow::Error),
    /// Everything else. Exit code 1.
    Run(anyhow::Error),
    /// Ctrl-C, or a signal that asks the program to end. Exit code 130.
    Interrupted,
    /// As `Interrupted`, where what is finished stays and the command can be resumed. Exit code 130.
    Stopped(String),
    /// Rank 0 failed with this exit code, and says why.
    OfFirst(u8),
}

impl Failure {
    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Input(_) => 2,
            Failure::OutOfMemory(_) => OUT_OF_MEMORY,
            Failure::Run(_) => 1,
            Failure::Stopped(_) | Failure::Interrupted => INTERRUPTED,
            Failure::OfFirst(code) => *code,
        }
    }

    /// Prints the message with its causes to standard error.
    pub(crate) fn report(self) -> ExitCode {
        let code = ExitCode::from(self.code());
        let error = match self {
            Failure::Input(error) | Failure::OutOfMemory(error) | Failure::Run(error) => error,
            Failure::Stopped(message) => anyhow::anyhow!(message),
            Failure::Interrupted => anyhow::anyhow!("stopped; nothing is written"),
            Failure::OfFirst(_) => return code,
        };
        // Messages of libraries often end with their cause; it is not repeated.
        let mut message = String::new();
        for cause in error.chain().map(|cause| cause.to_string()) {
            if !message.contains(&cause) {
                let separator = if message.is_empty() { "" } else { ": " };
                message = format!("{message}{separator}{cause}");
            }
        }
        if let Some(published) = error.chain().find_map(missing_weights) {
            message = format!("{message}; {}", published.advice());
        }
        let _ = writeln!(errors(), "{}error: {message}", team::prefix());
        code
    }
}

/// Published weights that a missing checkpoint file is meant to be.
fn missing_weights(cause: &(dyn std::error::Error + 'static)) -> Option<&'static Published> {
    match cause.downcast_ref()? {
        WeightsError::Io { path, source } if source.kind() == ErrorKind::NotFound => published::meant_by(path),
        _ => None,
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Run(error.into())
    }
}

impl Failure {
    /// Exit code 2 where the evaluation rejects its input, 1 where the model fails.
    pub(crate) fn of_evaluation(error: EvalError) -> Self {
        if error.is_bad_input() { Self::Input(error.into()) } else { Self::Run(error.into()) }
    }
}

/// Marks an error as bad input, for the caller to fix.
pub(crate) trait BadInput<T> {
    /// Exit code 2 instead of 1.
    fn bad_input(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> BadInput<T> for Result<T, E> {
    fn bad_input(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Input(error.into()))
    }
}
