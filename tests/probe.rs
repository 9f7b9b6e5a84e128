//! Features of a probe are those that its documentation states, and its classifiers agree with scikit-learn.

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::tensor::Tensor;
use sam_data::loader::{ErrorPolicy, SampleError, Samples};
use sam_data::{ObjectMask, Sample};
use sam_image::{Mask, RgbImage, Rle};
use sam_learn::probe::{
    ExtractOptions, Extracted, Features, FrozenEncoder, LabelledFeatures, Labels, Neighbours, Pooling, ProbeSet,
    classify_by_logistic_regression, classify_by_neighbours, extract, n_logistic_fits, standardised,
};
use sam_model::init::initialise_mae;
use sam_model::weights::host_values;
use sam_model::{MaeConfig, MaskedAutoencoder, Sam};

use crate::fixture::{Golden, MODULE, check, cpu, tiny};

fn whole_numbers(values: &[f32]) -> Vec<usize> {
    values.iter().map(|&value| value as usize).collect()
}

#[test]
fn classifiers_agree_with_scikit_learn() {
    let golden = Golden::open("probe/golden.safetensors");
    let features = |key: &str| Features { width: golden.shape(key)[1], values: golden.values(key) };
    let [classes, images] = ["classes", "images"].map(|key| whole_numbers(&golden.values(key)));
    let [train, test] = standardised(&features("learned"), &features("judged"));
    // The channel of mean 50 and deviation 0.01 has three digits behind the point in f32.
    check("standardised", &test.values, &golden.values("standardised"), 1e-4);
    let train = LabelledFeatures { features: &train, classes: &classes, images: &images };
    for k in [1, 7, 20] {
        let found = classify_by_neighbours(Neighbours { k }, train, &test, &cpu());
        assert_eq!(found, whole_numbers(&golden.values(&format!("neighbours_{k}"))), "k = {k}");
    }
    let mut n_fits = 0;
    let linear = classify_by_logistic_regression(train, &test, &cpu(), &mut || n_fits += 1);
    assert_eq!(linear.predicted, whole_numbers(&golden.values("linear")));
    let [penalties, losses]: [Vec<f32>; 2] = [
        linear.tried.iter().map(|tried| tried.0 as f32).collect(),
        linear.tried.iter().map(|tried| tried.1 as f32).collect(),
    ];
    assert_eq!(penalties, golden.values("penalties"));
    let expected = golden.values("losses");
    check("losses", &losses[..5], &expected[..5], MODULE);
    // Under the weakest penalty the minimum is so flat that f32 cannot distinguish losses that differ by this.
    check("loss at the weakest penalty", &losses[5..], &expected[5..], 2e-3);
    assert_eq!(linear.penalty, 0.01, "the lowest loss");
    assert!(n_fits > 0 && n_fits <= n_logistic_fits());
}

/// Three images: a square one, a wide one, and an unreadable one between them.
struct Images;

const SIDE: usize = 32;

fn gradient_image(width: usize, height: usize) -> RgbImage {
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        image::Rgb([(7 * x + 3 * y) as u8, (x * y % 251) as u8, 200u32.wrapping_sub(5 * y) as u8])
    })
}

fn object(size_hw: [usize; 2], id: u64, class: Option<usize>, covers: impl Fn(usize, usize) -> bool) -> ObjectMask {
    ObjectMask { mask: Rle::from_mask(&Mask::from_fn(size_hw, covers)), class, id, captions: Vec::new() }
}

