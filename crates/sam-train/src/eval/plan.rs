//! What an evaluation is told: one plain structure that the command line and a configuration file both fill.
//!
//! ```toml
//! [model]
//! checkpoint = "model.safetensors"     # or a list; the first is what the others are compared with
//! [data]                               # or several [[data]]: results are then means over them
//! path = "val"
//! [protocol]
//! kind = "both"
//! clicks = 5
//! [gate]
//! miou_1_oracle = 0.75
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use sam_data::SourceOptions;
use sam_eval::click_metrics::NOC_CAP;
use sam_eval::{
    Bootstrap, Boundary, BoxPrompts, Categories, ClickMetricsConfig, EvalProtocol, FirstClick, FirstMasks, GateConfig,
    MaskFeedback, Protocol, Start,
};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::line_of;

/// An evaluation, ready to run. Paths are as the program sees them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EvalPlan {
    /// What is evaluated.
    pub(crate) model: ModelPlan,
    /// On what.
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) data: Vec<DataPlan>,
    /// How objects are pointed at.
    pub(crate) protocol: ProtocolPlan,
    /// Instance segmentation of a detector's finds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detections: Option<DetectionsPlan>,
    /// What must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gate: Option<GateConfig>,
    /// Where and how.
    pub(crate) run: RunPlan,
}

/// What is evaluated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelPlan {
    /// Checkpoints, each in any layout that is read; the first is what the others are compared with, the last what the gate
    /// judges.
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) checkpoint: Vec<PathBuf>,
}

/// A data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DataPlan {
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar.
    pub(crate) path: PathBuf,
    /// In tables and full names of metrics; the file's or folder's name when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// At most so many images, spread over the data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_images: Option<usize>,
    /// A file of `data split`; `options.split` then names one of its parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) split_file: Option<PathBuf>,
    /// How it is read.
    pub(crate) options: SourceOptions,
}

/// Which protocols are played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProtocolKind {
    /// Clicks from the first on
    Click,
    /// The box of each object
    Box,
    /// Clicks, and by themselves boxes
    #[default]
    Both,
    /// Neither: only the detections
    None,
}

/// How objects are pointed at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProtocolPlan {
    /// Which protocols are played.
    pub(crate) kind: ProtocolKind,
    /// Clicks on each object.
    pub(crate) clicks: usize,
    /// Clicks after the box.
    pub(crate) box_clicks: usize,
    /// Where the first click lands.
    pub(crate) first_click: FirstClick,
    /// What is asked of the first click.
    pub(crate) first_masks: FirstMasks,
    /// What is asked of the box.
    pub(crate) box_masks: FirstMasks,
    /// What a round sees of the round before.
    pub(crate) mask_feedback: MaskFeedback,
    /// How often the first prompt is repeated with its own mask.
    pub(crate) refinements: usize,
    /// The k of mIoU@k; what the field reports when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_clicks: Option<Vec<usize>>,
    /// The t of NoC@t in percent; needs 20 clicks.
    pub(crate) noc_percent: Vec<u32>,
    /// An object is left alone once it has this IoU; only NoC is then measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_at_iou: Option<f64>,
    /// Whether the IoU of the boundaries is measured, too.
    pub(crate) boundary: Boundary,
}

impl Default for ProtocolPlan {
    fn default() -> Self {
        let protocol = Protocol::default();
        Self {
            kind: ProtocolKind::Both,
            clicks: protocol.n_clicks,
            box_clicks: 0,
            first_click: protocol.first_click,
            first_masks: protocol.first_masks,
            box_masks: protocol.first_masks,
            mask_feedback: protocol.mask_feedback,
            refinements: protocol.n_refinements,
            at_clicks: None,
            noc_percent: Vec::new(),
            stop_at_iou: None,
            boundary: protocol.boundary,
        }
    }
}

/// Detections of a COCO or LVIS data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DetectionsPlan {
    /// COCO results: a list of `{image_id, category_id, score, bbox or segmentation}`.
    pub(crate) file: PathBuf,
    /// What is done with them.
    pub(crate) use_as: DetectionUse,
    /// How often the mask of a box goes back in.
    pub(crate) refinements: usize,
    /// Whether classes matter.
    pub(crate) categories: Categories,
    /// Limits on detections per image.
    pub(crate) max_dets: Vec<usize>,
}

