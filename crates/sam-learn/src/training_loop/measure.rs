//! What a run will take, measured before its first step: some steps and validations of the real kind, after which nothing
//! remains.
//!
//! A run draws everything from its seed and the number of the step, so measuring changes no result.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use sam_data::loader::Loader;

use super::pace::Pace;
use super::{Run, Setup, n_images};
use crate::device_memory::{catch_out_of_memory, device_memory};
use crate::error::LearnError;
use crate::optim::{PartSize, optimiser_and_rates, part_sizes};
use crate::ranks::Alone;
use crate::record::{CheckpointFiles, Observers, Progress};
use crate::task::{Task, ValidationRequest};

/// Steps are measured for about as long as this, after the first, which also pays for what happens once.
const STEPS_TAKE: Duration = Duration::from_secs(2);
/// Fast steps vary little.
const STEPS_MAX: usize = 12;
/// A first step above this is measure enough.
const SLOW_STEP: Duration = Duration::from_secs(20);
/// As [`STEPS_TAKE`], for validation.
const VALIDATION_TAKES: Duration = Duration::from_secs(1);

/// What a run takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Parameters of each part of the network, and how many learn.
    pub parts: Vec<PartSize>,
    /// Seconds of an optimiser step, with the time that it waits for data.
    pub step_s: f64,
    /// Images of a step.
    pub images_per_step: f64,
    /// Objects of a step; of images, where no masks are learned.
    pub objects_per_step: f64,
    /// Seconds of a validation; `None` without validation.
    pub validation_s: Option<f64>,
    /// Images of a validation.
    pub validation_images: usize,
    /// Largest memory of the process, or of a device that reports its own, in bytes, with the optimiser's moments and the moving average.
    pub peak_bytes: u64,
    /// Size of a checkpoint, in bytes.
    pub checkpoint_bytes: u64,
    /// Size of a save for resuming, in bytes.
    pub save_bytes: u64,
}

/// Measures a run. `None` when not even one step can be made; the run itself then says why.
pub(crate) fn measure<T: Task>(setup: Setup<T>) -> Result<Option<Measured>, LearnError> {
    let (task, mut run) = unobserved(setup);
    let parts = part_sizes(task.network());
    let [all, learned] = [|part: &PartSize| part.all, |part: &PartSize| part.learned]
        .map(|count| parts.iter().map(|part| count(part) as u64).sum::<u64>());
    let has_average = run.options.optimiser.ema_decay.is_some();
    let average_bytes = if has_average { 4 * all } else { 0 };
    let state_bytes = 8 * learned + average_bytes;

    let work = |run: &mut Run<T>| match run.measure_steps(&task) {
        Some(steps) => Ok(Some((steps, run.measure_validation(&task)?.unzip()))),
        None => Ok(None),
    };
    let measured = catch_out_of_memory(&mut run, work, |run| run.progress.step + 1)?;
    let Some((steps, (validation_s, validation_images))) = measured else { return Ok(None) };
    // The steps were made on a copy of what learns.
    let peak_bytes = (steps.peak_bytes + state_bytes).max(peak_bytes(&run.device).saturating_sub(4 * learned));
    Ok(Some(Measured {
        parts,
        step_s: steps.step_s,
        images_per_step: steps.n_images,
        objects_per_step: steps.weight,
        validation_s,
        validation_images: validation_images.unwrap_or_default(),
        peak_bytes,
        checkpoint_bytes: 4 * all,
        save_bytes: 4 * all + state_bytes,
    }))
}

/// A run that nobody watches and that writes nothing.
pub(super) fn unobserved<T: Task>(setup: Setup<T>) -> (T, Run<T>) {
    let Setup { task, options, device, inputs, validation, layers } = setup;
    let average = options.optimiser.ema_decay.map(|_| task.valid().network().clone());
    let (optimiser, rates) = optimiser_and_rates(task.network(), layers, &options.optimiser, &options.schedule, 0);
    let run = Run {
        checkpoints: CheckpointFiles::open(&options.folder),
        device,
        batches: Loader::new(inputs.samples, inputs.loader, 0),
        optimiser,
        rates,
        average,
        validation,
        progress: Progress::default(),
        pace: Pace::default(),
        interrupter: inputs.interrupter,
        is_stop_agreed: false,
        ranks: Arc::new(Alone),
        observers: Observers(Vec::new()),
        options,
    };
    (task, run)
}

