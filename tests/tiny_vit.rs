//! TinyViT equals MobileSAM's own package, by its numbers (`fixtures/tiny_vit.py`), and its files are read and written as that
//! package, and timm, have them.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use sam_model::init::initialise;
use sam_model::weights::{
    Checkpoint, Dtype, ExportFormat, ImageSizePolicy, Layout, StateDict, TensorInfo, WeightsError, export,
    fill_parameters, named_tensors, parameter_shapes,
};
use sam_model::{BatchNormStatistics, ImageEncoderConfig, Sam, SamConfig, Variant};

use crate::fixture::{Golden, check, cpu, f32_of, max_abs_diff, norm, official_gradients, path, values};

/// Side of the small network's images.
pub(crate) const SMALL: usize = 96;

pub(crate) fn golden() -> Golden {
    Golden::open("tiny_vit/golden.safetensors")
}

/// The small network of the fixtures.
pub(crate) fn small(device: &Device, dtype: FloatDType, batch_norm: BatchNormStatistics) -> Sam {
    let checkpoint = Checkpoint::open(&path("tiny_vit/small.pth")).expect("a committed fixture");
    let mut options = checkpoint.default_options();
    options.dtype = dtype;
    options.config.image_encoder.set_image_size(SMALL);
    options.config.image_encoder.tiny_vit_mut().expect("a TinyViT").batch_norm = batch_norm;
    checkpoint.load_with(&options, device).expect("it fits").0
}

/// The value of an element of a tensor, by the place of its key among all and its own place: the formula of the fixtures.
fn formula(index: usize, key: &str, shape: &[usize]) -> Vec<f32> {
    let n: usize = shape.iter().product();
    let is = |ends: &[&str]| ends.iter().any(|end| key.ends_with(end));
    (0..n)
        .map(|at| {
            let s = (0.37 * index as f64 + 0.11 * at as f64).sin();
            let value = if is(&["running_var"]) {
                1.0 + 0.5 * s
            } else if is(&["bn.weight", "norm.weight", "neck.1.weight", "neck.3.weight"]) {
                1.0 + 0.2 * s
            } else if is(&["bias", "running_mean", "attention_biases"]) {
                0.1 * s
            } else {
                s * (2.0 / (n / shape[0]) as f64).sqrt()
            };
            value as f32
        })
        .collect()
}

/// TinyViT-5M with the weights of the formula.
pub(crate) fn full(image_size: usize, device: &Device, dtype: FloatDType) -> Sam {
    let mut config = SamConfig::published(Variant::Mobile);
    config.image_encoder.set_image_size(image_size);
    with_formula(config.init(device).expect("it fits"), dtype)
}

/// A network whose encoder has the weights of the formula.
pub(crate) fn with_formula(sam: Sam, dtype: FloatDType) -> Sam {
    let mut shapes: BTreeMap<String, Vec<usize>> = parameter_shapes(&sam).into_iter().collect();
    shapes.retain(|key, _| key.starts_with("image_encoder."));
    let values: BTreeMap<&str, Vec<f32>> =
        shapes.iter().enumerate().map(|(index, (key, shape))| (key.as_str(), formula(index, key, shape))).collect();
    fill_parameters(sam, dtype, |key| Ok(values.get(key).cloned())).expect("nothing is read")
}

pub(crate) fn pictures(count: usize, side: usize, device: &Device) -> Tensor<4> {
    let mut pixels = Vec::with_capacity(count * 3 * side * side);
    for (image, channel) in (0..count).flat_map(|image| (0..3).map(move |channel| (image, channel))) {
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let phase = 0.013 * x as f64 + 0.021 * y as f64 + channel as f64 + 2.0 * image as f64;
            pixels.push(phase.sin() as f32);
        }
    }
    Tensor::from_data(TensorData::new(pixels, [count, 3, side, side]), device)
}

#[test]
fn the_embedding_agrees_in_both_precisions() {
    let golden = golden();
    let expected = golden.values("small/embedding");
    for (dtype, tolerance) in [(FloatDType::F32, 1e-5), (FloatDType::F64, 1e-6)] {
        let sam = small(&cpu(), dtype, BatchNormStatistics::Frozen);
        let images = pictures(2, SMALL, &cpu()).cast(dtype);
        let features = sam.image_encoder.features(images.clone()).cast(FloatDType::F32);
        check("features", &values(features), &golden.values("small/features"), tolerance);
        let embedding = sam.encode(images).cast(FloatDType::F32);
        check(&format!("embedding in {dtype:?}"), &values(embedding), &expected, tolerance);
    }
    let sam = full(128, &cpu(), FloatDType::F32);
    let got = sam.encode(pictures(1, 128, &cpu())).narrow(1, 0, 64);
    // In f32 the package is off by 7e-5 itself; sums of AVX-512 come in another order than those of AVX2 (1.2e-4, below 1e-4).
    check("embedding of TinyViT-5M", &values(got), &golden.values("full/embedding"), 2e-4);
}