/// What is done with detections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DetectionUse {
    /// Their boxes are prompts.
    #[default]
    Boxes,
    /// Their masks are measured as they are.
    Segmentations,
}

impl Default for DetectionsPlan {
    fn default() -> Self {
        Self {
            file: PathBuf::new(),
            use_as: DetectionUse::Boxes,
            refinements: BoxPrompts::default().n_refinements,
            categories: Categories::PerClass,
            max_dets: vec![1, 10, 100],
        }
    }
}

/// Where and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RunPlan {
    /// Folder for results and reports; without one there is only the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) out: Option<PathBuf>,
    /// Results of an earlier run in that folder may be replaced.
    pub(crate) force: bool,
    /// cpu, cuda, cuda:N or vulkan.
    pub(crate) device: String,
    /// Objects in one call of the decoder; no number depends on it, memory does.
    pub(crate) batch_objects: usize,
    /// Threads that read images ahead.
    pub(crate) workers: usize,
    /// Pictures of the best and of the worst objects, for each protocol and checkpoint.
    pub(crate) gallery: usize,
    /// How sure the numbers are.
    pub(crate) bootstrap: Bootstrap,
}

impl Default for RunPlan {
    fn default() -> Self {
        Self {
            out: None,
            force: false,
            device: "cpu".to_owned(),
            batch_objects: Protocol::default().objects_per_call,
            workers: 2,
            gallery: 6,
            bootstrap: Bootstrap::default(),
        }
    }
}

impl EvalPlan {
    /// Refuses what cannot be run, before anything is read.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let scores_only = self.uses_no_model();
        if self.model.checkpoint.is_empty() && !scores_only {
            bail!("no checkpoint: give at least one (--checkpoint F, or model.checkpoint)");
        }
        if scores_only && !self.model.checkpoint.is_empty() {
            bail!("segmentations are measured as they are: no checkpoint is used, so give none");
        }
        if self.data.is_empty() {
            bail!("no data: give at least one data set (--data PATH, or [data] with path)");
        }
        for data in &self.data {
            if data.path.as_os_str().is_empty() {
                bail!("data.path must be a data set, got none");
            }
            if data.max_images == Some(0) {
                bail!("max_images must be at least 1, got 0");
            }
        }
        if self.run.batch_objects == 0 {
            bail!("batch_objects must be at least 1, got 0");
        }
        match &self.detections {
            None if self.protocol.kind == ProtocolKind::None => {
                bail!("protocol \"none\" leaves nothing to do without detections");
            }
            None => {}
            Some(detections) => {
                let is_json = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
                if self.data.len() != 1 || !is_json(&self.data[0].path) {
                    bail!(
                        "with detections, data must be the one COCO or LVIS .json that their image ids are of, got {}",
                        self.data.iter().map(|data| data.path.display().to_string()).collect::<Vec<_>>().join(", ")
                    );
                }
                if detections.use_as == DetectionUse::Segmentations && self.protocol.kind != ProtocolKind::None {
                    bail!("segmentations are measured as they are: protocol must be \"none\"");
                }
            }
        }
        Ok(())
    }

    /// Whether finished masks are measured, so that there is nothing to load.
    pub(crate) fn uses_no_model(&self) -> bool {
        self.detections.as_ref().is_some_and(|detections| detections.use_as == DetectionUse::Segmentations)
    }

    /// The protocols with what is computed of them.
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

