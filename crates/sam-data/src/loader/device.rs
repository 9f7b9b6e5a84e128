//! Batches on the device, behind the `DataLoader` interface of burn's training loops.
//!
//! burn counts epochs; here an epoch is a fixed number of steps of one endless stream, so checkpoints and validation
//! come at a chosen interval and a run resumes at any step. Between epochs the stream stays open and keeps prefetching.
//! Pixels and masks are transferred as bytes and normalised on the device.
//!
//! Shapes: `B` images, `O` objects, `S` side of the model's input, `M` side of the masks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::loader::batch::{Batch, BatchImage, BatchObject};
use crate::loader::{Drops, Loader, LoaderOptions, LoaderReport, Order};
use crate::sample::Samples;

/// One step's images and objects on the device.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// Index of the step.
    pub step: u64,
    /// RGB from 0 to 255, `[B, S, S, 3]`, padded with 0 on the right and below.
    pub pixels: Tensor<4, Int>,
    /// Masks of 0 and 1, `[O, M, M]`.
    pub object_masks: Tensor<3, Int>,
    /// 1 where pixels are ignored by losses and metrics, `[B, M, M]`.
    pub ignore_masks: Option<Tensor<3, Int>>,
    /// Index of each object's image, `[O]`.
    pub image_index: Tensor<1, Int>,
    /// Names, and the mapping to original pixels, `[B]`.
    pub images: Vec<BatchImage>,
    /// Ids, classes and the masks in original pixels, `[O]`.
    pub objects: Vec<BatchObject>,
    /// Counts of dropped objects and samples.
    pub drops: Drops,
}

impl DeviceBatch {
    /// Uploads a batch.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, S, S, 3]`
    /// - object masks: `[O, M, M]`, ignore masks: `[B, M, M]`
    /// - image index: `[O]`
    pub fn new(batch: Batch, device: &Device) -> Self {
        let (images, objects) = (batch.images.len(), batch.objects.len());
        let (side, mask_side) = (batch.side_px, batch.mask_side_px);
        let image_index: Vec<i32> = batch.objects.iter().map(|object| object.image_index as i32).collect();
        Self {
            step: batch.step,
            pixels: bytes(batch.pixels, [images, side, side, 3], device),
            object_masks: bytes(batch.object_masks, [objects, mask_side, mask_side], device),
            ignore_masks: batch.ignore_masks.map(|masks| bytes(masks, [images, mask_side, mask_side], device)),
            image_index: Tensor::from_data(TensorData::new(image_index, [objects]), device),
            images: batch.images,
            objects: batch.objects,
            drops: batch.drops,
        }
    }
}

/// Uploads bytes as u8 if the device supports it; some GPUs' shaders do not.
fn bytes<const D: usize>(values: Vec<u8>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    let data = TensorData::new(values, shape);
    match device.supports_dtype(DType::U8) {
        true => Tensor::from_data(data, (device, DType::U8)),
        false => Tensor::from_data(data.convert::<i32>(), device),
    }
}

/// Epochs of a fixed number of steps over one endless stream, or passes over a validation set.
#[derive(Clone)]
pub struct EpochLoader {
    samples: Arc<dyn Samples>,
    options: LoaderOptions,
    device: Device,
    steps: Steps,
    stream: Arc<Mutex<Stream>>,
}

/// The steps of the stream that form an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Steps {
    /// The next `steps`; the `left_out` steps after them belong to other devices.
    Next { steps: usize, left_out: u64 },
    /// The same steps of a finite stream in every epoch.
    Pass { first: u64, steps: usize },
}

#[derive(Default)]
struct Stream {
    open: Option<Loader>,
    next_step: u64,
    report: LoaderReport,
}

