//! Other programs read our files, and ours depends on no more than it should.

use std::process::Command;

use burn::tensor::FloatDType;
use candle_core::{DType, Device as CandleDevice};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{ClipConfig as CandleClipConfig, ClipModel as CandleClip};
use candle_transformers::models::segment_anything::sam::Sam as CandleSam;
use image::Rgb;
use sam_image::RgbImage;
use sam_infer::{Predictor, Prompt};
use sam_model::clip::ClipCheckpoint;
use sam_model::init::initialise;
use sam_model::weights::{ExportFormat, ImageSizePolicy, export, fill_parameters, parameter_shapes};
use sam_model::{MaskOutput, Sam, SamConfig, Variant};

use crate::fixture::{Golden, check, cpu, f32_of, max_abs_diff, path, values, vit_config};

/// Candle computes tanh-GELU where the reference has erf, in the two upscaling steps: about 1e-3 of the logits' range.
const CANDLE_TANH_GELU: f32 = 1e-2;

/// The smallest model that candle can hold: it fixes image, patch, window and everything after the encoder.
fn small_config() -> SamConfig {
    let mut config = SamConfig::published(Variant::VitB);
    let vit = vit_config(&mut config);
    (vit.embed_dim, vit.depth, vit.num_heads, vit.mlp_dim, vit.global_attn_indexes) = (32, 2, 2, 128, vec![1]);
    config
}

fn with_relative_positions(sam: Sam) -> Sam {
    let shapes: std::collections::BTreeMap<_, _> = parameter_shapes(&sam).into_iter().collect();
    let filled = fill_parameters(sam, FloatDType::F32, |key| {
        let count: usize = shapes[key].iter().product();
        let wave = |at: usize| (at as f32 * 0.37 + key.len() as f32).sin() * 0.5;
        Ok(key.contains("rel_pos").then(|| (0..count).map(wave).collect()))
    });
    filled.expect("nothing is read")
}

#[test]
fn candle_loads_our_file_and_agrees() {
    let config = small_config();
    // Relative positions of a fresh model are zero, which would hide mistakes in them.
    let sam = with_relative_positions(initialise(config.init(&cpu()).expect("sizes fit"), 3));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("small.safetensors");
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Published);
    export(&sam, options, &file).expect("written");

    let image = RgbImage::from_fn(1024, 768, |x, y| {
        let disc = (x as i32 - 400).pow(2) + (y as i32 - 300).pow(2) < 150 * 150;
        image_pixel(x, y, disc)
    });
    let predictor = Predictor::new(&sam);
    let embedding = predictor.embed(&image);
    let prompt = Prompt { points_xy_px: vec![([400.0, 300.0], true)], ..Prompt::default() };
    let ours = predictor.predict(&embedding, &prompt, MaskOutput::Multi).expect("a good prompt");

    let bytes = std::fs::read(&file).expect("readable");
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &CandleDevice::Cpu).expect("its weights");
    let candle = CandleSam::new(32, 2, 2, &[1], weights).expect("candle takes every tensor");
    let pixels = candle_core::Tensor::from_vec(image.into_raw(), (768, 1024, 3), &CandleDevice::Cpu)
        .and_then(|pixels| pixels.permute((2, 0, 1)))
        .expect("pixels");
    let theirs = candle.embeddings(&pixels).expect("embedded");
    let flat = |tensor: &candle_core::Tensor| -> Vec<f32> {
        tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32")
    };
    check("embedding", &values(embedding.tensor), &flat(&theirs), 1e-4);

    // Candle takes points as fractions of the image.
    let points = [(400.0 / 1024.0, 300.0 / 768.0, true)];
    let (masks, scores) = candle.forward_for_embeddings(&theirs, 768, 1024, &points, true).expect("decoded");
    check("scores", &ours.iou_predictions, &flat(&scores), CANDLE_TANH_GELU);
    // Candle's masks are at the decoder's resolution.
    let ours = values(ours.low_res_logits);
    let theirs = flat(&masks);
    let range = ours.iter().fold(0f32, |max, value| max.max(value.abs()));
    let diff = max_abs_diff(&ours, &theirs[..ours.len()]);
    assert!(diff <= CANDLE_TANH_GELU * range.max(1.0), "masks: off by {diff}, range {range}");
}

/// TinyViT-5M as candle has it, whose sizes are fixed. It computes tanh-GELU everywhere in it, where the reference has erf.
#[test]
fn candle_loads_our_tiny_vit_and_agrees() {
    let config = SamConfig::published(Variant::Mobile);
    let sam = initialise(config.init(&cpu()).expect("it fits"), 3);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mobile.safetensors");
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Published);
    export(&sam, options, &file).expect("written");
    let bytes = std::fs::read(&file).expect("readable");
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &CandleDevice::Cpu).expect("its weights");
    let candle = CandleSam::new_tiny(weights).expect("candle takes every tensor");

    let image = RgbImage::from_fn(1024, 768, |x, y| image_pixel(x, y, (x / 100 + y / 80) % 3 == 0));
    let embedding = Predictor::new(&sam).embed(&image);
    let pixels = candle_core::Tensor::from_vec(image.into_raw(), (768, 1024, 3), &CandleDevice::Cpu)
        .and_then(|pixels| pixels.permute((2, 0, 1)))
        .expect("pixels");
    let theirs =
        candle.embeddings(&pixels).and_then(|theirs| theirs.flatten_all()?.to_vec1::<f32>()).expect("embedded");
    check("embedding", &values(embedding.tensor), &theirs, CANDLE_TANH_GELU);
}

