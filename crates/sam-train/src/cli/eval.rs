//! The arguments of `sam-train eval`: each option is a key of a configuration with `task = "evaluate"`.

use std::path::PathBuf;

use clap::Args;
use sam_eval::FirstClick;

use super::measure::MeasureArguments;
use super::name;
use super::source::SourceArguments;
use crate::config::evaluate::ProtocolKind;
use crate::config::gate::load_gate;
use crate::config::{ConfigError, Document, Options, Task};

/// What an evaluation measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EvalTask {
    /// Masks of simulated clicks and boxes, and of a detector's boxes
    Points,
    /// Average recall of automatic masks as object proposals
    Proposals,
    /// Edges of automatic masks, on a data set in the layout of BSDS500
    Edges,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The same as a configuration: configs/evaluate.toml. Where the file of --gate and an option both give a \
                        value, the option wins."
)]
pub(crate) struct EvalArguments {
    /// Checkpoint (.safetensors or .pth), Hugging Face folder, or folder of a run (its best checkpoint). Several are compared with the first; the gate checks the last
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Adapters to merge into the checkpoint: a PEFT folder, the folder of a run with `lora`, or a .pth of SAMed
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar. Results of several are means over them
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// A file of `data split`; `--part` (default: val) then names one of its parts
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// At most this many images of each data set, spread over it
    #[arg(long, value_name = "N")]
    max_images: Option<usize>,
    /// Whole images at random until they have about N objects, of each data set
    #[arg(long, value_name = "N")]
    sample_objects: Option<usize>,
    /// Random seed of --sample-objects [default: 0]
    #[arg(long, value_name = "SEED", requires = "sample_objects")]
    sample_seed: Option<u64>,
    /// What is measured: masks of prompts, automatic masks as object proposals, or their edges [default: points]
    #[arg(long, value_enum)]
    task: Option<EvalTask>,
    /// Points along each side of the image, for proposals and edges [default: 64 and 16]
    #[arg(long, value_name = "N", requires = "task")]
    points_per_side: Option<usize>,
    /// Edge maps in a folder (PNG, named as the images), scored as they are, without a checkpoint
    #[arg(long, value_name = "DIR")]
    edge_maps: Option<PathBuf>,
    /// How objects are prompted [default: both, none with detections or texts]
    #[arg(long, value_enum, conflicts_with_all = ["task", "edge_maps"])]
    protocol: Option<ProtocolKind>,
    /// Clicks on each object [default: 5, 20 with --noc]
    #[arg(long, value_name = "N")]
    clicks: Option<usize>,
    /// Number of clicks to 80, 85 and 90 % IoU, at most 20
    #[arg(long)]
    noc: bool,
    /// Give an object no more clicks once it has this IoU: faster where only NoC is wanted
    #[arg(long, value_name = "IOU", requires = "noc")]
    stop_at: Option<f64>,
    /// Clicks after the box [default: 0]
    #[arg(long, value_name = "N")]
    box_clicks: Option<usize>,
    /// How often the first prompt is repeated with its own mask [default: 0]
    #[arg(long, value_name = "N")]
    refine: Option<usize>,
    /// Where the first click lands: centre or random:SEED [default: centre]
    #[arg(long, value_name = "RULE", value_parser = parse_first_click)]
    first_click: Option<FirstClick>,
    /// Compute boundary IoU, too
    #[arg(long)]
    boundary: bool,
    /// Boxes of a detector (COCO results) as prompts: writes segmentations.json and computes AP and AR
    #[arg(long, value_name = "FILE", conflicts_with = "segmentations")]
    detections: Option<PathBuf>,
    /// Masks in a file (COCO results), scored as they are, without a checkpoint
    #[arg(long, value_name = "FILE")]
    segmentations: Option<PathBuf>,
    /// Texts of the data as prompts, alone and with a click: captions, and class names. Needs --clip; other prompts only with --protocol
    #[arg(long, requires = "clip", conflicts_with_all = ["task", "edge_maps", "segmentations"])]
    text: bool,
    /// The CLIP of the checkpoint: its Hugging Face folder or its file
    #[arg(long, value_name = "DIR", requires = "text")]
    clip: Option<PathBuf>,
    /// Which texts are prompts [default: both]
    #[arg(long, value_name = "WHICH", requires = "text", value_parser = ["captions", "classes", "both"])]
    texts: Option<String>,
    /// Sentences around the name of a class, which stands for {}; several are averaged [default: "a photo of a {}"]
    #[arg(long, value_name = "SENTENCE", num_args = 1.., requires = "text")]
    templates: Vec<String>,
    /// Detections are proposals: classes are ignored, and 1000 per image count
    #[arg(long)]
    proposals: bool,
    /// TOML file with a section `[gate]` of bounds; a missed bound is exit code 1
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// results.json of an earlier run: no fraction may be worse by more than --max-drop
    #[arg(long, value_name = "FILE", requires = "max_drop")]
    baseline: Option<PathBuf>,
    /// See --baseline
    #[arg(long, value_name = "SHARE")]
    max_drop: Option<f64>,
    /// Objects in one call of the decoder; affects memory, not results [default: 16]
    #[arg(long, value_name = "N")]
    batch_objects: Option<usize>,
    /// Keep the embeddings of images in this folder, such as that of a training (runs/embeddings): checkpoints with the same encoder share them
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Type of kept embeddings: f16 changes metrics in the fourth digit, f32 in none [default: f16, as in training]
    #[arg(long, value_name = "TYPE", requires = "cache", value_parser = ["f16", "f32"])]
    cache_dtype: Option<String>,
    /// Previews of the best and the worst objects in the report, for each protocol [default: 6]
    #[arg(long, value_name = "N")]
    gallery: Option<usize>,
    #[command(flatten)]
    pub(crate) measure: MeasureArguments,
    #[command(flatten)]
    source: SourceArguments,
}

