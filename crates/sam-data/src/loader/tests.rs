//! The loader's guarantees: purity, order, bounds, errors at their step, and no hang.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use image::RgbImage;
use sam_image::{Mask, Rle};

use super::batch::BatchImage;
use super::*;
use crate::sample::{ObjectMask, Sample};
use crate::synth::{SynthOptions, SynthScenes};
use crate::transforms::{Augmentation, ColourJitter, MaskSampler, RandomCrop, ScaleJitter};

fn scenes(n_scenes: usize) -> Arc<dyn Samples> {
    Arc::new(SynthScenes {
        seed: 1,
        first_index: 0,
        n_scenes,
        options: SynthOptions { side_px_min: 40, side_px_max: 64, ..SynthOptions::default() },
    })
}

fn options() -> LoaderOptions {
    LoaderOptions {
        seed: 5,
        n_images: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
        side_px: 64,
        mask_side_px: 32,
        augmentation: Augmentation {
            horizontal_flip_chance: 0.5,
            vertical_flip_chance: 0.5,
            scale_jitter: Some(ScaleJitter::default()),
            crop: Some(RandomCrop::default()),
            colour: Some(ColourJitter::default()),
            resized_crop: None,
        },
        objects: ObjectLimits { per_image_max: 5, per_batch_max: 9, ..ObjectLimits::default() },
        ..LoaderOptions::default()
    }
}

fn with_workers(options: LoaderOptions, n_workers: usize) -> LoaderOptions {
    LoaderOptions { n_workers, n_prefetch_batches: n_workers + 1, ..options }
}

/// The batches of a range of steps, which must all exist.
fn batches(samples: &Arc<dyn Samples>, options: &LoaderOptions, first: u64, n: usize) -> Vec<Batch> {
    Loader::new(Arc::clone(samples), options.clone(), first)
        .take(n)
        .map(|batch| batch.expect("the samples are sound"))
        .collect()
}

/// Runs in a thread, and fails instead of hanging.
fn within_ten_seconds<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(10)).expect("the loader must not hang")
}

/// Pre-training uses images whether labelled or not.
#[test]
fn images_without_objects_are_used_when_labels_are_not() {
    struct Bare;
    impl Samples for Bare {
        fn n_samples(&self) -> usize {
            4
        }

        fn sample(&self, index: usize) -> Result<Sample, SampleError> {
            let mut sample = Corners.sample(index)?;
            if index > 0 {
                sample.objects.clear();
            }
            Ok(sample)
        }
    }
    let mut loader = Loader::new(Arc::new(Bare), LoaderOptions { labels: Labels::Unused, ..options() }, 0);
    let batch = loader.next_batch().expect("endless").expect("sound");
    assert_eq!(
        (batch.images.len(), batch.objects.len(), batch.drops.n_without_objects),
        (options().n_images.get(), 0, 0)
    );
}

#[test]
fn workers_and_restarts_change_nothing() {
    let samples = scenes(7);
    let expected = batches(&samples, &with_workers(options(), 0), 0, 12);
    for n_workers in [1, 2, 5] {
        let options = with_workers(options(), n_workers);
        assert_eq!(batches(&samples, &options, 0, 12), expected, "{n_workers}");
        assert_eq!(batches(&samples, &options, 8, 4), expected[8..]);
    }
    let other_seed = LoaderOptions { seed: 6, ..options() };
    assert_ne!(batches(&samples, &other_seed, 0, 12), expected);
}

#[test]
fn two_batches_of_one_image_equal_one_of_two() {
    let samples = scenes(5);
    let of = |n_images: usize| LoaderOptions {
        n_images: NonZeroUsize::new(n_images).unwrap_or(NonZeroUsize::MIN),
        objects: ObjectLimits::all(),
        ..with_workers(options(), 2)
    };
    let ones = batches(&samples, &of(1), 0, 8);
    let twos = batches(&samples, &of(2), 0, 4);
    let join = |batches: &[Batch]| -> (Vec<BatchImage>, Vec<u8>, Vec<u8>) {
        (
            batches.iter().flat_map(|b| b.images.clone()).collect(),
            batches.iter().flat_map(|b| b.pixels.clone()).collect(),
            batches.iter().flat_map(|b| b.object_masks.clone()).collect(),
        )
    };
    assert_eq!(join(&ones), join(&twos));
}

