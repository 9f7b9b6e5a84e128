//! Text prompts: one token of a vector of CLIP, and its file beside a checkpoint.

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor, TensorData};
use sam_model::init::initialise;
use sam_model::weights::{
    Checkpoint, Dtype, ExportFormat, ExportOptions, ImageSizePolicy, LoadOptions, TextExport, export, fill_parameters,
    named_tensors, text_prompt_beside,
};
use sam_model::{MaskOutput, Modality, ObjectPrompt, Prompts, Sam, TextPromptConfig, TextVector};

use crate::fixture::{Golden, check, device, norm, official_gradients, path, values};

const WIDTH: usize = 6;

/// The tiny model of the fixtures with a text prompt whose means are not zero.
fn tiny_with_text() -> Sam {
    let checkpoint = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let mut options = LoadOptions { seed: 4, ..checkpoint.default_options() };
    options.config.text = Some(TextPromptConfig { width: WIDTH, clip: "00c0ffee".to_owned() });
    let (mut sam, report) = checkpoint.load_with(&options, &device()).expect("it fits");
    assert_eq!(report.fresh.len(), 4, "{:?}", report.fresh);
    let text = sam.prompt_encoder.text_prompt.as_mut().expect("asked for");
    text.text_mean = text.text_mean.clone().map(|mean| mean + 0.1);
    sam
}

fn text(seed: usize, modality: Modality) -> Option<TextVector> {
    let values: Vec<f32> = (0..WIDTH).map(|at| ((at * 7 + seed * 13) as f32).sin()).collect();
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    Some(TextVector { values: values.iter().map(|value| value / length).collect(), modality })
}

fn embedding(sam: &Sam) -> Tensor<4> {
    let pixels: Vec<u8> = (0..64 * 64 * 3).map(|at| (at * 31 % 251) as u8).collect();
    sam.encode(Sam::preprocess(&pixels, [64, 64], 64, &device()))
}

fn masks(sam: &Sam, objects: &[ObjectPrompt]) -> Vec<f32> {
    let prompts = Prompts::from_objects(objects, sam.config().low_res_side(), &device());
    values(sam.decode(embedding(sam), &vec![0; objects.len()], &prompts, MaskOutput::Multi).low_res_logits)
}

fn options(format: ExportFormat, dtype: Dtype, text: TextExport) -> ExportOptions {
    ExportOptions { format, dtype, image_size: ImageSizePolicy::Keep, text }
}

/// Objects with and without text, points, boxes and masks in one call: each has the masks that it has alone.
#[test]
fn ragged_texts_equal_one_at_a_time() {
    let sam = tiny_with_text();
    let points = vec![([20.0, 30.0], true)];
    let mask = (0..32 * 32).map(|at| (at as f32 * 0.7).sin() * 5.0).collect();
    let objects = [
        ObjectPrompt { text: text(1, Modality::Text), ..ObjectPrompt::default() },
        ObjectPrompt { points_xy_px: points.clone(), ..ObjectPrompt::default() },
        ObjectPrompt { text: text(1, Modality::Image), points_xy_px: points, ..ObjectPrompt::default() },
        ObjectPrompt {
            text: text(2, Modality::Text),
            box_xyxy_px: Some([4.0, 4.0, 40.0, 50.0]),
            mask_logits: Some(mask),
            ..ObjectPrompt::default()
        },
    ];
    let together = masks(&sam, &objects);
    let each: Vec<Vec<f32>> = objects.iter().map(|object| masks(&sam, std::slice::from_ref(object))).collect();
    check("ragged", &together, &each.concat(), 1e-4);
    let other = masks(&sam, &[ObjectPrompt { text: text(1, Modality::Image), ..ObjectPrompt::default() }]);
    let differ = each[0].iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(differ > 1e-3, "the two modalities have means of their own");
}

#[test]
fn a_text_prompt_is_beside_an_official_file_or_merged() {
    let sam = tiny_with_text();
    let folder = tempfile::tempdir().expect("a folder");
    let expected = masks(&sam, &[ObjectPrompt { text: text(3, Modality::Text), ..ObjectPrompt::default() }]);
    let prompted = [ObjectPrompt { text: text(3, Modality::Text), ..ObjectPrompt::default() }];
    let official = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a fixture").dict;
    for (name, options, tolerance) in [
        ("a.safetensors", options(ExportFormat::Safetensors, Dtype::F32, TextExport::Beside), 1e-5),
        ("b.pth", options(ExportFormat::Pth, Dtype::F32, TextExport::Beside), 1e-5),
        ("c", options(ExportFormat::HuggingFace, Dtype::F32, TextExport::Beside), 1e-5),
        ("d.safetensors", options(ExportFormat::Safetensors, Dtype::F16, TextExport::Beside), 0.3),
        ("e.safetensors", options(ExportFormat::Safetensors, Dtype::F32, TextExport::Merged), 1e-5),
    ] {
        let out = folder.path().join(name);
        let report = export(&sam, options, &out).expect("written");
        let checkpoint = Checkpoint::open(&out).expect("ours");
        assert_eq!(checkpoint.config.text, sam.config().text, "{name}");
        let beside = text_prompt_beside(&out);
        assert_eq!(report.text, (name != "e.safetensors").then(|| beside.clone()), "{name}");
        assert_eq!(beside.is_file(), name != "e.safetensors", "{name}");
        if name == "a.safetensors" {
            let keys = |dict: &sam_model::weights::StateDict| dict.tensors.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&checkpoint.dict), keys(&official), "official loaders are strict");
        }
        let (loaded, report) = checkpoint.load(&device()).expect("it fits");
        assert!(report.fresh.is_empty(), "{name}: {report:?}");
        assert_eq!(report.used, named_tensors(&loaded).len(), "{name}");
        check(name, &masks(&loaded, &prompted), &expected, tolerance);
        // Written again without texts, nothing is left of them.
        let plain =
            Checkpoint::open(&path("tiny_sam.safetensors")).expect("a fixture").load(&device()).expect("it fits").0;
        export(&plain, ExportOptions { text: TextExport::Beside, ..options }, &out).expect("replaced");
        assert_eq!(Checkpoint::open(&out).expect("ours").config.text, None, "{name}");
    }
    let merged = options(ExportFormat::Pth, Dtype::F32, TextExport::Merged);
    let error = export(&sam, merged, &folder.path().join("x.pth")).expect_err("only ours");
    assert!(error.to_string().contains("beside the checkpoint"), "{error}");
}

