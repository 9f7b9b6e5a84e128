//! The text prompt of a segmenter on disk: in a file beside the checkpoint, whose keys stay the official ones, or merged
//! into a file of our own.
//!
//! The decoder learns what a text token means, so the file belongs to one checkpoint. It holds the fingerprint of that
//! checkpoint's prompt encoder and mask decoder, and that of the CLIP whose vectors it takes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use sam_files::{Fingerprint, write_atomically_with};

use super::checkpoint::finite;
use super::error::WeightsError;
use super::parameters::NamedTensor;
use super::safetensors_writer::write_f32_tensors;
use super::state_dict::{Dtype, StateDict, bytes_from_floats, floats_from_bytes};
use crate::prompt::TextPromptConfig;

/// Keys of text prompts start with this.
pub(crate) const TEXT_KEYS: &str = "prompt_encoder.text_prompt.";

/// Key of the metadata of a file with a text prompt.
const TEXT_METADATA: &str = "sam_train.text";

/// The file's name in a Hugging Face folder.
const NAME_IN_FOLDER: &str = "text-prompt.safetensors";

/// Instead of the extension of a checkpoint that is a file.
const EXTENSION: &str = "text.safetensors";

/// Tensors of a text prompt, without [`TEXT_KEYS`].
const NAMES: [&str; 4] = ["projection.weight", "projection.bias", "image_mean", "text_mean"];

/// What a file says about its text prompt.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Metadata {
    #[serde(flatten)]
    config: TextPromptConfig,
    /// Of the prompt encoder and the mask decoder, in hexadecimal digits.
    checkpoint: String,
}

/// A text prompt that was read.
#[derive(Clone, Debug)]
pub struct TextPromptFile {
    /// The file.
    pub path: PathBuf,
    /// Width of vectors, and their CLIP.
    pub config: TextPromptConfig,
    /// Channels of the token.
    pub(super) channels: usize,
    checkpoint: String,
    /// By key.
    tensors: BTreeMap<String, Vec<f32>>,
}

/// The file beside a checkpoint that holds its text prompt, whether there is one or not.
#[must_use]
pub fn text_prompt_beside(checkpoint: &Path) -> PathBuf {
    match checkpoint.is_dir() {
        true => text_prompt_in(checkpoint),
        false => checkpoint.with_extension(EXTENSION),
    }
}

/// The file in a Hugging Face folder that holds its text prompt.
pub(super) fn text_prompt_in(folder: &Path) -> PathBuf {
    folder.join(NAME_IN_FOLDER)
}

impl TextPromptFile {
    /// Reads the file beside a checkpoint; `None` when there is none.
    pub(super) fn beside(checkpoint: &Path) -> Result<Option<Self>, WeightsError> {
        let path = match (checkpoint.is_file(), checkpoint.parent()) {
            // The weights of a Hugging Face folder may be named themselves.
            (true, Some(folder))
                if folder.join("config.json").is_file() && !checkpoint.with_extension(EXTENSION).exists() =>
            {
                text_prompt_in(folder)
            }
            _ => text_prompt_beside(checkpoint),
        };
        if !path.is_file() {
            return Ok(None);
        }
        let mut dict = StateDict::open(&path)?;
        let text = Self::take(&mut dict)?;
        let text = text.ok_or_else(|| problem(&path, format!("no text prompt: it lacks `{TEXT_KEYS}{}`", NAMES[0])))?;
        match dict.tensors.keys().next() {
            None => Ok(Some(text)),
            Some(key) => Err(problem(&path, format!("`{key}` is no part of a text prompt"))),
        }
    }

    /// Takes the text prompt out of a file's tensors; `None` when there is none.
    pub(super) fn take(dict: &mut StateDict) -> Result<Option<Self>, WeightsError> {
        let keys: Vec<String> = dict.tensors.keys().filter(|key| key.starts_with(TEXT_KEYS)).cloned().collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let path = dict.path.clone();
        let metadata = dict.metadata.get(TEXT_METADATA).ok_or_else(|| {
            problem(&path, format!("it has a text prompt, but no metadata `{TEXT_METADATA}` that names its CLIP"))
        })?;
        let Metadata { config, checkpoint } = serde_json::from_str(metadata)
            .map_err(|error| problem(&path, format!("the metadata `{TEXT_METADATA}` is damaged: {error}")))?;
        let channels =
            dict.tensors.get(&format!("{TEXT_KEYS}{}", NAMES[1])).map_or(0, |bias| bias.shape.iter().product());
        let expected: [&[usize]; 4] = [&[channels, config.width], &[channels], &[config.width], &[config.width]];
        let mut tensors = BTreeMap::new();
        for (name, expected) in NAMES.iter().zip(expected) {
            let key = format!("{TEXT_KEYS}{name}");
            let got = dict.tensors.get(&key).map(|info| info.shape.clone());
            if got.as_deref() != Some(expected) {
                let got = got.map_or("none".to_owned(), |shape| format!("{shape:?}"));
                return Err(problem(&path, format!("`{key}` must be of shape {expected:?}, got {got}")));
            }
            tensors.insert(key.clone(), finite(dict.read_f32(&key)?, &path, &key)?);
        }
        if let Some(key) = keys.iter().find(|key| !tensors.contains_key(*key)) {
            return Err(problem(&path, format!("`{key}` is no part of a text prompt")));
        }
        dict.tensors.retain(|key, _| !key.starts_with(TEXT_KEYS));
        Ok(Some(Self { path, config, channels, checkpoint, tensors }))
    }

