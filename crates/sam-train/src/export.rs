//! `sam-train export`: one checkpoint to the form that another program loads.

use std::io::Write;

use sam_infer::DeviceName;
use sam_model::weights::{Checkpoint, ImageSizePolicy, LoadReport, export};

use crate::cli::ExportArguments;
use crate::failure::{BadInput, Failure};

pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint).bad_input()?;
    if arguments.out.exists() && !arguments.force {
        return Err(anyhow::anyhow!(
            "{} exists; give another --out, or --force to replace it",
            arguments.out.display()
        ))
        .bad_input();
    }
    let device = DeviceName::Cpu.open().bad_input()?;
    let loaded = match arguments.fresh_seed {
        Some(_) if checkpoint.is_segmenter() => {
            Err(anyhow::anyhow!("--fresh-seed is for an MAE checkpoint; this one is complete and has nothing to draw"))
                .bad_input()?
        }
        Some(seed) => checkpoint.load_with(&checkpoint.config, seed, &device),
        None => checkpoint.load(&device),
    };
    let (sam, report) = loaded.bad_input()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "read    {} ({})", arguments.checkpoint.display(), checkpoint.description())?;
    print_load_report(&mut out, &report)?;

    let policy = if arguments.keep_image_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published };
    let written =
        export(&sam, &checkpoint.config, arguments.format.into(), arguments.dtype.into(), policy, &arguments.out)?;
    for table in &written.resized {
        writeln!(out, "resized {}: {:?} to {:?}", table.key, table.from, table.to)?;
    }
    writeln!(
        out,
        "wrote   {} ({} tensors, {:.1} MB, {} px), read back and equal",
        written.path.display(),
        written.tensors,
        written.bytes as f64 / 1e6,
        written.image_size
    )?;
    Ok(())
}

/// Everything that did not simply fill its namesake.
pub(crate) fn print_load_report(out: &mut impl Write, report: &LoadReport) -> Result<(), Failure> {
    for (key, reason) in &report.dropped {
        writeln!(out, "dropped {key}: {reason}")?;
    }
    for table in &report.resized {
        writeln!(out, "resized {}: {:?} to {:?}", table.key, table.from, table.to)?;
    }
    for key in &report.fresh {
        writeln!(out, "fresh   {key}")?;
    }
    Ok(())
}
