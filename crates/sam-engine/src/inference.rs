//! The model of a project: images are encoded ahead on a thread of its own, clicks are answered on that of the request.
//!
//! The image that somebody looks at is encoded first and with all threads. The next ones are encoded after it with one thread
//! fewer, so that a click meanwhile finds a core: an encode cannot be interrupted. Embeddings are kept on disk by the hashes of
//! encoder and pixels, so none is ever used for another image, and the newest also in memory.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sam_data::{SourceOptions, read_image_file};
use sam_files::{Fingerprint, open_regular};
use sam_image::{RgbImage, Rle, upscale_mask};
use sam_infer::cache::{CacheDtype, EmbeddingCache, Protected};
use sam_infer::{ImageEmbedding, MASK_THRESHOLD, MaskOutput, Predictor, Prompt, image_fingerprint};
use serde::Serialize;

use crate::annotation::Segmentation;
use crate::error::EngineError;
use crate::images::ImageList;
use crate::store::SeenImage;

/// Embeddings in memory, 4 MiB each for the published models.
const IN_MEMORY: usize = 8;

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
    pub(crate) embedding: ImageEmbedding,
}

/// One of the masks that a prompt may mean.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Candidate {
    pub(crate) segmentation: Segmentation,
    pub(crate) area: usize,
    /// As the model predicts it.
    pub(crate) predicted_iou: f32,
}

/// Tells a file that was replaced meanwhile from what was read: time of its last change, and size.
type Stamp = (Option<SystemTime>, u64);

#[derive(Default)]
struct Queue {
    /// The image that somebody looks at.
    wanted: Option<usize>,
    /// Those that will probably follow.
    ahead: VecDeque<usize>,
    encoding: Option<(usize, Instant)>,
    /// Newest last.
    encoded: VecDeque<(usize, Arc<Encoded>)>,
    failed: HashMap<usize, String>,
    /// The files as they were looked at last.
    stamps: HashMap<usize, Stamp>,
    has_ended: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The model of an open project.
pub struct Inference {
    /// One decode at a time: it uses all threads.
    predictor: Mutex<Predictor>,
    side_px: usize,
    model: String,
    images: Arc<Vec<std::path::PathBuf>>,
    seen: Arc<Mutex<HashMap<usize, SeenImage>>>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Inference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inference").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
    }
}

/// What a thread that encodes needs.
struct Encoder {
    predictor: Predictor,
    cache: EmbeddingCache,
    max_bytes: u64,
    images: Arc<Vec<std::path::PathBuf>>,
    seen: Arc<Mutex<HashMap<usize, SeenImage>>>,
    shared: Arc<Shared>,
    /// One thread fewer than the machine has.
    ahead: Option<ThreadPool>,
}

impl Inference {
    /// Starts the thread that encodes.
    ///
    /// # Errors
    ///
    /// When the checkpoint or an image is gone, or the folder of embeddings cannot be written.
    pub fn start(
        predictor: Predictor,
        checkpoint: &Path,
        images: &ImageList,
        embeddings: (&Path, f64),
    ) -> Result<Self, EngineError> {
        let (folder, gib) = embeddings;
        let cache = predictor.open_cache(folder, CacheDtype::F16)?;
        let paths = Arc::new((0..images.len()).map(|index| images.path(index)).collect::<Result<Vec<_>, _>>()?);
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() });
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let n_threads = rayon::current_num_threads().saturating_sub(1).max(1);
        let encoder = Encoder {
            predictor: predictor.clone(),
            cache,
            max_bytes: (gib * f64::from(1 << 30)) as u64,
            images: Arc::clone(&paths),
            seen: Arc::clone(&seen),
            shared: Arc::clone(&shared),
            ahead: ThreadPoolBuilder::new().num_threads(n_threads).build().ok(),
        };
        let model = format!("{:016x}", file_fingerprint(checkpoint)?);
        let thread = std::thread::Builder::new().name("encoder".to_owned());
        thread.spawn(move || encoder.run()).map_err(EngineError::io(checkpoint))?;
        let side_px = predictor.config().low_res_side();
        Ok(Self { predictor: Mutex::new(predictor), side_px, model, images: paths, seen, shared })
    }

    /// Fingerprint of the checkpoint, 16 hexadecimal digits.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Somebody looks at an image, and probably at these next.
    pub(crate) fn look_at(&self, index: usize, next: &[usize]) {
        let stamp = std::fs::metadata(&self.images[index]).ok().map(|file| (file.modified().ok(), file.len()));
        let mut queue = self.shared.lock();
        // A file may have been repaired since, or replaced: clicks are never answered from another image.
        queue.failed.remove(&index);
        if let Some(stamp) = stamp
            && queue.stamps.insert(index, stamp).is_some_and(|before| before != stamp)
        {
            queue.encoded.retain(|(other, _)| *other != index);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
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
        match queue.encoding {
            _ if queue.encoded.iter().any(|(other, _)| *other == index) => Readiness::Ready,
            Some((other, since)) if other == index => Readiness::Encoding { seconds: since.elapsed().as_secs_f64() },
            _ => Readiness::Waiting,
        }
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
            if let Some((_, encoded)) = queue.encoded.iter().find(|(other, _)| *other == index) {
                return Ok(Some(Arc::clone(encoded)));
            }
            if let Some(message) = queue.failed.get(&index) {
                return Err(EngineError::Invalid(message.clone()));
            }
            if is_obsolete() || start.elapsed() > PATIENCE {
                return Ok(None);
            }
            if queue.encoding.is_none_or(|(other, _)| other != index) && queue.wanted != Some(index) {
                queue.wanted = Some(index);
                self.shared.changed.notify_all();
            }
            let waited = self.shared.changed.wait_timeout(queue, Duration::from_millis(50));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Decodes a prompt: three masks for a single click, which is ambiguous, otherwise one.
    pub(crate) fn predict(&self, encoded: &Encoded, prompt: &Prompt) -> Result<Vec<Candidate>, EngineError> {
        let is_ambiguous = prompt.points_xy_px.len() == 1 && prompt.box_xyxy_px.is_none();
        let output = if is_ambiguous { MaskOutput::Multi } else { MaskOutput::Single };
        let prediction = {
            let predictor = self.predictor.lock().unwrap_or_else(PoisonError::into_inner);
            predictor.predict(&encoded.embedding, prompt, output)?
        };
        let scores = &prediction.iou_predictions;
        let logits: Vec<Vec<f32>> = (0..scores.len()).map(|index| prediction.mask_logits(index)).collect();
        let candidate = |(logits, &score): (&Vec<f32>, &f32)| {
            let mask = Rle::from_mask(&upscale_mask(logits, self.side_px, &prediction.frame, MASK_THRESHOLD));
            Candidate { segmentation: Segmentation::of(&mask), area: mask.area_px(), predicted_iou: score }
        };
        let candidates: Vec<Candidate> = logits.par_iter().zip(scores).map(candidate).collect();
        match candidates.iter().find(|candidate| !candidate.predicted_iou.is_finite()) {
            Some(bad) => Err(EngineError::Invalid(format!("the model predicts an IoU of {}", bad.predicted_iou))),
            None => Ok(candidates),
        }
    }

    /// What an image is, from memory or by reading it.
    pub(crate) fn seen(&self, index: usize) -> Result<SeenImage, EngineError> {
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&index).copied();
        match known {
            Some(seen) => Ok(seen),
            None => Ok(read(&self.images[index], index, &self.seen)?.1),
        }
    }
}

