//! A file with a segmenter: recognised, compared with the model to fill, and loaded.
//!
//! Strict in both directions: each tensor of the file is used or reported as dropped, each tensor of the model is filled or
//! reported as fresh. Everything else is an error that lists all mismatches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Device, FloatDType};

use super::autoencoder::autoencoder_config;
use super::error::{Mismatch, WeightsError, nearest_key};
use super::huggingface::hints_beside;
use super::layout::{Layout, drop_reason};
use super::parameters::{fill_parameters, parameter_shapes};
use super::position_tables::{ResizedTable, resize_absolute, resize_relative};
use super::recognise::{Hints, Shapes, Unrecognised, known_heads, recognise_mae, recognise_sam};
use super::recognise_tiny_vit::recognise_bare_tiny_vit;
use super::state_dict::{Dtype, StateDict, TensorInfo};
use super::text::{Binding, TEXT_KEYS, TextPromptFile};
use crate::config::SamConfig;
use crate::encoder::ImageEncoderConfig;
use crate::init::initialise_where;
use crate::ops::{int8_encoder, set_int8_encoder};
use crate::prompt::TextPromptConfig;
use crate::sam::Sam;

/// Key of our own metadata: the sizes as JSON. Only those that tensors do not determine are read back.
pub const CONFIG_METADATA: &str = "sam_train.config";

/// Image size at which a masked autoencoder's encoder starts a segmenter.
const START_IMAGE_SIZE: usize = 1024;

/// A recognised checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// The file's tensors.
    pub dict: StateDict,
    /// The naming scheme of its tensors.
    pub layout: Layout,
    /// The sizes of its model; for an encoder alone, those of the segmenter that it can initialise.
    pub config: SamConfig,
    /// Its text prompt, from the file itself or from the one beside it.
    pub text: Option<TextPromptFile>,
    /// A masked autoencoder's heads and the grid of its positions, where they are known.
    encoder: EncoderHints,
}

#[derive(Clone, Copy, Debug, Default)]
struct EncoderHints {
    heads: Option<usize>,
    grid_hw: Option<[usize; 2]>,
}

/// Options of loading.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Sizes of the model to fill: the file's own, or with other dropout rates or another image size.
    pub config: SamConfig,
    /// Seed of the tensors that the file's layout does not have.
    pub seed: u64,
    /// Data type of the parameters on the device, whatever the file holds.
    pub dtype: FloatDType,
}

/// The use made of each tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Number of the file's tensors that filled one of the model.
    pub used: usize,
    /// Tensors of the file that were ignored, with the reasons.
    pub dropped: Vec<(String, String)>,
    /// Tensors of the model that the file does not have (official keys), initialised from the seed.
    pub fresh: Vec<String>,
    /// Position tables that were resized.
    pub resized: Vec<ResizedTable>,
    /// Assumptions where neither the tensors nor the file's metadata determine a size, a sentence each.
    pub assumed: Vec<String>,
    /// What surrounded the weights and was removed or ignored, and how the model computes when not as it was asked, a sentence each.
    pub notes: Vec<String>,
}

/// Contents beside the weights that a report lists.
const SURROUNDINGS_LISTED: usize = 12;

