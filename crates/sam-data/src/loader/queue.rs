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
    /// The last pool of shards that was announced of each set.
    announced: Mutex<BTreeMap<usize, u64>>,
    /// Signals that the consumer has advanced, or that the loader stops.
    space: Condvar,
    /// Signals that a batch is ready, or that the loader stops.
    arrival: Condvar,
}

/// Batches are counted as this loader serves them; [`Turns::batch`] says which of the run they are.
struct State {
    next: Place,
    /// The next batch of the consumer.
    wanted: u64,
    /// Batches with unfinished draws.
    open: BTreeMap<u64, OpenBatch>,
    ready: BTreeMap<u64, Result<Batch, LoaderError>>,
    is_stopped: bool,
}

/// An image of a batch.
#[derive(Clone, Copy)]
struct Place {
    /// Of those that this loader serves.
    nth_batch: u64,
    position: usize,
}

struct OpenBatch {
    places: Vec<Option<Prepared>>,
    n_missing: usize,
}

impl Queue {
    pub(crate) fn new(samples: Arc<dyn Samples>, options: LoaderOptions, first_batch: u64) -> Self {
        let nth_batch = options.turns.nth(first_batch);
        Self {
            samples,
            options,
            announced: Mutex::default(),
            state: Mutex::new(State {
                next: Place { nth_batch, position: 0 },
                wanted: nth_batch,
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
        while let Some(place) = self.claim() {
            let prepared = self.prepare_guarded(place);
            if let Some(images) = self.hand_in(place, prepared) {
                let batch = self.assemble_guarded(place.nth_batch, images);
                self.lock().ready.insert(place.nth_batch, batch);
                self.arrival.notify_all();
            }
        }
    }

    /// Waits for a batch; without workers, prepares it here. `None` after the end or when stopped.
    pub(crate) fn take(&self, nth_batch: u64) -> Option<Result<Batch, LoaderError>> {
        if self.samples.n_samples() == 0 {
            return Some(Err(LoaderError::NoSamples));
        }
        let n_images = self.n_images_of(nth_batch);
        if n_images == 0 {
            return None;
        }
        if self.options.n_workers == 0 {
            let images = (0..n_images).map(|position| self.prepare_guarded(Place { nth_batch, position })).collect();
            return Some(self.assemble_guarded(nth_batch, images));
        }
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            if let Some(batch) = state.ready.remove(&nth_batch) {
                state.wanted = nth_batch + 1;
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
        // Workers that wait for a shard are not to wait any more.
        if !self.announced.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            self.samples.announce(&[], &[]);
        }
    }

    /// Claims the next image inside the prefetch window, waiting for room; `None` when there will be no more.
    fn claim(&self) -> Option<Place> {
        let per_batch = self.options.n_images.get();
        let n_prefetch = self.options.n_prefetch_batches.max(1) as u64;
        let mut state = self.lock();
        loop {
            let place = state.next;
            let Place { nth_batch, position } = place;
            let is_behind_end = position >= self.n_images_of(nth_batch);
            if state.is_stopped || is_behind_end {
                return None;
            }
            if nth_batch < state.wanted.saturating_add(n_prefetch) {
                state.next = match position + 1 == per_batch {
                    true => Place { nth_batch: nth_batch + 1, position: 0 },
                    false => Place { nth_batch, position: position + 1 },
                };
                return Some(place);
            }
            state = wait(&self.space, state);
        }
    }

    /// Stores a finished image; returns the whole batch if it was the last.
    fn hand_in(&self, place: Place, prepared: Prepared) -> Option<Vec<Prepared>> {
        let Place { nth_batch, position } = place;
        let n_images = self.n_images_of(nth_batch);
        let mut state = self.lock();
        if state.is_stopped {
            return None;
        }
        let open = state.open.entry(nth_batch).or_insert_with(|| OpenBatch {
            places: std::iter::repeat_with(|| None).take(n_images).collect(),
            n_missing: n_images,
        });
        open.places[position] = Some(prepared);
        open.n_missing -= 1;
        if open.n_missing > 0 {
            return None;
        }
        let complete = state.open.remove(&nth_batch)?;
        Some(complete.places.into_iter().flatten().collect())
    }

    fn first_draw(&self, nth_batch: u64) -> u64 {
        self.options.turns.batch(nth_batch).saturating_mul(self.options.n_images.get() as u64)
    }

    /// Number of images of a batch; only the end of [`Order::InOrderOnce`] is not full.
    fn n_images_of(&self, nth_batch: u64) -> usize {
        let per_batch = self.options.n_images.get();
        let n_samples = self.samples.n_samples() as u64;
        match self.options.order {
            _ if n_samples == 0 => 0,
            Order::ShuffledEpochs => per_batch,
            Order::InOrderOnce => n_samples.saturating_sub(self.first_draw(nth_batch)).min(per_batch as u64) as usize,
        }
    }

    fn prepare_guarded(&self, place: Place) -> Prepared {
        let draw = self.first_draw(place.nth_batch) + place.position as u64;
        self.announce(draw);
        guarded(self.options.turns.batch(place.nth_batch), draw, || prepare(&*self.samples, &self.options, draw))
    }

    /// Says which shards are needed, once for each pool: draws come in order, but for those that threads have begun before.
    fn announce(&self, draw: u64) {
        let Some(pool) = self.options.pool_of(draw) else { return };
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.get(&pool.set).is_none_or(|&last| pool.number > last) && !self.lock().is_stopped {
            announced.insert(pool.set, pool.number);
            let [now, next] = pool.samples();
            self.samples.announce(&now, &next);
        }
    }

    fn assemble_guarded(&self, nth_batch: u64, images: Vec<Prepared>) -> Result<Batch, LoaderError> {
        let step = self.options.turns.batch(nth_batch);
        guarded(step, self.first_draw(nth_batch), || Batch::assemble(&self.options, step, images))
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
