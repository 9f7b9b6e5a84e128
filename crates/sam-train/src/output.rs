//! Standard output whose failure does not stop the program: a closed pipe is ignored, a full disk is reported at the end.

use std::io::{Error, ErrorKind, Result, StdoutLock, Write};
use std::sync::{Mutex, PoisonError};

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

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.unless_failed(bytes.len(), |stdout| stdout.write(bytes))
    }

    fn flush(&mut self) -> Result<()> {
        self.unless_failed((), |stdout| stdout.flush())
    }
}
