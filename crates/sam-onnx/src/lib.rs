//! Segmenters as ONNX graphs, for programs without burn: `encoder.onnx`, an image to its embedding, and `decoder.onnx`, an
//! embedding with prompts to masks, in the contract of the official export.
//!
//! The graphs are built node by node from the sizes and the weights of a [`Sam`]; nothing is traced. [`export`] writes them,
//! runs them with a runtime that shares no code with our network, and compares every output before it returns. The same model
//! and options give the same bytes.
//!
//! - `graph.rs`: names, nodes, constants, weights; `layers.rs`: operators and layers by opset.
//! - `encoder/`: one file per kind of image encoder, and the pixels in front; `decoder/`: prompts, transformer, masks.
//! - `storage.rs`: weights as f32, f16 or int8.
//! - `protobuf.rs`, `file.rs`: bytes; weights beyond 2 GiB in a second file.
//! - `check.rs`: the comparison. `companions.rs`: files for annotation programs.
//!
//! Knows networks and files; knows no images, no data sets and no command line.

mod check;
mod companions;
mod decoder;
mod encoder;
mod error;
mod file;
mod graph;
mod layers;
mod opset;
mod protobuf;
mod storage;

pub use check::Checked;
pub use companions::Companion;
pub use encoder::memory_to_run;
pub use error::OnnxError;
pub use file::PROTOBUF_LIMIT;
pub use opset::Opset;
pub use storage::WeightType;

use std::path::Path;

use sam_files::write_into_folder;
use sam_model::weights::{CONFIG_METADATA, fingerprint};
use sam_model::{PIXEL_MEAN, PIXEL_STD, Sam, SamConfig};

use decoder::decoder_graph;
use encoder::encoder_graph;
use file::{Surroundings, data_beside, write_model};
use graph::{Finished, Weights};

/// File of the image encoder.
pub const ENCODER: &str = "encoder.onnx";
/// File of the prompt encoder and the mask decoder.
pub const DECODER: &str = "decoder.onnx";

/// What the encoder's graph takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageInput {
    /// `x`, `[1, 3, S, S]`: normalised, and padded at the right and bottom.
    #[default]
    Normalised,
    /// `input_image`, `[H, W, 3]`: RGB from 0 to 255, already resized so that its longest side is `S`.
    Pixels,
}

impl ImageInput {
    /// The name of the input.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normalised => "x",
            Self::Pixels => "input_image",
        }
    }
}

/// What the decoder's graph gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Masks {
    /// All masks, the single one first.
    #[default]
    All,
    /// The mask for the prompt: the single one from three points on, padding included, else the best of the others.
    Single,
    /// As `Single`, cut out as bytes, with its corners `xtl`, `ytl`, `xbr`, `ybr`: what CVAT's page reads.
    Cropped,
}

/// How to export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// What the encoder takes.
    pub input: ImageInput,
    /// What the decoder gives.
    pub masks: Masks,
    /// The number type of the weights.
    pub weights: WeightType,
    /// The operators of the graphs.
    pub opset: Opset,
    /// A file that would be larger has its weights in a second one beside it; at most [`PROTOBUF_LIMIT`].
    pub external_above: u64,
    /// Programs for which files are written beside the graphs.
    pub companions: Vec<Companion>,
    /// What the programs call the model.
    pub name: String,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            input: ImageInput::default(),
            masks: Masks::default(),
            weights: WeightType::default(),
            opset: Opset::default(),
            external_above: PROTOBUF_LIMIT,
            companions: Vec::new(),
            name: "sam-train".to_owned(),
        }
    }
}

/// What an export is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the weights and building the graphs.
    Building,
    /// Writing this file.
    Writing(&'static str),
    /// Running both graphs and comparing.
    Checking,
}

/// A written graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenGraph {
    /// Name of the file.
    pub file: &'static str,
    /// Size of the file and of the second one with its weights.
    pub bytes: u64,
    /// Whether there is a second file.
    pub has_data_file: bool,
    /// Nodes of the graph.
    pub nodes: usize,
}

/// Summary of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportReport {
    /// The encoder and the decoder.
    pub graphs: [WrittenGraph; 2],
    /// Files of companions.
    pub companions: Vec<&'static str>,
    /// What running the graphs found.
    pub checked: Checked,
}

