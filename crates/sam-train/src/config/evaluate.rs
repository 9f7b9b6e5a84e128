//! `task = "evaluate"`, also as `sam-train eval`: checkpoints on data sets.

use std::path::{Path, PathBuf};

use sam_eval::{
    Bootstrap, Boundary, BoxPrompts, Categories, ClickMetricsConfig, EvalProtocol, FirstClick, FirstMasks, GateConfig,
    MaskFeedback, NOC_CAP, Protocol, Start, metric_names,
};
use serde::Serialize;

use super::cache::EvaluateCachePlan;
use super::document::{Document, Node};
use super::files::{FilesPlan, SelectionPlan, read_selection};
use super::measure::{CheckpointsPlan, MeasureRunPlan};
use super::problems::ConfigError;
use super::ranges::{BETWEEN_0_AND_1, SHARE_ABOVE_0, integer_of};
use super::reader::{Expected, Paths, Reader, Section};
use super::shape::Shape;

/// Everything that decides an evaluation. Printed, it is its configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluatePlan {
    /// The checkpoints: the last one is the one that the gate checks.
    pub(crate) model: EvaluateModelPlan,
    /// The data sets; metrics are means over them.
    pub(crate) data: Vec<EvaluateDataPlan>,
    /// How objects are prompted.
    pub(crate) protocol: ProtocolPlan,
    /// Instance segmentation of detections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detections: Option<DetectionsPlan>,
    /// Bounds on metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gate: Option<GateConfig>,
    /// Embeddings that are kept on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<EvaluateCachePlan>,
    /// Where and how it is computed.
    pub(crate) run: EvaluateRunPlan,
}

/// The checkpoints that are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluateModelPlan {
    /// Each without adapters.
    #[serde(flatten)]
    pub(crate) checkpoints: CheckpointsPlan,
    /// Adapters that are merged into the only checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<PathBuf>,
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluateDataPlan {
    /// Its name in tables and full names of metrics; by default that of the file or folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The images that are used; with a split file, those of the part.
    #[serde(flatten)]
    pub(crate) selection: SelectionPlan,
    /// The files.
    #[serde(flatten, serialize_with = "FilesPlan::serialize_as_typed")]
    pub(crate) files: FilesPlan,
}

/// Which prompts are simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProtocolKind {
    /// Clicks
    Click,
    /// The box of each object
    Box,
    /// Clicks, and separately boxes
    #[default]
    Both,
    /// Neither: only the detections
    None,
}

/// How objects are prompted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProtocolPlan {
    /// Which prompts are simulated.
    pub(crate) kind: ProtocolKind,
    /// Clicks on each object.
    pub(crate) clicks: usize,
    /// Clicks after the box.
    pub(crate) box_clicks: usize,
    /// Where the first click lands.
    pub(crate) first_click: FirstClick,
    /// The masks that are predicted for the first click.
    pub(crate) first_masks: FirstMasks,
    /// The masks that are predicted for the box.
    pub(crate) box_masks: FirstMasks,
    /// What a round receives from the previous one.
    pub(crate) mask_feedback: MaskFeedback,
    /// How often the first prompt is repeated with its own mask.
    pub(crate) refinements: usize,
    /// The k of mIoU@k; by default what the field reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_clicks: Option<Vec<usize>>,
    /// The t of NoC@t in percent; needs 20 clicks.
    pub(crate) noc_percent: Vec<u32>,
    /// No more clicks on an object that has this IoU; only NoC is then computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_at_iou: Option<f64>,
    /// Whether boundary IoU is computed, too.
    pub(crate) boundary: Boundary,
}

/// Detections of a COCO or LVIS data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DetectionsPlan {
    /// COCO results: a list of `{image_id, category_id, score, bbox or segmentation}`.
    pub(crate) file: PathBuf,
    /// How they are used.
    pub(crate) use_as: DetectionUse,
    /// How often the mask of a box is fed back.
    pub(crate) refinements: usize,
    /// Whether classes matter.
    pub(crate) categories: Categories,
    /// Limits on detections per image.
    pub(crate) max_dets: Vec<usize>,
}

