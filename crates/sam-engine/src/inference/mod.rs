//! The model of a project: images are encoded ahead on threads of their own, clicks are answered on that of the request.
//!
//! An encode cannot be interrupted, so there are two threads. One encodes the image that somebody looks at, with all threads;
//! the other those that will probably follow, and finds proposals, with one thread fewer and a low priority, so that a click meanwhile
//! finds a core.
//! Embeddings are kept on disk by the hashes of encoder and pixels, so none is ever used for another image, and the newest also in
//! memory. A better model takes the place of the one in use between two requests; with the same encoder, embeddings stay.

mod encoder;
mod model;
mod prompting;
mod proposals;
mod texts;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rayon::ThreadPoolBuilder;
use sam_image::RgbImage;
use sam_infer::TextVector;
use serde::Serialize;

use self::encoder::Encoder;
pub use self::model::{Model, file_fingerprint};
use self::prompting::Feedback;
pub(crate) use self::prompting::{Asked, Wanted};
use self::proposals::Proposals;
pub use self::texts::Texts;
use crate::error::EngineError;
use crate::images::ImageList;
use crate::store::SeenImage;

/// Embeddings in memory, 4 MiB each for the published models.
const IN_MEMORY: usize = 8;

/// A server of a model that takes texts was not told their CLIP.
const NEEDS_CLIP: &str = "texts need the CLIP that the model was trained with";

/// The longest that a click waits for the encoder.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of an image's embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Readiness {
    /// Nobody asked for it, or it waits for its turn.
    Waiting,
    /// Being read and encoded.
    Encoding {
        /// For how long.
        seconds: f64,
    },
    /// Clicks are answered at once.
    Ready,
    /// It cannot be read or encoded.
    Failed {
        /// Why.
        message: String,
    },
}

/// An encoded image.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) embedding: sam_infer::ImageEmbedding,
}

/// Tells a file that was replaced meanwhile from what was read: time of its last change, and size.
type Stamp = (Option<SystemTime>, u64);

#[derive(Default)]
struct Queue {
    /// The image that somebody looks at.
    wanted: Option<usize>,
    /// Those that will probably follow.
    ahead: VecDeque<usize>,
    /// By both threads.
    encoding: Vec<(usize, Instant)>,
    /// Newest last.
    encoded: VecDeque<(usize, Arc<Encoded>)>,
    failed: HashMap<usize, String>,
    /// The files as they were looked at last.
    stamps: HashMap<usize, Stamp>,
    proposals: Proposals,
    has_ended: bool,
}

impl Queue {
    fn is_encoding(&self, index: usize) -> bool {
        self.encoding.iter().any(|(other, _)| *other == index)
    }

    fn encoded(&self, index: usize) -> Option<&Arc<Encoded>> {
        self.encoded.iter().find(|(other, _)| *other == index).map(|(_, encoded)| encoded)
    }
}

/// What connections and the threads that encode share.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    model: RwLock<Arc<Model>>,
    feedback: Mutex<Feedback>,
    images: Vec<PathBuf>,
    seen: Mutex<HashMap<usize, SeenImage>>,
    /// Where proposals are kept.
    folder: PathBuf,
    embeddings_bytes: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn model(&self) -> Arc<Model> {
        Arc::clone(&self.model.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<usize, SeenImage>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads an image, and notes what it is.
    fn read(&self, index: usize) -> Result<(RgbImage, SeenImage), EngineError> {
        let image = sam_data::read_image_file(&self.images[index], &sam_data::SourceOptions::default())?;
        let is = SeenImage::of(&image);
        self.seen().insert(index, is);
        Ok((image, is))
    }
}

/// The model of an open project.
pub struct Inference {
    shared: Arc<Shared>,
    texts: Option<Texts>,
}

impl std::fmt::Debug for Inference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inference").field("model", &self.model()).finish_non_exhaustive()
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
    }
}

