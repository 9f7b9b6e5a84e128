//! `sam-train inspect`: layout, model and tensors of a checkpoint, of adapters or of a CLIP.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use sam_model::clip::ClipCheckpoint;
use sam_model::lora::{AdapterFile, LayerFactors};
use sam_model::weights::{CONFIG_METADATA, Checkpoint, Container, StateDict, TensorInfo};

use crate::cli::InspectArguments;
use crate::export::print_load_report;
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::published::{self, Check};
use crate::train::checkpoint_file;

pub(crate) fn run(arguments: &InspectArguments) -> Result<(), Failure> {
    let mut out = output();
    if AdapterFile::is_folder_of(&arguments.checkpoint) {
        return print_adapters(&mut out, &AdapterFile::open(&arguments.checkpoint).bad_input()?, arguments.tensors);
    }
    let file = ClipCheckpoint::file_in(&checkpoint_file(&arguments.checkpoint));
    let dict = StateDict::open(&file).bad_input()?;
    if AdapterFile::is_file_of(&dict) {
        return print_adapters(&mut out, &AdapterFile::open(&arguments.checkpoint).bad_input()?, arguments.tensors);
    }
    print_file(&mut out, &dict)?;
    print_hash(&mut out, &dict.path)?;
    if arguments.tensors {
        print_tensors(&mut out, &dict.tensors)?;
    }
    if ClipCheckpoint::is_file_of(&dict) {
        return print_clip(&mut out, &ClipCheckpoint::recognise(dict).bad_input()?);
    }
    let checkpoint = Checkpoint::recognise(dict).bad_input()?;
    writeln!(out, "layout      {}", checkpoint.layout.name())?;
    let of = if checkpoint.is_segmenter() { "" } else { "encoder only: " };
    writeln!(out, "model       {of}{}", checkpoint.description())?;
    if let Some(text) = &checkpoint.text {
        let (clip, width) = (&text.config.clip, text.config.width);
        writeln!(out, "texts       {} (vectors of {width} of CLIP {clip})", text.path.display())?;
    }
    let report = checkpoint.report().bad_input()?;
    // Reading verifies the checksums of a `.pth`.
    for key in checkpoint.dict.tensors.keys() {
        checkpoint.dict.read_bytes(key).bad_input()?;
    }
    writeln!(out, "used        {} tensors", report.used)?;
    print_load_report(&mut out, &report, 12)?;
    match (report.fresh.len(), report.dropped.len()) {
        (0, 0) => writeln!(out, "complete: every tensor of the model is in the file, and no other")?,
        (0, dropped) => {
            writeln!(out, "complete: every tensor of the model is in the file; {dropped} others are not needed")?
        }
        (fresh, _) => writeln!(out, "incomplete: {fresh} tensors of the model are not in the file")?,
    }
    Ok(())
}

/// A CLIP, which is loaded: its fingerprint is that of all its weights.
fn print_clip(out: &mut impl Write, checkpoint: &ClipCheckpoint) -> Result<(), Failure> {
    writeln!(out, "layout      {}", checkpoint.layout.name())?;
    writeln!(out, "model       {}", checkpoint.config.description())?;
    let (_, fingerprint, report) = checkpoint.load(&Device::flex()).bad_input()?;
    writeln!(out, "fingerprint {fingerprint:016x}")?;
    writeln!(out, "used        {} tensors", report.used)?;
    print_load_report(out, &report, 12)?;
    writeln!(
        out,
        "complete: every tensor of both towers is in the file; {} others are not needed",
        report.dropped.len()
    )?;
    Ok(())
}

/// Adapters alone; whether they fit a base model shows when they are merged.
fn print_adapters(out: &mut impl Write, file: &AdapterFile, lists_tensors: bool) -> Result<(), Failure> {
    let (in_adapters, whole) = file.n_values();
    writeln!(out, "adapters    {}", file.path.display())?;
    writeln!(out, "layout      {}", file.format.name())?;
    if let Some(base) = &file.base {
        writeln!(out, "base        {base}")?;
    }
    writeln!(out, "layers      {} ({}), {in_adapters} values", file.layers.len(), file.describe())?;
    writeln!(out, "whole       {} tensors, {whole} values", file.whole.len())?;
    if lists_tensors {
        for (name, LayerFactors { rank, inputs, outputs, scale, .. }) in &file.layers {
            writeln!(out, "  {name}  {inputs} -> {outputs}, rank {rank}, scale {scale}")?;
        }
        for (key, (shape, _)) in &file.whole {
            writeln!(out, "  {key}  {shape:?}")?;
        }
    }
    writeln!(out, "merge them: sam-train export --checkpoint BASE --adapter {} ..", file.path.display())?;
    Ok(())
}

fn print_file(out: &mut impl Write, dict: &StateDict) -> Result<(), Failure> {
    let container = match dict.container {
        Container::Safetensors => "safetensors",
        Container::Pth => "PyTorch .pth",
    };
    writeln!(out, "file        {}", dict.path.display())?;
    writeln!(out, "container   {container}")?;
    if let Some(wrapper) = &dict.wrapper {
        writeln!(out, "wrapped as  {{\"{wrapper}\": ..}}")?;
    }
    if !dict.skipped.is_empty() {
        writeln!(out, "no tensors  {}", dict.skipped.join(", "))?;
    }
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    for info in dict.tensors.values() {
        *types.entry(format!("{:?}", info.dtype)).or_default() += 1;
    }
    let types: Vec<String> = types.into_iter().map(|(dtype, count)| format!("{count} x {dtype}")).collect();
    let elements: usize = dict.tensors.values().map(|info| info.shape.iter().product::<usize>()).sum();
    writeln!(out, "tensors     {} ({}), {elements} values", dict.tensors.len(), types.join(", "))?;
    for (key, value) in dict.metadata.iter().filter(|(key, _)| *key != CONFIG_METADATA) {
        writeln!(out, "metadata    {key} = {value}")?;
    }
    Ok(())
}

/// The SHA-256, compared with that of published files and with the name.
fn print_hash(out: &mut impl Write, path: &Path) -> Result<(), Failure> {
    let (digits, check) = published::check_file(path).bad_input()?;
    let meaning = match check {
        Check::Published(published) => format!(", the published {}", published.name),
        Check::AsNamed => ", as its name says".to_owned(),
        Check::Unknown => String::new(),
    };
    writeln!(out, "sha256      {digits}{meaning}")?;
    Ok(())
}

fn print_tensors(out: &mut impl Write, tensors: &BTreeMap<String, TensorInfo>) -> Result<(), Failure> {
    let width = tensors.keys().map(String::len).max().unwrap_or(0);
    for (key, info) in tensors {
        writeln!(out, "  {key:width$}  {:4}  {:?}", format!("{:?}", info.dtype), info.shape)?;
    }
    Ok(())
}