impl Samples for Images {
    fn n_samples(&self) -> usize {
        3
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let sample = |image, objects, ignore| Sample { name: index.to_string(), image, objects, ignore };
        let square = [SIDE; 2];
        Ok(match index {
            0 => sample(
                gradient_image(SIDE, SIDE),
                vec![
                    // All of the first patch, and half of the second.
                    object(square, 1, Some(2), |row, column| row < 8 && column < 12),
                    object(square, 2, None, |row, _| row > 20),
                    // One pixel of the last patch, and 24 ignored ones of the patch above.
                    object(square, 3, Some(0), |row, column| (column, row) == (31, 31) || (row == 20 && column >= 8)),
                    object(square, 4, Some(1), |row, _| row == 20),
                ],
                Some(Rle::from_mask(&Mask::from_fn(square, |row, _| row == 20))),
            ),
            1 => return Err("sample 1 is broken".into()),
            _ => sample(
                gradient_image(SIDE, SIDE / 2),
                vec![object([SIDE / 2, SIDE], 5, Some(2), |row, column| row >= 8 && column >= 24)],
                None,
            ),
        })
    }
}

fn autoencoder() -> MaskedAutoencoder {
    let config = MaeConfig {
        image_size_hw: [SIDE; 2],
        patch_size: 8,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        mlp_dim: 32,
        decoder_embed_dim: 8,
        decoder_depth: 1,
        decoder_num_heads: 2,
        decoder_mlp_dim: 16,
    };
    initialise_mae(config.init(&cpu()).expect("sizes fit"), 3)
}

fn options(pooling: Pooling, images: usize) -> ExtractOptions {
    ExtractOptions {
        pooling,
        images_per_batch: NonZeroUsize::new(images),
        n_workers: images % 2,
        on_error: ErrorPolicy::Skip,
    }
}

fn extract_objects(encoders: &[FrozenEncoder], images: usize) -> Extracted {
    // Classes 2 and 0 of the source, not its class 1.
    let labels = Labels::Objects(vec![Some(0), None, Some(1)]);
    let set = ProbeSet { samples: Arc::new(Images), indices: vec![0, 1, 2], labels };
    let mut done = 0;
    let found = extract(encoders, &set, &options(Pooling::Mean, images), &mut |n| done = n).expect("extracted");
    assert_eq!(done, 3);
    found
}

/// Tokens of an image at the top left of the input, `[N, C]`.
fn tokens(mae: &MaskedAutoencoder, image: &RgbImage) -> Vec<f32> {
    let size_hw = [image.height() as usize, image.width() as usize];
    let input = Sam::preprocess(image.as_raw(), size_hw, SIDE, &cpu());
    host_values(&mae.features(input).narrow(1, 1, 16))
}

/// Weighted mean of rows of 16 values.
fn mean(rows: &[f32], weights: &[(usize, f32)]) -> Vec<f32> {
    (0..16).map(|at| weights.iter().map(|&(row, weight)| weight * rows[row * 16 + at]).sum()).collect()
}

#[test]
fn features_of_an_object_are_the_mean_under_its_mask() {
    let mae = autoencoder();
    let encoder = FrozenEncoder::Autoencoder(Box::new(mae.clone()));
    let found = extract_objects(std::slice::from_ref(&encoder), 2);
    assert_eq!((found.classes.as_slice(), found.images.as_slice()), (&[1, 0, 1][..], &[0, 0, 2][..]));
    let dropped = &found.dropped;
    assert_eq!((dropped.n_unreadable, dropped.without_class, dropped.too_small), (1, 2, 0));
    assert!(dropped.unreadable[0].contains("sample 1 is broken"), "{:?}", dropped.unreadable);

    let (square, wide) = (tokens(&mae, &gradient_image(SIDE, SIDE)), tokens(&mae, &gradient_image(SIDE, SIDE / 2)));
    let expected = [
        mean(&square, &[(0, 2.0 / 3.0), (1, 1.0 / 3.0)]),
        mean(&square, &[(15, 1.0)]),
        // The wide one lies in the upper half: its lower right corner is the patch in row 1, column 3.
        mean(&wide, &[(7, 1.0)]),
    ];
    check("objects", &found.features[0].values, &expected.concat(), MODULE);

    // The features of the pixels are the mean patch: here its first value, the red of its first pixel.
    let pixels = &found.features[1];
    assert_eq!((found.features.len(), pixels.width, pixels.n_rows()), (2, 192, 3));
    let red = |value: f32| (value - sam_model::PIXEL_MEAN[0]) / sam_model::PIXEL_STD[0];
    let first_of_two = (2.0 * red(0.0) + red(7.0 * 8.0)) / 3.0;
    check("pixels", &[pixels.values[0]], &[first_of_two], MODULE);

    // Independent of the batch size and of other encoders.
    let random = encoder.with_random_weights(3);
    let alone = extract_objects(&[encoder, random], 1);
    check("alone", &alone.features[0].values, &found.features[0].values, MODULE);
    assert_eq!(alone.features[0], alone.features[1], "weights initialised with seed 3 are those of seed 3");
    assert_eq!((alone.classes, alone.dropped), (found.classes, found.dropped));
}

