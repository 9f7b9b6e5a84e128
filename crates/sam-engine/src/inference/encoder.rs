//! The threads that encode: one for the image that somebody looks at, one for what will probably follow and for proposals.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use rayon::ThreadPool;
use sam_infer::automatic::Candidates;
use sam_infer::cache::Protected;

use super::proposals::{Found, OPTIONS};
use super::{Encoded, IN_MEMORY, Queue, Shared};
use crate::error::EngineError;

/// Lowers the priority of this thread, where threads have one of their own: on Linux.
pub(super) fn yield_to_clicks() {
    let Ok(thread) = std::fs::read_link("/proc/thread-self") else { return };
    let Some(id) = thread.file_name() else { return };
    let mut renice = Command::new("renice");
    renice.args(["-n", "15", "-p"]).arg(id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Without it, clicks during an encode are slower.
    let _ = renice.status();
}

/// What a thread works on.
#[derive(Clone, Copy, Debug)]
enum Job {
    Encode(usize),
    Propose(usize),
}

enum Kind {
    Wanted,
    /// With one thread fewer than the machine has.
    Ahead(Option<ThreadPool>),
}

/// A thread that encodes.
pub(super) struct Encoder {
    shared: Arc<Shared>,
    kind: Kind,
}

impl Encoder {
    pub(super) fn of_wanted(shared: Arc<Shared>) -> Self {
        Self { shared, kind: Kind::Wanted }
    }

    pub(super) fn ahead(shared: Arc<Shared>, pool: Option<ThreadPool>) -> Self {
        Self { shared, kind: Kind::Ahead(pool) }
    }

    /// Works until the project is closed.
    pub(super) fn run(self) {
        while let Some(job) = self.next() {
            let work = || match job {
                Job::Encode(index) => self.encode(index),
                Job::Propose(index) => self.propose(index),
            };
            // A defect in one image must not end the thread.
            let done = catch_unwind(AssertUnwindSafe(|| match &self.kind {
                Kind::Ahead(Some(pool)) => pool.install(work),
                _ => work(),
            }));
            if done.is_err() {
                let (Job::Encode(index) | Job::Propose(index)) = job;
                let mut queue = self.shared.lock();
                queue.encoding.retain(|(other, _)| *other != index);
                match job {
                    Job::Encode(_) => drop(queue.failed.insert(index, "the encoder failed".to_owned())),
                    Job::Propose(_) => queue.proposals.fail(index, "the model failed".to_owned()),
                }
            }
            self.shared.changed.notify_all();
        }
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut queue = self.shared.lock();
        loop {
            if queue.has_ended {
                return None;
            }
            let job = match self.kind {
                Kind::Wanted => wanted(&mut queue),
                Kind::Ahead(_) => follows(&mut queue),
            };
            if job.is_some() {
                return job;
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn encode(&self, index: usize) {
        let result = self.encoded(index);
        let mut queue = self.shared.lock();
        queue.encoding.retain(|(other, _)| *other != index);
        match result {
            Ok(encoded) => keep(&mut queue, index, encoded),
            Err(error) => drop(queue.failed.insert(index, error.to_string())),
        }
    }

    fn encoded(&self, index: usize) -> Result<Encoded, EngineError> {
        let model = self.shared.model();
        let (image, _) = self.shared.read(index)?;
        let cache = model.cache();
        let _ = cache.make_room(&Protected::new(), cache.entry_bytes(), self.shared.embeddings_bytes);
        Ok(Encoded { embedding: model.predictor().embed_with(cache, &image)? })
    }

    /// Finds the masks of everything in an image; given up when somebody waits for another one to be encoded ahead.
    fn propose(&self, index: usize) {
        let (model, encoded) = (self.shared.model(), self.shared.lock().encoded(index).map(Arc::clone));
        let Some(encoded) = encoded else { return };
        if let Some(found) = Found::read(&self.shared.folder, &encoded, model.fingerprint()) {
            self.shared.lock().proposals.finish(index, found);
            return;
        }
        let found = Candidates::find_on(model.predictor(), &encoded.embedding, &OPTIONS, &mut |points| {
            let mut queue = self.shared.lock();
            let is_wanted = queue.proposals.progress(index, points.done as f64 / points.total.max(1) as f64);
            if is_wanted && !queue.has_ended { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let found = match found {
            Ok(ControlFlow::Continue(candidates)) => Found::of(&candidates, model.fingerprint()),
            Ok(ControlFlow::Break(())) => return,
            Err(error) => Err(EngineError::Invalid(error.to_string())),
        };
        let mut queue = self.shared.lock();
        match found {
            Ok(found) => {
                // Only a cache: without it, the work is done again.
                let _ = found.write(&self.shared.folder, &encoded);
                queue.proposals.finish(index, found);
            }
            Err(error) => queue.proposals.fail(index, error.to_string()),
        }
    }
}

/// The image that somebody looks at, unless it is there or on its way.
fn wanted(queue: &mut MutexGuard<'_, Queue>) -> Option<Job> {
    let index = queue.wanted.take()?;
    touch(queue, index);
    begin(queue, index)
}

/// Proposals for the image that somebody looks at come before other images.
fn follows(queue: &mut MutexGuard<'_, Queue>) -> Option<Job> {
    if let Some(index) = queue.proposals.next().filter(|index| queue.encoded(*index).is_some()) {
        queue.proposals.begin(index);
        return Some(Job::Propose(index));
    }
    while let Some(index) = queue.ahead.pop_front() {
        if let Some(job) = begin(queue, index) {
            return Some(job);
        }
    }
    None
}

fn begin(queue: &mut MutexGuard<'_, Queue>, index: usize) -> Option<Job> {
    if queue.encoded(index).is_some() || queue.failed.contains_key(&index) || queue.is_encoding(index) {
        return None;
    }
    queue.encoding.push((index, Instant::now()));
    Some(Job::Encode(index))
}

/// It is used again: the last to go.
fn touch(queue: &mut MutexGuard<'_, Queue>, index: usize) {
    if let Some(at) = queue.encoded.iter().position(|(other, _)| *other == index) {
        let entry = queue.encoded.remove(at);
        queue.encoded.extend(entry);
    }
}

fn keep(queue: &mut MutexGuard<'_, Queue>, index: usize, encoded: Encoded) {
    queue.encoded.retain(|(other, _)| *other != index);
    queue.encoded.push_back((index, Arc::new(encoded)));
    while queue.encoded.len() > IN_MEMORY {
        queue.encoded.pop_front();
    }
}