/// Notes about a file beside its weights: a prefix of all names, and contents that are not weights.
pub(crate) fn surroundings(dict: &StateDict) -> Vec<String> {
    let removed = dict.removed.as_ref().map(|removed| format!("the names of the tensors are read without {removed}"));
    let listed = dict.skipped.iter().take(SURROUNDINGS_LISTED).cloned().collect::<Vec<_>>().join(", ");
    let more = match dict.skipped.len().saturating_sub(SURROUNDINGS_LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let ignored = (!listed.is_empty()).then(|| format!("ignored, as they are no weights: {listed}{more}"));
    removed.into_iter().chain(ignored).collect()
}

impl Checkpoint {
    /// Opens and recognises a checkpoint; reads no weights.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::recognise(StateDict::open(path)?)
    }

    /// Recognises an opened file.
    pub fn recognise(mut dict: StateDict) -> Result<Self, WeightsError> {
        let layout = dict.recognise_layout();
        let path = dict.path.clone();
        let unknown = |what| WeightsError::UnknownLayout { path: path.clone(), what };
        let layout = layout.map_err(unknown)?;
        let official: BTreeMap<String, TensorInfo> =
            dict.tensors.iter().filter_map(|(key, info)| Some((layout.key_to_official(key)?, info.clone()))).collect();
        let hints = match layout {
            Layout::HuggingFace => hints_beside(&dict.path)?,
            Layout::Official | Layout::Mae | Layout::TinyVit | Layout::TimmTinyVit => own_hints(&dict)?,
        };
        let text = match TextPromptFile::take(&mut dict)? {
            Some(merged) => Some(merged),
            None if !layout.is_segmenter() => None,
            None => TextPromptFile::beside(&dict.path)?,
        };
        let config = match layout {
            Layout::Mae => recognise_mae(&official, &hints, START_IMAGE_SIZE),
            Layout::TinyVit | Layout::TimmTinyVit => recognise_bare_tiny_vit(&Shapes { tensors: &official }, &hints),
            Layout::Official | Layout::HuggingFace => recognise_sam(&official, &hints),
        };
        let mut config = config.map_err(|problem| unknown(explain(&dict, layout, problem)))?;
        config.text = text.as_ref().map(|text| text.config.clone());
        config.check().map_err(|source| WeightsError::Config { path: dict.path.clone(), source })?;
        let encoder = EncoderHints { heads: known_heads(&config, &hints), grid_hw: hints.grid_hw };
        Ok(Self { dict, layout, config, text, encoder })
    }

    /// Whether the file holds a whole segmenter, not only an encoder.
    pub fn is_segmenter(&self) -> bool {
        self.layout.is_segmenter()
    }

    /// What it holds, with an article.
    pub fn kind(&self) -> &'static str {
        match self.layout {
            Layout::Official | Layout::HuggingFace => "a segmenter",
            Layout::Mae => "a masked autoencoder",
            Layout::TinyVit | Layout::TimmTinyVit => "a TinyViT that classifies",
        }
    }

    /// The published name and image size, or the sizes that make it a custom one.
    pub fn description(&self) -> String {
        describe(&self.config)
    }

    /// The file's own sizes, f32, seed 0.
    pub fn default_options(&self) -> LoadOptions {
        LoadOptions { config: self.config.clone(), seed: 0, dtype: FloatDType::F32 }
    }

    /// Loads the segmenter at its own image size.
    ///
    /// An encoder alone is an error here, as most of the result would be random: see [`Checkpoint::load_with`]. Where this process is to
    /// encode in 8 bits ([`set_int8_encoder`]) and the encoder has no such layers, it encodes in f32 from now on; the report says so.
    pub fn load(&self, device: &Device) -> Result<(Sam, LoadReport), WeightsError> {
        if !self.is_segmenter() {
            return Err(WeightsError::Unsupported(format!(
                "{}: {} holds an encoder only, it cannot segment; start a training from it, or export it with a fresh \
                 decoder",
                self.dict.path.display(),
                self.kind()
            )));
        }
        let (sam, mut report) = self.load_with(&self.default_options(), device)?;
        if int8_encoder() && matches!(self.config.image_encoder, ImageEncoderConfig::TinyVit(_)) {
            set_int8_encoder(false);
            let note = "precision: f32, as only a plain ViT encodes in int8 and this encoder is a TinyViT";
            report.notes.push(note.to_owned());
        }
        Ok((sam, report))
    }

    /// Loads into a model whose dropout rates or image size may differ from the file's; position tables are resized. Tensors
    /// that the file's layout does not have are initialised from the seed and reported as fresh.
    pub fn load_with(&self, options: &LoadOptions, device: &Device) -> Result<(Sam, LoadReport), WeightsError> {
        let sam = self.empty_model(&options.config, device)?;
        let (plan, report) = self.compare(&options.config, &parameter_shapes(&sam))?;
        let fresh: BTreeSet<&str> = report.fresh.iter().map(String::as_str).collect();
        let sam = initialise_where(sam, options.seed, |key| fresh.contains(key));
        let text = self.text_for(&options.config)?;
        let mut binding = Binding::default();
        let sam = fill_parameters(sam, options.dtype, |official| match plan.get(official) {
            Some(filling) => {
                let values = finite(filling.read(&self.dict)?, &self.dict.path, filling.key())?;
                if text.is_some() {
                    binding.add(official, &values);
                }
                Ok(Some(values))
            }
            None => Ok(text.and_then(|text| text.values(official))),
        })?;
        if let Some(text) = text {
            text.check_checkpoint(&binding, &self.dict.path)?;
        }
        Ok((sam, report))
    }

    /// The report of loading at the file's own size, without reading weights.
    pub fn report(&self) -> Result<LoadReport, WeightsError> {
        let sam = self.empty_model(&self.config, &Device::flex())?;
        Ok(self.compare(&self.config, &parameter_shapes(&sam))?.1)
    }

    fn empty_model(&self, config: &SamConfig, device: &Device) -> Result<Sam, WeightsError> {
        config.init(device).map_err(|source| WeightsError::Config { path: self.dict.path.clone(), source })
    }

    /// Assumptions about a masked autoencoder's heads, which tensors do not determine; an error where `config` contradicts
    /// the known number.
    fn agree_on_heads(&self, config: &SamConfig) -> Result<Vec<String>, WeightsError> {
        let of_another_kind = |kind: &str| {
            Err(WeightsError::Unsupported(format!(
                "{}: holds {}, the model to initialise has {kind}",
                self.dict.path.display(),
                self.kind()
            )))
        };
        let expected = match (&config.image_encoder, self.layout) {
            (_, Layout::Official | Layout::HuggingFace) => return Ok(Vec::new()),
            (ImageEncoderConfig::TinyVit(_), Layout::TinyVit | Layout::TimmTinyVit) => return Ok(Vec::new()),
            (ImageEncoderConfig::TinyVit(_), Layout::Mae) => return of_another_kind("a TinyViT"),
            (ImageEncoderConfig::Vit(_), Layout::TinyVit | Layout::TimmTinyVit) => {
                return of_another_kind("a plain ViT");
            }
            (ImageEncoderConfig::Vit(vit), Layout::Mae) => vit.num_heads,
        };
        match self.encoder.heads {
            None => Ok(vec![format!(
                "{expected} attention heads: an MAE checkpoint of this dimension does not determine their number"
            )]),
            Some(heads) if heads == expected => Ok(Vec::new()),
            Some(heads) => Err(WeightsError::Unsupported(format!(
                "{}: its encoder has {heads} attention heads, the model to initialise has {expected}",
                self.dict.path.display()
            ))),
        }
    }

    /// The text prompt that fills a model of these sizes; `None` where that takes no texts, or this file has none.
    fn text_for(&self, config: &SamConfig) -> Result<Option<&TextPromptFile>, WeightsError> {
        let (Some(expected), Some(text)) = (&config.text, &self.text) else { return Ok(None) };
        let problem = |what| Err(WeightsError::TextPrompt { path: text.path.clone(), what });
        let channels = config.prompt_encoder.embed_dim;
        if text.config.width != expected.width || text.config.clip != expected.clip {
            let describe = |config: &TextPromptConfig| format!("{} values of CLIP {}", config.width, config.clip);
            return problem(format!(
                "its text prompt takes vectors of {}, expected {}; use the CLIP that it was trained with",
                describe(&text.config),
                describe(expected)
            ));
        }
        if text.channels != channels {
            return problem(format!(
                "its text prompt has tokens of {} channels, the model has {channels}",
                text.channels
            ));
        }
        Ok(Some(text))
    }

    fn compare(
        &self,
        config: &SamConfig,
        expected: &[(String, Vec<usize>)],
    ) -> Result<(BTreeMap<String, Filling>, LoadReport), WeightsError> {
        let (mut plan, mut mismatch) = (BTreeMap::new(), Mismatch::default());
        let mut report = LoadReport {
            assumed: self.agree_on_heads(config)?,
            notes: surroundings(&self.dict),
            ..LoadReport::default()
        };
        let mut unused: BTreeSet<&str> = self.dict.tensors.keys().map(String::as_str).collect();
        let text = self.text_for(config)?;
        report.used = text.map_or(0, TextPromptFile::n_tensors);
        for (official, shape) in expected {
            if official.starts_with(TEXT_KEYS) {
                if text.is_none() {
                    report.fresh.push(official.clone());
                }
                continue;
            }
            let Some(key) = self.layout.key_from_official(official) else {
                report.fresh.push(official.clone());
                continue;
            };
            let Some(info) = self.dict.tensors.get(&key) else {
                mismatch.missing.push((key, shape.clone(), None));
                continue;
            };
            unused.remove(key.as_str());
            if !matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(WeightsError::NotAFloat { path: self.dict.path.clone(), key, dtype: info.dtype });
            }
            match Filling::new(key.clone(), &info.shape, self.encoder.grid_hw, official, shape) {
                Some(filling) => {
                    if filling.is_resized() {
                        let (from, to) = (info.shape.clone(), shape.clone());
                        report.resized.push(ResizedTable { key: official.clone(), from, to });
                    }
                    plan.insert(official.clone(), filling);
                }
                None => mismatch.wrong_shape.push((key, shape.clone(), info.shape.clone())),
            }
        }
        report.used += plan.len();
        for key in unused {
            match drop_reason(self.layout, key) {
                Some(reason) => report.dropped.push((key.to_owned(), reason.to_owned())),
                None => mismatch.extra.push((key.to_owned(), self.dict.tensors[key].shape.clone(), None)),
            }
        }
        require_fit(mismatch, &self.dict.path, || describe(config))?;
        Ok((plan, report))
    }
}