#[test]
fn batches_are_consistent() {
    let samples = scenes(7);
    for batch in batches(&samples, &with_workers(options(), 2), 0, 20) {
        assert_eq!(batch.images.len(), 3);
        assert_eq!(batch.pixels.len(), 3 * 64 * 64 * 3);
        assert_eq!(batch.object_masks.len(), batch.objects.len() * 32 * 32);
        assert!(!batch.objects.is_empty() && batch.objects.len() <= 9);
        assert!(batch.objects.is_sorted_by_key(|object| object.image_index));
        assert!(batch.ignore_masks.is_none());
        for (at, object) in batch.objects.iter().enumerate() {
            let image = &batch.images[object.image_index];
            let original = samples.sample(image.sample_index).expect("a scene");
            let same = original.objects.iter().find(|o| o.id == object.id);
            assert_eq!(same.map(|o| &o.mask), Some(&object.mask));
            let mut painted = vec![0; 32 * 32];
            MaskSampler::new(&image.view, 32).paint(&object.mask, &mut painted);
            assert_eq!(batch.object_mask(at), painted);
            assert!(painted.contains(&1));
        }
        for (image_index, image) in batch.images.iter().enumerate() {
            let n_objects = batch.objects.iter().filter(|o| o.image_index == image_index).count();
            assert!((1..=5).contains(&n_objects), "{n_objects}");
            let [height, width] = image.view.resized_hw;
            let pixels = &batch.pixels[image_index * 64 * 64 * 3..][..64 * 64 * 3];
            for (at, pixel) in pixels.chunks_exact(3).enumerate() {
                if at / 64 >= height || at % 64 >= width {
                    assert_eq!(pixel, [0; 3], "padding is black");
                }
            }
        }
    }
}

#[test]
fn epochs_have_every_sample_once_and_differ() {
    let samples = scenes(6);
    let options = LoaderOptions { augmentation: Augmentation::default(), ..with_workers(options(), 2) };
    let order: Vec<usize> = batches(&samples, &options, 0, 6)
        .iter()
        .flat_map(|batch| batch.images.iter().map(|image| image.sample_index))
        .collect();
    let epochs: Vec<&[usize]> = order.chunks(6).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
    }
    assert_ne!(epochs[0], epochs[1]);
}

#[test]
fn validation_is_once_in_order_with_everything() {
    let samples = scenes(8);
    let options = LoaderOptions {
        order: Order::InOrderOnce,
        augmentation: Augmentation::default(),
        objects: ObjectLimits::all(),
        ..with_workers(options(), 3)
    };
    let mut loader = Loader::new(Arc::clone(&samples), options, 0);
    let batches: Vec<Batch> = loader.by_ref().map(|batch| batch.expect("sound")).collect();
    let indices: Vec<usize> =
        batches.iter().flat_map(|batch| batch.images.iter().map(|image| image.sample_index)).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(batches[2].images.len(), 2);
    let n_all: usize = (0..8).map(|i| samples.sample(i).map_or(0, |s| s.objects.len())).sum();
    let drops = &loader.report().drops;
    let n_dropped = drops.n_erased + drops.n_too_small + drops.n_too_large + drops.n_over_cap;
    assert_eq!(loader.report().n_objects + n_dropped, n_all as u64);
    assert_eq!(loader.report().n_images, 8);
    assert!(loader.next_batch().is_none());
}

/// Five constructed images: a dot in the corner, a dot in the middle, a full mask.
struct Corners;

impl Samples for Corners {
    fn n_samples(&self) -> usize {
        5
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let size_hw = [100, 100];
        let object =
            |id: u64, mask: Mask| ObjectMask { mask: Rle::from_mask(&mask), class: None, id, captions: Vec::new() };
        Ok(Sample {
            name: format!("corners_{index}"),
            image: RgbImage::new(100, 100),
            objects: vec![
                object(1, Mask::from_fn(size_hw, |row, column| row < 4 && column < 4)),
                object(2, Mask::from_fn(size_hw, |row, column| row.abs_diff(50) < 9 && column.abs_diff(50) < 9)),
                object(3, Mask::from_fn(size_hw, |_, _| true)),
            ],
            ignore: (index == 0).then(|| Rle::from_mask(&Mask::from_fn(size_hw, |row, _| row < 50))),
        })
    }
}