/// How detections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DetectionUse {
    /// Their boxes are prompts.
    Boxes,
    /// Their masks are scored as they are.
    Segmentations,
}

/// Where and how it is computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluateRunPlan {
    #[serde(flatten)]
    pub(crate) measure: MeasureRunPlan,
    /// Objects in one call of the decoder; affects memory, not results.
    pub(crate) batch_objects: usize,
    /// Previews of the best and of the worst objects, for each protocol and checkpoint.
    pub(crate) gallery: usize,
    /// Confidence intervals.
    pub(crate) bootstrap: Bootstrap,
}

impl EvaluateModelPlan {
    fn read(model: &Section<'_>, is_required: bool) -> Self {
        let checkpoints = CheckpointsPlan::read(model, is_required);
        Self { checkpoints, adapter: model.local_path_if_given("adapter") }
    }
}

impl EvaluatePlan {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let top = reader.top();
        let detections = DetectionsPlan::read(&top);
        let uses_masks = detections.as_ref().is_some_and(|plan| plan.use_as == DetectionUse::Segmentations);
        let plan = Self {
            model: EvaluateModelPlan::read(&top.section("model"), !uses_masks),
            data: top.sections("data").iter().map(EvaluateDataPlan::read).collect(),
            protocol: ProtocolPlan::read(&top.section("protocol")),
            detections,
            gate: read_gate(reader),
            cache: EvaluateCachePlan::read(reader),
            run: EvaluateRunPlan::read(&top.section("run")),
        };
        plan.check(reader);
        plan
    }

    fn check(&self, reader: &Reader<'_>) {
        let has_nothing = self.detections.is_none() && self.protocol.kind == ProtocolKind::None;
        let kind = ["protocol.kind", "detections.use_as"];
        reader.check(!has_nothing, &kind[..1], "click, box or both without detections: nothing to do", "\"none\"");
        match metric_names(&self.protocols()) {
            Err(error) => {
                let keys = ["protocol.clicks", "protocol.noc_percent", "protocol.at_clicks", "protocol.stop_at_iou"];
                reader.object(&keys, format!("[protocol]: {error}"));
            }
            // The metrics of detections depend on their data.
            Ok(known) if self.detections.is_none() => {
                for (name, error) in self.gate.iter().flat_map(|gate| gate.unknown_metrics(&known)) {
                    reader.object(&[&format!("gate.{name}")], format!("[gate]: {error}"));
                }
            }
            Ok(_) => {}
        }
        if self.detections.is_some() {
            let is_json = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
            let is_one = self.data.len() == 1 && is_json(&self.data[0].files.path);
            let paths: Vec<String> = self.data.iter().map(|data| data.files.path.display().to_string()).collect();
            let expected = "one COCO or LVIS .json with the image ids of the detections";
            reader.check(is_one, &["data.path", "detections"], expected, paths.join(", "));
        }
        let n_checkpoints = self.model.checkpoints.checkpoint.len();
        let is_one = self.model.adapter.is_none() || n_checkpoints == 1;
        let expected = "given with one checkpoint, into which the adapters are merged";
        reader.check(is_one, &["model.adapter", "model.checkpoint"], expected, format!("{n_checkpoints}"));
        if self.uses_no_model() {
            let only = "none, because segmentations are scored as they are";
            let checkpoints = &self.model.checkpoints.checkpoint;
            reader.check(checkpoints.is_empty(), &["model.checkpoint"], only, format!("{checkpoints:?}"));
            let is_none = self.protocol.kind == ProtocolKind::None;
            let got = serde_json::json!(self.protocol.kind);
            reader.check(is_none, &kind, "\"none\", because segmentations are scored as they are", got);
        }
    }

    /// Whether given masks are scored, so that no checkpoint is loaded.
    pub(crate) fn uses_no_model(&self) -> bool {
        self.detections.as_ref().is_some_and(|detections| detections.use_as == DetectionUse::Segmentations)
    }

    /// The protocols and their metrics.
    pub(crate) fn protocols(&self) -> Vec<EvalProtocol> {
        let plan = &self.protocol;
        let click = Protocol {
            start: Start::Click,
            n_clicks: plan.clicks,
            first_click: plan.first_click,
            first_masks: plan.first_masks,
            n_refinements: plan.refinements,
            mask_feedback: plan.mask_feedback,
            stop_at_iou: plan.stop_at_iou,
            boundary: plan.boundary,
            objects_per_call: self.run.batch_objects,
        };
        let boxed = Protocol {
            start: Start::Box,
            n_clicks: plan.box_clicks,
            first_click: FirstClick::Centre,
            first_masks: plan.box_masks,
            stop_at_iou: None,
            ..click.clone()
        };
        let usual = |protocol: &Protocol| ClickMetricsConfig::for_protocol(protocol).at_clicks;
        let clicks = EvalProtocol {
            click_metrics: ClickMetricsConfig {
                at_clicks: plan.at_clicks.clone().unwrap_or_else(|| usual(&click)),
                noc_percent: plan.noc_percent.clone(),
                noc_cap: NOC_CAP,
            },
            protocol: click,
        };
        let boxes = EvalProtocol {
            click_metrics: ClickMetricsConfig { at_clicks: usual(&boxed), noc_percent: Vec::new(), noc_cap: NOC_CAP },
            protocol: boxed,
        };
        match plan.kind {
            ProtocolKind::Click => vec![clicks],
            ProtocolKind::Box => vec![boxes],
            ProtocolKind::Both => vec![clicks, boxes],
            ProtocolKind::None => Vec::new(),
        }
    }
}