/// Fails on the first NaN or infinite value.
pub(crate) fn finite(values: Vec<f32>, path: &Path, key: &str) -> Result<Vec<f32>, WeightsError> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(&value) => Err(WeightsError::NotFinite {
            path: path.to_owned(),
            key: key.to_owned(),
            value,
            hint: "; the training that wrote it has diverged",
        }),
        None => Ok(values),
    }
}

/// Fails with all mismatches of a file with a model, if there are any.
pub(crate) fn require_fit(
    mut mismatch: Mismatch,
    path: &Path,
    model: impl FnOnce() -> String,
) -> Result<(), WeightsError> {
    if mismatch.is_empty() {
        return Ok(());
    }
    pair_nearest(&mut mismatch);
    Err(WeightsError::Mismatch { path: path.to_owned(), model: model(), mismatch: Box::new(mismatch) })
}

/// For each missing and each extra key, finds the most similar key of the other list.
fn pair_nearest(mismatch: &mut Mismatch) {
    let missing: Vec<String> = mismatch.missing.iter().map(|(key, ..)| key.clone()).collect();
    let extra: Vec<String> = mismatch.extra.iter().map(|(key, ..)| key.clone()).collect();
    for (key, _, nearest) in &mut mismatch.missing {
        *nearest = nearest_key(key, extra.iter().map(String::as_str));
    }
    for (key, _, nearest) in &mut mismatch.extra {
        *nearest = nearest_key(key, missing.iter().map(String::as_str));
    }
}