#[test]
fn features_of_an_image_are_the_mean_of_its_centre_crop_or_the_class_token() {
    let mae = autoencoder();
    let encoder = FrozenEncoder::Autoencoder(Box::new(mae.clone()));
    let labels = Labels::Images(vec![Some(1), Some(0), None]);
    let set = ProbeSet { samples: Arc::new(Images), indices: vec![0], labels };
    let of = |pooling| {
        let found =
            extract(std::slice::from_ref(&encoder), &set, &options(pooling, 1), &mut |_| {}).expect("extracted");
        assert_eq!(found.classes, [1]);
        found.features
    };
    let weights: Vec<(usize, f32)> = (0..16).map(|patch| (patch, 1.0 / 16.0)).collect();
    let square = gradient_image(SIDE, SIDE);
    let expected = mean(&tokens(&mae, &square), &weights);
    let features = of(Pooling::Mean);
    check("mean", &features[0].values, &expected, MODULE);
    assert_eq!(features[1].width, 16 * 16 * 3, "the thumbnail");
    let input = Sam::preprocess(square.as_raw(), [SIDE; 2], SIDE, &cpu());
    check(
        "class token",
        &of(Pooling::ClassToken)[0].values,
        &host_values(&mae.features(input).narrow(1, 0, 1)),
        MODULE,
    );
}

/// The neck maps the tokens to the segmenter's embedding, so they are those after its last block.
#[test]
fn features_of_a_segmenter_are_the_tokens_before_its_neck() {
    let sam = tiny(&cpu());
    let side = sam.image_size();
    let width = sam.config().image_encoder.embed_dim();
    let encoder = FrozenEncoder::Segmenter(Box::new(sam.clone()));
    /// An image of the segmenter's size in which each patch is an object.
    struct Patches(usize);
    impl Samples for Patches {
        fn n_samples(&self) -> usize {
            1
        }

        fn sample(&self, _index: usize) -> Result<Sample, SampleError> {
            let size_hw = [self.0; 2];
            let is_of = |patch: usize, row: usize, column: usize| row / 8 * 8 + column / 8 == patch;
            let objects =
                (0..64).map(|patch| object(size_hw, patch as u64, Some(0), |row, column| is_of(patch, row, column)));
            Ok(Sample {
                name: String::new(),
                image: gradient_image(self.0, self.0),
                objects: objects.collect(),
                ignore: None,
            })
        }
    }
    let set = ProbeSet { samples: Arc::new(Patches(side)), indices: vec![0], labels: Labels::Objects(vec![Some(0)]) };
    let found = extract(&[encoder], &set, &options(Pooling::Mean, 1), &mut |_| {}).expect("extracted");
    assert_eq!((found.features[0].n_rows(), found.features[0].width), (64, width));
    let tokens = Tensor::<1>::from_floats(found.features[0].values.as_slice(), &cpu()).reshape([1, 8, 8, width]);
    let embedding = host_values(&sam.image_encoder.neck().forward(tokens));
    let input = Sam::preprocess(gradient_image(side, side).as_raw(), [side; 2], side, &cpu());
    check("embedding", &embedding, &host_values(&sam.encode(input)), MODULE);
}