impl EvalPlan {
    /// The plan of a configuration with `task = "evaluate"`, after the overrides of the command line.
    pub(crate) fn from_config(path: &Path, overrides: &[String]) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown}: must be a readable TOML file"))?;
        let place = |error: &toml::de::Error| match error.span() {
            Some(span) => format!("{shown}:{}", line_of(&text, span.start)),
            None => shown.to_string(),
        };
        let mut table: toml::Table =
            toml::from_str(&text).map_err(|error| anyhow!("{}: {}", place(&error), error.message()))?;
        table.remove("task");
        if overrides.is_empty() {
            // Read from the text once more: only then does a message know its line.
            const TASK: &str = "task = \"evaluate\"";
            let untasked = text.replacen(TASK, &" ".repeat(TASK.len()), 1);
            toml::from_str::<Self>(&untasked).map_err(|error| anyhow!("{}: {}", place(&error), error.message()))?;
        }
        for change in overrides {
            let wrong = || {
                format!("--set {change}: must be KEY=VALUE with a key of the configuration, such as protocol.clicks=3")
            };
            let (key, value) = change.split_once('=').with_context(wrong)?;
            // What is no TOML value is meant as text.
            let changed = toml::from_str::<toml::Table>(change)
                .or_else(|_| toml::from_str(&format!("{key} = {:?}", value.trim())))
                .with_context(wrong)?;
            merge(&mut table, changed);
        }
        let mut plan: Self =
            table.try_into().map_err(|error: toml::de::Error| anyhow!("{shown}: {}", error.message()))?;
        if let (Some(GateConfig { baseline: Some(baseline), .. }), Some(folder)) = (&mut plan.gate, path.parent()) {
            *baseline = folder.join(&*baseline);
        }
        Ok(plan)
    }
}

/// Puts the values of one table into another, table by table.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// The `[gate]` table of a file, which may hold other things as well. A baseline lies where the file says, seen from the file.
pub(crate) fn read_gate(path: &Path) -> anyhow::Result<GateConfig> {
    #[derive(Deserialize)]
    struct GateFile {
        gate: GateConfig,
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let file: GateFile = toml::from_str(&text)
        .with_context(|| format!("{}: must be a TOML file with a table [gate]", path.display()))?;
    let mut gate = file.gate;
    if let (Some(baseline), Some(folder)) = (&gate.baseline, path.parent()) {
        gate.baseline = Some(folder.join(baseline));
    }
    Ok(gate)
}

/// One value, or a list of them.
fn one_or_many<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: DeserializeOwned> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "one value or a list of them")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(StrDeserializer::new(text))?])
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            Ok(vec![T::deserialize(MapAccessDeserializer::new(map))?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(OneOrMany(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<EvalPlan, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn one_or_several_of_a_kind() {
        let one = plan("[model]\ncheckpoint = \"a\"\n[data]\npath = \"d\"\nmax_images = 3").expect("fine");
        assert_eq!(one.model.checkpoint, [PathBuf::from("a")]);
        assert_eq!((one.data.len(), one.data[0].max_images), (1, Some(3)));
        let text = "[model]\ncheckpoint = [\"a\", \"b\"]\n[[data]]\npath = \"d\"\n[[data]]\npath = \"e\"\n\
                    options = { split = \"val\", bad = \"drop\" }";
        let two = plan(text).expect("fine");
        assert_eq!((two.model.checkpoint.len(), two.data.len()), (2, 2));
        assert_eq!(two.data[1].options.split.as_deref(), Some("val"));
        let error = plan("[data]\npath = \"d\"\nmax_image = 3").expect_err("a typing error").to_string();
        assert!(error.contains("max_image") && error.contains("max_images"), "{error}");
    }

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        let text = "[model]\ncheckpoint = [\"a\", \"b\"]\n[data]\npath = \"d\"\n[protocol]\nkind = \"click\"\nclicks = 20\n\
                    noc_percent = [80, 90]\nfirst_click = { random = { seed = 7 } }\nboundary = \"measure\"\n\
                    [detections]\nfile = \"x.json\"\n[gate]\nmiou_1 = 1\n\"d/small/miou_1\" = 0.5\n[run]\nout = \"o\"";
        let read = plan(text).expect("fine");
        assert_eq!(plan(&toml::to_string(&read).expect("writable")).expect("ours"), read);
        let protocols = read.protocols();
        assert_eq!(protocols.len(), 1);
        assert_eq!(protocols[0].click_metrics.noc_percent, [80, 90]);
        assert_eq!(protocols[0].protocol.first_click, FirstClick::Random { seed: 7 });
        assert_eq!(read.gate.expect("given").bounds["miou_1"], 1.0);
    }
}
