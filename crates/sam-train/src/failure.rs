//! Why the program stops, and with which exit code: 1 when the run failed, 2 when what came in was wrong.

use std::io::Write;
use std::process::ExitCode;

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file, an argument or a configuration is wrong; mending it is up to the caller. Exit code 2.
    Input(anyhow::Error),
    /// Everything else. Exit code 1.
    Run(anyhow::Error),
}

impl Failure {
    /// Prints the message with its causes to standard error.
    pub(crate) fn report(self) -> ExitCode {
        let (error, code) = match self {
            Failure::Input(error) => (error, 2),
            Failure::Run(error) => (error, 1),
        };
        // Messages of libraries often end with their cause; it is not said twice.
        let mut message = String::new();
        for cause in error.chain().map(|cause| cause.to_string()) {
            if !message.contains(&cause) {
                let separator = if message.is_empty() { "" } else { ": " };
                message = format!("{message}{separator}{cause}");
            }
        }
        let _ = writeln!(std::io::stderr(), "error: {message}");
        ExitCode::from(code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Run(error.into())
    }
}

/// Marks an error as the caller's to mend.
pub(crate) trait BadInput<T> {
    /// Exit code 2 instead of 1.
    fn bad_input(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> BadInput<T> for Result<T, E> {
    fn bad_input(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Input(error.into()))
    }
}
