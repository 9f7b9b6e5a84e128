//! `sam-train export`: converts a checkpoint to another format.

use std::io::Write;

use sam_infer::DeviceName;
use sam_model::lora::AdapterFile;
use sam_model::weights::{
    Checkpoint, ExportOptions, ImageSizePolicy, LoadOptions, LoadReport, TextExport, WeightsError, export,
};

use crate::cli::{ExportArguments, FormatArgument};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::target::{Target, check_target};
use crate::train::{adapter_folder, checkpoint_file};

/// Width of the labels in front of the lines of a load report.
pub(crate) const LABEL_WIDTH: usize = 8;

pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    let target = match arguments.format {
        FormatArgument::Huggingface => Target::Folder,
        FormatArgument::Safetensors | FormatArgument::Pth => Target::File,
    };
    check_target(&arguments.out, "--out", target, arguments.force).bad_input()?;
    let checkpoint = Checkpoint::open(&checkpoint_file(&arguments.checkpoint)).bad_input()?;
    let device = DeviceName::Cpu.open().bad_input()?;
    let loaded = match arguments.fresh_seed {
        Some(_) if checkpoint.is_segmenter() => Err(anyhow::anyhow!(
            "--fresh-seed is for an MAE checkpoint; this one is complete, so no weights are initialised at random"
        ))
        .bad_input()?,
        Some(seed) => checkpoint.load_with(&LoadOptions { seed, ..checkpoint.default_options() }, &device),
        None => checkpoint.load(&device),
    };
    // An MAE checkpoint needs a seed for its decoder.
    let hint = if checkpoint.is_segmenter() { "" } else { " (--fresh-seed N)" };
    let (sam, report) = loaded.map_err(|error| anyhow::anyhow!("{error}{hint}")).bad_input()?;
    let mut out = output();
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
    print_load_report(&mut out, &report, LABEL_WIDTH)?;
    let sam = match &arguments.adapter {
        Some(path) => {
            let file = AdapterFile::open(&adapter_folder(path)).bad_input()?;
            let n_whole = file.whole.len();
            let sam = file.merge_into(sam).bad_input()?;
            writeln!(
                out,
                "merged  {}: adapters of {} layers, {n_whole} whole tensors",
                file.path.display(),
                file.layers.len()
            )?;
            sam
        }
        None => sam,
    };

    let image_size = if arguments.keep_image_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published };
    let text = if arguments.merge_text { TextExport::Merged } else { TextExport::Beside };
    let options = ExportOptions { format: arguments.format.into(), dtype: arguments.dtype.into(), image_size, text };
    let written = match export(&sam, options, &arguments.out) {
        // The format or number type cannot represent the weights; another choice can.
        Err(error @ (WeightsError::Unsupported(_) | WeightsError::NotFinite { .. })) => Err(error).bad_input()?,
        written => written?,
    };
    for table in &written.resized {
        writeln!(out, "resized {}: {:?} to {:?}", table.key, table.from, table.to)?;
    }
    let trained_size = sam.image_size();
    if written.image_size != trained_size {
        writeln!(
            errors(),
            "note: a model that learned at {trained_size} px now works at {} px, which other programs need; its masks and its speed \
             change, so evaluate it, or keep the size with --keep-image-size",
            written.image_size
        )?;
    }
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

/// Prints every tensor that was not simply loaded under its own name; labels are padded to `width`.
pub(crate) fn print_load_report(out: &mut impl Write, report: &LoadReport, width: usize) -> Result<(), Failure> {
    for note in &report.surroundings {
        writeln!(out, "{:width$}{note}", "note")?;
    }
    for (key, reason) in &report.dropped {
        writeln!(out, "{:width$}{key}: {reason}", "dropped")?;
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