impl EpochLoader {
    /// A training loader with epochs of `steps_per_epoch` steps, starting at `first_step` of the run.
    ///
    /// # Panics
    /// When an epoch has no step, or the order ends.
    pub fn training(
        samples: Arc<dyn Samples>,
        options: LoaderOptions,
        steps_per_epoch: usize,
        first_step: u64,
        device: &Device,
    ) -> Self {
        assert!(steps_per_epoch > 0, "an epoch must have at least one step, got 0");
        assert_eq!(options.order, Order::ShuffledEpochs, "training must have an endless order");
        let stream = Stream { next_step: first_step, ..Stream::default() };
        let steps = Steps::Next { steps: steps_per_epoch, left_out: 0 };
        Self::new(samples, options, steps, stream, device)
    }

    /// A validation loader: every sample once per pass, in the order of the data set.
    pub fn validation(samples: Arc<dyn Samples>, options: LoaderOptions, device: &Device) -> Self {
        let options = LoaderOptions { order: Order::InOrderOnce, ..options };
        let steps = samples.n_samples().div_ceil(options.n_images.get());
        Self::new(samples, options, Steps::Pass { first: 0, steps }, Stream::default(), device)
    }

    fn new(samples: Arc<dyn Samples>, options: LoaderOptions, steps: Steps, stream: Stream, device: &Device) -> Self {
        Self { samples, options, device: device.clone(), steps, stream: Arc::new(Mutex::new(stream)) }
    }

    /// The first step of the next epoch.
    pub fn next_step(&self) -> u64 {
        self.stream().next_step
    }

    /// Counts and waiting time so far, as of the last batch.
    pub fn report(&self) -> LoaderReport {
        self.stream().report.clone()
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn steps_per_epoch(&self) -> usize {
        match self.steps {
            Steps::Next { steps, .. } | Steps::Pass { steps, .. } => steps,
        }
    }
}

impl DataLoader<DeviceBatch> for EpochLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<DeviceBatch> + 'a> {
        let mut stream = self.stream();
        let first_step = match self.steps {
            Steps::Next { .. } => stream.next_step,
            Steps::Pass { first, .. } => first,
        };
        let kept = stream.open.take().filter(|open| open.next_step() == first_step);
        let open = kept.unwrap_or_else(|| Loader::new(Arc::clone(&self.samples), self.options.clone(), first_step));
        drop(stream);
        Box::new(Epoch { loader: self, open: Some(open), done: 0 })
    }

    fn num_items(&self) -> usize {
        self.steps_per_epoch() * self.options.n_images.get()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<DeviceBatch>> {
        Arc::new(Self { device: device.clone(), ..self.clone() })
    }

    /// A range of each epoch for one of several devices, in whole steps.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<DeviceBatch>> {
        let images = self.options.n_images.get();
        let (start, end) = (start / images, end / images);
        let part = end.saturating_sub(start);
        let (steps, next_step) = match self.steps {
            Steps::Next { steps, left_out } => {
                let left_out = left_out + steps.saturating_sub(part) as u64;
                (Steps::Next { steps: part, left_out }, self.next_step() + start as u64)
            }
            Steps::Pass { first, .. } => (Steps::Pass { first: first + start as u64, steps: part }, 0),
        };
        let stream = Stream { next_step, ..Stream::default() };
        Arc::new(Self { steps, stream: Arc::new(Mutex::new(stream)), ..self.clone() })
    }
}

/// One epoch of an [`EpochLoader`]; returns the stream when it ends.
struct Epoch<'a> {
    loader: &'a EpochLoader,
    open: Option<Loader>,
    done: usize,
}

impl Iterator for Epoch<'_> {
    type Item = Result<DeviceBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done >= self.loader.steps_per_epoch() {
            return None;
        }
        let open = self.open.as_mut()?;
        let batch = open.next_batch()?;
        self.done += 1;
        let mut stream = self.loader.stream();
        stream.next_step = open.next_step();
        if let Steps::Next { steps, left_out } = self.loader.steps
            && self.done == steps
        {
            stream.next_step += left_out;
        }
        stream.report = open.report().clone();
        Some(batch.map(|batch| DeviceBatch::new(batch, &self.loader.device)).map_err(DatasetError::new))
    }
}

impl DataLoaderIterator<DeviceBatch> for Epoch<'_> {
    fn progress(&self) -> Progress {
        let images = self.loader.options.n_images.get();
        let total = self.loader.num_items();
        Progress::new((self.done * images).min(total), total, Some("images".into()))
    }
}

