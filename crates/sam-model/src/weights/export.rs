//! Exports a segmenter to files that other programs load.
//!
//! Exports are atomic: a file is written under a temporary name in the same folder, synced, read back and compared with the
//! model, and only then renamed. A crash leaves the old file or the new one, never half of one. A new Hugging Face folder
//! appears as a whole; in an existing one the three files are replaced one by one, the weights last.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::FloatDType;
use sam_files::{write_atomically, write_atomically_with, write_folder_atomically};

use super::checkpoint::CONFIG_METADATA;
use super::error::WeightsError;
use super::huggingface;
use super::layout::{BATCH_COUNTER, Layout, TINY_VIT_CLASSIFIER};
use super::parameters::{NamedTensor, fill_parameters, named_tensors};
use super::position_tables::{ResizedTable, resize_absolute, resize_relative};
use super::pth::writer::{PthEntry, write_pth as write_pth_file};
use super::recognise::PUBLISHED_DECODER_HEADS;
use super::safetensors_writer::{TensorHeader, write_tensors};
use super::state_dict::{Dtype, StateDict, bytes_from_floats, floats_from_bytes};
use super::text::{Binding, TEXT_KEYS, text_metadata, text_prompt_beside, text_prompt_in, write_text_prompt};
use crate::config::SamConfig;
use crate::encoder::TinyVitConfig;
use crate::sam::Sam;

/// Image size that every published model and most consumers expect.
pub const PUBLISHED_IMAGE_SIZE: usize = 1024;

/// The file format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Official keys in a `.safetensors`: ours, candle's, and what is built on them.
    Safetensors,
    /// Official keys in a `.pth` for `sam_model_registry[..]`.
    Pth,
    /// A folder for `SamModel.from_pretrained`.
    HuggingFace,
}

/// How to export a model of another image size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSizePolicy {
    /// Position tables are resized to 1024 px, which is all that most consumers can load.
    Published,
    /// Tables are not resized; the file is for programs that infer the image size from the tensors, as this one does.
    Keep,
}

/// Where the text prompt of a model is written, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextExport {
    /// To a file beside the checkpoint, which keeps the official keys: see [`text_prompt_beside`].
    Beside,
    /// Into the same file, which only this program reads; [`ExportFormat::Safetensors`] only.
    Merged,
}

/// Summary of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The file or folder.
    pub path: PathBuf,
    /// Number of tensors.
    pub tensors: usize,
    /// Size of the weights file in bytes.
    pub bytes: u64,
    /// Position tables that were resized.
    pub resized: Vec<ResizedTable>,
    /// Image size of the written model.
    pub image_size: usize,
    /// The file with the text prompt, where it is one of its own.
    pub text: Option<PathBuf>,
}

/// Options of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// The file format.
    pub format: ExportFormat,
    /// F32, F16 or BF16.
    pub dtype: Dtype,
    /// How to export a model whose image size is not 1024 px.
    pub image_size: ImageSizePolicy,
    /// Where the text prompt goes.
    pub text: TextExport,
}

/// Checks that [`export`] can write a model of these sizes, so that a long training does not end with this error.
///
/// # Errors
///
/// When the format or the data type cannot represent the model, or its position tables cannot be resized.
pub fn check_export(config: &SamConfig, options: ExportOptions) -> Result<(), WeightsError> {
    let ExportOptions { format, dtype, image_size, text } = options;
    if text == TextExport::Merged && format != ExportFormat::Safetensors {
        let what = "only a .safetensors of this program can hold the text prompt, too; write it beside the checkpoint";
        return Err(WeightsError::Unsupported(what.to_owned()));
    }
    if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(WeightsError::Unsupported(format!("weights are written as F32, F16 or BF16, not as {dtype:?}")));
    }
    let mut config = config.clone();
    if is_resized(&config, image_size) {
        check_resizable(&config)?;
        config.image_encoder.set_image_size(PUBLISHED_IMAGE_SIZE);
    }
    check_representable(&config, format)
}