#[test]
fn candles_clip_reads_what_ours_reads_and_agrees() {
    let golden = Golden::open("clip/golden.safetensors");
    let checkpoint = ClipCheckpoint::open(&path("clip/hf")).expect("a committed fixture");
    let (model, ..) = checkpoint.load(&cpu()).expect("it fits");
    let config = CandleClipConfig {
        text_config: ClipTextConfig {
            vocab_size: checkpoint.config.text.vocabulary,
            embed_dim: 32,
            activation: Activation::QuickGelu,
            intermediate_size: 64,
            max_position_embeddings: 16,
            pad_with: None,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            projection_dim: 24,
        },
        vision_config: ClipVisionConfig {
            embed_dim: 32,
            activation: Activation::QuickGelu,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            projection_dim: 24,
            num_channels: 3,
            image_size: 32,
            patch_size: 8,
        },
        logit_scale_init_value: 2.6592,
        image_size: 32,
    };
    let bytes = std::fs::read(path("clip/hf/model.safetensors")).expect("readable");
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &CandleDevice::Cpu).expect("its weights");
    let candle = CandleClip::new(weights, &config).expect("candle takes every tensor");

    let flat = |tensor: candle_core::Tensor| -> Vec<f32> {
        tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32")
    };
    for text in ["a wheel", "a photo of a cat"] {
        let tokens = checkpoint.tokenizer.encode(text).expect("short");
        let ours = values(model.text.forward(&[&tokens]));
        let tokens = candle_core::Tensor::from_vec(tokens.clone(), (1, tokens.len()), &CandleDevice::Cpu);
        check(text, &ours, &flat(candle.get_text_features(&tokens.expect("tokens")).expect("a vector")), 2e-5);
    }
    let pixels = golden.tensor::<4>("pixels", &cpu());
    let [images, height, width, _] = pixels.dims();
    let theirs = candle_core::Tensor::from_vec(golden.values("pixels"), (images, height, width, 3), &CandleDevice::Cpu)
        .and_then(|pixels| pixels.permute((0, 3, 1, 2))?.contiguous())
        .expect("pixels");
    let ours = values(model.visual.forward(pixels, None));
    check("images", &ours, &flat(candle.get_image_features(&theirs).expect("vectors")), 2e-5);
}

fn image_pixel(x: u32, y: u32, disc: bool) -> Rgb<u8> {
    let shade = if disc { 200 } else { 40 };
    Rgb([shade, (x % 256) as u8, (y % 256) as u8])
}

/// A program that deploys SAM compiles neither gradients nor training.
#[test]
fn the_inference_crate_has_no_training_in_its_tree() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "sam-infer", "-e", "normal", "--prefix", "none"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && tree.contains("sam-model"), "{}", String::from_utf8_lossy(&output.stderr));
    for unwanted in ["burn-autodiff", "burn-train", "burn-optim", "burn-dataset", "sam-data", "sam-learn"] {
        assert!(!tree.contains(unwanted), "sam-infer must not depend on {unwanted}");
    }
}

#[test]
fn several_images_in_one_call_equal_one_at_a_time() {
    let mut config = small_config();
    config.image_encoder.set_image_size(64);
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 4);
    let predictor = Predictor::new(&sam);
    let images: Vec<RgbImage> = [(64, 48), (40, 90), (33, 33)]
        .into_iter()
        .map(|(width, height)| RgbImage::from_fn(width, height, |x, y| image_pixel(x * 5, y * 7, x > y)))
        .collect();
    let together = predictor.embed_many(&images.iter().collect::<Vec<_>>());
    for (image, embedding) in images.iter().zip(&together) {
        check("embedding", &values(embedding.tensor.clone()), &values(predictor.embed(image).tensor), 1e-5);
    }
    let prompts: Vec<Prompt> = (0..5)
        .map(|object| Prompt {
            points_xy_px: vec![([object as f32 * 3.0, 9.0], true); 1 + object % 3],
            box_xyxy_px: (object % 2 == 0).then_some([2.0, 3.0, 20.0, 25.0]),
            ..Prompt::default()
        })
        .collect();
    let asked: Vec<(usize, &Prompt)> = prompts.iter().enumerate().map(|(at, prompt)| (at % 3, prompt)).collect();
    let embeddings: Vec<_> = together.iter().collect();
    let answers = predictor.predict_many(&embeddings, &asked, MaskOutput::Multi).expect("good prompts");
    for ((image, prompt), answer) in asked.iter().zip(answers) {
        let alone = predictor.predict(embeddings[*image], prompt, MaskOutput::Multi).expect("a good prompt");
        check("masks", &values::<3>(answer.low_res_logits), &values::<3>(alone.low_res_logits), 1e-4);
        let sizes = answer.frame.original_hw;
        assert_eq!(sizes, [images[*image].height() as usize, images[*image].width() as usize]);
    }
}