#[test]
fn what_is_dropped_is_counted() {
    let crops =
        Augmentation { crop: Some(RandomCrop { side_share_min: 0.6, side_share_max: 0.6 }), ..Augmentation::default() };
    let options = LoaderOptions { augmentation: crops, n_images: NonZeroUsize::MIN, ..options() };
    let mut loader = Loader::new(Arc::new(Corners), options, 0);
    let (mut n_with_corner, mut n_ignore) = (0, 0);
    for step in 0..100 {
        let batch = loader.next_batch().expect("endless").expect("sound");
        assert_eq!(batch.step, step);
        assert!(batch.objects.iter().any(|o| o.id == 2), "the middle is always seen");
        assert!(batch.objects.iter().all(|o| o.id != 3), "above 90 %");
        n_with_corner += u64::from(batch.objects.iter().any(|o| o.id == 1));
        n_ignore += usize::from(batch.ignore_masks.is_some());
    }
    let drops = &loader.report().drops;
    assert_eq!(drops.n_too_large, 100);
    assert_eq!(drops.n_erased + drops.n_too_small + n_with_corner, 100);
    assert!(drops.n_erased > 80 && n_with_corner > 0, "{drops:?}");
    assert_eq!(n_ignore, 20);
    assert_eq!(drops.n_over_cap, 0);
}

#[test]
fn views_without_objects_are_resampled() {
    /// Only the dot in the corner.
    struct Corner;
    impl Samples for Corner {
        fn n_samples(&self) -> usize {
            3
        }
        fn sample(&self, index: usize) -> Result<Sample, SampleError> {
            let mut sample = Corners.sample(index)?;
            sample.objects.truncate(1);
            Ok(sample)
        }
    }
    let options = LoaderOptions {
        augmentation: Augmentation {
            scale_jitter: Some(ScaleJitter { scale_min: 3.0, scale_max: 4.0 }),
            ..Augmentation::default()
        },
        ..with_workers(options(), 2)
    };
    let mut loader = Loader::new(Arc::new(Corner), options, 0);
    for _ in 0..20 {
        let batch = loader.next_batch().expect("endless").expect("sound");
        assert_eq!(batch.objects.len(), 3);
    }
    assert!(loader.report().drops.n_views_redrawn > 100);
    assert_eq!(loader.report().drops.n_without_objects, 0);
}

/// Readable except for some indices.
struct Flawed {
    inner: Arc<dyn Samples>,
    bad: Vec<usize>,
}

impl Samples for Flawed {
    fn n_samples(&self) -> usize {
        self.inner.n_samples()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        if self.bad.contains(&index) {
            return Err(format!("images/{index}.jpg: the JPEG stops before its end marker").into());
        }
        self.inner.sample(index)
    }
}

fn flawed(bad: &[usize]) -> Arc<dyn Samples> {
    Arc::new(Flawed { inner: scenes(9), bad: bad.to_vec() })
}

#[test]
fn an_error_comes_at_its_step_and_ends_the_loader() {
    for n_workers in [0, 1, 4] {
        let options = LoaderOptions { order: Order::InOrderOnce, ..with_workers(options(), n_workers) };
        let mut loader = Loader::new(flawed(&[7]), options, 0);
        assert!(loader.next_batch().is_some_and(|b| b.is_ok()));
        assert!(loader.next_batch().is_some_and(|b| b.is_ok()));
        let error = loader.next_batch().and_then(Result::err).expect("sample 7");
        assert_eq!(error.step(), 2);
        assert_eq!(error.to_string(), "step 2, sample 7: images/7.jpg: the JPEG stops before its end marker");
        assert!(loader.next_batch().is_none());
    }
}

#[test]
fn skipped_samples_are_replaced_in_training_and_omitted_in_validation() {
    let training = LoaderOptions { on_error: ErrorPolicy::Skip, ..options() };
    let samples = flawed(&[2, 7]);
    let expected = batches(&samples, &with_workers(training.clone(), 0), 0, 6);
    assert_eq!(batches(&samples, &with_workers(training.clone(), 3), 0, 6), expected);
    assert!(expected.iter().all(|batch| batch.images.len() == 3));
    let skipped: Vec<&SkippedSample> = expected.iter().flat_map(|b| &b.drops.skipped).collect();
    // Two epochs of nine; a replacement can be unreadable, too.
    assert!(skipped.len() >= 4, "{skipped:?}");
    assert!(skipped.iter().all(|s| s.reason.contains("end marker")));

    let validation = LoaderOptions { order: Order::InOrderOnce, ..with_workers(training, 2) };
    // All of the middle batch is unreadable.
    let mut loader = Loader::new(flawed(&[3, 4, 5, 8]), validation, 0);
    let indices: Vec<Vec<usize>> = loader
        .by_ref()
        .map(|batch| batch.expect("skipping"))
        .map(|batch| batch.images.iter().map(|i| i.sample_index).collect())
        .collect();
    assert_eq!(indices, [vec![0, 1, 2], vec![6, 7]]);
    assert_eq!(loader.report().n_skipped, 4);
    assert_eq!(loader.report().drops.skipped[0].sample_index, 3);
}

