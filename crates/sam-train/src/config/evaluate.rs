//! `task = "evaluate"`, also as `sam-train eval`: checkpoints on data sets.

use std::path::{Path, PathBuf};

use sam_eval::{
    Bootstrap, Boundary, BoxPrompts, Categories, ClickMetricsConfig, EdgeScores, EvalError, EvalProtocol, FirstClick,
    FirstMasks, GateConfig, MaskFeedback, NOC_CAP, Protocol, Start, metric_names, text_metric_names,
};
use serde::{Serialize, Serializer};

use super::cache::EvaluateCachePlan;
use super::document::Node;
use super::evaluate_text::EvaluateTextPlan;
use super::files::{FilesPlan, SelectionPlan, read_selection};
use super::gate::read_gate;
use super::measure::{CheckpointsPlan, MeasureRunPlan};
use super::ranges::{BETWEEN_0_AND_1, SHARE_ABOVE_0, integer_of};
use super::reader::{Expected, Reader, Section};
use super::shape::Shape;
use super::zero_shot::{EdgesPlan, ProposalsPlan};

/// Everything that decides an evaluation. Printed, it is its configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluatePlan {
    /// The checkpoints: the last one is the one that the gate checks.
    pub(crate) model: EvaluateModelPlan,
    /// The data sets; metrics are means over them.
    pub(crate) data: Vec<EvaluateDataPlan>,
    /// How objects are prompted.
    #[serde(serialize_with = "ProtocolPlan::serialize_as_typed")]
    pub(crate) protocol: ProtocolPlan,
    /// Instance segmentation of detections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detections: Option<DetectionsPlan>,
    /// Texts of the data as prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<EvaluateTextPlan>,
    /// Object proposals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proposals: Option<ProposalsPlan>,
    /// Edges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) edges: Option<EdgesPlan>,
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
    /// A random part of its images, by the number of their objects.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<SamplePlan>,
    /// The images that are used; with a split file, those of the part.
    #[serde(flatten)]
    pub(crate) selection: SelectionPlan,
    /// The files.
    #[serde(flatten, serialize_with = "FilesPlan::serialize_as_typed")]
    pub(crate) files: FilesPlan,
}