    /// The values of a parameter under its official key; `None` when it is of another part.
    pub(super) fn values(&self, key: &str) -> Option<Vec<f32>> {
        self.tensors.get(key).cloned()
    }

    /// The number of tensors.
    pub(super) fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Fails when it was trained with another checkpoint.
    pub(super) fn check_checkpoint(&self, binding: &Binding, checkpoint: &Path) -> Result<(), WeightsError> {
        if self.checkpoint == binding.hex() {
            return Ok(());
        }
        Err(problem(
            &self.path,
            format!(
                "this text prompt belongs to another checkpoint than {}: their decoders differ; put the file beside the \
                 checkpoint that it was trained and exported with, or move it away to go without texts",
                checkpoint.display()
            ),
        ))
    }
}

/// Fingerprint of the parts of a checkpoint that a text prompt was trained with: the values as the file holds them.
#[derive(Debug, Default)]
pub(super) struct Binding {
    /// By key, as files have tensors in any order.
    tensors: BTreeMap<String, u64>,
}

impl Binding {
    /// Adds a tensor, if it is of these parts.
    pub(super) fn add(&mut self, key: &str, values: &[f32]) {
        let is_decoding = key.starts_with("prompt_encoder.") || key.starts_with("mask_decoder.");
        if !is_decoding || key.starts_with(TEXT_KEYS) {
            return;
        }
        let mut hash = Fingerprint::new(0);
        values.iter().for_each(|value| hash.add_word(u64::from(value.to_bits())));
        self.tensors.insert(key.to_owned(), hash.value());
    }

    fn hex(&self) -> String {
        let mut hash = Fingerprint::new(0);
        for (key, value) in &self.tensors {
            hash.add_bytes(key.as_bytes());
            hash.add_word(*value);
        }
        format!("{:016x}", hash.value())
    }

    /// That of tensors that are written as `dtype`.
    pub(super) fn of_written(tensors: &[NamedTensor], dtype: Dtype) -> Self {
        let mut binding = Self::default();
        for tensor in tensors {
            let stored = floats_from_bytes(dtype, &bytes_from_floats(dtype, &tensor.values())).unwrap_or_default();
            binding.add(&tensor.key, &stored);
        }
        binding
    }
}

/// The metadata of a file that holds a text prompt, as key and value.
pub(super) fn text_metadata(config: &TextPromptConfig, binding: &Binding) -> (String, String) {
    let metadata = Metadata { config: config.clone(), checkpoint: binding.hex() };
    (TEXT_METADATA.to_owned(), serde_json::json!(metadata).to_string())
}

/// Writes a text prompt to a file of its own, as f32.
pub(super) fn write_text_prompt(
    tensors: &[NamedTensor],
    metadata: (String, String),
    path: &Path,
) -> Result<(), WeightsError> {
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let values: Vec<Vec<f32>> = tensors.iter().map(NamedTensor::values).collect();
    for (tensor, values) in tensors.iter().zip(&values) {
        finite(values.clone(), path, &tensor.key)?;
    }
    let entries: Vec<(&str, &[usize], &[f32])> = tensors
        .iter()
        .zip(&values)
        .map(|(tensor, values)| (tensor.key.as_str(), &tensor.shape[..], &values[..]))
        .collect();
    let producer = ("producer".to_owned(), format!("sam-train {}", env!("CARGO_PKG_VERSION")));
    let metadata = HashMap::from([metadata, producer]);
    write_atomically_with(path, io, |temporary| write_f32_tensors(temporary, &entries, metadata).map_err(io))?;
    Ok(())
}

fn problem(path: &Path, what: String) -> WeightsError {
    WeightsError::TextPrompt { path: path.to_owned(), what }
}
