//! Where the lines of a run go: to the terminal or the pipe, as much of them as was asked for, and to `log.txt`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cli::Verbosity;
use crate::dashboard;
use crate::output::{errors, output};

/// The lines of a run, in its folder.
pub(crate) const LOG: &str = "log.txt";

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Steps, validations, what the run works on.
    Progress,
    /// More of it, with `--verbose`.
    Detail,
    /// Always printed, on standard error.
    Warning,
    /// The outcome: always printed.
    Result,
}

/// Prints the lines of a run, and writes them to its log.
pub(crate) struct Console {
    is_mute: bool,
    verbosity: Verbosity,
    log: Mutex<Log>,
    /// Warnings and results that came while the dashboard was on the terminal.
    held: Mutex<Vec<(Kind, String)>>,
}

enum Log {
    /// Lines until the run folder exists.
    Waiting(Vec<String>),
    Open(File, PathBuf),
    /// After an error, which was reported.
    Failed,
}

impl Console {
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        Self { is_mute: false, verbosity, log: Mutex::new(Log::Waiting(Vec::new())), held: Mutex::default() }
    }

    /// Of a rank that leaves all that is said to the first.
    pub(crate) fn mute() -> Self {
        Self { is_mute: true, ..Self::new(Verbosity::Quiet) }
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// Prints lines and writes them to the log. Output errors must not end a run.
    pub(crate) fn print(&self, kind: Kind, text: &str) {
        if self.is_mute || (kind == Kind::Detail && !self.is_verbose()) {
            return;
        }
        self.write(text);
        if dashboard::is_open() {
            if matches!(kind, Kind::Warning | Kind::Result) {
                locked(&self.held).push((kind, text.to_owned()));
            }
            return;
        }
        self.release();
        self.show(kind, text);
    }

    /// Writes a line to the log alone, which is printed otherwise.
    pub(crate) fn log(&self, text: &str) {
        self.write(text);
    }

    /// Prints what the dashboard has held back, once it is closed.
    pub(crate) fn release(&self) {
        if dashboard::is_open() {
            return;
        }
        let held = std::mem::take(&mut *locked(&self.held));
        held.iter().for_each(|(kind, text)| self.show(*kind, text));
    }

    fn show(&self, kind: Kind, text: &str) {
        let is_quiet = self.verbosity == Verbosity::Quiet;
        let _ = match kind {
            Kind::Warning => writeln!(errors(), "{text}"),
            Kind::Progress | Kind::Detail if is_quiet => Ok(()),
            Kind::Progress | Kind::Detail | Kind::Result => writeln!(output(), "{text}"),
        };
    }

    /// Opens the log of a run folder, which exists, and adds the lines so far after `heading`.
    pub(crate) fn open_log(&self, folder: &Path, heading: &str) {
        let path = folder.join(LOG);
        let mut log = locked(&self.log);
        let Log::Waiting(lines) = &mut *log else { return };
        let lines = std::mem::take(lines);
        // A sheet of paper per session: a blank line, and what it was.
        let opened = OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| {
            let is_first = file.metadata()?.len() == 0;
            let gap = if is_first { "" } else { "\n" };
            file.write_all(format!("{gap}== {}\n", sam_files::printable(heading)).as_bytes())?;
            Ok(file)
        });
        match opened {
            Ok(file) => {
                *log = Log::Open(file, path);
                drop(log);
                lines.iter().for_each(|line| self.write(line));
            }
            Err(error) => {
                *log = Log::Failed;
                drop(log);
                self.show(Kind::Warning, &failed(&path, &error));
            }
        }
    }

    fn write(&self, text: &str) {
        let mut log = locked(&self.log);
        let error = match &mut *log {
            Log::Waiting(lines) => {
                lines.push(text.to_owned());
                return;
            }
            Log::Failed => return,
            Log::Open(file, path) => match file.write_all(format!("{}\n", sam_files::printable(text)).as_bytes()) {
                Ok(()) => return,
                Err(error) => failed(path, &error),
            },
        };
        *log = Log::Failed;
        drop(log);
        if dashboard::is_open() {
            locked(&self.held).push((Kind::Warning, error));
        } else {
            self.show(Kind::Warning, &error);
        }
    }
}

/// The run itself does not need it.
fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: cannot be written, so this log ends: {error}", path.display())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_the_lines_before_the_folder_and_those_of_the_next_session() {
        let folder = tempfile::tempdir().expect("a folder");
        for session in ["first", "second"] {
            let console = Console::new(Verbosity::Quiet);
            console.print(Kind::Progress, "a note");
            console.open_log(folder.path(), session);
            console.print(Kind::Detail, "only with --verbose");
            console.print(Kind::Progress, "a name\u{1b}[2J");
        }
        let text = std::fs::read_to_string(folder.path().join(LOG)).expect("written");
        let lines = "a note\na name\\u{1b}[2J\n";
        assert_eq!(text, format!("== first\n{lines}\n== second\n{lines}"));
    }

    #[test]
    fn a_log_that_cannot_be_written_does_not_stop_anything() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(LOG)).expect("a folder in its place");
        let console = Console::new(Verbosity::Quiet);
        console.open_log(folder.path(), "session");
        console.print(Kind::Progress, "nothing happens");
    }
}