#[test]
fn the_text_prompt_of_another_checkpoint_is_refused() {
    let sam = tiny_with_text();
    let folder = tempfile::tempdir().expect("a folder");
    let [mine, other] = ["mine.safetensors", "other.safetensors"].map(|name| folder.path().join(name));
    let options = options(ExportFormat::Safetensors, Dtype::F32, TextExport::Beside);
    export(&sam, options, &mine).expect("written");
    export(&initialise(sam, 9), options, &other).expect("written");
    let error_of =
        |path: &Path| Checkpoint::open(path).and_then(|file| file.load(&device())).expect_err("refused").to_string();
    std::fs::copy(text_prompt_beside(&other), text_prompt_beside(&mine)).expect("copied");
    let error = error_of(&mine);
    assert!(error.contains("mine.text.safetensors") && error.contains("another checkpoint"), "{error}");

    std::fs::copy(&other, text_prompt_beside(&mine)).expect("copied");
    let error = error_of(&mine);
    assert!(error.contains("no text prompt: it lacks `prompt_encoder.text_prompt.projection.weight`"), "{error}");
    std::fs::write(text_prompt_beside(&mine), b"<!DOCTYPE html><html>").expect("written");
    assert!(error_of(&mine).contains("an HTML page"));

    // A training that asks for another CLIP than the file's.
    let checkpoint = Checkpoint::open(&other).expect("ours");
    let mut options = checkpoint.default_options();
    options.config.text = Some(TextPromptConfig { width: WIDTH, clip: "0badcafe".to_owned() });
    let error = checkpoint.load_with(&options, &device()).expect_err("another CLIP").to_string();
    assert!(error.contains("00c0ffee") && error.contains("0badcafe"), "{error}");
    options.config.text = None;
    assert!(checkpoint.load_with(&options, &device()).is_ok(), "without texts");
}

/// One more token of the official decoder, in f64: masks, and the gradients of the projection and of the image embedding
/// (`fixtures/generate_text.py`).
#[test]
fn texts_and_their_gradients_equal_pytorch() {
    let device = device().autodiff();
    let golden = Golden::open("tiny_text.safetensors");
    let checkpoint = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let mut options = checkpoint.default_options();
    let width = golden.shape("weight")[1];
    options.config.text = Some(TextPromptConfig { width, clip: String::new() });
    let (sam, _) = checkpoint.load_with(&options, &device).expect("it fits");
    let names = ["projection.weight", "projection.bias", "image_mean", "text_mean"];
    let keys = names.map(|name| format!("prompt_encoder.text_prompt.{name}"));
    let of_file = ["weight", "bias", "image_mean", "text_mean"];
    let sam = fill_parameters(sam, FloatDType::F32, |key| {
        Ok(keys.iter().position(|known| known == key).map(|at| golden.values(of_file[at])))
    })
    .expect("nothing is read");

    let cases = [
        ("alone", Modality::Image),
        ("point", Modality::Text),
        ("box_mask", Modality::Image),
        ("words", Modality::Text),
    ];
    let objects = cases.map(|(name, modality)| ObjectPrompt {
        points_xy_px: if name == "point" { vec![([20.25, 13.5], true)] } else { Vec::new() },
        box_xyxy_px: (name == "box_mask").then_some([8.5, 6.0, 50.25, 40.75]),
        mask_logits: (name == "box_mask").then(|| golden.values("box_mask/mask")),
        text: Some(TextVector { values: golden.values(&format!("{name}/vector")).into(), modality }),
    });
    let image = Golden::open("tiny_golden.safetensors").tensor::<4>("image_embedding", &device).require_grad();
    let prompts = Prompts::from_objects(&objects, 32, &device);
    let decoded = sam.decode(image.clone(), &[0; 4], &prompts, MaskOutput::Multi);
    let parts = |part: &str| {
        let tensors = cases.map(|(name, _)| golden.values(&format!("{name}/{part}")));
        tensors.concat()
    };
    check("masks", &values(decoded.low_res_logits.clone()), &parts("low_res"), 2e-3);
    check("IoUs", &values(decoded.iou_predictions.clone()), &parts("iou"), 1e-4);

    let weights = Tensor::from_data(TensorData::new(parts("loss_weight"), decoded.low_res_logits.dims()), &device);
    let loss = (decoded.low_res_logits * weights).sum() + decoded.iou_predictions.sum();
    let gradients = loss.backward();
    let expected = golden.values("grad/embedding");
    check("embedding", &values(image.grad(&gradients).expect("tracked")), &expected, 1e-3 * norm(&expected));
    let (found, missing) = official_gradients(&sam, &GradientsParams::from_grads(gradients, &sam));
    for (key, part) in [(&keys[0], "grad/weight"), (&keys[1], "grad/bias")] {
        let (_, got) = found.iter().find(|(found, _)| found == key).expect("it learns");
        let expected = golden.values(part);
        check(part, got, &expected, 1e-3 * norm(&expected));
    }
    assert!(keys[2..].iter().all(|key| missing.contains(key)), "means never learn: {missing:?}");
}