/// The source of one tensor of the model.
#[derive(Debug)]
enum Filling {
    AsIs {
        key: String,
    },
    /// `[1, from.., channels]` to `[1, to, to, channels]`, after `skip` leading positions (a class token).
    Absolute {
        key: String,
        skip: usize,
        from_hw: [usize; 2],
        to: usize,
        channels: usize,
    },
    /// `[from, channels]` to `[to, channels]`.
    Relative {
        key: String,
        from: usize,
        to: usize,
        channels: usize,
    },
}

impl Filling {
    /// `None` when the shapes are incompatible.
    fn new(
        key: String,
        shape: &[usize],
        grid_hw: Option<[usize; 2]>,
        official: &str,
        expected: &[usize],
    ) -> Option<Self> {
        if shape == expected {
            return Some(Filling::AsIs { key });
        }
        match (shape, expected) {
            // SAM at another image size.
            (&[1, from, columns, channels], &[1, to, _, expected_channels])
                if official == "image_encoder.pos_embed" && from == columns && channels == expected_channels =>
            {
                Some(Filling::Absolute { key, skip: 0, from_hw: [from; 2], to, channels })
            }
            // A masked autoencoder's flat table of positions, with the class token's row first.
            (&[1, positions, channels], &[1, to, _, expected_channels])
                if official == "image_encoder.pos_embed" && channels == expected_channels =>
            {
                if let Some(from_hw) = grid_hw {
                    let is_whole = positions == 1 + from_hw[0] * from_hw[1];
                    return is_whole.then_some(Filling::Absolute { key, skip: 1, from_hw, to, channels });
                }
                let square = |count: usize| Some(count.isqrt()).filter(|size| size * size == count && count > 0);
                let skip = usize::from(square(positions).is_none());
                let from = square(positions.checked_sub(skip)?)?;
                Some(Filling::Absolute { key, skip, from_hw: [from; 2], to, channels })
            }
            (&[from, channels], &[to, expected_channels])
                if official.contains(".attn.rel_pos_") && channels == expected_channels && from > 0 =>
            {
                Some(Filling::Relative { key, from, to, channels })
            }
            _ => None,
        }
    }

