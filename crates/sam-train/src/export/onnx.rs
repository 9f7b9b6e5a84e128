//! `sam-train export --format onnx`.

use std::io::Write;
use std::path::Path;

use sam_model::Sam;
use sam_model::weights::{ImageSizePolicy, published_form};
use sam_onnx::{
    Companion, ExportOptions, ImageInput, Masks, OnnxError, Opset, PROTOBUF_LIMIT, Stage, WeightType, check_export,
    export, memory_to_run,
};

use super::{image_size_policy, print_resized};
use crate::cli::{AnnotatorArgument, ExportArguments, OnnxArguments};
use crate::disk;
use crate::failure::{BadInput, Failure};
use crate::machine::Machine;
use crate::output::errors;
use crate::progress::Waiting;

/// Exports the two graphs.
pub(super) fn write(sam: &Sam, arguments: &ExportArguments, out: &mut impl Write) -> Result<(), Failure> {
    let options = options(&arguments.onnx, &arguments.checkpoint).bad_input()?;
    // A graph says its own size; only annotators fix it.
    let policy = if options.companions.is_empty() { ImageSizePolicy::Keep } else { image_size_policy(arguments) };
    let (published, resized) = published_form(sam, policy).bad_input()?;
    check_export(published.config(), &options).bad_input()?;
    check_memory(&published).bad_input()?;
    print_resized(out, &resized, sam.image_size(), published.image_size())?;
    if sam.config().text.is_some() {
        writeln!(errors(), "note: the text prompt is left out, as the contract of ONNX decoders has no input for it")?;
    }
    let mut waiting = None;
    let written = export(&published, &options, &arguments.out, |stage| {
        // The line of the stage before must have ended.
        drop(waiting.take());
        waiting = Some(Waiting::new(match stage {
            Stage::Building => "reading the weights".to_owned(),
            Stage::Writing(file) => format!("writing {file}"),
            Stage::Checking => "running both graphs and comparing".to_owned(),
        }));
    });
    drop(waiting);
    let written = match written {
        Err(error) if error.is_bad_input() => Err(error).bad_input()?,
        written => written?,
    };
    for graph in &written.graphs {
        let with = if graph.has_data_file { ", with its .data, which must stay beside it" } else { "" };
        let (megabytes, nodes) = (graph.bytes as f64 / 1e6, graph.nodes);
        let path = arguments.out.join(graph.file);
        writeln!(out, "wrote   {} ({nodes} nodes, {megabytes:.1} MB{with})", path.display())?;
    }
    for file in &written.companions {
        writeln!(out, "wrote   {}", arguments.out.join(file).display())?;
    }
    let checked = written.checked;
    writeln!(
        out,
        "checked both graphs by running them at {} px: within {:.1e} of this program's own results",
        published.image_size(),
        checked.difference
    )?;
    if options.weights != WeightType::F32 {
        let [largest, rms] = checked.rounding;
        let weights = options.weights.name();
        writeln!(
            out,
            "        {weights} weights change the embedding by {largest:.1e} at most, {rms:.1e} root mean square"
        )?;
    }
    Ok(())
}

/// Nobody could run a graph that does not fit, neither to check it nor later.
fn check_memory(sam: &Sam) -> anyhow::Result<()> {
    let (needed, available) = (memory_to_run(sam.config()), Machine::look().available_bytes);
    let (side, grid) = (sam.image_size(), sam.config().image_encoder.grid_size());
    let why = match sam.image_encoder.vit() {
        Some(_) => format!("it attends among all {grid} x {grid} cells at once"),
        None => "its maps grow with the image".to_owned(),
    };
    anyhow::ensure!(
        needed <= available,
        "the graph of this model takes {} while it runs at {side} px, where {} are available: {why}; export a model of a smaller \
         image size",
        disk::size(needed),
        disk::size(available)
    );
    Ok(())
}

fn options(arguments: &OnnxArguments, checkpoint: &Path) -> Result<ExportOptions, OnnxError> {
    let annotator = arguments.annotator;
    let needs = |program: AnnotatorArgument| annotator == Some(program);
    let takes_pixels = arguments.preprocess || needs(AnnotatorArgument::XAnylabeling);
    let masks = if arguments.cvat || needs(AnnotatorArgument::Cvat) {
        Masks::Cropped
    } else if arguments.single_mask || needs(AnnotatorArgument::XAnylabeling) {
        Masks::Single
    } else {
        Masks::All
    };
    let companion = annotator.map(|annotator| match annotator {
        AnnotatorArgument::XAnylabeling => Companion::XAnyLabeling,
        AnnotatorArgument::Cvat => Companion::Cvat,
    });
    Ok(ExportOptions {
        input: if takes_pixels { ImageInput::Pixels } else { ImageInput::Normalised },
        masks,
        weights: arguments.weights.map(WeightType::from).unwrap_or_default(),
        opset: arguments.opset.map_or(Ok(Opset::default()), Opset::new)?,
        external_above: arguments.external_above.unwrap_or(PROTOBUF_LIMIT),
        companions: companion.into_iter().collect(),
        name: checkpoint.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
    })
}
