//! Memory of a device: what tensors take there, and the error when none is left. burn reports that where results are read, by a
//! panic with the device's message (`cubecl-runtime`, `server/base.rs`, in 0.11.3); the loop turns it into an error that says so.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use burn::tensor::Device;

use crate::error::LearnError;

/// Between two looks at the memory of a device.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Of all live tensors together.
    pub in_use: u64,
    /// What the device has given to this process: live tensors, and what freed ones left for the next.
    pub reserved: u64,
}

/// The memory of a device that reports it, as GPUs do. `None` on the CPU, where it is that of the process.
pub(crate) fn device_memory(device: &Device) -> Option<DeviceMemory> {
    let usage = device.clone().inner().memory_pool_usage()?;
    Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved })
}

/// Runs `work` and looks at the device's memory meanwhile, every millisecond; the largest values seen.
pub(crate) fn watched<T>(device: &Device, work: impl FnOnce() -> T) -> (T, DeviceMemory) {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut largest = DeviceMemory::default();
            while !is_done.load(Ordering::Relaxed) {
                if let Some(now) = device_memory(device) {
                    largest.in_use = largest.in_use.max(now.in_use);
                    largest.reserved = largest.reserved.max(now.reserved);
                }
                thread::sleep(LOOK_EVERY);
            }
            largest
        });
        // A panic of the work must end the looks, too: the scope waits for them.
        let result = catch_unwind(AssertUnwindSafe(work));
        is_done.store(true, Ordering::Relaxed);
        let largest = looks.join().unwrap_or_default();
        (result.unwrap_or_else(|payload| resume_unwind(payload)), largest)
    })
}

/// Parts of the messages of cubecl for a failed allocation: too large right now, for a kernel, or for any page.
const MESSAGES: [&str; 4] = [
    "out of device memory",
    "out-of-memory error",
    "can't allocate buffer of size",
    "every page size the memory tracks",
];

/// The device's message, one line of it, when a panic says that a device has no memory left.
#[must_use]
pub fn out_of_memory(payload: &(dyn Any + Send)) -> Option<String> {
    let text =
        payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied())?;
    let at = MESSAGES.iter().find_map(|message| text.find(message))?;
    let line = text[at..].lines().next().unwrap_or_default();
    // The text is that of an error inside another one's debug form, where a line ends with an escape.
    Some(line.split("\\n").next().unwrap_or_default().trim_end_matches(['"', ' ', '}']).to_owned())
}

/// Runs `work`; a device without memory left is an error at the step that `step` then gives. Other panics go on.
pub(crate) fn catch_out_of_memory<S, T>(
    state: &mut S,
    work: impl FnOnce(&mut S) -> Result<T, LearnError>,
    step: impl FnOnce(&S) -> u64,
) -> Result<T, LearnError> {
    // After a panic only the number of the step is read of the state.
    let result = catch_unwind(AssertUnwindSafe(|| work(state)));
    result.unwrap_or_else(|payload| match out_of_memory(payload.as_ref()) {
        Some(reason) => Err(LearnError::OutOfMemory { step: step(state), reason }),
        None => resume_unwind(payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(message: &'static str) -> Result<u32, LearnError> {
        catch_out_of_memory(&mut 7, |_| if message.is_empty() { Ok(1) } else { panic!("{message}") }, |step| *step)
    }

    #[test]
    fn watching_ends_with_the_work() {
        let cpu = Device::flex();
        assert_eq!(device_memory(&cpu), None);
        assert_eq!(watched(&cpu, || 3), (3, DeviceMemory::default()));
        assert!(catch_unwind(|| watched(&cpu, || -> u32 { panic!("a defect") })).is_err());
    }

    #[test]
    fn only_a_lack_of_memory_becomes_an_error() {
        assert!(matches!(caught(""), Ok(1)));
        let text = "Error while reading data: use `try_into_data` instead to catch the error at runtime: WithContext { reason: \
                    \"out of device memory allocating 1073741824 bytes\\nbacktrace\" }";
        let error = caught(text).expect_err("no memory").to_string();
        assert!(error.contains("step 7") && error.contains("allocating 1073741824 bytes"), "{error}");
        assert!(!error.contains("backtrace"), "{error}");
        let other = catch_unwind(|| caught("a defect")).expect_err("goes on");
        assert!(out_of_memory(other.as_ref()).is_none());
    }
}