    /// Key of the tensor in the file.
    fn key(&self) -> &str {
        match self {
            Filling::AsIs { key } | Filling::Absolute { key, .. } | Filling::Relative { key, .. } => key,
        }
    }

    fn is_resized(&self) -> bool {
        match self {
            Filling::AsIs { .. } => false,
            Filling::Absolute { from_hw, to, .. } => *from_hw != [*to; 2],
            Filling::Relative { from, to, .. } => from != to,
        }
    }

    fn read(&self, dict: &StateDict) -> Result<Vec<f32>, WeightsError> {
        match self {
            Filling::AsIs { key } => dict.read_f32(key),
            Filling::Absolute { key, skip, from_hw, to, channels } => {
                Ok(resize_absolute(&dict.read_f32(key)?[skip * channels..], *from_hw, [*to; 2], *channels))
            }
            Filling::Relative { key, from, to, channels } => {
                Ok(resize_relative(&dict.read_f32(key)?, *from, *to, *channels))
            }
        }
    }
}

/// Hints of our own metadata. Unknown fields of later versions are ignored.
fn own_hints(dict: &StateDict) -> Result<Hints, WeightsError> {
    let Some(text) = dict.metadata.get(CONFIG_METADATA) else { return Ok(Hints::default()) };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(config) => Ok(match autoencoder_config(&config) {
            Some(config) => Hints::of_autoencoder(&config),
            None => Hints::from_json(&config, "image_encoder", ["mask_decoder", "num_heads"]),
        }),
        Err(error) => Err(WeightsError::NotACheckpoint {
            path: dict.path.clone(),
            reason: format!("its metadata `{CONFIG_METADATA}` is damaged: {error}"),
        }),
    }
}

/// Explains why a file of a known layout holds no segmenter, in the file's own keys.
pub(super) fn explain(dict: &StateDict, layout: Layout, problem: Unrecognised) -> String {
    let in_file = |official: String| layout.key_from_official(&official).unwrap_or(official);
    explain_in(dict, layout.name(), in_file, problem)
}

/// As [`explain`], for a layout of this name whose keys `in_file` gives.
pub(crate) fn explain_in(
    dict: &StateDict,
    layout: &str,
    in_file: impl Fn(String) -> String,
    problem: Unrecognised,
) -> String {
    let what = match problem {
        Unrecognised::Missing(official) => {
            let key = in_file(official);
            let nearest = nearest_key(&key, dict.tensors.keys().map(String::as_str));
            let nearest = nearest.map(|near| format!(" (nearest: `{near}` {:?})", dict.tensors[&near].shape));
            format!("there is no tensor `{key}`{}", nearest.unwrap_or_default())
        }
        Unrecognised::Odd(official, problem) => format!("`{}` {problem}", in_file(official)),
        Unrecognised::Other(problem) => problem,
    };
    format!("has keys of the {layout} layout, but {what}")
}

/// The published name and image size, or the sizes that make it a custom one.
pub(crate) fn describe(config: &SamConfig) -> String {
    let image_size = config.image_encoder.image_size();
    let decoder = &config.mask_decoder;
    if let Some(variant) = config.variant() {
        return format!("{} at {image_size} px", variant.name());
    }
    let of_encoder = match &config.image_encoder {
        ImageEncoderConfig::Vit(vit) => format!(
            "width {}, depth {}, {} heads, patch {}, window {}, global blocks {:?}",
            vit.embed_dim, vit.depth, vit.num_heads, vit.patch_size, vit.window_size, vit.global_attn_indexes
        ),
        ImageEncoderConfig::TinyVit(tiny) => format!(
            "a TinyViT of widths {:?}, depths {:?}, heads {:?}, windows {:?}",
            tiny.embed_dims, tiny.depths, tiny.num_heads, tiny.window_sizes
        ),
    };
    format!(
        "a custom SAM at {image_size} px ({of_encoder}, decoder width {} and depth {})",
        decoder.transformer_dim, decoder.depth
    )
}
