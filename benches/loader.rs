//! The training loader in its usual configuration: SA-1B pairs with sides of 1500 to 2250 px, two worker threads,
//! batches at 1024 px with 16 masks per image.
//!
//! The images are synthetic scenes, written once to the folder of `SAM_TRAIN_BENCH_SA1B` (a temporary one if unset), so
//! that `benches/pytorch_loader.py` can read the same files.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sam_data::loader::{Loader, LoaderOptions, ObjectLimits};
use sam_data::synth::{Scene, SynthOptions, write_sa1b};
use sam_data::{Source, SourceOptions};

const N_IMAGES: u64 = 16;
const N_MASKS: usize = 16;
const BATCH: usize = 2;

/// Seconds per batch of two images, each with 16 masks of 256 x 256: one value per run of three epochs.
pub(crate) fn loader(runs: usize) -> Vec<f64> {
    measure(runs, 256)
}

/// As [`loader`], with masks at full resolution.
pub(crate) fn loader_full_masks(runs: usize) -> Vec<f64> {
    measure(runs, 1024)
}

fn measure(runs: usize, mask_side_px: usize) -> Vec<f64> {
    let temporary = std::env::temp_dir().join("sam-train-bench-sa1b");
    let folder = std::env::var_os("SAM_TRAIN_BENCH_SA1B").map_or(temporary, Into::into);
    write_once(&folder);
    let source = Source::open(&folder, &SourceOptions::default()).expect("the pairs just written");
    let source: Arc<Source> = Arc::new(source);
    let options = LoaderOptions {
        n_images: NonZeroUsize::new(BATCH).expect("two images"),
        mask_side_px,
        n_workers: 2,
        n_prefetch_batches: 2,
        objects: ObjectLimits { per_image_max: N_MASKS, ..ObjectLimits::default() },
        ..LoaderOptions::default()
    };
    let n_batches = 3 * N_IMAGES as usize / BATCH;
    (0..runs)
        .map(|_| {
            let mut batches = Loader::new(Arc::<Source>::clone(&source), options.clone(), 0);
            let warm = batches.next().expect("endless").expect("sound pairs");
            assert_eq!(warm.objects.len(), BATCH * N_MASKS, "every image has at least 16 objects");
            let start = Instant::now();
            for batch in batches.take(n_batches) {
                std::hint::black_box(batch.expect("sound pairs"));
            }
            start.elapsed().as_secs_f64() / n_batches as f64
        })
        .collect()
}

fn write_once(folder: &Path) {
    if folder.join(format!("sa_{N_IMAGES}.json")).exists() {
        return;
    }
    let mut options = SynthOptions::default();
    (options.n_shapes_min, options.n_shapes_max) = (40, 60);
    (options.tiny_chance, options.noise_levels) = (0.5, 3.0);
    (options.side_px_min, options.side_px_max) = (1500, 2250);
    let samples = (0..).map(|index| Scene::draw(7, index, &options).expect("visible").sample);
    let samples = samples.filter(|sample| sample.objects.len() >= N_MASKS + 2).take(N_IMAGES as usize);
    write_sa1b(folder, samples.map(Ok), 1).expect("room for 16 images");
}