/// Whole images at random until they have about so many objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SamplePlan {
    /// Objects.
    pub(crate) sample_objects: usize,
    /// Random seed.
    pub(crate) sample_seed: u64,
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
    /// Automatic masks as object proposals
    #[value(skip)]
    Proposals,
    /// Edges of automatic masks
    #[value(skip)]
    Edges,
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
        let protocol = ProtocolPlan::read(&top.section("protocol"));
        let proposals = ProposalsPlan::read(&top, protocol.kind);
        let edges = EdgesPlan::read(&top, protocol.kind);
        let uses_maps = edges.as_ref().is_some_and(|plan| plan.maps.is_some());
        let plan = Self {
            model: EvaluateModelPlan::read(&top.section("model"), !uses_masks && !uses_maps),
            data: top.sections("data").iter().map(EvaluateDataPlan::read).collect(),
            protocol,
            detections,
            text: EvaluateTextPlan::read(&top),
            proposals,
            edges,
            gate: read_gate(reader),
            cache: EvaluateCachePlan::read(reader),
            run: EvaluateRunPlan::read(&top.section("run")),
        };
        plan.check(reader);
        plan.check_without_prompts(reader);
        plan
    }

    /// Proposals and edges have no prompts, so what is about prompts has no effect.
    fn check_without_prompts(&self, reader: &Reader<'_>) {
        let kind = self.protocol.kind;
        if !matches!(kind, ProtocolKind::Proposals | ProtocolKind::Edges) {
            return;
        }
        let top = reader.top();
        let got = serde_json::json!(kind);
        let alone = "click, box, both or none with detections, which are prompts or are scored alone";
        reader.check(self.detections.is_none(), &["protocol.kind", "detections.file"], alone, &got);
        let with_texts = "click, box, both or none with texts, which are prompts";
        reader.check(self.text.is_none(), &["protocol.kind", "text"], with_texts, &got);
        top.only_if(false, "protocol", &["cache"], "prompts (protocol.kind = \"click\", \"box\" or \"both\")");
        let protocol = top.section("protocol");
        protocol.only_if(false, "kind", &PROMPT_KEYS, "prompts (kind = \"click\", \"box\" or \"both\")");
        if kind == ProtocolKind::Edges {
            for data in top.sections("data") {
                // Of the others, those without an effect are printed with every plan.
                let keys = ["split_file", "sample_objects", "sample_seed", "format", "images"];
                data.only_if(false, "path", &keys, "data sets of objects; edges have the layout of BSDS500");
            }
        }
    }

    fn check(&self, reader: &Reader<'_>) {
        let has_nothing = self.detections.is_none() && self.text.is_none() && self.protocol.kind == ProtocolKind::None;
        let kind = ["protocol.kind", "detections.use_as"];
        reader.check(
            !has_nothing,
            &kind[..1],
            "click, box or both without detections or texts: nothing to do",
            "\"none\"",
        );
        match self.metric_names() {
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
        if self.uses_maps() {
            let only = "none, because edge maps are scored as they are";
            let checkpoints = &self.model.checkpoints.checkpoint;
            let keys = ["model.checkpoint", "edges.maps"];
            reader.check(checkpoints.is_empty(), &keys, only, format!("{checkpoints:?}"));
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
            let has_no_text = self.text.is_none();
            reader.check(has_no_text, &["text"], "absent, because segmentations are scored as they are", "given");
        }
    }

    /// Whether given masks are scored, so that no checkpoint is loaded.
    pub(crate) fn uses_no_model(&self) -> bool {
        self.detections.as_ref().is_some_and(|detections| detections.use_as == DetectionUse::Segmentations)
    }

    /// Whether given edge maps are scored, so that no checkpoint is loaded.
    fn uses_maps(&self) -> bool {
        self.edges.as_ref().is_some_and(|edges| edges.maps.is_some())
    }

    /// The names of the metrics of proposals and edges, as far as they are known without data.
    fn zero_shot_names(&self) -> Vec<String> {
        let sizes_and_frequencies = ["small", "medium", "large", "rare", "common", "frequent"].map(str::to_owned);
        let of_proposals = self.proposals.iter().flat_map(|plan| {
            let limits = plan.max_dets.iter().map(usize::to_string);
            limits.chain(sizes_and_frequencies.clone()).map(|name| format!("mask_ar_{name}"))
        });
        let of_edges = self.edges.iter().flat_map(|_| EdgeScores::NAMES.map(str::to_owned));
        of_proposals.chain(of_edges).collect()
    }

    /// The names of all metrics, except for those of detections, which depend on their data.
    ///
    /// # Errors
    ///
    /// When a protocol is invalid.
    pub(crate) fn metric_names(&self) -> Result<Vec<String>, EvalError> {
        let mut names = metric_names(&self.protocols())?;
        names.extend(self.zero_shot_names());
        names.extend(self.text.iter().flat_map(|_| text_metric_names()));
        Ok(names)
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
            ProtocolKind::None | ProtocolKind::Proposals | ProtocolKind::Edges => Vec::new(),
        }
    }
}

/// The keys of `[protocol]` that are about prompts.
const PROMPT_KEYS: [&str; 11] = [
    "clicks",
    "box_clicks",
    "first_click",
    "first_masks",
    "box_masks",
    "mask_feedback",
    "refinements",
    "at_clicks",
    "noc_percent",
    "stop_at_iou",
    "boundary",
];

impl EvaluateDataPlan {
    fn read(data: &Section<'_>) -> Self {
        let (files, selection) = read_selection(data);
        let sample_objects = data.integer_if_given("sample_objects", 1..);
        let sample_seed = data.integer("sample_seed", 0, 0..);
        data.only_if(sample_objects.is_some(), "sample_objects", &["sample_seed"], "data.sample_objects");
        let sample = sample_objects.map(|sample_objects| SamplePlan { sample_objects, sample_seed });
        Self { name: data.text_if_given("name"), sample, selection, files }
    }
}

impl ProtocolPlan {
    /// Without what is about prompts, where there are none.
    fn serialize_as_typed<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Kind {
            kind: ProtocolKind,
        }
        match self.kind {
            kind @ (ProtocolKind::Proposals | ProtocolKind::Edges) => Kind { kind }.serialize(serializer),
            _ => self.serialize(serializer),
        }
    }

    fn read(protocol: &Section<'_>) -> Self {
        let default = Protocol::default();
        let kinds = [
            ("click", ProtocolKind::Click),
            ("box", ProtocolKind::Box),
            ("both", ProtocolKind::Both),
            ("none", ProtocolKind::None),
            ("proposals", ProtocolKind::Proposals),
            ("edges", ProtocolKind::Edges),
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
