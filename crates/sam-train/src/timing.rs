//! Durations on standard error.

use std::io::Write;
use std::time::Instant;

/// Runs a step and prints its duration, which includes device work if `step` reads a result back.
pub(crate) fn timed<T>(what: &str, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = step();
    let _ = writeln!(crate::output::notes(), "{what} in {:.2} s", start.elapsed().as_secs_f64());
    result
}
