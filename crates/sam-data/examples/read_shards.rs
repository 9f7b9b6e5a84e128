//! Reads an epoch of a data set through the loader of a training, and prints how fast that was and what was skipped.
//!
//! `cargo run -p sam-data --features cloud --example read_shards -- ADDRESS_OR_FOLDER [CACHE_DIR CACHE_GIB [EPOCHS]]`
//!
//! Credentials and endpoint come from the environment, as in a training. `tests/fixtures/check_cloud.py` drives it against an S3
//! server on the loopback address.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sam_data::loader::{ErrorPolicy, Labels, Loader, LoaderOptions, Samples};
use sam_data::{Source, SourceOptions};

fn main() -> std::process::ExitCode {
    match read() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn read() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = PathBuf::from(arguments.first().ok_or("usage: read_shards PATH [CACHE_DIR CACHE_GIB [EPOCHS]]")?);
    let mut options = SourceOptions::default();
    if let Some(dir) = arguments.get(1) {
        options.cloud_cache_dir = Some(dir.into());
        options.cloud_cache_gib = arguments.get(2).ok_or("CACHE_GIB is missing")?.parse()?;
    }
    let n_epochs: usize = arguments.get(3).map_or(Ok(1), |n| n.parse())?;
    let mut out = std::io::stdout();

    let began = Instant::now();
    let source = Arc::new(Source::open(&path, &options)?);
    for note in source.notes() {
        writeln!(out, "{note}")?;
    }
    writeln!(out, "opened {} images in {:.2} s", source.len(), began.elapsed().as_secs_f64())?;
    let batch = NonZeroUsize::new(4).ok_or("a batch has images")?;
    let loader = LoaderOptions {
        n_images: batch,
        side_px: 128,
        mask_side_px: 32,
        labels: Labels::Unused,
        shards: source.shard_order(),
        on_error: ErrorPolicy::Skip,
        ..LoaderOptions::default()
    };
    let n_batches = n_epochs * source.len() / batch.get();
    let mut loader = Loader::new(source, loader, 0);
    let (began, mut order) = (Instant::now(), 0u64);
    for at in 0..n_batches {
        let loaded = loader.next_batch().ok_or("training is endless")??;
        for image in &loaded.images {
            order = order.rotate_left(5) ^ image.sample_index as u64;
        }
        if at % 10 == 0 {
            writeln!(out, "batch {at}, {:.2} s", began.elapsed().as_secs_f64())?;
            out.flush()?;
        }
    }
    let (report, took) = (loader.report(), began.elapsed().as_secs_f64());
    writeln!(out, "read {} images in {took:.2} s: {:.1} images/s", report.n_images, report.n_images as f64 / took)?;
    writeln!(out, "order {order:016x}")?;
    writeln!(out, "skipped {}", report.n_skipped)?;
    if let Some(skipped) = report.drops.skipped.first() {
        writeln!(out, "the first: {}", skipped.reason)?;
    }
    Ok(())
}
