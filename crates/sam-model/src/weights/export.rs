//! A segmenter to files that other people's programs load.
//!
//! Atomic: everything goes to a temporary name in the same folder, is synced, read back and compared with the model, and
//! only then takes its final name. A crash leaves the old file or the new one, never half of one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use super::checkpoint::CONFIG_METADATA;
use super::error::WeightsError;
use super::huggingface;
use super::layout::Layout;
use super::parameters::{NamedTensor, named_tensors};
use super::position_tables::{ResizedTable, resize_absolute, resize_relative};
use super::pth::{self, PthEntry};
use super::state_dict::{Dtype, StateDict, bytes_from_floats};
use crate::sam::{Sam, SamConfig};

/// Side of the images that every published model and most consumers expect.
pub const PUBLISHED_IMAGE_SIZE: usize = 1024;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Official keys in a `.safetensors`: ours, candle's, and what is built on them.
    Safetensors,
    /// Official keys in a `.pth` for `sam_model_registry[..]`.
    Pth,
    /// A folder for `SamModel.from_pretrained`.
    HuggingFace,
}

/// What to do with a model of another image size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSizePolicy {
    /// Position tables are resized to 1024 px, which is all that most consumers can load.
    Published,
    /// Tables stay; the file is for programs that read the image size off the tensors, as this one.
    Keep,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The file or folder.
    pub path: PathBuf,
    /// Tensors in it.
    pub tensors: usize,
    /// Bytes of the weights file.
    pub bytes: u64,
    /// Position tables that were resized.
    pub resized: Vec<ResizedTable>,
    /// Image size of the written model.
    pub image_size: usize,
}

/// Writes `sam` to `path` (a file, or a folder for [`ExportFormat::HuggingFace`]), replacing what is there.
pub fn export(
    sam: &Sam,
    config: &SamConfig,
    format: ExportFormat,
    dtype: Dtype,
    policy: ImageSizePolicy,
    path: &Path,
) -> Result<ExportReport, WeightsError> {
    if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(WeightsError::Unsupported(format!("weights are written as F32, F16 or BF16, not as {dtype:?}")));
    }
    let mut config = config.clone();
    let mut tensors = named_tensors(sam);
    let mut resized = Vec::new();
    let keeps = policy == ImageSizePolicy::Keep || config.image_encoder.image_size == PUBLISHED_IMAGE_SIZE;
    if !keeps {
        resized = resize_tables(&mut tensors, &mut config)?;
    }
    let layout = match format {
        ExportFormat::HuggingFace => {
            huggingface::check_representable(&config)?;
            Layout::HuggingFace
        }
        ExportFormat::Safetensors | ExportFormat::Pth => Layout::Official,
    };
    let tensors: Vec<Written> =
        tensors.into_iter().map(|tensor| Written::new(tensor, layout, dtype)).collect::<Result<_, _>>()?;

    let weights_path = match format {
        ExportFormat::HuggingFace => {
            std::fs::create_dir_all(path).map_err(|source| io(path, source))?;
            path.join("model.safetensors")
        }
        ExportFormat::Safetensors | ExportFormat::Pth => path.to_owned(),
    };
    let bytes = write_atomically(&weights_path, |temporary| {
        match format {
            ExportFormat::Pth => write_pth(&tensors, temporary)?,
            ExportFormat::Safetensors | ExportFormat::HuggingFace => write_safetensors(&tensors, &config, temporary)?,
        }
        compare(&tensors, temporary, &weights_path)
    })?;
    if format == ExportFormat::HuggingFace {
        let name = match dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        };
        write_json(&path.join("config.json"), &huggingface::config_json(&config, name))?;
        write_json(&path.join("preprocessor_config.json"), &huggingface::preprocessor_json(&config))?;
    }
    Ok(ExportReport {
        path: path.to_owned(),
        tensors: tensors.len(),
        bytes,
        resized,
        image_size: config.image_encoder.image_size,
    })
}

/// Runs `write` on a temporary name beside `path`, syncs the result to the disk and gives it its final name. Returns the
/// file's size. On any failure what stood at `path` stands there still.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), WeightsError>,
) -> Result<u64, WeightsError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary =
        tempfile::Builder::new().prefix(".writing-").tempdir_in(folder).map_err(|source| io(path, source))?;
    let inside = temporary.path().join(path.file_name().unwrap_or_else(|| "file".as_ref()));
    write(&inside)?;
    let file = File::open(&inside).map_err(|source| io(path, source))?;
    file.sync_all().map_err(|source| io(path, source))?;
    let bytes = file.metadata().map_err(|source| io(path, source))?.len();
    std::fs::rename(&inside, path).map_err(|source| io(path, source))?;
    // The rename itself is durable once the folder is synced; where a folder cannot be opened, the system does it alone.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(bytes)
}

fn io(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_owned(), source }
}