/// Checks that [`export`] can write a model of these sizes.
///
/// # Errors
///
/// When options contradict each other, or a program could not use the graphs.
pub fn check_export(config: &SamConfig, options: &ExportOptions) -> Result<(), OnnxError> {
    if options.external_above > PROTOBUF_LIMIT {
        let what = format!("a file of more than {PROTOBUF_LIMIT} bytes is none that readers of ONNX can read");
        return Err(OnnxError::Unsupported(what));
    }
    options.companions.iter().try_for_each(|companion| companion.check(config, options))
}

/// Writes both graphs of `sam`, whose adapters are merged, into `folder`, runs them and compares every output with `sam`. The
/// folder is created; in one that exists, the files of an earlier export are replaced. A text prompt is left out: the contract
/// has no input for it.
///
/// # Errors
///
/// When [`check_export`] fails, a weight is not finite in its type, a file cannot be written, or a graph does not compute what
/// the network does; nothing is replaced then.
pub fn export(
    sam: &Sam,
    options: &ExportOptions,
    folder: &Path,
    mut on_stage: impl FnMut(Stage),
) -> Result<ExportReport, OnnxError> {
    check_export(sam.config(), options)?;
    on_stage(Stage::Building);
    let folded = sam.clone().with_folded_norms();
    let weights = Weights::new(&folded, options.weights);
    let encoder = encoder_graph(sam.config(), &weights, options)?;
    let decoder = decoder_graph(sam.config(), &weights, options)?;
    let metadata = metadata(sam, options);
    let around = Surroundings { opset: options.opset, metadata: &metadata, external_above: options.external_above };
    let mut report = None;
    let files = [ENCODER, DECODER].map(|file| [file.to_owned(), data_beside(file.as_ref()).display().to_string()]);
    let ours: Vec<String> = files.into_iter().flatten().chain(Companion::FILES.map(str::to_owned)).collect();
    let io = |source| OnnxError::io(folder, source);
    let write_all = |temporary: &Path| {
        let mut write = |graph: &Finished, file: &'static str| {
            on_stage(Stage::Writing(file));
            let sizes = write_model(graph, &around, &temporary.join(file))?;
            let bytes = sizes.model + sizes.data.unwrap_or(0);
            Ok::<_, OnnxError>(WrittenGraph { file, bytes, has_data_file: sizes.data.is_some(), nodes: graph.n_nodes })
        };
        let graphs = [write(&encoder, ENCODER)?, write(&decoder, DECODER)?];
        options.companions.iter().try_for_each(|companion| companion.write(&options.name, temporary))?;
        on_stage(Stage::Checking);
        let stored = encoder.stored.iter().chain(&decoder.stored).map(|(key, &stored)| (key.clone(), stored)).collect();
        let checked = check::check(sam, &stored, options, temporary)?;
        let companions = Companion::FILES.into_iter().filter(|file| temporary.join(file).exists()).collect();
        report = Some(ExportReport { graphs, companions, checked });
        Ok(())
    };
    write_into_folder(folder, &ours, io, write_all).map_err(|error| match error {
        // The folder itself cannot be written.
        OnnxError::Io { path, source } if path == folder => OnnxError::Io { path, source },
        of_a_file => of_a_file.in_folder(folder),
    })?;
    Ok(report.expect("a folder that is written has a report"))
}

/// What both files say of the model.
fn metadata(sam: &Sam, options: &ExportOptions) -> Vec<(String, String)> {
    let config = sam.config();
    let numbers = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
    let variant = config.variant().map_or("custom", |variant| variant.name());
    let masks = match options.masks {
        Masks::All => "all",
        Masks::Single => "single",
        Masks::Cropped => "cropped",
    };
    [
        ("fingerprint", format!("{:016x}", fingerprint(sam))),
        ("variant", variant.to_owned()),
        ("image_size", config.image_encoder.image_size().to_string()),
        ("mask_input_size", config.low_res_side().to_string()),
        ("mean", numbers(PIXEL_MEAN)),
        ("std", numbers(PIXEL_STD)),
        ("image_input", options.input.name().to_owned()),
        ("masks", masks.to_owned()),
        ("weights", options.weights.name().to_owned()),
        (CONFIG_METADATA, serde_json::json!(config).to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}