impl Encoder {
    fn run(self) {
        while let Some((index, is_wanted)) = self.next() {
            let encode = || self.encode(index);
            // A defect in one image must not end the thread.
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match &self.ahead {
                Some(pool) if !is_wanted => pool.install(encode),
                _ => encode(),
            }));
            let result = caught.unwrap_or_else(|_| Err(EngineError::Invalid("the encoder failed".to_owned())));
            let mut queue = self.shared.lock();
            queue.encoding = None;
            match result {
                Ok(encoded) => {
                    queue.encoded.retain(|(other, _)| *other != index);
                    queue.encoded.push_back((index, Arc::new(encoded)));
                    while queue.encoded.len() > IN_MEMORY {
                        queue.encoded.pop_front();
                    }
                }
                Err(error) => drop(queue.failed.insert(index, error.to_string())),
            }
            drop(queue);
            self.shared.changed.notify_all();
        }
    }

    /// Waits for an image to encode; `None` at the end.
    fn next(&self) -> Option<(usize, bool)> {
        let mut queue = self.shared.lock();
        loop {
            if queue.has_ended {
                return None;
            }
            let wanted = queue.wanted.take();
            let next = wanted.or_else(|| queue.ahead.pop_front());
            if let Some(index) = next {
                match queue.encoded.iter().position(|(other, _)| *other == index) {
                    // It is used again: the last to go.
                    Some(at) => {
                        let entry = queue.encoded.remove(at);
                        queue.encoded.extend(entry);
                    }
                    None if queue.failed.contains_key(&index) => {}
                    None => {
                        queue.encoding = Some((index, Instant::now()));
                        return Some((index, wanted.is_some()));
                    }
                }
                continue;
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn encode(&self, index: usize) -> Result<Encoded, EngineError> {
        let (image, _) = read(&self.images[index], index, &self.seen)?;
        let _ = self.cache.make_room(&Protected::new(), self.cache.entry_bytes(), self.max_bytes);
        Ok(Encoded { embedding: self.predictor.embed_with(&self.cache, &image)? })
    }
}

/// Reads an image, and notes what it is.
fn read(
    path: &Path,
    index: usize,
    seen: &Mutex<HashMap<usize, SeenImage>>,
) -> Result<(RgbImage, SeenImage), EngineError> {
    let image = read_image_file(path, &SourceOptions::default())?;
    let size_hw = [image.height() as usize, image.width() as usize];
    let is = SeenImage { size_hw, fingerprint: image_fingerprint(&image) };
    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(index, is);
    Ok((image, is))
}

/// The hash of a whole file.
fn file_fingerprint(path: &Path) -> Result<u64, EngineError> {
    let read = || -> std::io::Result<u64> {
        let mut file = open_regular(path)?;
        let (mut hash, mut bytes) = (Fingerprint::new(0), Vec::with_capacity(1 << 20));
        loop {
            bytes.clear();
            (&mut file).take(1 << 20).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                return Ok(hash.value());
            }
            hash.add_blocks(&bytes);
        }
    };
    read().map_err(EngineError::io(path))
}