/// Values of the published size at its own image size, computed in f64 by MobileSAM's package from weights that are rounded to f32,
/// as files hold them. In f32 that package is off by up to 1.3e-4 itself.
#[test]
fn the_published_size_agrees_at_1024_px() {
    for (dtype, tolerance) in [(FloatDType::F32, 3e-4), (FloatDType::F64, 1e-7)] {
        let sam = full(1024, &cpu(), dtype);
        let embedding = sam.encode(pictures(1, 1024, &cpu()).cast(dtype)).cast(FloatDType::F64);
        let all = embedding.into_data().try_to_vec::<f64>().expect("f64");
        for ([channel, row, column], expected) in [
            ([0, 0, 0], 1.772850388),
            ([1, 10, 20], -0.832683015),
            ([100, 33, 40], -1.034566531),
            ([255, 63, 63], -0.741944742),
        ] {
            let got = all[(channel * 64 + row) * 64 + column];
            assert!((got - expected).abs() < tolerance, "{dtype:?} at {channel} {row} {column}: {got} for {expected}");
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let deviation = (all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        assert!((mean - 0.001557).abs() < 1e-5 && (deviation - 1.009817).abs() < 1e-5, "{mean} {deviation}");
    }
}

/// The gradient of every parameter, of the embedding's sum with the weights of the fixtures.
fn check_gradients(net: &str, sam: &Sam, images: Tensor<4>) {
    let golden = golden();
    let embedding = sam.encode(images);
    let shape = embedding.dims();
    let weights = (0..shape.iter().product::<usize>()).map(|at| (0.05 * at as f64).cos() as f32).collect::<Vec<_>>();
    let weights = Tensor::<4>::from_data(TensorData::new(weights, shape), &sam.device());
    let gradients = (embedding * weights).sum().backward();
    let (found, _) = official_gradients(sam, &GradientsParams::from_grads(gradients, sam));
    let found: BTreeMap<String, Vec<f32>> = found.into_iter().collect();
    let prefix = format!("{net}/grad/");
    let keys: Vec<&str> = golden.keys().filter(|key| key.starts_with(&prefix)).collect();
    assert_eq!(found.len(), keys.len(), "every parameter of the encoder has a gradient, and nothing else");
    for key in keys {
        let expected = golden.values(key);
        let official = key.replace(&prefix, "image_encoder.");
        let got = found.get(&official).unwrap_or_else(|| panic!("{official} has a gradient"));
        // Gradients that vanish in exact arithmetic are rounding noise, hence the absolute part.
        let allowed = 1e-3 * expected[0] + 2e-4;
        assert!((norm(got) - expected[0]).abs() <= allowed, "{net} {official}: {} for {}", norm(got), expected[0]);
        let n = expected.len() - 1;
        let diff = max_abs_diff(&got[..n], &expected[1..]);
        assert!(diff <= allowed, "{net} {official}: off by {diff}, norm {}", expected[0]);
    }
}

#[test]
fn every_gradient_agrees_with_frozen_statistics() {
    let device = cpu().autodiff();
    let sam = small(&device, FloatDType::F32, BatchNormStatistics::Frozen);
    check_gradients("small", &sam, pictures(2, SMALL, &device));
    check_gradients("full", &full(128, &device, FloatDType::F32), pictures(1, 128, &device));
}

#[test]
fn running_statistics_follow_the_batch_as_in_pytorch() {
    let device = cpu().autodiff();
    let golden = golden();
    let sam = small(&device, FloatDType::F32, BatchNormStatistics::Running);
    let images = pictures(2, SMALL, &device);
    // A copy learns from what it sees itself, not from what others see.
    let copy = sam.clone();
    check_gradients("train", &sam, images.clone());
    let before = statistics(&copy.following_batches());
    assert_eq!(before, statistics(&sam.clone()), "the copy has seen nothing");
    check("embedding", &values(sam.encode(images.clone()).inner()), &golden.values("train/embedding"), 1e-4);
    // Two passes were seen: the second has the same statistics.
    let sam = sam.following_batches();
    let after = statistics(&sam);
    for (key, of_first) in &before {
        let expected = golden.values(&format!("train/running/{}", key.trim_start_matches("image_encoder.")));
        let twice: Vec<f32> =
            of_first.iter().zip(&expected).map(|(before, once)| once + 0.9 * (once - before)).collect();
        check(key, &after[key], &twice, 1e-4);
    }
    // In prediction the stored ones count, whatever a training takes.
    let frozen = small(&cpu(), FloatDType::F32, BatchNormStatistics::Frozen);
    let plain = pictures(2, SMALL, &cpu());
    let running = small(&cpu(), FloatDType::F32, BatchNormStatistics::Running);
    assert_eq!(values(running.encode(plain.clone())), values(frozen.encode(plain)));
}

fn statistics(sam: &Sam) -> BTreeMap<String, Vec<f32>> {
    let tensors = named_tensors(sam).into_iter().filter(|tensor| tensor.key.contains(".running_"));
    tensors.map(|tensor| (tensor.key.clone(), tensor.values())).collect()
}

#[test]
fn mobile_sams_files_are_recognised_and_read() {
    let checkpoint = Checkpoint::open(&path("tiny_vit/small.pth")).expect("a committed fixture");
    assert_eq!((checkpoint.layout, checkpoint.is_segmenter()), (Layout::Official, true));
    let ImageEncoderConfig::TinyVit(tiny) = &checkpoint.config.image_encoder else { panic!("a TinyViT") };
    assert_eq!((tiny.embed_dims, tiny.depths), ([8, 16, 24, 32], [1, 1, 2, 1]));
    assert_eq!((tiny.num_heads, tiny.window_sizes, tiny.image_size), ([2, 3, 4], [5, 4, 7], 1024));
    assert_eq!((tiny.mbconv_ratio, tiny.mlp_ratio, tiny.out_chans), (4, 4, 32));
    assert!(checkpoint.description().contains("a TinyViT of widths [8, 16, 24, 32]"), "{}", checkpoint.description());
    let report = checkpoint.report().expect("it fits");
    assert!(report.fresh.is_empty() && report.resized.is_empty() && report.assumed.is_empty(), "{report:?}");
    let reasons: Vec<&str> = report.dropped.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| reason.contains("counter of batches")).count(), 18);
    assert_eq!(reasons.iter().filter(|reason| reason.contains("classifier of a TinyViT")).count(), 4);
    assert_eq!(report.used + report.dropped.len(), checkpoint.dict.tensors.len());
}