/// Writes `sam` to `path` (a file, or a folder for [`ExportFormat::HuggingFace`]), replacing existing files; low-rank adapters
/// are merged into the weights.
pub fn export(sam: &Sam, options: ExportOptions, path: &Path) -> Result<ExportReport, WeightsError> {
    check_export(sam.config(), options)?;
    let ExportOptions { format, dtype, image_size, text } = options;
    let mut config = sam.config().clone();
    let text_config = config.text.take();
    let (mut texts, mut tensors): (Vec<_>, Vec<_>) =
        named_tensors(&sam.clone().materialize()).into_iter().partition(|tensor| tensor.key.starts_with(TEXT_KEYS));
    let mut resized = Vec::new();
    if is_resized(&config, image_size) {
        resized = resize_tables(&mut tensors, &mut config);
    }
    let mut metadata = file_metadata(&serde_json::json!(config));
    let mut text_metadata = text_config.map(|config| text_metadata(&config, &Binding::of_written(&tensors, dtype)));
    if text == TextExport::Merged {
        metadata.extend(text_metadata.take());
        tensors.append(&mut texts);
    }
    let layout = match format {
        ExportFormat::HuggingFace => Layout::HuggingFace,
        ExportFormat::Safetensors | ExportFormat::Pth => Layout::Official,
    };
    let unused = config.image_encoder.tiny_vit().map_or(Vec::new(), |tiny| unused_of_tiny_vit(&tensors, tiny));
    let mut tensors: Vec<Written> =
        tensors.into_iter().map(|tensor| Written::new(tensor, layout, dtype, path)).collect::<Result<_, _>>()?;
    tensors.extend(unused);
    let beside = |path: &Path| match &text_metadata {
        Some(metadata) => write_text_prompt(&texts, metadata.clone(), path).map(|()| Some(path.to_owned())),
        // That of the model which is replaced.
        None => sam_files::remove_if_there(path).map(|()| None).map_err(|source| io(path, source)),
    };
    let hugging_face = |folder: &Path| -> Result<(u64, Option<PathBuf>), WeightsError> {
        let file = beside(&text_prompt_in(folder))?;
        let bytes = write_hugging_face(&tensors, &config, (dtype, &metadata), folder)?;
        Ok((bytes, file))
    };
    // The weights last: without them nothing loads.
    let (bytes, text) = match format {
        ExportFormat::Safetensors | ExportFormat::Pth => {
            let file = beside(&text_prompt_beside(path))?;
            let bytes = write_weights(&tensors, path, |temporary| match format {
                ExportFormat::Pth => write_pth(&tensors, None, temporary),
                _ => write_safetensors(&tensors, &metadata, temporary),
            })?;
            (bytes, file)
        }
        ExportFormat::HuggingFace if path.exists() => hugging_face(path)?,
        ExportFormat::HuggingFace => {
            let mut written = (0, None);
            let io = |source| io(path, source);
            write_folder_atomically(path, io, |temporary| {
                written = hugging_face(temporary)?;
                Ok::<_, WeightsError>(())
            })?;
            (written.0, written.1.map(|_| text_prompt_in(path)))
        }
    };
    let tensors = tensors.len();
    let image_size = config.image_encoder.image_size();
    Ok(ExportReport { path: path.to_owned(), tensors, bytes, resized, image_size, text })
}

/// The model that other programs get: without low-rank adapters, which are merged, without a text prompt, and at the image size
/// of the policy, with the tables that were resized for it.
///
/// # Errors
///
/// When position tables cannot be resized.
pub fn published_form(sam: &Sam, image_size: ImageSizePolicy) -> Result<(Sam, Vec<ResizedTable>), WeightsError> {
    let mut config = sam.config().clone();
    config.text = None;
    let mut tensors = named_tensors(&sam.clone().materialize());
    tensors.retain(|tensor| !tensor.key.starts_with(TEXT_KEYS));
    let mut resized = Vec::new();
    if is_resized(&config, image_size) {
        check_resizable(&config)?;
        resized = resize_tables(&mut tensors, &mut config);
    }
    let empty = config.init(&sam.device()).map_err(|source| WeightsError::Unsupported(source.to_string()))?;
    let tensors: BTreeMap<&str, &NamedTensor> = tensors.iter().map(|tensor| (tensor.key.as_str(), tensor)).collect();
    let filled = fill_parameters(empty, FloatDType::F32, |key| Ok(tensors.get(key).map(|tensor| tensor.values())))?;
    Ok((filled, resized))
}

/// Rejects models that a format cannot represent: the file would load as another model.
fn check_representable(config: &SamConfig, format: ExportFormat) -> Result<(), WeightsError> {
    match format {
        ExportFormat::Safetensors => Ok(()),
        ExportFormat::HuggingFace => huggingface::check_representable(config),
        ExportFormat::Pth if config.mask_decoder.num_heads == PUBLISHED_DECODER_HEADS => Ok(()),
        ExportFormat::Pth => Err(WeightsError::Unsupported(format!(
            "a .pth cannot represent a decoder of {} heads, as its readers assume {PUBLISHED_DECODER_HEADS}; export to \
             safetensors or huggingface",
            config.mask_decoder.num_heads
        ))),
    }
}

