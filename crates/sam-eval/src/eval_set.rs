//! The samples of an evaluation, from one or more data sets, read ahead by background threads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use sam_data::Sample;
use sam_data::loader::Samples;

use crate::error::EvalError;
use crate::protocol::task::{ImageTask, Target};

/// Samples buffered per reading thread; more would only use memory.
const READ_AHEAD: usize = 1;

/// A sample with the names for the report.
#[derive(Clone, Debug)]
pub struct EvalImage {
    /// Name of the data set.
    pub data_set: Arc<str>,
    /// The image with its objects.
    pub sample: Sample,
    /// Class names; may be empty.
    pub classes: Arc<[String]>,
    /// Index of the sample in its data set.
    pub index: usize,
}

impl EvalImage {
    /// The objects as protocol targets.
    pub(crate) fn targets(&self) -> Vec<Target<'_>> {
        let class = |index: usize| self.classes.get(index).map(String::as_str);
        let objects = self.sample.objects.iter();
        objects
            .map(|object| Target { id: object.id, mask: &object.mask, class: object.class.and_then(class) })
            .collect()
    }

    pub(crate) fn task<'a>(&'a self, objects: &'a [Target<'a>]) -> ImageTask<'a> {
        ImageTask {
            data_set: &self.data_set,
            name: &self.sample.name,
            image: &self.sample.image,
            objects,
            ignore: self.sample.ignore.as_ref(),
        }
    }
}

/// A data set, or a subset of it.
#[derive(Clone)]
pub struct EvalSet {
    /// Name in the report.
    pub name: Arc<str>,
    /// The whole data set.
    pub samples: Arc<dyn Samples>,
    /// Class names; may be empty.
    pub classes: Arc<[String]>,
    /// Indices of the evaluated samples.
    pub indices: Vec<usize>,
}

impl EvalSet {
    /// All samples of a data set.
    #[must_use]
    pub fn new(name: &str, samples: Arc<dyn Samples>, classes: &[String]) -> Self {
        let indices = (0..samples.n_samples()).collect();
        Self { name: name.into(), samples, classes: classes.into(), indices }
    }

    /// Limits the number of samples, evenly spaced: neighbours are often alike.
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
        Ok(EvalImage { data_set: Arc::clone(&self.name), sample, classes: Arc::clone(&self.classes), index })
    }
}

/// Reads the images of all sets in order. Without threads, images are read on demand.
///
/// # Panics
///
/// When the system cannot start a thread.
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
                // Reading ends after an error, or when the receiver is gone.
                let image = sets[set].read(index);
                let is_last = image.is_err();
                if sender.send(image).is_err() || is_last {
                    return;
                }
            }
        };
        let name = format!("sam-eval-{thread}");
        std::thread::Builder::new().name(name).spawn(read).expect("the system can start a thread");
        receiver
    };
    let threads = (0..n_threads).map(thread).collect();
    EvalImages { sets, places, threads, next: 0 }
}

/// An iterator over images in order; see [`read_images`].
pub struct EvalImages {
    sets: Arc<[EvalSet]>,
    places: Arc<[(usize, usize)]>,
    /// Thread `i` of `n` reads images `i`, `i + n` and so on.
    threads: Vec<Receiver<Result<EvalImage, EvalError>>>,
    next: usize,
}

impl EvalImages {
    /// Total number of images.
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
        // A closed channel means that the thread panicked; reading here raises the same panic or gives the sample.
        let received = self.threads[at % self.threads.len()].recv();
        Some(received.unwrap_or_else(|_| self.sets[set].read(index)))
    }
}
