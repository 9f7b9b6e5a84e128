//! What the parts of a step take: some steps of the real kind with the clock on, after which nothing remains.

use std::time::Instant;

use super::measure::{process_peak_bytes, unobserved};
use super::{Run, Setup, n_images};
use crate::device_memory::{DeviceMemory, catch_out_of_memory, device_memory, watched};
use crate::error::LearnError;
use crate::optim::{PartSize, part_sizes};
use crate::phases::{Phase, timed, with_clock};
use crate::task::Task;

/// What some steps took.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Parameters of each part of the network, and how many learn.
    pub parts: Vec<PartSize>,
    /// The steps after the first, which also pays for what happens once.
    pub steps: Vec<ProfiledStep>,
    /// Largest physical memory of the process, in bytes.
    pub peak_bytes: u64,
    /// Largest memory of a step on a device that reports it.
    pub device_memory: Option<DeviceMemory>,
}

/// One step.
#[derive(Clone, Debug)]
pub struct ProfiledStep {
    /// From the first wait for data to the new weights.
    pub seconds: f64,
    /// Seconds of each of [`Phase::ALL`]; of shards that are computed side by side their sum.
    pub phases: [f64; Phase::ALL.len()],
    /// Images.
    pub n_images: usize,
    /// Objects; images, where there are no masks.
    pub n_objects: usize,
}

/// Makes a step that is not counted, `n_steps` that are, and on a device that reports its memory one that is watched for that.
pub(crate) fn profile<T: Task>(setup: Setup<T>, n_steps: usize) -> Result<Profile, LearnError> {
    let (task, mut run) = unobserved(setup);
    let parts = part_sizes(task.network());
    let work = |run: &mut Run<T>| {
        let mut task = task.clone();
        let mut steps = Vec::with_capacity(n_steps);
        for at in 0..=n_steps {
            let began = Instant::now();
            let (made, phases) = with_clock(|| run.timed_step(task));
            let (after, n_images, n_objects) = made?;
            task = after;
            if at > 0 {
                steps.push(ProfiledStep { seconds: began.elapsed().as_secs_f64(), phases, n_images, n_objects });
            }
        }
        let device = run.device.clone();
        let memory = match device_memory(&device) {
            Some(_) => {
                let (made, memory) = watched(&device, || run.timed_step(task));
                made?;
                Some(memory)
            }
            None => None,
        };
        Ok((steps, memory))
    };
    let (steps, device_memory) = catch_out_of_memory(&mut run, work, |run| run.progress.step + 1)?;
    Ok(Profile { parts, steps, peak_bytes: process_peak_bytes(), device_memory })
}

impl<T: Task> Run<T> {
    /// A step as [`Run::train`] makes it, that leaves nothing but the weights; its images and objects.
    fn timed_step(&mut self, task: T) -> Result<(T, usize, usize), LearnError> {
        let own = self.gradients_of_next_batches(&task);
        let (grads, reports) = self.of_all_ranks(&task, own)?;
        let device = self.device.clone();
        let (grads, _) = timed(Phase::Clip, &device, || self.clip(&task, grads, &reports))?;
        let task = task.following_batches();
        let rates = self.rates.step();
        let task = timed(Phase::Optimiser, &device, || self.optimiser.step(rates, task, grads));
        timed(Phase::Average, &device, || self.update_average(&task));
        self.progress.step += 1;
        let n_objects = reports.iter().map(|report| report.weight).sum();
        Ok((task, n_images(&reports), n_objects))
    }
}
