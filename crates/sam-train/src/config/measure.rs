//! What `evaluate` and `probe` share: `model.checkpoint`, and in `[run]` where they compute and where results go.

use std::path::PathBuf;

use burn::tensor::Device;
use sam_infer::{DeviceName, Precision};
use serde::Serialize;

use super::ranges::WORKERS;
use super::reader::Section;
use super::run::cannot_compute;
use crate::cli::open_for_inference;

/// Where a task computes and where its results go.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MeasureRunPlan {
    /// Folder for results; without one, only tables are printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) out: Option<PathBuf>,
    /// A [`DeviceName`].
    pub(crate) device: String,
    /// What matrix products multiply.
    #[serde(skip_serializing_if = "is_f32")]
    pub(crate) precision: Precision,
    /// Threads that read images ahead.
    pub(crate) workers: usize,
}

impl MeasureRunPlan {
    pub(super) fn read(run: &Section<'_>) -> Self {
        run.replaced("force", |_| "the option --force".to_owned());
        Self {
            out: run.text_if_given("out").map(PathBuf::from),
            device: run.text_with("device", &DeviceName::default().to_string(), cannot_compute),
            precision: run.choice("precision", Precision::F32, &Precision::NAMES),
            workers: run.integer("workers", 2, WORKERS),
        }
    }

    /// Opens the device and sets the precision of the process.
    pub(crate) fn open_device(&self) -> anyhow::Result<Device> {
        open_for_inference(self.device.parse()?, self.precision)
    }
}

fn is_f32(precision: &Precision) -> bool {
    *precision == Precision::F32
}

/// The checkpoints that are measured; several are compared with the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CheckpointsPlan {
    /// Each in any layout that can be loaded.
    pub(crate) checkpoint: Vec<PathBuf>,
}

impl CheckpointsPlan {
    /// `is_required`: without it there may be no checkpoint.
    pub(super) fn read(model: &Section<'_>, is_required: bool) -> Self {
        let checkpoint = model.local_paths("checkpoint");
        if is_required {
            model.required("checkpoint", "a checkpoint, or a list of them (--checkpoint FILE)", Some(()), ());
        }
        Self { checkpoint }
    }
}
