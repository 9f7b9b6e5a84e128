//! What the page asks for: the project, an image with its masks, masks for a prompt, operations.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use image::ImageFormat;
use sam_data::{SourceOptions, read_image_file};
use sam_files::MAX_FILE_BYTES;
use sam_image::Rle;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::page;
use super::request::Request;
use super::response::Response;
use super::round_process::RoundProcess;
use crate::annotation::{ImageState, PromptRecord, Segmentation};
use crate::error::EngineError;
use crate::images::ImageId;
use crate::inference::{Asked, Inference, Wanted};
use crate::operation::{Identifier, Operation, Outcome};
use crate::review::{Review, ReviewItem};
use crate::rounds::Statistics;
use crate::store::Store;

/// The most points of a prompt.
const MAX_POINTS: usize = 200;
/// Tabs whose newest request is remembered.
const MAX_TABS: usize = 1000;

/// A project with its model, asked by any number of connections.
#[derive(Debug)]
pub(super) struct Api {
    store: Mutex<Store>,
    inference: Arc<Inference>,
    rounds: RoundProcess,
    /// The number of each tab's newest request for masks: older ones need no answer.
    newest: Mutex<HashMap<Identifier, u64>>,
    /// Masks since the last round, and when they were counted: a long journal is not read for every pulse.
    new_masks: Mutex<Option<(Instant, usize)>>,
}

/// So long a number of new masks is good enough.
const COUNTED_FOR: Duration = Duration::from_secs(10);

/// Somebody looks at an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookAt {
    image: ImageId,
    /// Probably looked at next.
    #[serde(default)]
    next: Vec<ImageId>,
}

/// A prompt to decode.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    image: ImageId,
    tab: Identifier,
    /// Counts a tab's requests.
    number: u64,
    prompt: PromptRecord,
    /// The mask that the clicks correct.
    #[serde(default)]
    mask: Option<Segmentation>,
    /// Which of the three masks of the text or the first click the others correct; the most confident one when it is missing.
    #[serde(default)]
    choice: Option<usize>,
    /// Only the most confident mask, and only of an image that is encoded.
    #[serde(default)]
    hover: bool,
}

/// A class to add.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClass {
    name: String,
}

/// A review to begin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewReview {
    n: usize,
}

/// A mask of the review that somebody has looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Judged {
    image: ImageId,
    uuid: Identifier,
}

impl Api {
    pub(super) fn new(store: Store, inference: Arc<Inference>, rounds: RoundProcess) -> Self {
        Self { store: Mutex::new(store), inference, rounds, newest: Mutex::default(), new_masks: Mutex::default() }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request that may be asked.
    pub(super) fn answer(&self, request: &Request) -> Response {
        let result = match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/api/look-at") => self.look_at(&request.body),
            ("POST", "/api/predict") => self.predict(&request.body),
            ("POST", "/api/operations") => self.operate(&request.body),
            ("POST", "/api/classes") => self.add_class(&request.body),
            ("POST", "/api/rounds") => self.begin_round(),
            ("POST", "/api/rounds/stop") => {
                self.rounds.stop();
                self.rounds()
            }
            ("POST", "/api/review") => self.begin_review(&request.body),
            ("POST", "/api/review/judge") => self.judge(&request.body),
            ("POST", path) => {
                match path.strip_prefix("/api/images/").and_then(|rest| rest.strip_suffix("/proposals")) {
                    Some(id) => self.want_proposals(id),
                    None => return Response::error(404, "there is nothing here"),
                }
            }
            (_, "/api/project") => Ok(Response::json(&self.project())),
            (_, "/api/pulse") => self.pulse(&request.query),
            (_, "/api/rounds") => self.rounds(),
            (_, "/api/review") => self.review().map(|review| Response::json(&review)),
            (_, path) => match path.strip_prefix("/api/images/") {
                Some(rest) => self.image(rest),
                None => return page::file(path).unwrap_or_else(|| Response::error(404, "there is nothing here")),
            },
        };
        result.unwrap_or_else(|error| Response::error(status_of(&error), &error.to_string()))
    }