/// Both formats hold what MobileSAM's strict loader wants, and are the same model again.
#[test]
fn files_are_written_for_mobile_sams_own_loader() {
    let folder = tempfile::tempdir().expect("a folder");
    let published = SamConfig::published(Variant::Mobile).init(&cpu()).expect("it fits");
    let of_published = initialise(published, 5);
    let of_small = small(&cpu(), FloatDType::F32, BatchNormStatistics::Frozen);
    // Without the classes of the classifier: ten in the fixture, ImageNet's in files of ours.
    let shapes = |dict: &StateDict| -> BTreeMap<String, Vec<usize>> {
        let shape = |(key, info): (&String, &TensorInfo)| {
            let first = usize::from(key.starts_with("image_encoder.head."));
            (key.clone(), info.shape[first..].to_vec())
        };
        dict.tensors.iter().map(shape).collect()
    };
    // As `torch.save` left a model of MobileSAM's package.
    let of_package = shapes(&StateDict::open(&path("tiny_vit/small.pth")).expect("a committed fixture"));
    for (sam, n_tensors, name) in [(&of_published, 439, "mobile"), (&of_small, 137 + 148 + 18 + 4, "small")] {
        for format in [ExportFormat::Safetensors, ExportFormat::Pth] {
            let file = folder.path().join(format!("{name}.{format:?}"));
            let report = export(sam, f32_of(format, ImageSizePolicy::Keep), &file).expect("written");
            let written = Checkpoint::open(&file).expect("ours");
            assert_eq!(report.tensors, written.dict.tensors.len());
            let counter = &written.dict.tensors["image_encoder.patch_embed.seq.2.bn.num_batches_tracked"];
            assert_eq!((counter.dtype, counter.shape.as_slice()), (Dtype::I64, &[][..]));
            let dim = sam.config().image_encoder.embed_dim();
            assert_eq!(written.dict.tensors["image_encoder.head.weight"].shape, [1000, dim]);
            assert_eq!(report.tensors, n_tensors, "{name} {format:?}");
            if name == "small" {
                assert_eq!(shapes(&written.dict), of_package, "{format:?}: the names and shapes of that package");
            }
            let again = written.load(&cpu()).expect("it fits").0;
            let weights = |sam: &Sam| -> BTreeMap<String, Vec<f32>> {
                named_tensors(sam).into_iter().map(|tensor| (tensor.key.clone(), tensor.values())).collect()
            };
            assert_eq!(weights(&again), weights(sam), "{name} {format:?}");
            // Only a file of ours says the size of its images, which no tensor depends on.
            let size = if format == ExportFormat::Safetensors { sam.image_size() } else { 1024 };
            assert_eq!(written.config.image_encoder.image_size(), size);
        }
    }
    let hf = export(&of_small, f32_of(ExportFormat::HuggingFace, ImageSizePolicy::Keep), &folder.path().join("hf"));
    let Err(WeightsError::Unsupported(message)) = hf else { panic!("refused: {hf:?}") };
    assert!(message.contains("TinyViT") && message.contains("safetensors or pth"), "{message}");
}