/// Writes to a temporary file, reads it back, compares it with `tensors`, and renames it.
pub(super) fn write_weights(
    tensors: &[Written],
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), WeightsError>,
) -> Result<u64, WeightsError> {
    write_atomically_with(
        path,
        |source| io(path, source),
        |temporary| {
            write(temporary)?;
            compare(tensors, temporary, path)
        },
    )
}

/// The three files of a folder, the weights last: without them nothing loads.
fn write_hugging_face(
    tensors: &[Written],
    config: &SamConfig,
    (dtype, metadata): (Dtype, &HashMap<String, String>),
    folder: &Path,
) -> Result<u64, WeightsError> {
    let name = match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    };
    write_json(&folder.join("config.json"), &huggingface::config_json(config, name))?;
    write_json(&folder.join("preprocessor_config.json"), &huggingface::preprocessor_json(config))?;
    let path = folder.join("model.safetensors");
    write_weights(tensors, &path, |temporary| write_safetensors(tensors, metadata, temporary))
}

fn io(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_owned(), source }
}

fn is_resized(config: &SamConfig, image_size: ImageSizePolicy) -> bool {
    image_size == ImageSizePolicy::Published && config.image_encoder.image_size() != PUBLISHED_IMAGE_SIZE
}

fn check_resizable(config: &SamConfig) -> Result<(), WeightsError> {
    let patch = config.image_encoder.patch_size();
    if PUBLISHED_IMAGE_SIZE.is_multiple_of(patch) {
        return Ok(());
    }
    Err(WeightsError::Unsupported(format!(
        "patches of {patch} px do not divide {PUBLISHED_IMAGE_SIZE} px: the position tables cannot be resized; export at the \
         model's own image size"
    )))
}

/// Resizes the position tables of a model to 1024 px, which its patches divide, and updates the configuration.
fn resize_tables(tensors: &mut [NamedTensor], config: &mut SamConfig) -> Vec<ResizedTable> {
    config.image_encoder.set_image_size(PUBLISHED_IMAGE_SIZE);
    let to_grid = config.image_encoder.grid_size();
    let mut resized = Vec::new();
    // No tensor of a TinyViT depends on the size of images.
    let Some(vit) = config.image_encoder.vit() else { return resized };
    for tensor in tensors {
        let from_shape = tensor.shape.clone();
        let replaced = match from_shape[..] {
            [1, rows, _, channels] if tensor.key == "image_encoder.pos_embed" => {
                let values = resize_absolute(&tensor.values(), [rows; 2], [to_grid; 2], channels);
                (vec![1, to_grid, to_grid, channels], values)
            }
            [length, channels] if is_global_table(&tensor.key, &vit.global_attn_indexes) => {
                let to = 2 * to_grid - 1;
                (vec![to, channels], resize_relative(&tensor.values(), length, to, channels))
            }
            _ => continue,
        };
        resized.push(ResizedTable { key: tensor.key.clone(), from: from_shape, to: replaced.0.clone() });
        *tensor = NamedTensor::replaced(tensor.key.clone(), replaced.0, replaced.1);
    }
    resized
}

/// Whether a key is a relative position table of a global block; windows do not grow with the image.
fn is_global_table(key: &str, global_attn_indexes: &[usize]) -> bool {
    let block = key.strip_prefix("image_encoder.blocks.").and_then(|rest| rest.split_once(".attn.rel_pos_"));
    let block = block.and_then(|(block, _)| block.parse::<usize>().ok());
    block.is_some_and(|block| global_attn_indexes.contains(&block))
}

/// Classes of the classifier of a TinyViT (ImageNet's).
const CLASSES: usize = 1000;

/// Tensors that MobileSAM's own strict loader expects and no network uses: the counters of batch norms, and a classifier whose
/// weights are zero.
fn unused_of_tiny_vit(tensors: &[NamedTensor], tiny: &TinyVitConfig) -> Vec<Written> {
    let dim = tiny.last_dim();
    let zeros = |key: String, dtype: Dtype, shape: &[usize]| Written {
        header: TensorHeader { key, dtype, shape: shape.to_vec() },
        values: Values::Zeros,
    };
    let counter = |tensor: &NamedTensor| {
        let norm = tensor.key.strip_suffix(".running_var")?;
        Some(zeros(format!("{norm}{BATCH_COUNTER}"), Dtype::I64, &[]))
    };
    let [norm, head] = TINY_VIT_CLASSIFIER;
    let of_classifier = [
        (norm, "weight", &[dim][..]),
        (norm, "bias", &[dim]),
        (head, "weight", &[CLASSES, dim]),
        (head, "bias", &[CLASSES]),
    ];
    let classifier = of_classifier.map(|(part, name, shape)| zeros(format!("{part}{name}"), Dtype::F32, shape));
    tensors.iter().filter_map(counter).chain(classifier).collect()
}

