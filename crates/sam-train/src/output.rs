//! What is printed: names in it come from files of others and are made harmless ([`sam_files::printable`]).
//!
//! Standard output whose failure does not stop the program: a closed pipe is ignored, a full disk is reported at the end.

use std::io::{Error, ErrorKind, Result, StdoutLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use sam_files::printable;

/// The first error, other than a closed pipe.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);

/// Standard output; once it fails, output is discarded.
pub(crate) struct Output(Option<StdoutLock<'static>>);

pub(crate) fn output() -> Output {
    let has_failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    Output((!has_failed).then(|| std::io::stdout().lock()))
}

/// Writes what is still buffered.
///
/// # Errors
///
/// When something could not be written, now or before; a closed pipe is no error.
pub(crate) fn finish_output() -> Result<()> {
    output().flush()?;
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl Output {
    fn unless_failed<T>(&mut self, nothing: T, print: impl FnOnce(&mut StdoutLock<'static>) -> Result<T>) -> Result<T> {
        let Some(stdout) = &mut self.0 else { return Ok(nothing) };
        match print(stdout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.0 = None;
                if error.kind() != ErrorKind::BrokenPipe {
                    *FAILED.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                Ok(nothing)
            }
            result => result,
        }
    }
}

/// Standard error.
pub(crate) struct Errors {
    is_silent: bool,
}

pub(crate) fn errors() -> Errors {
    Errors { is_silent: false }
}

/// Notes of ranks that would all say the same.
static ARE_NOTES_SILENT: AtomicBool = AtomicBool::new(false);

/// Standard error for what every rank of several would say alike; the first alone does.
pub(crate) fn notes() -> Errors {
    Errors { is_silent: ARE_NOTES_SILENT.load(Ordering::Relaxed) }
}

/// Writes no notes from here on.
pub(crate) fn silence_notes() {
    ARE_NOTES_SILENT.store(true, Ordering::Relaxed);
}

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.is_silent {
            return Ok(bytes.len());
        }
        write_printable(&mut std::io::stderr(), bytes)
    }

    fn flush(&mut self) -> Result<()> {
        std::io::stderr().flush()
    }
}

/// Everything that is printed comes in whole pieces of text, as `write!` passes them on.
fn write_printable(to: &mut impl Write, bytes: &[u8]) -> Result<usize> {
    match std::str::from_utf8(bytes) {
        Ok(text) => to.write_all(printable(text).as_bytes())?,
        Err(_) => to.write_all(printable(&String::from_utf8_lossy(bytes)).as_bytes())?,
    }
    Ok(bytes.len())
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.unless_failed(bytes.len(), |stdout| write_printable(stdout, bytes))
    }

    fn flush(&mut self) -> Result<()> {
        self.unless_failed((), |stdout| stdout.flush())
    }
}

/// Rows of cells with columns as wide as their widest cell; the last one is not padded.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..n_columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        let mut printed = Vec::new();
        let bytes = "a\u{1b}[2J \u{202e}b\n".as_bytes();
        assert_eq!(write_printable(&mut printed, bytes).expect("written"), bytes.len());
        assert_eq!(String::from_utf8(printed).expect("text"), "a\\u{1b}[2J \\u{202e}b\n");
    }
}
