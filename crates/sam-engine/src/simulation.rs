//! A simulated annotator: labels a project through its server as a person does, from the truth of a data set.
//!
//! It clicks by the protocol's rule (the middle of the largest error, [`sam_eval::Clicker`]), takes the best of three masks after
//! the first click, and commits at a wanted IoU. A mask that does not get there is finished with the brush, so what it commits is
//! as good as a careful person's. Its time is a model, as a program needs none: seconds for looking, for a click, for the brush.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use sam_eval::Clicker;
use sam_image::{Mask, Rle, rle_iou};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::annotation::Segmentation;
use crate::client::Client;
use crate::error::EngineError;

/// Looking at an object, and committing its mask.
const LOOKING_S: f64 = 2.0;
/// A click, with a look at its mask. The paper's annotators needed 14 s per mask with several of them.
const CLICK_S: f64 = 1.5;
/// Finishing a mask with the brush.
const BRUSH_S: f64 = 20.0;
/// Accepting or rejecting a proposal.
const PROPOSAL_S: f64 = 1.0;

/// An object with a mask of this IoU needs none.
const HAS_MASK: f64 = 0.5;

/// How it works.
#[derive(Clone, Copy, Debug)]
pub struct Annotator {
    /// It commits a mask of this IoU with the truth.
    pub wanted_iou: f64,
    /// After so many clicks it takes the brush.
    pub max_clicks: usize,
    /// It stops after so many masks.
    pub max_masks: usize,
    /// Looks at proposals first, and accepts those of the wanted IoU.
    pub uses_proposals: bool,
}

/// What it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Simulated {
    /// Images it has finished.
    pub images: usize,
    /// Masks it has committed.
    pub masks: usize,
    /// Of these, accepted proposals.
    pub accepted: usize,
    /// Of these, finished with the brush.
    pub brushed: usize,
    /// Of all.
    pub clicks: usize,
    /// Of the model of a person, of all.
    pub seconds: f64,
    /// Answers to prompts, in seconds of this machine, of all.
    pub waited_s: f64,
}

/// The true masks of an image, by the image's name.
pub type Truth = HashMap<String, Vec<(Rle, Option<String>)>>;

#[derive(Deserialize)]
struct ProjectAnswer {
    classes: Vec<String>,
    images: Vec<ImageEntry>,
}

#[derive(Deserialize)]
struct ImageEntry {
    id: String,
    name: String,
    state: String,
}

#[derive(Deserialize)]
struct ImageAnswer {
    revision: u64,
    masks: Vec<ThereMask>,
}

#[derive(Deserialize)]
struct ThereMask {
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct PredictAnswer {
    model: String,
    candidates: Vec<PredictedMask>,
}

#[derive(Deserialize)]
struct PredictedMask {
    segmentation: Segmentation,
    predicted_iou: f64,
}

#[derive(Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum ProposalsAnswer {
    Absent,
    Waiting,
    Working {},
    Ready { model: String, masks: Vec<ProposedMask> },
    Failed { message: String },
}

#[derive(Deserialize)]
struct ProposedMask {
    uuid: String,
    segmentation: Segmentation,
    predicted_iou: f64,
}

/// An image in work.
struct Work<'a> {
    client: &'a mut Client,
    image: &'a str,
    classes: &'a [String],
    revision: u64,
    /// Numbers operations and requests, so that they are those of this image and no other's.
    number: u64,
    /// Of this simulation.
    run: String,
}

impl Annotator {
    /// Labels the images that are not done, one after the other. `on_image` may stop it.
    ///
    /// # Errors
    ///
    /// When the server does not answer or refuses.
    pub fn label(
        &self,
        client: &mut Client,
        truth: &Truth,
        on_image: &mut dyn FnMut(&Simulated) -> ControlFlow<()>,
    ) -> Result<Simulated, EngineError> {
        let project: ProjectAnswer = client.get("/api/project")?;
        let mut all = Simulated::default();
        let run = format!("{:08x}", std::process::id());
        let todo = project.images.iter().filter(|image| matches!(image.state.as_str(), "todo" | "open"));
        for entry in todo {
            let Some(objects) = truth.get(&entry.name) else { continue };
            let _: Value = client.post("/api/look-at", &json!({"image": entry.id, "next": []}))?;
            let there: ImageAnswer = client.get(&format!("/api/images/{}", entry.id))?;
            let taken: Vec<Rle> =
                there.masks.iter().map(|mask| mask.segmentation.to_rle().map_err(invalid)).collect::<Result<_, _>>()?;
            let missing: Vec<&(Rle, Option<String>)> = objects
                .iter()
                .filter(|(object, _)| !taken.iter().any(|mask| is_at_least(mask, object, HAS_MASK)))
                .collect();
            let mut work = Work {
                client,
                image: &entry.id,
                classes: &project.classes,
                revision: there.revision,
                number: 0,
                run: run.clone(),
            };
            self.image(&mut work, missing, &mut all)?;
            all.images += 1;
            if all.masks >= self.max_masks || on_image(&all).is_break() {
                break;
            }
        }
        Ok(all)
    }

