//! The work queue of the loader: distributes draws over worker threads and holds finished batches.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::loader::batch::Batch;
use crate::loader::failure::LoaderError;
use crate::loader::options::{LoaderOptions, Order};
use crate::loader::prepare::{PreparedImage, prepare};
use crate::sample::Samples;

type Prepared = Result<PreparedImage, LoaderError>;

/// Shared by the consumer and all workers.
pub(crate) struct Queue {
    samples: Arc<dyn Samples>,
    options: LoaderOptions,
    state: Mutex<State>,
    /// Signals that the consumer has advanced, or that the loader stops.
    space: Condvar,
    /// Signals that a batch is ready, or that the loader stops.
    arrival: Condvar,
}

struct State {
    next_draw: u64,
    /// The next step of the consumer.
    wanted_step: u64,
    /// Steps with unfinished draws.
    open: BTreeMap<u64, OpenBatch>,
    ready: BTreeMap<u64, Result<Batch, LoaderError>>,
    is_stopped: bool,
}

struct OpenBatch {
    places: Vec<Option<Prepared>>,
    n_missing: usize,
}

impl Queue {
    pub(crate) fn new(samples: Arc<dyn Samples>, options: LoaderOptions, first_step: u64) -> Self {
        let next_draw = first_step.saturating_mul(options.n_images.get() as u64);
        Self {
            samples,
            options,
            state: Mutex::new(State {
                next_draw,
                wanted_step: first_step,
                open: BTreeMap::new(),
                ready: BTreeMap::new(),
                is_stopped: false,
            }),
            space: Condvar::new(),
            arrival: Condvar::new(),
        }
    }

    /// The loop of a worker.
    pub(crate) fn work(&self) {
        while let Some(draw) = self.claim() {
            let prepared = self.prepare_guarded(draw);
            if let Some((step, images)) = self.hand_in(draw, prepared) {
                let batch = self.assemble_guarded(step, images);
                self.lock().ready.insert(step, batch);
                self.arrival.notify_all();
            }
        }
    }

    /// Waits for the batch of a step; without workers, prepares it here. `None` after the end or when stopped.
    pub(crate) fn take(&self, step: u64) -> Option<Result<Batch, LoaderError>> {
        if self.samples.n_samples() == 0 {
            return Some(Err(LoaderError::NoSamples));
        }
        let n_images = self.n_images_of(step);
        if n_images == 0 {
            return None;
        }
        if self.options.n_workers == 0 {
            let first_draw = step * self.options.n_images.get() as u64;
            let draws = first_draw..first_draw + n_images as u64;
            let images = draws.map(|draw| self.prepare_guarded(draw)).collect();
            return Some(self.assemble_guarded(step, images));
        }
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            if let Some(batch) = state.ready.remove(&step) {
                state.wanted_step = step + 1;
                drop(state);
                self.space.notify_all();
                return Some(batch);
            }
            state = wait(&self.arrival, state);
        }
    }

    /// Wakes all threads so that they end.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.is_stopped = true;
        // Unclaimed batches are tens of megabytes each.
        state.ready.clear();
        state.open.clear();
        drop(state);
        self.space.notify_all();
        self.arrival.notify_all();
    }

    /// Claims the next draw inside the prefetch window, waiting for room; `None` when there will be no more.
    fn claim(&self) -> Option<u64> {
        let per_batch = self.options.n_images.get() as u64;
        let n_prefetch = self.options.n_prefetch_batches.max(1) as u64;
        let mut state = self.lock();
        loop {
            let step = state.next_draw / per_batch;
            let is_behind_end = state.next_draw % per_batch >= self.n_images_of(step) as u64;
            if state.is_stopped || is_behind_end {
                return None;
            }
            if step < state.wanted_step.saturating_add(n_prefetch) {
                let draw = state.next_draw;
                state.next_draw += 1;
                return Some(draw);
            }
            state = wait(&self.space, state);
        }
    }

    /// Stores a finished draw; returns the whole batch if it was the last.
    fn hand_in(&self, draw: u64, prepared: Prepared) -> Option<(u64, Vec<Prepared>)> {
        let per_batch = self.options.n_images.get() as u64;
        let (step, place) = (draw / per_batch, (draw % per_batch) as usize);
        let n_images = self.n_images_of(step);
        let mut state = self.lock();
        if state.is_stopped {
            return None;
        }
        let open = state.open.entry(step).or_insert_with(|| OpenBatch {
            places: std::iter::repeat_with(|| None).take(n_images).collect(),
            n_missing: n_images,
        });
        open.places[place] = Some(prepared);
        open.n_missing -= 1;
        if open.n_missing > 0 {
            return None;
        }
        let complete = state.open.remove(&step)?;
        Some((step, complete.places.into_iter().flatten().collect()))
    }

    /// Number of images of a step; only the end of [`Order::InOrderOnce`] is not full.
    fn n_images_of(&self, step: u64) -> usize {
        let per_batch = self.options.n_images.get();
        let n_samples = self.samples.n_samples() as u64;
        match self.options.order {
            _ if n_samples == 0 => 0,
            Order::ShuffledEpochs => per_batch,
            Order::InOrderOnce => {
                let first_draw = step.saturating_mul(per_batch as u64);
                n_samples.saturating_sub(first_draw).min(per_batch as u64) as usize
            }
        }
    }

    fn prepare_guarded(&self, draw: u64) -> Prepared {
        let step = draw / self.options.n_images.get() as u64;
        guarded(step, draw, || prepare(&*self.samples, &self.options, draw))
    }

    fn assemble_guarded(&self, step: u64, images: Vec<Prepared>) -> Result<Batch, LoaderError> {
        let first_draw = step * self.options.n_images.get() as u64;
        guarded(step, first_draw, || Batch::assemble(&self.options, step, images))
    }

    /// No code panics while it holds the lock, so a poisoned one is still consistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// A panic in a worker would leave the consumer waiting forever; as an error it surfaces at its step.
fn guarded<T>(step: u64, draw: u64, work: impl FnOnce() -> Result<T, LoaderError>) -> Result<T, LoaderError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (None, Some(text)) => (*text).to_owned(),
            (None, None) => "without a message".to_owned(),
        };
        Err(LoaderError::Panicked { step, draw, message })
    })
}