/// A tensor to write, in a file's layout and data type.
pub(super) struct Written {
    header: TensorHeader,
    values: Values,
}

/// The values of a tensor to write.
enum Values {
    Of(NamedTensor),
    Zeros,
}

impl Written {
    /// Rejects values that are NaN or infinite, or too large for the data type.
    pub(super) fn new(tensor: NamedTensor, layout: Layout, dtype: Dtype, path: &Path) -> Result<Self, WeightsError> {
        let key = layout.key_from_official(&tensor.key).ok_or_else(|| {
            WeightsError::Unsupported(format!("the {} layout has no tensor for `{}`", layout.name(), tensor.key))
        })?;
        let values = tensor.values();
        let header = TensorHeader { key, dtype, shape: tensor.shape.clone() };
        let written = Self { header, values: Values::Of(tensor) };
        let stored = floats_from_bytes(dtype, &bytes_from_floats(dtype, &values)).unwrap_or_default();
        let lost = values.iter().zip(&stored).find(|(_, stored)| !stored.is_finite());
        match lost {
            Some((&value, _)) => Err(WeightsError::NotFinite {
                path: path.to_owned(),
                key: written.header.key,
                value,
                hint: if value.is_finite() { " in this type; export as bf16 or f32" } else { "" },
            }),
            None => Ok(written),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match &self.values {
            Values::Of(tensor) => bytes_from_floats(self.header.dtype, &tensor.values()),
            Values::Zeros => vec![0; self.header.shape.iter().product::<usize>() * self.header.dtype.size()],
        }
    }
}

/// The metadata of a file of ours.
pub(super) fn file_metadata(config: &serde_json::Value) -> HashMap<String, String> {
    // transformers requires the entry "format".
    HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("producer".to_owned(), format!("sam-train {}", env!("CARGO_PKG_VERSION"))),
        (CONFIG_METADATA.to_owned(), config.to_string()),
    ])
}

pub(super) fn write_safetensors(
    tensors: &[Written],
    metadata: &HashMap<String, String>,
    path: &Path,
) -> Result<(), WeightsError> {
    let headers: Vec<TensorHeader> = tensors.iter().map(|tensor| tensor.header.clone()).collect();
    write_tensors(path, &headers, metadata.clone(), |at| tensors[at].bytes()).map_err(|source| io(path, source))
}

pub(super) fn write_pth(tensors: &[Written], wrapper: Option<&str>, path: &Path) -> Result<(), WeightsError> {
    let mut file = File::create(path).map_err(|source| io(path, source))?;
    let entries: Vec<_> = tensors
        .iter()
        .map(|tensor| PthEntry { name: &tensor.header.key, dtype: tensor.header.dtype, shape: &tensor.header.shape })
        .collect();
    let mut remaining = tensors.iter();
    write_pth_file(path, &mut file, wrapper, &entries, |_| {
        Ok::<_, WeightsError>(remaining.next().map(Written::bytes).unwrap_or_default())
    })
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), WeightsError> {
    write_atomically(path, format!("{value:#}\n")).map_err(|source| io(path, source))?;
    Ok(())
}

/// Reads the written file back and compares every tensor with the original.
fn compare(tensors: &[Written], written: &Path, final_path: &Path) -> Result<(), WeightsError> {
    let dict = StateDict::open(written)?;
    let differs = |key: &str| WeightsError::ReadBack { path: final_path.to_owned(), key: key.to_owned() };
    let expected: BTreeMap<&str, &Written> =
        tensors.iter().map(|tensor| (tensor.header.key.as_str(), tensor)).collect();
    if let Some(key) = dict.tensors.keys().find(|key| !expected.contains_key(key.as_str())) {
        return Err(differs(key));
    }
    for (key, tensor) in expected {
        let same = dict
            .tensors
            .get(key)
            .is_some_and(|info| info.dtype == tensor.header.dtype && info.shape == tensor.header.shape);
        if !same || dict.read_bytes(key)? != tensor.bytes() {
            return Err(differs(key));
        }
    }
    Ok(())
}