    fn image(
        &self,
        work: &mut Work<'_>,
        mut missing: Vec<&(Rle, Option<String>)>,
        all: &mut Simulated,
    ) -> Result<(), EngineError> {
        if self.uses_proposals {
            let (model, proposals) = work.proposals()?;
            for proposal in proposals {
                let mask = proposal.segmentation.to_rle().map_err(invalid)?;
                let found = missing.iter().position(|(object, _)| is_at_least(&mask, object, self.wanted_iou));
                let Some(at) = found else { continue };
                let (_, class) = missing.remove(at);
                all.seconds += PROPOSAL_S;
                (all.masks, all.accepted) = (all.masks + 1, all.accepted + 1);
                let mask = json!({
                    "uuid": proposal.uuid, "segmentation": proposal.segmentation, "source": "accepted",
                    "class": work.class(class.as_ref()), "seconds": PROPOSAL_S, "predicted_iou": proposal.predicted_iou,
                    "model": model,
                });
                work.add(&mask)?;
            }
        }
        for (object, class) in missing {
            if all.masks >= self.max_masks {
                return Ok(());
            }
            self.object(work, object, class.as_ref(), all)?;
        }
        work.operate(&json!({"kind": "state", "state": "done"}))
    }

    fn object(
        &self,
        work: &mut Work<'_>,
        object: &Rle,
        class: Option<&String>,
        all: &mut Simulated,
    ) -> Result<(), EngineError> {
        let mut clicker = Clicker::new(object.to_mask(), None);
        let mut prediction = Mask::from_fn(object.size_hw(), |_, _| false);
        let mut points: Vec<[f64; 3]> = Vec::new();
        let mut best: Option<(f64, Segmentation, f64, String)> = None;
        let mut choice = None;
        while points.len() < self.max_clicks && best.as_ref().is_none_or(|(iou, ..)| *iou < self.wanted_iou) {
            let click = clicker.next_click(&prediction);
            let [x, y] = click.xy_px().map(f64::from);
            points.push([x, y, f64::from(u8::from(click.is_positive))]);
            let asked = Instant::now();
            let answer = work.predict(&points, choice)?;
            all.waited_s += asked.elapsed().as_secs_f64();
            for (index, candidate) in answer.candidates.into_iter().enumerate() {
                let mask = candidate.segmentation.to_rle().map_err(invalid)?;
                let iou = rle_iou(&mask, object).map_err(invalid)?;
                // The mask after the newest click; of three, the best.
                let is_better = points.len() > 1 || best.as_ref().is_none_or(|(before, ..)| iou > *before);
                if is_better {
                    if points.len() == 1 {
                        choice = Some(index);
                    }
                    prediction = mask.to_mask();
                    best = Some((iou, candidate.segmentation, candidate.predicted_iou, answer.model.clone()));
                }
            }
        }
        let Some((reached, segmentation, predicted_iou, model)) = best else { return Ok(()) };
        let needs_brush = reached < self.wanted_iou;
        let seconds = LOOKING_S + CLICK_S * points.len() as f64 + if needs_brush { BRUSH_S } else { 0.0 };
        all.masks += 1;
        all.brushed += usize::from(needs_brush);
        all.clicks += points.len();
        all.seconds += seconds;
        let segmentation = if needs_brush { Segmentation::of(object) } else { segmentation };
        work.number += 1;
        let mask = json!({
            "uuid": format!("simulated-{}-{}-{}", work.run, work.image, work.number), "segmentation": segmentation,
            "source": "assisted", "class": work.class(class), "seconds": seconds, "predicted_iou": predicted_iou,
            "model": model, "prompts": {"points": points, "strokes": u32::from(needs_brush)},
        });
        work.add(&mask)
    }
}

impl Work<'_> {
    /// A class of the project, where the truth has one.
    fn class<'a>(&self, class: Option<&'a String>) -> Option<&'a String> {
        class.filter(|class| self.classes.contains(class))
    }

    fn predict(&mut self, points: &[[f64; 3]], choice: Option<usize>) -> Result<PredictAnswer, EngineError> {
        self.number += 1;
        let tab = format!("simulated-{}", self.run);
        let prompt = json!({"points": points});
        // Numbers of a tab grow over all images.
        let number = u64::try_from(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_micros()),
        );
        let asked =
            json!({"image": self.image, "tab": tab, "number": number.unwrap_or(0), "prompt": prompt, "choice": choice});
        self.client.post("/api/predict", &asked)
    }

    fn proposals(&mut self) -> Result<(String, Vec<ProposedMask>), EngineError> {
        let path = format!("/api/images/{}/proposals", self.image);
        let mut answer: ProposalsAnswer = self.client.post(&path, &json!({}))?;
        loop {
            match answer {
                ProposalsAnswer::Ready { model, masks } => return Ok((model, masks)),
                ProposalsAnswer::Failed { message } => return Err(EngineError::Invalid(message)),
                ProposalsAnswer::Absent => answer = self.client.post(&path, &json!({}))?,
                ProposalsAnswer::Waiting | ProposalsAnswer::Working {} => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    answer = self.client.get(&path)?;
                }
            }
        }
    }

    fn add(&mut self, mask: &Value) -> Result<(), EngineError> {
        self.operate(&json!({"kind": "add", "mask": mask}))
    }

    fn operate(&mut self, change: &Value) -> Result<(), EngineError> {
        self.number += 1;
        let op = format!("simulated-{}-{}-{}", self.run, self.image, self.number);
        let operation = json!({"op": op, "image": self.image, "base": self.revision, "change": change});
        let applied: Value = self.client.post("/api/operations", &operation)?;
        self.revision = applied["revision"].as_u64().unwrap_or(self.revision);
        Ok(())
    }
}

fn invalid(error: sam_image::ImageError) -> EngineError {
    EngineError::Invalid(error.to_string())
}

/// Masks of another size are of another image.
fn is_at_least(a: &Rle, b: &Rle, wanted: f64) -> bool {
    rle_iou(a, b).is_ok_and(|iou| iou >= wanted)
}
