//! `sam-train export`: converts a checkpoint to another format.

mod onnx;

use std::collections::BTreeMap;
use std::io::Write;

use sam_infer::DeviceName;
use sam_model::Sam;
use sam_model::lora::AdapterFile;
use sam_model::weights::{
    Checkpoint, Dtype, ExportFormat, ExportOptions, ImageSizePolicy, LoadOptions, LoadReport, ResizedTable, TextExport,
    WeightsError, export,
};

use crate::cli::{ExportArguments, WrittenFormat};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::target::{Target, check_target};
use crate::train::{adapter_folder, checkpoint_file};

/// Width of the labels in front of the lines of a load report.
pub(crate) const LABEL_WIDTH: usize = 8;

pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    check_options(arguments).bad_input()?;
    let target = match arguments.format {
        WrittenFormat::Huggingface | WrittenFormat::Onnx => Target::Folder,
        WrittenFormat::Safetensors | WrittenFormat::Pth => Target::File,
    };
    check_target(&arguments.out, "--out", target, arguments.force).bad_input()?;
    let mut out = output();
    let sam = load(arguments, &mut out)?;
    match arguments.format.of_checkpoint() {
        Some(format) => write_checkpoint(&sam, format, arguments, &mut out),
        None => onnx::write(&sam, arguments, &mut out),
    }
}

/// Rejects options of another format.
fn check_options(arguments: &ExportArguments) -> anyhow::Result<()> {
    let format = arguments.format.name();
    if arguments.format == WrittenFormat::Onnx {
        anyhow::ensure!(arguments.dtype.is_none(), "--dtype is for checkpoints; --weights is the type of ONNX weights");
        let what = "ONNX's contract has no input for texts: the graphs have none";
        anyhow::ensure!(!arguments.merge_text, "--merge-text is for safetensors only; {what}");
    } else if let Some(option) = arguments.onnx.given() {
        anyhow::bail!("{option} is for --format onnx; the format is {format}");
    }
    Ok(())
}

/// The model with its adapters merged.
fn load(arguments: &ExportArguments, out: &mut impl Write) -> Result<Sam, Failure> {
    let checkpoint = Checkpoint::open(&checkpoint_file(&arguments.checkpoint)).bad_input()?;
    let device = DeviceName::Cpu.open().bad_input()?;
    let loaded = match arguments.fresh_seed {
        Some(_) if checkpoint.is_segmenter() => Err(anyhow::anyhow!(
            "--fresh-seed is for an encoder alone, of an MAE or a TinyViT; this one is complete, so no weights are initialised at random"
        ))
        .bad_input()?,
        Some(seed) => checkpoint.load_with(&LoadOptions { seed, ..checkpoint.default_options() }, &device),
        None => checkpoint.load(&device),
    };
    // An encoder alone needs a seed for its decoder.
    let hint = if checkpoint.is_segmenter() { "" } else { " (--fresh-seed N)" };
    let (sam, report) = loaded.map_err(|error| anyhow::anyhow!("{error}{hint}")).bad_input()?;
    writeln!(out, "read    {} ({})", checkpoint.dict.path.display(), checkpoint.description())?;
    if let Some(text) = &checkpoint.text {
        writeln!(
            out,
            "read    {} (text prompt of CLIP {}, {} values)",
            text.path.display(),
            text.config.clip,
            text.config.width
        )?;
    }
    print_load_report(out, &report, LABEL_WIDTH)?;
    let Some(path) = &arguments.adapter else { return Ok(sam) };
    let file = AdapterFile::open(&adapter_folder(path)).bad_input()?;
    let n_whole = file.whole.len();
    let sam = file.merge_into(sam).bad_input()?;
    let (path, n_layers) = (file.path.display(), file.layers.len());
    writeln!(out, "merged  {path}: adapters of {n_layers} layers, {n_whole} whole tensors")?;
    Ok(sam)
}

fn image_size_policy(arguments: &ExportArguments) -> ImageSizePolicy {
    if arguments.keep_image_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published }
}

fn write_checkpoint(
    sam: &Sam,
    format: ExportFormat,
    arguments: &ExportArguments,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let dtype = arguments.dtype.map_or(Dtype::F32, Dtype::from);
    let text = if arguments.merge_text { TextExport::Merged } else { TextExport::Beside };
    let options = ExportOptions { format, dtype, image_size: image_size_policy(arguments), text };
    let written = match export(sam, options, &arguments.out) {
        // The format or number type cannot represent the weights; another choice can.
        Err(error @ (WeightsError::Unsupported(_) | WeightsError::NotFinite { .. })) => Err(error).bad_input()?,
        written => written?,
    };
    print_resized(out, &written.resized, sam.image_size(), written.image_size)?;
    writeln!(
        out,
        "wrote   {} ({} tensors, {:.1} MB, {} px), read back and equal",
        written.path.display(),
        written.tensors,
        written.bytes as f64 / 1e6,
        written.image_size
    )?;
    if let Some(path) = &written.text {
        writeln!(out, "wrote   {} (the text prompt, which belongs to it)", path.display())?;
    }
    Ok(())
}

/// Says which tables were resized, and what follows from another image size.
fn print_resized(
    out: &mut impl Write,
    resized: &[ResizedTable],
    trained_size: usize,
    image_size: usize,
) -> Result<(), Failure> {
    for table in resized {
        writeln!(out, "resized {}: {:?} to {:?}", table.key, table.from, table.to)?;
    }
    if image_size != trained_size {
        writeln!(
            errors(),
            "note: a model that learned at {trained_size} px now works at {image_size} px, which other programs need; its masks \
             and its speed change, so evaluate it, or keep the size with --keep-image-size"
        )?;
    }
    Ok(())
}

/// Tensors dropped for one reason that are listed one by one.
const DROPPED_LISTED: usize = 4;

/// Prints every tensor that was not simply loaded under its own name; labels are padded to `width`.
pub(crate) fn print_load_report(out: &mut impl Write, report: &LoadReport, width: usize) -> Result<(), Failure> {
    for note in &report.notes {
        writeln!(out, "{:width$}{note}", "note")?;
    }
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, reason) in &report.dropped {
        by_reason.entry(reason).or_default().push(key);
    }
    for (reason, keys) in by_reason {
        match keys[..] {
            [first, .., last] if keys.len() > DROPPED_LISTED => {
                writeln!(out, "{:width$}{} tensors, {first} to {last}: {reason}", "dropped", keys.len())?;
            }
            _ => keys.iter().try_for_each(|key| writeln!(out, "{:width$}{key}: {reason}", "dropped"))?,
        }
    }
    for table in &report.resized {
        writeln!(out, "{:width$}{}: {:?} to {:?}", "resized", table.key, table.from, table.to)?;
    }
    for key in &report.fresh {
        writeln!(out, "{:width$}{key}", "fresh")?;
    }
    for assumption in &report.assumed {
        writeln!(out, "{:width$}{assumption}", "assumed")?;
    }
    Ok(())
}