/// Means over the measured steps.
struct Steps {
    step_s: f64,
    n_images: f64,
    weight: f64,
    /// Before the optimiser had any state.
    peak_bytes: u64,
}

impl<T: Task> Run<T> {
    fn measure_steps(&mut self, task: &T) -> Option<Steps> {
        let mut task = task.clone();
        let (mut taken, mut all_images, mut weight) = (Vec::new(), 0, 0);
        let mut peak = 0;
        let began = Instant::now();
        let n_steps = STEPS_MAX.min(self.options.schedule.steps as usize);
        while taken.len() < n_steps && (taken.len() < 2 || began.elapsed() < STEPS_TAKE) {
            let began = Instant::now();
            // A step that fails stops the run with the reason; here it is only not counted.
            let own = self.gradients_of_next_batches(&task);
            let Ok((grads, reports)) = self.of_all_ranks(&task, own) else { break };
            if taken.is_empty() {
                peak = peak_bytes(&self.device);
            }
            let Ok((grads, _)) = self.clip(&task, grads, &reports) else { break };
            let rates = self.rates.step();
            task = self.optimiser.step(rates, task, grads);
            self.update_average(&task);
            self.progress.step += 1;
            taken.push(began.elapsed());
            all_images += n_images(&reports);
            weight += reports.iter().map(|report| report.weight).sum::<usize>();
            if taken[0] > SLOW_STEP {
                break;
            }
        }
        let n = taken.len();
        let step_s = typical(if n > 1 { &taken[1..] } else { &taken[..] });
        let mean = |sum: usize| sum as f64 / n as f64;
        (n > 0).then(|| Steps { step_s, n_images: mean(all_images), weight: mean(weight), peak_bytes: peak })
    }

    /// Seconds of a whole validation, from those of some images, and the number of all images.
    fn measure_validation(&self, task: &T) -> Result<Option<(f64, usize)>, LearnError> {
        let Some(input) = &self.validation else { return Ok(None) };
        let model = task.valid();
        let time = |n: usize| -> Result<(f64, usize, usize), LearnError> {
            let (few, n_few, n_all) = T::some_images(input, n);
            let began = Instant::now();
            let mut on_progress = |_, _| ControlFlow::Continue(());
            let metric = &self.options.validation.metric;
            model.validate(
                &few,
                ValidationRequest { step: 0, metric, n_previews: 0, on_progress: &mut on_progress, ranks: &Alone },
            )?;
            Ok((began.elapsed().as_secs_f64(), n_few, n_all))
        };
        // The first pays for what happens once.
        time(1)?;
        let began = Instant::now();
        let mut n = 2;
        loop {
            let (took_s, n_few, n_all) = time(n)?;
            if n_few == n_all || n > n_all || began.elapsed() > VALIDATION_TAKES {
                return Ok(Some((took_s * n_all as f64 / n_few.max(1) as f64, n_all)));
            }
            n *= 2;
        }
    }
}

/// Mean seconds, without steps during which the machine did something else: those of more than three times the median.
fn typical(steps: &[Duration]) -> f64 {
    let mut sorted = steps.to_vec();
    sorted.sort_unstable();
    let Some(&median) = sorted.get(sorted.len().saturating_sub(1) / 2) else { return 0.0 };
    let usual: Vec<f64> = sorted.iter().filter(|&&step| step <= 3 * median).map(Duration::as_secs_f64).collect();
    usual.iter().sum::<f64>() / usual.len() as f64
}

/// The largest memory so far: on a device that reports it what it has given to this process, else the process's own.
fn peak_bytes(device: &Device) -> u64 {
    device_memory(device).map_or_else(process_peak_bytes, |memory| memory.reserved)
}

/// The largest physical memory of this process so far; where the system does not keep it, that of now.
pub(super) fn process_peak_bytes() -> u64 {
    let status = sam_files::read_text(Path::new("/proc/self/status"), sam_files::MAX_TEXT_BYTES).unwrap_or_default();
    let peak_kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let now = || memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64);
    peak_kib.map_or_else(now, |kib: u64| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stalls_once_does_not_decide() {
        let of =
            |millis: &[u64]| typical(&millis.iter().map(|&millis| Duration::from_millis(millis)).collect::<Vec<_>>());
        assert!((of(&[100, 200, 300]) - 0.2).abs() < 1e-9);
        assert!((of(&[100, 100_000, 300]) - 0.2).abs() < 1e-9);
        assert!((of(&[100, 100_000]) - 0.1).abs() < 1e-9);
        assert_eq!(of(&[]), 0.0);
    }
}