impl Inference {
    /// Starts the threads that encode. `folder` is the project's; `embeddings_gib` the size of its cache.
    ///
    /// # Errors
    ///
    /// When an image is gone, or threads cannot be started.
    pub fn start(model: Model, images: &ImageList, folder: PathBuf, embeddings_gib: f64) -> Result<Self, EngineError> {
        let paths = (0..images.len()).map(|index| images.path(index)).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            model: RwLock::new(Arc::new(model)),
            feedback: Mutex::default(),
            images: paths,
            seen: Mutex::default(),
            folder: folder.clone(),
            embeddings_bytes: (embeddings_gib * f64::from(1 << 30)) as u64,
        });
        let n_threads = rayon::current_num_threads().saturating_sub(1).max(1);
        let wanted = Encoder::of_wanted(Arc::clone(&shared));
        let pool = ThreadPoolBuilder::new().num_threads(n_threads).start_handler(|_| encoder::yield_to_clicks());
        let ahead = Encoder::ahead(Arc::clone(&shared), pool.build().ok());
        for (name, encoder) in [("encoder", wanted), ("encoder ahead", ahead)] {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || encoder.run()).map_err(EngineError::io(&folder))?;
        }
        Ok(Self { shared, texts: None })
    }

    /// Takes texts as prompts, as long as the model in use takes those of this CLIP.
    #[must_use]
    pub fn with_texts(mut self, texts: Option<Texts>) -> Self {
        self.texts = texts;
        self
    }

    /// Whether there is a CLIP, of whatever model.
    #[must_use]
    pub fn has_clip(&self) -> bool {
        self.texts.is_some()
    }

    /// Why a text is no prompt now; `None` when it is one.
    #[must_use]
    pub fn why_no_texts(&self) -> Option<String> {
        let check = |texts: &Texts| texts.check(self.model().predictor()).err().map(|error| error.to_string());
        self.texts.as_ref().map_or(Some(NEEDS_CLIP.to_owned()), check)
    }

    /// The vector of a text that somebody has typed.
    pub(crate) fn text(&self, text: &str) -> Result<TextVector, EngineError> {
        let invalid = |why: String| EngineError::Invalid(why);
        match (&self.texts, self.why_no_texts()) {
            (Some(texts), None) => texts.vector(text).map_err(|error| invalid(error.to_string())),
            (_, why) => Err(invalid(why.unwrap_or_default())),
        }
    }

    /// The model in use.
    #[must_use]
    pub fn model(&self) -> Arc<Model> {
        self.shared.model()
    }

    /// Takes another model from the next request on. Embeddings of another encoder are dropped.
    pub fn swap(&self, model: Model) {
        let has_same_encoder = {
            let queue = self.shared.lock();
            queue.encoded.iter().all(|(_, encoded)| model.predictor().is_own_embedding(&encoded.embedding))
        };
        *self.shared.model.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(model);
        let mut queue = self.shared.lock();
        if !has_same_encoder {
            queue.encoded.clear();
            queue.failed.clear();
        }
        queue.proposals.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Somebody looks at an image, and probably at these next.
    pub(crate) fn look_at(&self, index: usize, next: &[usize]) {
        let stamp = std::fs::metadata(&self.shared.images[index]).ok().map(|file| (file.modified().ok(), file.len()));
        let mut queue = self.shared.lock();
        // A file may have been repaired since, or replaced: clicks are never answered from another image.
        queue.failed.remove(&index);
        if let Some(stamp) = stamp
            && queue.stamps.insert(index, stamp).is_some_and(|before| before != stamp)
        {
            queue.encoded.retain(|(other, _)| *other != index);
            queue.proposals.forget(index);
            self.shared.seen().remove(&index);
        }
        queue.wanted = Some(index);
        queue.ahead = next.iter().copied().filter(|other| *other != index).collect();
        drop(queue);
        self.shared.changed.notify_all();
    }

    pub(crate) fn readiness(&self, index: usize) -> Readiness {
        let queue = self.shared.lock();
        if let Some(message) = queue.failed.get(&index) {
            return Readiness::Failed { message: message.clone() };
        }
        if queue.encoded(index).is_some() {
            return Readiness::Ready;
        }
        match queue.encoding.iter().find(|(other, _)| *other == index) {
            Some((_, since)) => Readiness::Encoding { seconds: since.elapsed().as_secs_f64() },
            None => Readiness::Waiting,
        }
    }

    /// An image's embedding, if it is in memory.
    pub(crate) fn encoded_now(&self, index: usize) -> Option<Arc<Encoded>> {
        self.shared.lock().encoded(index).map(Arc::clone)
    }

    /// Waits for an image's embedding, unless `is_obsolete` becomes true; `None` then.
    pub(crate) fn encoded(
        &self,
        index: usize,
        is_obsolete: &dyn Fn() -> bool,
    ) -> Result<Option<Arc<Encoded>>, EngineError> {
        let start = Instant::now();
        let mut queue = self.shared.lock();
        loop {
            if let Some(encoded) = queue.encoded(index) {
                return Ok(Some(Arc::clone(encoded)));
            }
            if let Some(message) = queue.failed.get(&index) {
                return Err(EngineError::Invalid(message.clone()));
            }
            if is_obsolete() || start.elapsed() > PATIENCE {
                return Ok(None);
            }
            if !queue.is_encoding(index) && queue.wanted != Some(index) {
                queue.wanted = Some(index);
                self.shared.changed.notify_all();
            }
            let waited = self.shared.changed.wait_timeout(queue, Duration::from_millis(50));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What an image is, from memory or by reading it.
    pub(crate) fn seen(&self, index: usize) -> Result<SeenImage, EngineError> {
        let known = self.shared.seen().get(&index).copied();
        match known {
            Some(seen) => Ok(seen),
            None => Ok(self.shared.read(index)?.1),
        }
    }
}