    fn project(&self) -> Value {
        let store = self.store();
        let project = store.project();
        let entry = |index| {
            let name = project.images().name(index);
            let summary = store.summary(index);
            json!({"id": ImageId::of(name), "name": name, "state": summary.state, "masks": summary.n_masks})
        };
        let name = project.folder().file_name().unwrap_or_default().to_string_lossy();
        let model = self.inference.model();
        json!({
            "name": name,
            // What a page keeps for later is of this project, whatever was served on this port before.
            "key": ImageId::of(&project.folder().to_string_lossy()),
            "classes": project.settings().classes,
            "model": model.fingerprint(),
            "model_name": model.name(),
            "takes_texts": self.inference.why_no_texts().is_none(),
            "left_out": project.images().left_out(),
            "images": (0..project.images().len()).map(entry).collect::<Vec<_>>(),
        })
    }

    /// What changes while a page is open; `image=ID` is the one that it shows.
    fn pulse(&self, query: &str) -> Result<Response, EngineError> {
        let model = self.inference.model();
        let summary = {
            let store = self.store();
            let shown = query.strip_prefix("image=").and_then(ImageId::parse);
            shown.and_then(|id| store.project().images().find(id)).map(|index| store.summary(index))
        };
        let summary = summary.unwrap_or_default();
        Ok(Response::json(&json!({
            "model": model.fingerprint(), "model_name": model.name(), "revision": summary.revision,
            "takes_texts": self.inference.why_no_texts().is_none(), "state": summary.state, "new_masks": self.new_masks()?, "round": self.rounds.running(),
        })))
    }