impl EvaluateDataPlan {
    fn read(data: &Section<'_>) -> Self {
        let (files, selection) = read_selection(data);
        Self { name: data.text_if_given("name"), selection, files }
    }
}

impl ProtocolPlan {
    fn read(protocol: &Section<'_>) -> Self {
        let default = Protocol::default();
        let kinds = [
            ("click", ProtocolKind::Click),
            ("box", ProtocolKind::Box),
            ("both", ProtocolKind::Both),
            ("none", ProtocolKind::None),
        ];
        let masks = [
            ("single", FirstMasks::Single),
            ("most_confident", FirstMasks::MostConfident),
            ("most_confident_and_oracle", FirstMasks::MostConfidentAndOracle),
        ];
        let feedbacks = [("logits", MaskFeedback::Logits), ("nothing", MaskFeedback::Nothing)];
        let boundaries = [("skip", Boundary::Skip), ("measure", Boundary::Measure)];
        let noc_percent = protocol.integers_if_given("noc_percent", 1..=100).unwrap_or_default();
        let clicks = if noc_percent.is_empty() { default.n_clicks } else { NOC_CAP };
        Self {
            kind: protocol.choice("kind", ProtocolKind::Both, &kinds),
            clicks: protocol.integer("clicks", clicks, 1..),
            box_clicks: protocol.integer("box_clicks", 0, 0..),
            first_click: read_first_click(protocol).unwrap_or(default.first_click),
            first_masks: protocol.choice("first_masks", default.first_masks, &masks),
            box_masks: protocol.choice("box_masks", default.first_masks, &masks),
            mask_feedback: protocol.choice("mask_feedback", default.mask_feedback, &feedbacks),
            refinements: protocol.integer("refinements", default.n_refinements, 0..),
            at_clicks: protocol.integers_if_given("at_clicks", 1..),
            noc_percent,
            stop_at_iou: protocol.float_if_given("stop_at_iou", SHARE_ABOVE_0),
            boundary: protocol.choice("boundary", default.boundary, &boundaries),
        }
    }
}

