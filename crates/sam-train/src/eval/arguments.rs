//! What can be typed after `sam-train eval`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use sam_eval::click_metrics::NOC_CAP;
use sam_eval::{Boundary, Categories, FirstClick, GateConfig};
use sam_infer::DeviceName;

use super::plan::{
    DataPlan, DetectionUse, DetectionsPlan, EvalPlan, ModelPlan, ProtocolKind, ProtocolPlan, RunPlan, read_gate,
};
use crate::cli::SourceArguments;

#[derive(Debug, Args)]
pub(crate) struct EvalArguments {
    /// Checkpoint (.safetensors or .pth) or Hugging Face folder. Several are compared with the first; the gate judges the last
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar. Results of several are means over them
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// A file of `data split`; `--part` (val when not given) then names one of its parts
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// At most so many images of each data set, spread over it
    #[arg(long, value_name = "N")]
    max_images: Option<usize>,
    /// How objects are pointed at [default: both, none with detections]
    #[arg(long, value_enum)]
    protocol: Option<ProtocolKind>,
    /// Clicks on each object [default: 5, 20 with --noc]
    #[arg(long, value_name = "N")]
    clicks: Option<usize>,
    /// Number of clicks to 80, 85 and 90 % IoU, at most 20
    #[arg(long)]
    noc: bool,
    /// Leave an object alone once it has this IoU: faster where only NoC is wanted
    #[arg(long, value_name = "IOU", requires = "noc")]
    stop_at: Option<f64>,
    /// Clicks after the box
    #[arg(long, value_name = "N", default_value_t = 0)]
    box_clicks: usize,
    /// How often the first prompt is repeated with its own mask
    #[arg(long, value_name = "N", default_value_t = 0)]
    refine: usize,
    /// Where the first click lands: centre or random:SEED
    #[arg(long, value_name = "RULE", default_value = "centre", value_parser = parse_first_click)]
    first_click: FirstClick,
    /// Measure the IoU of the boundaries, too
    #[arg(long)]
    boundary: bool,
    /// Boxes of a detector (COCO results) as prompts: writes segmentations.json and measures AP and AR
    #[arg(long, value_name = "FILE", conflicts_with = "segmentations")]
    detections: Option<PathBuf>,
    /// Masks in a file (COCO results), measured as they are, without a checkpoint
    #[arg(long, value_name = "FILE")]
    segmentations: Option<PathBuf>,
    /// Detections are proposals: classes do not matter, and 1000 of an image count
    #[arg(long)]
    proposals: bool,
    /// TOML file with a table `gate` of bounds; a miss is exit code 1
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// results.json of an earlier run: no share may be worse by more than --max-drop
    #[arg(long, value_name = "FILE", requires = "max_drop")]
    baseline: Option<PathBuf>,
    /// See --baseline
    #[arg(long, value_name = "SHARE")]
    max_drop: Option<f64>,
    /// Folder for results.json, tables, report.md, report.html and junit.xml; without it only a table is printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace results of an earlier run in DIR
    #[arg(long)]
    force: bool,
    /// Where to compute: cpu, cuda, cuda:N or vulkan
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Objects in one call of the decoder; no number depends on it, memory does
    #[arg(long, value_name = "N", default_value_t = RunPlan::default().batch_objects)]
    batch_objects: usize,
    /// Threads that read images ahead
    #[arg(long, value_name = "N", default_value_t = RunPlan::default().workers)]
    workers: usize,
    /// Pictures of the best and the worst objects in the report, for each protocol
    #[arg(long, value_name = "N", default_value_t = RunPlan::default().gallery)]
    gallery: usize,
    #[command(flatten)]
    source: SourceArguments,
}

impl EvalArguments {
    pub(crate) fn plan(&self) -> anyhow::Result<EvalPlan> {
        let mut options = self.source.options()?;
        if self.split.is_some() && options.split.is_none() {
            options.split = Some("val".to_owned());
        }
        let data = |path: &PathBuf| DataPlan {
            path: path.clone(),
            name: None,
            max_images: self.max_images,
            split_file: self.split.clone(),
            options: options.clone(),
        };
        let detections = self.detections();
        if self.proposals && detections.is_none() {
            bail!("--proposals is about --detections or --segmentations; give one of them");
        }
        let usual_kind = if detections.is_some() { ProtocolKind::None } else { ProtocolKind::Both };
        let usual = ProtocolPlan::default();
        Ok(EvalPlan {
            model: ModelPlan { checkpoint: self.checkpoints.clone() },
            data: self.data.iter().map(data).collect(),
            protocol: ProtocolPlan {
                kind: self.protocol.unwrap_or(usual_kind),
                clicks: self.clicks.unwrap_or(if self.noc { NOC_CAP } else { usual.clicks }),
                box_clicks: self.box_clicks,
                first_click: self.first_click,
                refinements: self.refine,
                noc_percent: if self.noc { vec![80, 85, 90] } else { Vec::new() },
                stop_at_iou: self.stop_at,
                boundary: if self.boundary { Boundary::Measure } else { Boundary::Skip },
                ..usual
            },
            detections,
            gate: self.gate()?,
            run: RunPlan {
                out: self.out.clone(),
                force: self.force,
                device: self.device.to_string(),
                batch_objects: self.batch_objects,
                workers: self.workers,
                gallery: self.gallery,
                ..RunPlan::default()
            },
        })
    }

    fn detections(&self) -> Option<DetectionsPlan> {
        let (file, use_as) = match (&self.detections, &self.segmentations) {
            (Some(file), _) => (file, DetectionUse::Boxes),
            (None, Some(file)) => (file, DetectionUse::Segmentations),
            (None, None) => return None,
        };
        let usual = DetectionsPlan { file: file.clone(), use_as, ..DetectionsPlan::default() };
        Some(match self.proposals {
            true => DetectionsPlan { categories: Categories::Agnostic, max_dets: vec![10, 100, 1000], ..usual },
            false => usual,
        })
    }

    fn gate(&self) -> anyhow::Result<Option<GateConfig>> {
        let mut gate = self.gate.as_deref().map(read_gate).transpose()?;
        if self.baseline.is_some() || self.max_drop.is_some() {
            let gate = gate.get_or_insert_default();
            gate.baseline = self.baseline.clone().or(gate.baseline.take());
            gate.max_drop = self.max_drop.or(gate.max_drop);
        }
        Ok(gate)
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
