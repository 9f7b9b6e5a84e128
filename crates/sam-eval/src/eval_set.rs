//! What an evaluation runs over: samples of one or more data sets, read ahead by threads of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use sam_data::Sample;
use sam_data::loader::Samples;

use crate::error::EvalError;
use crate::interactive::Target;

/// Samples that wait for each reading thread's turn; more would only take memory.
const READ_AHEAD: usize = 1;

/// A sample with what the report calls it.
#[derive(Clone, Debug)]
pub struct EvalImage {
    /// Name of the data set.
    pub data_set: Arc<str>,
    /// The image with its objects; its name is the image's within the data set.
    pub sample: Sample,
    /// Names of the classes that the objects index; may be empty.
    pub classes: Arc<[String]>,
}

impl EvalImage {
    /// Its objects, as a protocol takes them.
    pub(crate) fn targets(&self) -> Vec<Target<'_>> {
        let class = |index: usize| self.classes.get(index).map(String::as_str);
        let objects = self.sample.objects.iter();
        objects
            .map(|object| Target { id: object.id, mask: &object.mask, class: object.class.and_then(class) })
            .collect()
    }
}

/// A data set, or a part of it.
#[derive(Clone)]
pub struct EvalSet {
    /// In the report.
    pub name: Arc<str>,
    /// The whole set.
    pub samples: Arc<dyn Samples>,
    /// Names of its classes; may be empty.
    pub classes: Arc<[String]>,
    /// Which samples are evaluated.
    pub indices: Vec<usize>,
}

impl EvalSet {
    /// All samples.
    #[must_use]
    pub fn new(name: &str, samples: Arc<dyn Samples>, classes: &[String]) -> Self {
        let indices = (0..samples.n_samples()).collect();
        Self { name: name.into(), samples, classes: classes.into(), indices }
    }

    /// At most so many of the samples, spread evenly: neighbours are often alike.
    #[must_use]
    pub fn at_most(mut self, n_images: usize) -> Self {
        let n = self.indices.len();
        if n_images < n {
            self.indices = (0..n_images).map(|at| self.indices[at * n / n_images]).collect();
        }
        self
    }

    fn read(&self, index: usize) -> Result<EvalImage, EvalError> {
        let failed = |source| EvalError::Sample { data_set: self.name.to_string(), index, source };
        let sample = self.samples.sample(index).map_err(failed)?;
        Ok(EvalImage { data_set: Arc::clone(&self.name), sample, classes: Arc::clone(&self.classes) })
    }
}

/// The images of all sets in order, whatever the number of threads; with none they are read when they are asked for.
///
/// # Panics
///
/// When the system refuses to start a thread.
#[must_use]
pub fn read_images(sets: &[EvalSet], n_threads: usize) -> EvalImages {
    let places: Arc<[(usize, usize)]> =
        sets.iter().enumerate().flat_map(|(set, all)| all.indices.iter().map(move |&index| (set, index))).collect();
    let sets: Arc<[EvalSet]> = sets.into();
    let n_threads = n_threads.min(places.len());
    let thread = |thread: usize| {
        let (sender, receiver) = sync_channel(READ_AHEAD);
        let (sets, places) = (Arc::clone(&sets), Arc::clone(&places));
        let read = move || {
            for &(set, index) in places.iter().skip(thread).step_by(n_threads) {
                // An error is the last thing said; a reader that has gone wants nothing more.
                let image = sets[set].read(index);
                let is_last = image.is_err();
                if sender.send(image).is_err() || is_last {
                    return;
                }
            }
        };
        let name = format!("sam-eval-{thread}");
        std::thread::Builder::new().name(name).spawn(read).expect("the system must let a thread start");
        receiver
    };
    let threads = (0..n_threads).map(thread).collect();
    EvalImages { sets, places, threads, next: 0 }
}

/// Images in order; see [`read_images`].
pub struct EvalImages {
    sets: Arc<[EvalSet]>,
    places: Arc<[(usize, usize)]>,
    /// Each has every n-th image.
    threads: Vec<Receiver<Result<EvalImage, EvalError>>>,
    next: usize,
}

impl EvalImages {
    /// How many there are in all.
    #[must_use]
    pub fn n_images(&self) -> usize {
        self.places.len()
    }
}

impl Iterator for EvalImages {
    type Item = Result<EvalImage, EvalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let &(set, index) = self.places.get(self.next)?;
        let at = self.next;
        self.next += 1;
        if self.threads.is_empty() {
            return Some(self.sets[set].read(index));
        }
        // A thread that died has panicked, and said so; reading here gives the same panic or the sample.
        let received = self.threads[at % self.threads.len()].recv();
        Some(received.unwrap_or_else(|_| self.sets[set].read(index)))
    }
}
