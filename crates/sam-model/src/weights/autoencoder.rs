//! Files of a masked autoencoder, both ways, under the keys of `facebookresearch/mae` (which are timm's for a ViT).
//!
//! The reference releases two kinds: `mae_pretrain_*.pth` with the encoder alone, and files with the decoder. A `.pth` has
//! its tensors under `model`, as the reference's programs expect. In a `.safetensors` our own metadata holds what the
//! tensors do not determine: the heads, and the grid of an image that is not square.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use serde_json::Value;

use super::checkpoint::{CONFIG_METADATA, LoadReport, explain, finite, require_fit, surroundings};
use super::error::{Mismatch, WeightsError};
use super::export::{ExportFormat, ExportReport, Written, file_metadata, write_pth, write_safetensors, write_weights};
use super::layout::{Layout, drop_reason};
use super::parameters::{fill_parameters, named_tensors, parameter_shapes};
use super::recognise::recognise_autoencoder;
use super::state_dict::{Dtype, StateDict};
use crate::init::initialise_where;
use crate::mae::{MaeConfig, MaskedAutoencoder};

/// Key of the sizes in our metadata.
const METADATA_KEY: &str = "masked_autoencoder";

/// The key under which the reference's programs look for the tensors of a `.pth`.
const PTH_WRAPPER: &str = "model";

/// The parts of a masked autoencoder to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaeParts {
    /// The encoder, for fine-tuning; a timm ViT loads it.
    Encoder,
    /// Encoder and decoder, to continue a pre-training.
    Whole,
}

/// Options of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaeExportOptions {
    /// A `.safetensors` or a `.pth`.
    pub format: ExportFormat,
    /// F32, F16 or BF16.
    pub dtype: Dtype,
    /// With or without the decoder.
    pub parts: MaeParts,
}

/// A recognised file of a masked autoencoder.
#[derive(Debug)]
pub struct MaeCheckpoint {
    /// The file's tensors.
    pub dict: StateDict,
    /// Its sizes; of the published decoder when the file has none.
    pub config: MaeConfig,
    /// Whether the file has the decoder.
    pub has_decoder: bool,
    assumed: Vec<String>,
}

impl MaeCheckpoint {
    /// Opens and recognises a file; reads no weights.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut dict = StateDict::open(path)?;
        let layout = dict.recognise_layout();
        let unknown = |what: String| WeightsError::UnknownLayout { path: dict.path.clone(), what };
        let layout = layout.map_err(unknown)?;
        if layout != Layout::Mae {
            return Err(unknown(format!("has the keys of the {} layout, not of a masked autoencoder", layout.name())));
        }
        let metadata = dict.metadata.get(CONFIG_METADATA).and_then(|text| serde_json::from_str(text).ok());
        let (config, assumed) = match metadata.as_ref().and_then(autoencoder_config) {
            Some(config) => (config, Vec::new()),
            None => recognise_autoencoder(&dict.tensors).map_err(|problem| unknown(explain(&dict, layout, problem)))?,
        };
        config.check().map_err(|source| WeightsError::Config { path: dict.path.clone(), source })?;
        let has_decoder = dict.tensors.contains_key("decoder_embed.weight");
        Ok(Self { dict, config, has_decoder, assumed })
    }

    /// Loads it as f32; a missing decoder is initialised from `seed`.
    pub fn load(&self, seed: u64, device: &Device) -> Result<(MaskedAutoencoder, LoadReport), WeightsError> {
        self.load_with(&self.config, seed, device)
    }

    /// Loads it into a model of these sizes, whose image size and decoder may differ from the file's. Positions for another
    /// image size are computed anew, as they are fixed.
    pub fn load_with(
        &self,
        config: &MaeConfig,
        seed: u64,
        device: &Device,
    ) -> Result<(MaskedAutoencoder, LoadReport), WeightsError> {
        let path = &self.dict.path;
        let mae = config.init(device).map_err(|source| WeightsError::Config { path: path.clone(), source })?;
        let mut report =
            LoadReport { assumed: self.assumed.clone(), notes: surroundings(&self.dict), ..LoadReport::default() };
        let mut mismatch = Mismatch::default();
        let mut unused: BTreeSet<&str> = self.dict.tensors.keys().map(String::as_str).collect();
        for (key, shape) in parameter_shapes(&mae) {
            unused.remove(key.as_str());
            match self.dict.tensors.get(&key) {
                Some(info) if info.shape == shape => report.used += 1,
                Some(_) if key.ends_with("pos_embed") && config.image_size_hw != self.config.image_size_hw => {
                    report.fresh.push(key);
                }
                Some(info) => mismatch.wrong_shape.push((key, shape, info.shape.clone())),
                None if !self.has_decoder && is_of_decoder(&key) => report.fresh.push(key),
                None => mismatch.missing.push((key, shape, None)),
            }
        }
        for key in unused {
            match drop_reason(Layout::Mae, key) {
                Some(reason) if !is_of_decoder(key) => report.dropped.push((key.to_owned(), reason.to_owned())),
                _ => mismatch.extra.push((key.to_owned(), self.dict.tensors[key].shape.clone(), None)),
            }
        }
        require_fit(mismatch, path, || describe_autoencoder(config))?;
        let fresh: BTreeSet<&str> = report.fresh.iter().map(String::as_str).collect();
        let mae = initialise_where(mae, seed, |key| fresh.contains(key) && !key.ends_with("pos_embed"));
        let mae = fill_parameters(mae, FloatDType::F32, |key| match fresh.contains(key) {
            true => Ok(None),
            false => finite(self.dict.read_f32(key)?, path, key).map(Some),
        })?;
        Ok((mae, report))
    }
}