fn read_first_click(protocol: &Section<'_>) -> Option<FirstClick> {
    let words = "\"centre\" or { random = { seed = 0 } }";
    let seed = Shape::Table(vec![("seed", Shape::integer::<u64>("seed", &..))]);
    let shapes = vec![Shape::of_words(&["centre"]), Shape::Table(vec![("random", seed)])];
    protocol.read("first_click", Expected { default: "\"centre\"", words, shapes }, |node| {
        match (node.text(), node.table()) {
            (Some("centre"), _) => Some(FirstClick::Centre),
            (_, Some(table)) if table.len() == 1 => {
                let random = table.get("random").and_then(Node::table).filter(|random| random.len() == 1)?;
                Some(FirstClick::Random { seed: integer_of(random.get("seed")?, &(0..))? })
            }
            _ => None,
        }
    })
}

impl DetectionsPlan {
    fn read(top: &Section<'_>) -> Option<Self> {
        let is_given = top.is_given("detections");
        if !is_given {
            top.unused(&["detections"]);
        }
        let detections = top.section("detections");
        let file = detections.local_path_if_given("file");
        let uses = [("boxes", DetectionUse::Boxes), ("segmentations", DetectionUse::Segmentations)];
        let categories = [("per_class", Categories::PerClass), ("agnostic", Categories::Agnostic)];
        let plan = Self {
            file: if is_given {
                detections.required("file", "COCO results (--detections or --segmentations FILE)", file, PathBuf::new())
            } else {
                PathBuf::new()
            },
            use_as: detections.choice("use_as", DetectionUse::Boxes, &uses),
            refinements: detections.integer("refinements", BoxPrompts::default().n_refinements, 0..),
            categories: detections.choice("categories", Categories::PerClass, &categories),
            max_dets: detections.integers_if_given("max_dets", 1..).unwrap_or_else(|| vec![1, 10, 100]),
        };
        is_given.then_some(plan)
    }
}

/// `[gate]`: free keys, each the name of a metric with its bound.
fn read_gate(reader: &Reader<'_>) -> Option<GateConfig> {
    let is_given = reader.top().is_given("gate");
    if !is_given {
        reader.top().unused(&["gate"]);
    }
    let section = reader.top().section("gate");
    let mut gate = GateConfig {
        baseline: section.local_path_if_given("baseline"),
        max_drop: section.float_if_given("max_drop", 0.0..),
        ..GateConfig::default()
    };
    let given = section.free_keys(Shape::number("", &..));
    for name in given.iter() {
        if name == "baseline" || name == "max_drop" {
            continue;
        }
        if let Some(bound) = section.float_if_given(name, ..) {
            gate.bounds.insert(name.clone(), bound);
        }
    }
    let [max_drop, baseline] = ["gate.max_drop", "gate.baseline"];
    let is_whole = gate.baseline.is_some() == gate.max_drop.is_some();
    reader.check(is_whole, &[max_drop, baseline], &format!("given together with {baseline}"), "one of them alone");
    let is_empty = is_given && given.is_empty();
    reader.check(!is_empty, &["gate"], "at least one bound, or baseline and max_drop", "an empty section");
    is_given.then_some(gate)
}

/// The section `gate` of a configuration, whatever else is in it.
///
/// # Errors
///
/// With all errors of the section, or when it is missing.
pub(crate) fn load_gate(path: &Path) -> Result<GateConfig, ConfigError> {
    let document = Document::load(path, &[])?;
    // A missing baseline is reported once the plan is read.
    let reader = Reader::new(&document, Paths::MayBeMissing);
    let gate = read_gate(&reader);
    reader.check(gate.is_some(), &["gate"], "a section [gate] with bounds", "a file without it");
    reader.finish_part()?;
    Ok(gate.unwrap_or_default())
}

impl EvaluateRunPlan {
    fn read(run: &Section<'_>) -> Self {
        let bootstrap = run.section("bootstrap");
        let default = Bootstrap::default();
        Self {
            measure: MeasureRunPlan::read(run),
            batch_objects: run.integer("batch_objects", Protocol::default().objects_per_call, 1..),
            gallery: run.integer("gallery", 6, 0..),
            bootstrap: Bootstrap {
                n_draws: bootstrap.integer("n_draws", default.n_draws, 1..),
                confidence: bootstrap.float("confidence", default.confidence, BETWEEN_0_AND_1),
                seed: bootstrap.integer("seed", default.seed, 0..),
            },
        }
    }
}