impl Drop for Epoch<'_> {
    fn drop(&mut self) {
        self.loader.stream().open = self.open.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{SynthOptions, SynthScenes};
    use std::num::NonZeroUsize;

    const STEPS: usize = 3;

    fn scenes() -> Arc<dyn Samples> {
        let options = SynthOptions { side_px_min: 32, side_px_max: 40, ..SynthOptions::default() };
        Arc::new(SynthScenes { seed: 3, first_index: 0, n_scenes: 7, options })
    }

    fn options() -> LoaderOptions {
        let n_images = NonZeroUsize::new(2).expect("two");
        LoaderOptions { n_images, side_px: 32, mask_side_px: 16, ..LoaderOptions::default() }
    }

    fn training(first_step: u64) -> EpochLoader {
        EpochLoader::training(scenes(), options(), STEPS, first_step, &Device::flex())
    }

    /// Step, names and all pixels of every batch of an epoch.
    fn epoch(loader: &dyn DataLoader<DeviceBatch>) -> Vec<(u64, Vec<String>, TensorData)> {
        let batches = loader.iter().map(|batch| {
            let batch = batch.expect("scenes are sound");
            let names = batch.images.iter().map(|image| image.name.clone()).collect();
            (batch.step, names, batch.pixels.into_data())
        });
        batches.collect()
    }

    #[test]
    fn epochs_are_consecutive_pieces_of_one_stream() {
        let loader = training(0);
        let (first, second) = (epoch(&loader), epoch(&loader));
        assert_eq!(first.iter().chain(&second).map(|batch| batch.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(loader.next_step(), 6);
        assert_eq!(loader.report().n_batches, 6);
        // A run resumed at step 3 gets the same batches.
        assert_eq!(epoch(&training(3)), second);
    }

    #[test]
    fn an_interrupted_epoch_is_continued() {
        let loader = training(0);
        drop(loader.iter().next());
        assert_eq!(loader.next_step(), 1);
        assert_eq!(epoch(&loader).iter().map(|batch| batch.0).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn validation_is_every_sample_once_in_every_pass() {
        let loader = EpochLoader::validation(scenes(), options(), &Device::flex());
        let pass = epoch(&loader);
        assert_eq!(pass.iter().map(|batch| batch.1.len()).collect::<Vec<_>>(), [2, 2, 2, 1]);
        assert_eq!(pass, epoch(&loader));
    }

    #[test]
    fn slices_share_the_steps_between_devices() {
        let loader = training(0);
        let parts = [loader.slice(0, 2), loader.slice(2, 6)];
        let steps = |part: &Arc<dyn DataLoader<DeviceBatch>>| {
            epoch(part.as_ref()).iter().map(|batch| batch.0).collect::<Vec<_>>()
        };
        assert_eq!([steps(&parts[0]), steps(&parts[1])], [vec![0], vec![1, 2]]);
        assert_eq!([steps(&parts[0]), steps(&parts[1])], [vec![3], vec![4, 5]]);
    }

    #[test]
    fn uploaded_bytes_are_unchanged() {
        let mut host = Loader::new(scenes(), options(), 0);
        let host = host.next_batch().expect("endless").expect("sound");
        let device = DeviceBatch::new(host.clone(), &Device::flex());
        let [images, side, _, channels] = device.pixels.dims();
        assert_eq!([images, side, channels], [2, 32, 3]);
        let pixels = device.pixels.into_data().convert::<u8>().try_to_vec::<u8>().expect("bytes");
        assert_eq!(pixels, host.pixels);
        let masks = device.object_masks.into_data().convert::<u8>().try_to_vec::<u8>().expect("bytes");
        assert_eq!(masks, host.object_masks);
        let index = device.image_index.into_data().convert::<i64>().try_to_vec::<i64>().expect("integers");
        assert!(index.iter().zip(&host.objects).all(|(&index, object)| index == object.image_index as i64));
    }
}
