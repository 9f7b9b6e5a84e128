//! Where the time of a step goes. A clock that is off costs a load of an atomic; one that is on waits for the device at the ends of
//! every phase, so that a step takes a little longer than without it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::Device;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a batch, and its way to the device.
    Data,
    /// Images through the encoder; in a pre-training through both halves of the autoencoder, with its loss.
    EncoderForward,
    /// Simulated clicks, their tokens.
    Prompts,
    /// All decoder passes with their losses.
    DecoderForward,
    /// Their backward passes.
    DecoderBackward,
    /// Gradients back through the encoder; with recomputed activations its blocks forward once more.
    EncoderBackward,
    /// The norm of all gradients, and clipping.
    Clip,
    /// The optimiser.
    Optimiser,
    /// The moving average of the weights.
    Average,
}

impl Phase {
    /// All phases, in the order of a step.
    pub const ALL: [Self; 9] = [
        Self::Data,
        Self::EncoderForward,
        Self::Prompts,
        Self::DecoderForward,
        Self::DecoderBackward,
        Self::EncoderBackward,
        Self::Clip,
        Self::Optimiser,
        Self::Average,
    ];

    /// For tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::EncoderForward => "encoder forward",
            Self::Prompts => "prompts",
            Self::DecoderForward => "decoder forward",
            Self::DecoderBackward => "decoder backward",
            Self::EncoderBackward => "encoder backward",
            Self::Clip => "clip",
            Self::Optimiser => "optimiser",
            Self::Average => "average",
        }
    }
}

static IS_ON: AtomicBool = AtomicBool::new(false);
static TAKEN: Mutex<[Duration; Phase::ALL.len()]> = Mutex::new([Duration::ZERO; Phase::ALL.len()]);

/// Runs a part of a step, and adds the time that it takes to its phase. Threads that work side by side add theirs.
pub(crate) fn timed<T>(phase: Phase, device: &Device, work: impl FnOnce() -> T) -> T {
    if !IS_ON.load(Ordering::Relaxed) {
        return work();
    }
    wait_for(device);
    let began = Instant::now();
    let result = work();
    wait_for(device);
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[phase as usize] += began.elapsed();
    result
}

/// An error of the device comes up where its results are read.
fn wait_for(device: &Device) {
    drop(device.sync());
}

/// Runs something with the clock on, and returns the seconds of each phase; one at a time in a process.
pub(crate) fn with_clock<T>(work: impl FnOnce() -> T) -> (T, [f64; Phase::ALL.len()]) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    IS_ON.store(true, Ordering::Relaxed);
    let result = work();
    IS_ON.store(false, Ordering::Relaxed);
    let taken = *TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    (result, taken.map(|taken| taken.as_secs_f64()))
}
