//! A file or folder with a CLIP: recognised, compared with the towers to fill, and loaded. Strict in both directions, as
//! SAM's own ([`crate::weights::Checkpoint`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use sam_files::Fingerprint;

use super::config::ClipConfig;
use super::keys::{ClipLayout, Stored};
use super::recognise::{ClipHints, recognise};
use super::tokenizer::Tokenizer;
use super::tower::{ClipModel, TextTower};
use crate::weights::{
    Dtype, LoadReport, Mismatch, StateDict, TensorInfo, WeightsError, explain_in, fill_parameters, finite,
    parameter_shapes, require_fit, surroundings,
};

/// Files of open_clip, which may lie beside those of Hugging Face, in order of preference.
const OPEN_CLIP_WEIGHTS: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

/// A recognised CLIP.
#[derive(Debug)]
pub struct ClipCheckpoint {
    /// The file's tensors.
    pub dict: StateDict,
    /// The naming scheme of its tensors.
    pub layout: ClipLayout,
    /// The sizes of both towers.
    pub config: ClipConfig,
    /// Texts to the tokens of its text tower.
    pub tokenizer: Tokenizer,
    assumed: Vec<String>,
}

impl ClipCheckpoint {
    /// Opens and recognises a Hugging Face folder, a folder of open_clip's, or a file with the keys of either; reads no
    /// weights. The vocabulary is that of `tokenizer.json`, or of `vocab.json` and `merges.txt`, beside the weights, or
    /// else OpenAI's.
    ///
    /// # Errors
    /// When the file is no CLIP of a known layout, or its vocabulary does not fit.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let dict = StateDict::open(&Self::file_in(path)).map_err(name_other_file)?;
        Self::recognise(dict)
    }

    /// The weights of a folder that open_clip wrote, which [`StateDict`] does not know; any other path as it is. Of a folder
    /// with both, those of Hugging Face.
    pub fn file_in(path: &Path) -> PathBuf {
        let is_hugging_face = path.join("model.safetensors").is_file() || path.join("pytorch_model.bin").is_file();
        if is_hugging_face && path.join("config.json").is_file() {
            return path.to_owned();
        }
        let in_folder = OPEN_CLIP_WEIGHTS.map(|name| path.join(name));
        in_folder.into_iter().find(|file| file.is_file()).unwrap_or_else(|| path.to_owned())
    }

    /// Whether the tensors have the names of a whole CLIP.
    pub fn is_file_of(dict: &StateDict) -> bool {
        ClipLayout::recognise(&dict.tensors).is_ok()
    }

    /// Recognises an opened file.
    ///
    /// # Errors
    /// See [`ClipCheckpoint::open`].
    pub fn recognise(mut dict: StateDict) -> Result<Self, WeightsError> {
        let layout = dict.recognise_keys(ClipLayout::recognise);
        let unknown = |what| WeightsError::UnknownLayout { path: dict.path.clone(), what };
        let layout = layout.map_err(unknown)?;
        let openai: BTreeMap<String, TensorInfo> = dict
            .tensors
            .iter()
            .filter_map(|(key, info)| {
                let openai = layout.to_openai(key)?;
                let shape = layout.openai_shape(&openai, &info.shape);
                Some((openai, TensorInfo { dtype: info.dtype, shape }))
            })
            .collect();
        let hints = ClipHints::beside(&dict.path, layout)?;
        let (config, mut assumed) = recognise(&openai, &hints).map_err(|problem| {
            let in_file = |openai: String| layout.stored(&openai, &[3; 4]).keys.swap_remove(0);
            unknown(explain_in(&dict, layout.name(), in_file, problem))
        })?;
        config.check().map_err(|source| WeightsError::Config { path: dict.path.clone(), source })?;
        let (tokenizer, source) = Tokenizer::beside(&dict.path, config.text.vocabulary, config.text.context)?;
        assumed.extend(source);
        if let Some(end) = hints.end_token.filter(|&end| end != tokenizer.end()) {
            return Err(WeightsError::Unsupported(format!(
                "{}: its text_config.eos_token_id is {end}, the end token of its vocabulary is {}",
                dict.path.with_file_name("config.json").display(),
                tokenizer.end()
            )));
        }
        Ok(Self { dict, layout, config, tokenizer, assumed })
    }

    /// Loads both towers as f32, whatever the file holds, with a fingerprint of all weights, sizes and the vocabulary: equal
    /// for the same CLIP in any layout.
    ///
    /// # Errors
    /// When tensors are missing, unknown, of another shape, or not finite.
    pub fn load(&self, device: &Device) -> Result<(ClipModel, u64, LoadReport), WeightsError> {
        self.load_where(device, |_| true)
    }

    /// As [`ClipCheckpoint::load`], the text tower alone: the image tower, twice as large, is read for the fingerprint, but
    /// never kept in memory.
    ///
    /// # Errors
    /// See [`ClipCheckpoint::load`].
    pub fn load_text(&self, device: &Device) -> Result<(TextTower, u64, LoadReport), WeightsError> {
        let (model, fingerprint, report) = self.load_where(device, |openai| !openai.starts_with("visual."))?;
        Ok((model.text, fingerprint, report))
    }

    /// Parameters of other keys stay uninitialised.
    fn load_where(
        &self,
        device: &Device,
        is_kept: impl Fn(&str) -> bool,
    ) -> Result<(ClipModel, u64, LoadReport), WeightsError> {
        let model = self.empty(device)?;
        let (plan, report) = self.compare(&model)?;
        let mut hash = Fingerprint::new(0);
        self.config.add_to(&mut hash);
        self.tokenizer.add_to(&mut hash);
        let model = fill_parameters(model, FloatDType::F32, |openai| {
            let Some(stored) = plan.get(openai) else { return Ok(None) };
            let mut parts = Vec::with_capacity(stored.keys.len());
            for key in &stored.keys {
                parts.push(finite(self.dict.read_f32(key)?, &self.dict.path, key)?);
            }
            let values = stored.joined(parts);
            hash.add_bytes(openai.as_bytes());
            // Two values at once: a CLIP has 428 million.
            for pair in values.chunks(2) {
                let [first, second] = [pair[0], pair.get(1).copied().unwrap_or_default()].map(f32::to_bits);
                hash.add_word(u64::from(first) << 32 | u64::from(second));
            }
            Ok(is_kept(openai).then_some(values))
        })?;
        Ok((model, hash.value(), report))
    }

    /// The report of loading, without reading weights.
    ///
    /// # Errors
    /// When tensors are missing, unknown or of another shape.
    pub fn report(&self) -> Result<LoadReport, WeightsError> {
        Ok(self.compare(&self.empty(&Device::flex())?)?.1)
    }

    fn empty(&self, device: &Device) -> Result<ClipModel, WeightsError> {
        self.config.init(device).map_err(|source| WeightsError::Config { path: self.dict.path.clone(), source })
    }

    fn compare(&self, model: &ClipModel) -> Result<(BTreeMap<String, Stored>, LoadReport), WeightsError> {
        let (mut plan, mut mismatch) = (BTreeMap::new(), Mismatch::default());
        let mut report =
            LoadReport { assumed: self.assumed.clone(), notes: surroundings(&self.dict), ..LoadReport::default() };
        let mut unused: BTreeSet<&str> = self.dict.tensors.keys().map(String::as_str).collect();
        for (openai, shape) in parameter_shapes(model) {
            let stored = self.layout.stored(&openai, &shape);
            for key in &stored.keys {
                let Some(info) = self.dict.tensors.get(key) else {
                    mismatch.missing.push((key.clone(), stored.shape.clone(), None));
                    continue;
                };
                unused.remove(key.as_str());
                if !matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    let (path, key, dtype) = (self.dict.path.clone(), key.clone(), info.dtype);
                    return Err(WeightsError::NotAFloat { path, key, dtype });
                }
                if info.shape == stored.shape {
                    report.used += 1;
                } else {
                    mismatch.wrong_shape.push((key.clone(), stored.shape.clone(), info.shape.clone()));
                }
            }
            plan.insert(openai, stored);
        }
        for key in unused {
            match ClipLayout::drop_reason(key) {
                Some(reason) => report.dropped.push((key.to_owned(), reason.to_owned())),
                None => mismatch.extra.push((key.to_owned(), self.dict.tensors[key].shape.clone(), None)),
            }
        }
        require_fit(mismatch, &self.dict.path, || self.config.description())?;
        Ok((plan, report))
    }
}

/// OpenAI's own `.pt` files are programs, whose weights others publish as files.
fn name_other_file(error: WeightsError) -> WeightsError {
    match error {
        WeightsError::Pth(error) if error.is_torchscript() => WeightsError::Unsupported(format!(
            "{error}; OpenAI publishes CLIP so: take the same weights as a Hugging Face folder \
             (openai/clip-vit-large-patch14-336) or as a file of open_clip (open_clip_model.safetensors)"
        )),
        error => error,
    }
}