    fn new_masks(&self) -> Result<usize, EngineError> {
        let mut counted = self.new_masks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, n)) = counted.filter(|(when, _)| when.elapsed() < COUNTED_FOR) {
            return Ok(n);
        }
        let n = Statistics::since_last_round(&self.folder())?.0.masks;
        *counted = Some((Instant::now(), n));
        Ok(n)
    }

    fn folder(&self) -> PathBuf {
        self.store().project().folder().to_owned()
    }

    /// `/api/images/ID`, `/api/images/ID/pixels`, `/api/images/ID/readiness`, `/api/images/ID/proposals`.
    fn image(&self, rest: &str) -> Result<Response, EngineError> {
        let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(index) = ImageId::parse(id).and_then(|id| self.store().project().images().find(id)) else {
            return Ok(Response::error(404, "there is no such image"));
        };
        match part {
            "" => self.annotations(index),
            "readiness" => Ok(Response::json(&self.inference.readiness(index))),
            "pixels" => self.pixels(index),
            "proposals" => {
                let taken = self.taken(index)?;
                Ok(Response::json(&self.inference.proposals(index, &taken)))
            }
            _ => Ok(Response::error(404, "there is nothing here")),
        }
    }

    fn annotations(&self, index: usize) -> Result<Response, EngineError> {
        let store = self.store();
        let is_validation = store.project().is_validation(index);
        let Some(file) = store.annotations(index)? else {
            return Ok(Response::json(&json!({
                "revision": 0, "state": ImageState::Todo, "note": "", "rejected": [], "masks": [],
                "is_validation": is_validation,
            })));
        };
        let image = file.image;
        Ok(Response::json(&json!({
            "revision": image.revision, "state": image.state, "note": image.note, "rejected": image.rejected,
            "masks": file.annotations, "is_validation": is_validation,
        })))
    }

    /// What needs no proposal: masks, and proposals that were rejected.
    fn taken(&self, index: usize) -> Result<Vec<Rle>, EngineError> {
        let Some(file) = self.store().annotations(index)? else { return Ok(Vec::new()) };
        let masks = file.annotations.iter().map(|mask| &mask.segmentation);
        let rejected = file.image.rejected.iter().map(|rejected| &rejected.segmentation);
        Ok(masks.chain(rejected).filter_map(|mask| mask.to_rle().ok()).collect())
    }

    fn want_proposals(&self, id: &str) -> Result<Response, EngineError> {
        let Some(index) = ImageId::parse(id).and_then(|id| self.store().project().images().find(id)) else {
            return Ok(Response::error(404, "there is no such image"));
        };
        self.inference.want_proposals(index);
        let taken = self.taken(index)?;
        Ok(Response::json(&self.inference.proposals(index, &taken)))
    }

    fn add_class(&self, body: &[u8]) -> Result<Response, EngineError> {
        let NewClass { name } = parse(body)?;
        let mut store = self.store();
        store.add_class(&name)?;
        Ok(Response::json(&json!({"classes": store.project().settings().classes})))
    }

    fn begin_round(&self) -> Result<Response, EngineError> {
        let missing = {
            let store = self.store();
            store.mask_counts().missing(store.project())
        };
        match missing {
            Some(missing) => Ok(Response::error(409, &missing)),
            None => match self.rounds.start() {
                Ok(()) => self.rounds(),
                Err(problem) => Ok(Response::error(409, &problem)),
            },
        }
    }

    fn rounds(&self) -> Result<Response, EngineError> {
        let (counts, missing, folder) = {
            let store = self.store();
            let counts = store.mask_counts();
            (counts, counts.missing(store.project()), store.project().folder().to_owned())
        };
        let (statistics, _) = Statistics::since_last_round(&folder)?;
        let running = self.rounds.running();
        let why_not = match &running {
            Some(_) => Some("a round is running".to_owned()),
            None => missing,
        };
        Ok(Response::json(&json!({
            "running": running,
            "can_start": why_not.is_none(),
            "why_not": why_not,
            "new_masks": statistics.masks,
            "masks": {"train": counts.train, "validation": counts.validation},
            "rounds": self.rounds.finished()?,
        })))
    }

    fn review(&self) -> Result<Value, EngineError> {
        let Some(review) = Review::read(&self.folder())? else { return Ok(Value::Null) };
        let item = |item: &ReviewItem| {
            json!({
                "image": ImageId::of(&item.image), "name": item.image, "uuid": item.uuid, "bbox": item.bbox,
                "iou": item.iou, "verdict": item.verdict,
            })
        };
        let share = review.share();
        Ok(json!({
            "n_automatic": review.n_automatic,
            "n_judged": share.map_or(0, |share| share.n_judged),
            "share": share.map(|share| share.share),
            "low": share.map(|share| share.low),
            "high": share.map(|share| share.high),
            "limit_iou": crate::review::LIMIT_IOU,
            "items": review.items.iter().map(item).collect::<Vec<_>>(),
        }))
    }

    fn begin_review(&self, body: &[u8]) -> Result<Response, EngineError> {
        let NewReview { n } = parse(body)?;
        Review::begin(self.store().project(), n)?;
        self.review().map(|review| Response::json(&review))
    }

    fn judge(&self, body: &[u8]) -> Result<Response, EngineError> {
        let Judged { image, uuid } = parse(body)?;
        {
            let store = self.store();
            let index = store.find(image)?;
            let review = Review::read(store.project().folder())?;
            let mut review = review.ok_or_else(|| EngineError::Invalid("no review was begun".to_owned()))?;
            review.judge(store.project(), index, &uuid)?;
        }
        self.review().map(|review| Response::json(&review))
    }

    /// The file as it is where browsers show it, otherwise as PNG.
    fn pixels(&self, index: usize) -> Result<Response, EngineError> {
        let path = self.store().project().images().path(index)?;
        let bytes = sam_files::read_regular(&path, MAX_FILE_BYTES).map_err(EngineError::io(&path))?;
        let content_type = match image::guess_format(&bytes) {
            Ok(ImageFormat::Jpeg) => Some("image/jpeg"),
            Ok(ImageFormat::Png) => Some("image/png"),
            Ok(ImageFormat::WebP) => Some("image/webp"),
            Ok(ImageFormat::Gif) => Some("image/gif"),
            Ok(ImageFormat::Bmp) => Some("image/bmp"),
            _ => None,
        };
        if let Some(content_type) = content_type {
            return Ok(Response::new(content_type, bytes));
        }
        let image = read_image_file(&path, &SourceOptions::default())?;
        let mut png = Cursor::new(Vec::new());
        let written = image.write_to(&mut png, ImageFormat::Png);
        written.map_err(|error| EngineError::Invalid(format!("{}: {error}", path.display())))?;
        Ok(Response::new("image/png", png.into_inner()))
    }

    fn look_at(&self, body: &[u8]) -> Result<Response, EngineError> {
        let LookAt { image, next } = parse(body)?;
        let index = self.store().find(image)?;
        let images = next.iter().take(4).filter_map(|id| self.store().find(*id).ok()).collect::<Vec<_>>();
        self.inference.look_at(index, &images);
        Ok(Response::json(&self.inference.readiness(index)))
    }

    fn predict(&self, body: &[u8]) -> Result<Response, EngineError> {
        let Ask { image, tab, number, prompt, mask, choice, hover } = parse(body)?;
        if prompt.points.len() > MAX_POINTS {
            return Err(EngineError::Invalid(format!("a prompt must have at most {MAX_POINTS} points")));
        }
        prompt.check()?;
        let index = self.store().find(image)?;
        self.note_newest(&tab, number);
        // Before the encoder is waited for, as a text may be one that is no prompt.
        let text = prompt.text.as_deref().map(|text| self.inference.text(text)).transpose()?;
        let is_obsolete = || self.newest().get(&tab).is_some_and(|newest| *newest > number);
        let encoded = match hover {
            true => self.inference.encoded_now(index),
            false => self.inference.encoded(index, &is_obsolete)?,
        };
        let Some(encoded) = encoded else {
            return Ok(match hover {
                true => Response::error(503, "the image is not encoded yet"),
                false => Response::error(409, "a newer request has taken the place of this one"),
            });
        };
        let refined = mask.map(|mask| mask.to_rle()).transpose();
        let refined = refined.map_err(|error| EngineError::Invalid(format!("`mask`: {error}")))?;
        let wanted = if hover { Wanted::MostConfident } else { Wanted::AllMeanings };
        let asked = Asked { prompt: &prompt, text: text.as_ref(), refined: refined.as_ref(), choice, wanted };
        let predicted = self.inference.predict(&encoded, &asked)?;
        let answer =
            json!({"image": image, "number": number, "model": predicted.model, "candidates": predicted.candidates});
        Ok(Response::json(&answer))
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<Identifier, u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_newest(&self, tab: &Identifier, number: u64) {
        let mut newest = self.newest();
        if newest.len() >= MAX_TABS {
            newest.clear();
        }
        let entry = newest.entry(tab.clone()).or_default();
        *entry = number.max(*entry);
    }

    fn operate(&self, body: &[u8]) -> Result<Response, EngineError> {
        let operation: Operation = parse(body)?;
        let index = self.store().find(operation.image)?;
        let seen = self.inference.seen(index)?;
        let outcome = self.store().apply(&operation, seen)?;
        let status = if matches!(outcome, Outcome::Conflict { .. }) { 409 } else { 200 };
        Ok(Response::json(&outcome).with_status(status))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(body).map_err(|error| EngineError::Invalid(format!("the body: {error}")))
}

/// 400 for what another request would mend, 409 for an image that has changed, 500 for the disk.
fn status_of(error: &EngineError) -> u16 {
    match error {
        EngineError::Invalid(_) | EngineError::Prompt(_) | EngineError::Data(_) => 400,
        EngineError::ImageOutside { .. } => 403,
        EngineError::ImageChanged { .. } => 409,
        _ => 500,
    }
}
