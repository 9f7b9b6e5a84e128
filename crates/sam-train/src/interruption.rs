//! Ctrl-C in commands that write a folder: what is unfinished is removed, and the exit code is that of an interrupted program.
//! Commands that write only at their end need none of it, and runs save ([`crate::train`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::failure::Failure;

/// The exit code of a program that was ended by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether Ctrl-C was pressed, or SIGTERM or SIGHUP came.
#[derive(Clone)]
pub(crate) struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// Catches signals from here on; a second one ends the program immediately.
    pub(crate) fn watch() -> Result<Self, Failure> {
        let is_requested = Arc::new(AtomicBool::new(false));
        let of_handler = Arc::clone(&is_requested);
        ctrlc::set_handler(move || {
            if of_handler.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(INTERRUPTED));
            }
        })
        .context("Ctrl-C cannot be caught")?;
        Ok(Self(is_requested))
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