#[test]
fn a_classifier_of_timm_starts_a_segmenter() {
    let checkpoint = Checkpoint::open(&path("tiny_vit/timm.pth")).expect("a committed fixture");
    assert_eq!((checkpoint.layout, checkpoint.is_segmenter()), (Layout::TimmTinyVit, false));
    let mut options = checkpoint.default_options();
    options.config.image_encoder.set_image_size(SMALL);
    let (sam, report) = checkpoint.load_with(&options, &cpu()).expect("it fits");
    assert!(report.dropped.iter().any(|(key, reason)| key == "head.fc.weight" && reason == "a classifier"));
    let is_of_classifier = |key: &String| key.starts_with("image_encoder.") && !key.starts_with("image_encoder.neck.");
    assert!(!report.fresh.iter().any(is_of_classifier), "{:?}", report.fresh);
    let features = sam.image_encoder.features(pictures(2, SMALL, &cpu()));
    let expected = golden().values("timm/features");
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    check("features", &values(features), &expected, 1e-5 * largest.max(1.0));
    // Alone it makes no masks, and a plain ViT does not start from it.
    let alone = checkpoint.load(&cpu()).expect_err("no decoder").to_string();
    assert!(alone.contains("a TinyViT that classifies holds an encoder only"), "{alone}");
    options.config = SamConfig::published(Variant::VitB);
    let other = checkpoint.load_with(&options, &cpu()).expect_err("another network").to_string();
    assert!(other.contains("the model to initialise has a plain ViT"), "{other}");
}

#[test]
fn damaged_files_and_wrong_sizes_are_named() {
    let dict = || StateDict::open(&path("tiny_vit/small.pth")).expect("a committed fixture");
    let problem = |change: &dyn Fn(&mut StateDict)| {
        let mut dict = dict();
        change(&mut dict);
        Checkpoint::recognise(dict)
            .and_then(|checkpoint| checkpoint.report().map(|_| ()))
            .expect_err("refused")
            .to_string()
    };
    let removed = problem(&|dict| {
        dict.tensors.retain(|key, _| !key.starts_with("image_encoder.layers.3."));
    });
    assert!(removed.contains("there are 3 layers") && removed.contains("has 4"), "{removed}");
    let biases = "image_encoder.layers.1.blocks.0.attn.attention_biases";
    let window = problem(&|dict| dict.tensors.get_mut(biases).expect("there").shape = vec![2, 24]);
    assert!(window.contains(biases) && window.contains("a square window, got 24"), "{window}");
    let heads = problem(&|dict| dict.tensors.get_mut(biases).expect("there").shape = vec![3, 25]);
    assert!(heads.contains("num_heads 3 must divide embed_dims 16"), "{heads}");
    let missing = "image_encoder.layers.2.blocks.1.local_conv.bn.running_var";
    let statistics = problem(&|dict| drop(dict.tensors.remove(missing)));
    assert!(statistics.contains(missing), "{statistics}");
    let mut config = Checkpoint::open(&path("tiny_vit/small.pth")).expect("a committed fixture").config;
    config.image_encoder.set_image_size(100);
    let error = config.check().expect_err("no multiple").to_string();
    assert!(error.contains("image_size 100 must be a multiple of 16"), "{error}");
}