impl EvalArguments {
    /// The options as a configuration.
    ///
    /// # Errors
    ///
    /// When the gate file cannot be read.
    pub(crate) fn document(&self) -> Result<Document, ConfigError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let mut options = Options::of_task("sam-train eval", Task::Evaluate);
        options.paths("--checkpoint", "model.checkpoint", &self.checkpoints);
        options.text("--adapter", "model.adapter", path(&self.adapter));
        self.source.add_to(&mut options);
        options.text("--split", "data.split_file", path(&self.split));
        options.value("--max-images", "data.max_images", self.max_images);
        options.value("--sample-objects", "data.sample_objects", self.sample_objects);
        options.value("--sample-seed", "data.sample_seed", self.sample_seed);
        options.sections("--data", "data", "path", &self.data);

        options.flag("--noc", "protocol.noc_percent", self.noc, "[80, 85, 90]");
        options.value("--clicks", "protocol.clicks", self.clicks);
        options.value("--stop-at", "protocol.stop_at_iou", self.stop_at);
        options.value("--box-clicks", "protocol.box_clicks", self.box_clicks);
        options.value("--refine", "protocol.refinements", self.refine);
        let first_click = self.first_click.map(|click| match click {
            FirstClick::Centre => "centre".to_owned(),
            FirstClick::Random { seed } => format!("{{ random = {{ seed = {seed} }} }}"),
        });
        options.value("--first-click", "protocol.first_click", first_click);
        options.flag("--boundary", "protocol.boundary", self.boundary, "measure");

        options.text("--detections", "detections.file", path(&self.detections));
        options.text("--segmentations", "detections.file", path(&self.segmentations));
        options.flag("--segmentations", "detections.use_as", self.segmentations.is_some(), "segmentations");
        let has_detections = self.detections.is_some() || self.segmentations.is_some();
        // Given masks and boxes are proposals of somebody else, which are scored in the same way.
        let are_proposals = self.proposals || (has_detections && self.task == Some(EvalTask::Proposals));
        options.flag("--proposals", "detections.categories", are_proposals, "agnostic");
        options.flag("--proposals", "detections.max_dets", are_proposals, "[10, 100, 1000]");
        options.text("--clip", "text.clip", path(&self.clip));
        options.text("--texts", "text.texts", self.texts.as_ref());
        options.texts("--templates", "text.templates", &self.templates);
        let kind = self.protocol.or((has_detections || self.text).then_some(ProtocolKind::None));
        options.text("--protocol", "protocol.kind", kind.map(name));
        options.flag("--edge-maps", "protocol.kind", self.edge_maps.is_some(), "edges");
        match self.task {
            Some(EvalTask::Proposals) if !has_detections => {
                options.flag("--task proposals", "protocol.kind", true, "proposals");
            }
            Some(EvalTask::Edges) => options.flag("--task edges", "protocol.kind", true, "edges"),
            Some(EvalTask::Points | EvalTask::Proposals) | None => {}
        }
        options.text("--edge-maps", "edges.maps", path(&self.edge_maps));
        let points = match self.task {
            Some(EvalTask::Edges) => "edges.points_per_side",
            _ => "proposals.points_per_side",
        };
        options.value("--points-per-side", points, self.points_per_side);

        if let Some(file) = &self.gate {
            let (gate, option) = (load_gate(file)?, format!("--gate {}", file.display()));
            gate.bounds.iter().for_each(|(metric, &bound)| options.number(&option, "gate", metric, bound));
            gate.max_drop.iter().for_each(|&drop| options.number(&option, "gate", "max_drop", drop));
            options.text(&option, "gate.baseline", path(&gate.baseline));
        }
        options.text("--baseline", "gate.baseline", path(&self.baseline));
        options.value("--max-drop", "gate.max_drop", self.max_drop);

        options.text("--cache", "cache.dir", path(&self.cache));
        options.text("--cache-dtype", "cache.dtype", self.cache_dtype.as_ref());
        self.measure.add_to(&mut options);
        options.value("--batch-objects", "run.batch_objects", self.batch_objects);
        options.value("--gallery", "run.gallery", self.gallery);
        Ok(options.into_document())
    }
}

fn parse_first_click(text: &str) -> Result<FirstClick, String> {
    let seed = text.strip_prefix("random:").and_then(|seed| seed.parse().ok());
    match (text, seed) {
        ("centre" | "center", _) => Ok(FirstClick::Centre),
        (_, Some(seed)) => Ok(FirstClick::Random { seed }),
        _ => Err("must be centre or random:SEED with a whole number, such as random:0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_clicks() {
        assert_eq!(parse_first_click("centre"), Ok(FirstClick::Centre));
        assert_eq!(parse_first_click("random:17"), Ok(FirstClick::Random { seed: 17 }));
        for wrong in ["random", "random:", "random:x", "middle"] {
            assert!(parse_first_click(wrong).is_err(), "{wrong}");
        }
    }
}