#[test]
fn a_data_set_without_anything_usable_is_an_error() {
    let all_bad = flawed(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let options = LoaderOptions { on_error: ErrorPolicy::Skip, ..with_workers(options(), 2) };
    let mut loader = Loader::new(all_bad, options.clone(), 4);
    let error = loader.next_batch().and_then(Result::err).expect("nothing");
    assert!(error.to_string().contains("data check"), "{error}");
    assert_eq!(error.step(), 4);
    let mut loader = Loader::new(scenes(0), options, 0);
    assert!(matches!(loader.next_batch(), Some(Err(LoaderError::NoSamples))));
}

#[test]
fn a_panic_is_an_error_and_not_a_hang() {
    struct Panics;
    impl Samples for Panics {
        fn n_samples(&self) -> usize {
            4
        }
        fn sample(&self, index: usize) -> Result<Sample, SampleError> {
            assert!(index != 2, "two is broken");
            Corners.sample(index)
        }
    }
    let message = within_ten_seconds(|| {
        let options = LoaderOptions { order: Order::InOrderOnce, ..with_workers(options(), 2) };
        let mut loader = Loader::new(Arc::new(Panics), options, 0);
        loader.next_batch().and_then(Result::err).map(|e| e.to_string())
    });
    assert_eq!(message.as_deref(), Some("step 0, draw 2: the loader panicked: two is broken"));
}

#[test]
fn masks_of_another_size_are_an_error_with_the_sample() {
    struct Mixed;
    impl Samples for Mixed {
        fn n_samples(&self) -> usize {
            1
        }
        fn sample(&self, index: usize) -> Result<Sample, SampleError> {
            let mut sample = Corners.sample(index)?;
            sample.image = RgbImage::new(50, 100);
            Ok(sample)
        }
    }
    let mut loader = Loader::new(Arc::new(Mixed), with_workers(options(), 0), 0);
    let error = loader.next_batch().and_then(Result::err).expect("sizes differ");
    assert!(error.to_string().contains("corners_0"), "{error}");
}

/// Counts the samples requested.
struct Counted {
    inner: Arc<dyn Samples>,
    n_requested: AtomicUsize,
}

impl Samples for Counted {
    fn n_samples(&self) -> usize {
        self.inner.n_samples()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        self.n_requested.fetch_add(1, Ordering::SeqCst);
        self.inner.sample(index)
    }
}

#[test]
fn prefetch_is_bounded_and_a_full_loader_drops_at_once() {
    let n_requested = within_ten_seconds(|| {
        let counted = Arc::new(Counted { inner: scenes(50), n_requested: AtomicUsize::new(0) });
        let options = LoaderOptions { n_workers: 4, n_prefetch_batches: 2, ..options() };
        let samples: Arc<dyn Samples> = Arc::<Counted>::clone(&counted);
        let mut loader = Loader::new(samples, options, 0);
        assert!(loader.next_batch().is_some());
        // Long enough to fill up if there were no bound.
        std::thread::sleep(Duration::from_millis(300));
        let n_requested = counted.n_requested.load(Ordering::SeqCst);
        assert!(loader.report().waited >= loader.report().waited_last);
        drop(loader);
        n_requested
    });
    // One batch taken and two ahead, of three images each; a sample without objects costs one more.
    assert!((9..=12).contains(&n_requested), "{n_requested}");
}

#[test]
fn a_loader_dropped_at_once_does_not_hang() {
    within_ten_seconds(|| {
        for n_workers in 0..6 {
            drop(Loader::new(scenes(3), with_workers(options(), n_workers), 1 << 40));
        }
    });
}

#[test]
fn eleven_million_samples_start_anywhere() {
    struct Huge;
    impl Samples for Huge {
        fn n_samples(&self) -> usize {
            11_185_362
        }
        fn sample(&self, index: usize) -> Result<Sample, SampleError> {
            Corners.sample(index % 5)
        }
    }
    let samples: Arc<dyn Samples> = Arc::new(Huge);
    let batches = batches(&samples, &with_workers(options(), 2), 90_000_000, 2);
    assert_eq!(batches[0].step, 90_000_000);
}

#[test]
fn a_subset_holds_its_samples_only() {
    let all = scenes(9);
    let subset: Arc<dyn Samples> = Arc::new(Subset { samples: Arc::clone(&all), indices: vec![7, 2, 4] });
    let names: Vec<String> =
        (0..3).map(|index| subset.sample(index).map(|sample| sample.name).unwrap_or_default()).collect();
    assert_eq!(names, ["scene_000007", "scene_000002", "scene_000004"]);
    let options = LoaderOptions { order: Order::InOrderOnce, ..with_workers(options(), 2) };
    let batches = batches(&subset, &options, 0, 1);
    assert!(batches[0].images.iter().map(|image| &image.name).eq(&names));
}

/// Without pixels nothing else changes: the order, the mirroring, the objects and their masks.
#[test]
fn a_batch_without_pixels_is_otherwise_the_same() {
    let samples = scenes(7);
    let flips = Augmentation { horizontal_flip_chance: 0.5, vertical_flip_chance: 0.5, ..Augmentation::default() };
    assert!(flips.only_mirrors() && !options().augmentation.only_mirrors());
    let with_pixels = LoaderOptions { augmentation: flips, ..with_workers(options(), 2) };
    let without = LoaderOptions { content: Content::Hash, ..with_pixels.clone() };
    let (with_pixels, hashed) = (batches(&samples, &with_pixels, 3, 12), batches(&samples, &without, 3, 12));
    let mut seen = std::collections::BTreeMap::new();
    for (decoded, hashed) in with_pixels.iter().zip(&hashed) {
        assert!(hashed.pixels.is_empty() && !decoded.pixels.is_empty());
        assert_eq!(hashed.object_masks, decoded.object_masks);
        assert_eq!(hashed.objects, decoded.objects);
        for (decoded, hashed) in decoded.images.iter().zip(&hashed.images) {
            assert_eq!(&BatchImage { content: 0, ..hashed.clone() }, decoded);
            // The same image has the same hash, and the options alone say how it is mirrored.
            assert_eq!(*seen.entry(hashed.sample_index).or_insert(hashed.content), hashed.content);
            let mirrored = [hashed.view.mirrored_x, hashed.view.mirrored_y];
            assert_eq!(without.mirroring_of(hashed.draw, hashed.sample_index), mirrored);
            assert!(without.samples_of(hashed.draw, 7).any(|index| index == hashed.sample_index));
        }
    }
    let hashes: std::collections::BTreeSet<u64> = seen.values().copied().collect();
    assert_eq!(hashes.len(), seen.len(), "different images, different hashes");
}

#[test]
fn ranks_share_the_batches_of_one_loader() {
    let samples = scenes(7);
    let whole = batches(&samples, &options(), 0, 12);
    // Four batches in each of three steps.
    for n_ranks in [1, 2, 4] {
        for rank in 0..n_ranks {
            let turns = Turns::of_rank(rank, n_ranks, 4);
            assert_eq!(turns.per_step(), 4 / n_ranks);
            let own = LoaderOptions { turns, ..options() };
            let expected = |from: usize| {
                let places =
                    (from / 4..3).flat_map(|step| (0..4 / n_ranks).map(move |at| step * 4 + rank * (4 / n_ranks) + at));
                places.map(|at| whole[at].clone()).collect::<Vec<_>>()
            };
            for n_workers in [0, 3] {
                let own = with_workers(own.clone(), n_workers);
                assert!(batches(&samples, &own, 0, 12 / n_ranks) == expected(0), "rank {rank} of {n_ranks}");
                // From the second step on.
                assert!(batches(&samples, &own, 4, 8 / n_ranks) == expected(4), "rank {rank} of {n_ranks}");
            }
        }
    }
    // Every sample once, the last batch smaller: three batches of three ranks, and nothing for the fourth.
    let in_order = LoaderOptions { order: Order::InOrderOnce, ..options() };
    let of_rank = |rank: usize| {
        let turns = Turns::of_rank(rank, 4, 4);
        let loader = Loader::new(Arc::clone(&samples), LoaderOptions { turns, ..in_order.clone() }, 0);
        loader.map(|batch| batch.expect("sound").images.len()).collect::<Vec<_>>()
    };
    assert_eq!([0, 1, 2, 3].map(of_rank), [vec![3], vec![3], vec![1], vec![]]);
}
