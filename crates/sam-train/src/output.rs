//! Standard output that survives a closed pipe: `| head` stops the printing, never the work.

use std::io::{ErrorKind, Result, StdoutLock, Write};

/// Standard output; once the pipe is closed, output is discarded.
pub(crate) struct Output(Option<StdoutLock<'static>>);

pub(crate) fn output() -> Output {
    Output(Some(std::io::stdout().lock()))
}

impl Output {
    fn unless_closed<T>(&mut self, nothing: T, print: impl FnOnce(&mut StdoutLock<'static>) -> Result<T>) -> Result<T> {
        let Some(stdout) = &mut self.0 else { return Ok(nothing) };
        match print(stdout) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.0 = None;
                Ok(nothing)
            }
            result => result,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.unless_closed(bytes.len(), |stdout| stdout.write(bytes))
    }

    fn flush(&mut self) -> Result<()> {
        self.unless_closed((), |stdout| stdout.flush())
    }
}
