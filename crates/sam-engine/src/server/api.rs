//! What the page asks for: the project, an image with its masks, masks for a prompt, operations.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::ImageFormat;
use sam_data::{SourceOptions, read_image_file};
use sam_files::MAX_FILE_BYTES;
use sam_infer::Prompt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::page;
use super::request::Request;
use super::response::Response;
use crate::annotation::PromptRecord;
use crate::error::EngineError;
use crate::images::ImageId;
use crate::inference::Inference;
use crate::operation::{Identifier, Operation, Outcome};
use crate::store::Store;

/// The most points of a prompt.
const MAX_POINTS: usize = 200;
/// Tabs whose newest request is remembered.
const MAX_TABS: usize = 1000;

/// A project with its model, asked by any number of connections.
#[derive(Debug)]
pub(super) struct Api {
    store: Mutex<Store>,
    inference: Inference,
    /// The number of each tab's newest request for masks: older ones need no answer.
    newest: Mutex<HashMap<Identifier, u64>>,
}

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
}

impl Api {
    pub(super) fn new(store: Store, inference: Inference) -> Self {
        Self { store: Mutex::new(store), inference, newest: Mutex::default() }
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
            ("POST", _) => return Response::error(404, "there is nothing here"),
            (_, "/api/project") => Ok(Response::json(&self.project())),
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
        json!({
            "name": name,
            // What a page keeps for later is of this project, whatever was served on this port before.
            "key": ImageId::of(&project.folder().to_string_lossy()),
            "classes": project.settings().classes,
            "model": self.inference.model(),
            "left_out": project.images().left_out(),
            "images": (0..project.images().len()).map(entry).collect::<Vec<_>>(),
        })
    }

    /// `/api/images/ID`, `/api/images/ID/pixels`, `/api/images/ID/readiness`.
    fn image(&self, rest: &str) -> Result<Response, EngineError> {
        let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(index) = ImageId::parse(id).and_then(|id| self.store().project().images().find(id)) else {
            return Ok(Response::error(404, "there is no such image"));
        };
        match part {
            "" => {
                let annotations = self.store().annotations(index)?;
                let (revision, state, masks) = match annotations {
                    Some(file) => (file.image.revision, file.image.state, file.annotations),
                    None => Default::default(),
                };
                Ok(Response::json(&json!({"revision": revision, "state": state, "masks": masks})))
            }
            "readiness" => Ok(Response::json(&self.inference.readiness(index))),
            "pixels" => self.pixels(index),
            _ => Ok(Response::error(404, "there is nothing here")),
        }
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
        let Ask { image, tab, number, prompt } = parse(body)?;
        if prompt.points.len() > MAX_POINTS {
            return Err(EngineError::Invalid(format!("a prompt must have at most {MAX_POINTS} points")));
        }
        let index = self.store().find(image)?;
        self.note_newest(&tab, number);
        let is_obsolete = || self.newest().get(&tab).is_some_and(|newest| *newest > number);
        let Some(encoded) = self.inference.encoded(index, &is_obsolete)? else {
            return Ok(Response::error(409, "a newer request has taken the place of this one"));
        };
        let prompt = Prompt {
            points_xy_px: prompt.points.iter().map(|&[x, y, label]| ([x as f32, y as f32], label == 1.0)).collect(),
            box_xyxy_px: prompt.box_xyxy_px.map(|corners| corners.map(|corner| corner as f32)),
            mask_logits: None,
        };
        let candidates = self.inference.predict(&encoded, &prompt)?;
        let answer =
            json!({"image": image, "number": number, "model": self.inference.model(), "candidates": candidates});
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
