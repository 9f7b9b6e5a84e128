//! The memory that images take while they are decoded, known from their headers, and a budget that threads share.
//!
//! A limit of pixels alone does not bound memory: the same pixels take 3 bytes each in a JPEG and 24 in a TIFF of floats, and
//! every thread holds an image of its own. An image that is too costly is an error; images that together are too costly wait
//! for each other. At the default limit of 100 megapixels, files, samples, RGB copies and label images stay within 2 GB.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use image::metadata::Orientation;

use crate::error::DataError;
use crate::formats::place::{FilePlace, ImageHeader};

/// Bytes for each pixel that the limit allows: 16-bit RGB as file, as samples and as RGB twice.
const BYTES_PER_PIXEL: u64 = 18;
/// An image in RGB.
const RGB_BYTES: u64 = 3;

/// Samples as a file stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleSize {
    pub(crate) n_channels: u64,
    pub(crate) bits: u64,
}

impl SampleSize {
    /// Bytes of a pixel while it is decoded and converted to RGB.
    fn bytes_per_pixel(self) -> u64 {
        let stored = (self.n_channels * self.bits).div_ceil(8);
        match self.bits {
            // 64-bit samples are narrowed to 32 bits; percentiles sort a copy of up to three channels.
            17.. => stored + 4 * self.n_channels.min(3) + if self.bits > 32 { 4 * self.n_channels } else { RGB_BYTES },
            _ => stored + RGB_BYTES,
        }
    }
}

/// The bytes that reading and decoding an image takes at most.
///
/// # Errors
///
/// When they are more than the limit of pixels stands for.
pub(crate) fn cost(place: &FilePlace, header: &ImageHeader, max_pixels: u64) -> Result<u64, DataError> {
    let n_pixels = header.stored_hw[0] as u64 * header.stored_hw[1] as u64;
    let rotated = if header.orientation == Orientation::NoTransforms { 0 } else { RGB_BYTES };
    let decoded = n_pixels.saturating_mul(header.samples.bytes_per_pixel() + rotated);
    let (bytes, limit) = (decoded.saturating_add(place.n_bytes()?), total(max_pixels));
    if bytes <= limit {
        return Ok(bytes);
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(DataError::Content {
        path: place.name().into(),
        what: "an image".to_owned(),
        expected: format!("decoded in at most {} MiB (as max_pixels = {max_pixels} allows)", mib(limit)),
        got: format!(
            "{} x {} pixels (height x width) of {} x {} bits in a file of {} MiB, which take {} MiB",
            header.stored_hw[0],
            header.stored_hw[1],
            header.samples.n_channels,
            header.samples.bits,
            mib(place.n_bytes()?),
            mib(bytes)
        ),
        fix: "cut it into tiles, store fewer bits or channels, or raise max_pixels".to_owned(),
    })
}

/// At least what small images take, so that a low limit of pixels says so itself.
fn total(max_pixels: u64) -> u64 {
    const FEW: u64 = 64 << 20;
    max_pixels.saturating_mul(BYTES_PER_PIXEL).max(FEW)
}

/// What all threads that read a data set may take together.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    total: u64,
    taken: Mutex<u64>,
    given_back: Condvar,
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'b> {
    budget: &'b MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    pub(crate) fn new(max_pixels: u64) -> Self {
        Self { total: total(max_pixels), taken: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Waits until the bytes are free; the first to come is never refused.
    pub(crate) fn take(&self, bytes: u64) -> Taken<'_> {
        let is_too_much = |taken: &mut u64| *taken > 0 && taken.saturating_add(bytes) > self.total;
        let waited = self.given_back.wait_while(self.lock(), is_too_much);
        *waited.unwrap_or_else(PoisonError::into_inner) += bytes;
        Taken { budget: self, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.budget.lock() -= self.bytes;
        self.budget.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn threads_never_take_more_than_the_total() {
        let budget = MemoryBudget::new(100_000_000);
        let (taken, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 1..=8u64 {
                let (budget, taken, most) = (&budget, &taken, &most);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let bytes = thread * 200_000_000;
                        let part = budget.take(bytes);
                        most.fetch_max(taken.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        std::thread::yield_now();
                        taken.fetch_sub(bytes, Ordering::SeqCst);
                        drop(part);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 1_800_000_000);
        assert_eq!(*budget.lock(), 0);
    }

    #[test]
    fn bytes_of_a_pixel() {
        for (n_channels, bits, bytes) in [(3, 8, 6), (1, 1, 4), (3, 16, 9), (1, 32, 11), (3, 32, 27), (1, 64, 16)] {
            assert_eq!(SampleSize { n_channels, bits }.bytes_per_pixel(), bytes, "{n_channels} x {bits}");
        }
    }
}