/// Resizes the tables of a model to 1024 px and notes it in the configuration.
fn resize_tables(tensors: &mut [NamedTensor], config: &mut SamConfig) -> Result<Vec<ResizedTable>, WeightsError> {
    let patch = config.image_encoder.patch_size;
    if !PUBLISHED_IMAGE_SIZE.is_multiple_of(patch) {
        return Err(WeightsError::Unsupported(format!(
            "patches of {patch} px do not divide {PUBLISHED_IMAGE_SIZE} px: the position tables cannot be resized; keep \
             the image size (--keep-image-size)"
        )));
    }
    let grid = config.image_encoder.grid_size();
    config.image_encoder.image_size = PUBLISHED_IMAGE_SIZE;
    let to_grid = config.image_encoder.grid_size();
    let mut resized = Vec::new();
    for tensor in tensors {
        let from_shape = tensor.shape.clone();
        let replaced = match from_shape[..] {
            [1, rows, _, channels] if tensor.key == "image_encoder.pos_embed" => {
                let values = resize_absolute(&tensor.values(), rows, to_grid, channels);
                (vec![1, to_grid, to_grid, channels], values)
            }
            // Tables of windowed blocks are shorter than the grid's and stay.
            [length, channels] if tensor.key.contains(".attn.rel_pos_") && length == 2 * grid - 1 => {
                let to = 2 * to_grid - 1;
                (vec![to, channels], resize_relative(&tensor.values(), length, to, channels))
            }
            _ => continue,
        };
        resized.push(ResizedTable { key: tensor.key.clone(), from: from_shape, to: replaced.0.clone() });
        *tensor = NamedTensor::replaced(tensor.key.clone(), replaced.0, replaced.1);
    }
    Ok(resized)
}

/// A tensor on its way into a file.
struct Written {
    key: String,
    dtype: Dtype,
    tensor: NamedTensor,
}

impl Written {
    fn new(tensor: NamedTensor, layout: Layout, dtype: Dtype) -> Result<Self, WeightsError> {
        let key = layout.key_from_official(&tensor.key).ok_or_else(|| {
            WeightsError::Unsupported(format!("the {} layout has no tensor for `{}`", layout.name(), tensor.key))
        })?;
        Ok(Self { key, dtype, tensor })
    }

    fn bytes(&self) -> Vec<u8> {
        bytes_from_floats(self.dtype, &self.tensor.values())
    }
}

impl safetensors::View for &Written {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::BF16 => safetensors::Dtype::BF16,
            _ => safetensors::Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.bytes())
    }

    fn data_len(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() * self.dtype.size()
    }
}

fn write_safetensors(tensors: &[Written], config: &SamConfig, path: &Path) -> Result<(), WeightsError> {
    // "format" is what transformers asks for before it reads anything else.
    let mut metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("producer".to_owned(), format!("sam-train {}", env!("CARGO_PKG_VERSION"))),
    ]);
    if let Ok(config) = serde_json::to_string(config) {
        metadata.insert(CONFIG_METADATA.to_owned(), config);
    }
    let views = tensors.iter().map(|tensor| (tensor.key.clone(), tensor));
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => io(path, source),
        other => WeightsError::Unsupported(format!("{}: {other}", path.display())),
    })
}

fn write_pth(tensors: &[Written], path: &Path) -> Result<(), WeightsError> {
    let mut file = File::create(path).map_err(|source| io(path, source))?;
    let entries: Vec<_> = tensors
        .iter()
        .map(|tensor| PthEntry { name: &tensor.key, dtype: tensor.dtype, shape: &tensor.tensor.shape })
        .collect();
    let mut remaining = tensors.iter();
    pth::write_pth(path, &mut file, &entries, |_| {
        Ok::<_, WeightsError>(remaining.next().map(Written::bytes).unwrap_or_default())
    })
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), WeightsError> {
    write_atomically(path, |temporary| {
        std::fs::write(temporary, format!("{value:#}\n")).map_err(|source| io(path, source))
    })?;
    Ok(())
}

/// Reads the written file back and compares every tensor with what was meant.
fn compare(tensors: &[Written], written: &Path, final_path: &Path) -> Result<(), WeightsError> {
    let dict = StateDict::open(written)?;
    let differs = |key: &str| WeightsError::ReadBack { path: final_path.to_owned(), key: key.to_owned() };
    let expected: BTreeMap<&str, &Written> = tensors.iter().map(|tensor| (tensor.key.as_str(), tensor)).collect();
    if let Some(key) = dict.tensors.keys().find(|key| !expected.contains_key(key.as_str())) {
        return Err(differs(key));
    }
    for (key, tensor) in expected {
        let same =
            dict.tensors.get(key).is_some_and(|info| info.dtype == tensor.dtype && info.shape == tensor.tensor.shape);
        if !same || dict.read_bytes(key)? != tensor.bytes() {
            return Err(differs(key));
        }
    }
    Ok(())
}