/// Writes `mae` to `path`, replacing an existing file.
pub fn export_mae(
    mae: &MaskedAutoencoder,
    options: MaeExportOptions,
    path: &Path,
) -> Result<ExportReport, WeightsError> {
    let MaeExportOptions { format, dtype, parts } = options;
    let tensors: Vec<Written> = named_tensors(mae)
        .into_iter()
        .filter(|tensor| parts == MaeParts::Whole || !is_of_decoder(&tensor.key))
        .map(|tensor| Written::new(tensor, Layout::Official, dtype, path))
        .collect::<Result<_, _>>()?;
    let config = serde_json::json!({ METADATA_KEY: mae.config() });
    let bytes = match format {
        ExportFormat::Safetensors => {
            write_weights(&tensors, path, |temporary| write_safetensors(&tensors, &file_metadata(&config), temporary))?
        }
        ExportFormat::Pth => {
            write_weights(&tensors, path, |temporary| write_pth(&tensors, Some(PTH_WRAPPER), temporary))?
        }
        ExportFormat::HuggingFace => {
            let what = "a masked autoencoder is written as safetensors or pth, not as a Hugging Face folder";
            return Err(WeightsError::Unsupported(what.to_owned()));
        }
    };
    Ok(ExportReport {
        path: path.to_owned(),
        tensors: tensors.len(),
        bytes,
        resized: Vec::new(),
        image_size: mae.config().image_size_hw[0],
        text: None,
    })
}

/// The published name, or the sizes that make it a custom one.
pub fn describe_autoencoder(config: &MaeConfig) -> String {
    let MaeConfig { image_size_hw: [height, width], patch_size, embed_dim, depth, num_heads, .. } = config;
    format!(
        "a masked autoencoder at {height} x {width} px (dimension {embed_dim}, depth {depth}, {num_heads} heads, patch \
         {patch_size}, decoder dimension {} and depth {})",
        config.decoder_embed_dim, config.decoder_depth
    )
}

/// The sizes in our metadata.
pub(super) fn autoencoder_config(metadata: &Value) -> Option<MaeConfig> {
    serde_json::from_value(metadata.get(METADATA_KEY)?.clone()).ok()
}

fn is_of_decoder(key: &str) -> bool {
    key.starts_with("decoder_") || key == "mask_token"
}
