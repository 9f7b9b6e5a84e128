//! MobileSAM's encoder through the real program: every command takes it, trainings keep or follow its batch norms, and options of a
//! plain ViT are refused.

use std::collections::BTreeMap;
use std::process::Stdio;

use sam_model::weights::{Checkpoint, ExportFormat, ImageSizePolicy, LoadOptions, export, named_tensors};

use crate::annotate_cli::Served;
use crate::cli::{Run, fixture, texts};
use crate::fixture::{cpu, f32_of, path};
use crate::train_cli::{SMALL, read};

/// The small network at 64 px in a file that says so.
fn with_checkpoint() -> Run {
    let run = Run::new();
    let checkpoint = Checkpoint::open(&path("tiny_vit/small.pth")).expect("a committed fixture");
    let mut options: LoadOptions = checkpoint.default_options();
    options.config.image_encoder.set_image_size(64);
    let (sam, _) = checkpoint.load_with(&options, &cpu()).expect("it fits");
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep);
    export(&sam, options, &run.path("mobile.safetensors")).expect("written");
    run
}

/// A fine-tuning of four steps on synthetic scenes; `model` is more of that section.
fn config(model: &str) -> String {
    let (before, rest) = SMALL.split_once("[model]").expect("a section");
    let (_, after) = rest.split_once("[data]").expect("the next section");
    format!("{before}[model]\ncheckpoint = \"mobile.safetensors\"\n{model}\n[data]{after}")
        .replace("lr = 1e-3", "lr = 1e-3\nema_decay = 0.9\nlayer_decay = 0.8")
}

fn weights(run: &Run, name: &str) -> BTreeMap<String, Vec<f32>> {
    let checkpoint = Checkpoint::open(&run.path(name)).expect("a checkpoint");
    assert_eq!(checkpoint.config.image_encoder.image_size(), 64, "{name}");
    let (sam, _) = checkpoint.load(&cpu()).expect("it fits");
    named_tensors(&sam).into_iter().map(|tensor| (tensor.key.clone(), tensor.values())).collect()
}

#[test]
fn every_command_takes_it() {
    let run = with_checkpoint();
    let inspected = run.ok(&["inspect", "mobile.safetensors"]);
    for part in ["a custom SAM at 64 px", "a TinyViT of widths [8, 16, 24, 32]", "22 others are not needed"] {
        assert!(inspected.contains(part), "{part}\n{inspected}");
    }
    let photo = fixture("preprocess/photo.png");
    let model = ["--checkpoint", "mobile.safetensors"];
    run.ok(&[&["predict"], &model[..], &["--image", &photo, "--point", "20,15", "--out", "out"]].concat());
    assert!(run.path("out/mask_0.png").is_file());
    let lenient = ["--points-per-side", "3", "--pred-iou", "0", "--stability", "0", "--out", "auto"];
    run.ok(&[&["auto"], &model[..], &lenient, &[&photo]].concat());
    assert!(run.path("auto/annotations").is_dir());
    run.ok(&["data", "synth", "--out", "scenes", "--train", "3", "--val", "2", "--seed", "5"]);
    let eval = ["--data", "scenes", "--part", "val", "--clicks", "1", "--out", "eval"];
    run.ok(&[&["eval"], &model[..], &eval].concat());
    assert!(read(&run, "eval/results.json").contains("miou_1"));
    // On a processor with int8 the encoder has no such layers, and without it f32 is all there is: both say so.
    let int8 = [&["eval"], &model[..], &eval[..6], &["--precision", "int8", "--out", "eval-int8"]].concat();
    let (_, said) = texts(&run.sam_train(&int8));
    assert!(said.contains("precision: f32, as"), "{said}");
    let results: serde_json::Value = serde_json::from_str(&read(&run, "eval-int8/results.json")).expect("JSON");
    assert_eq!(results["about"]["precision"], "f32");

    std::fs::create_dir(run.path("photos")).expect("made");
    for name in ["photos/a.png", "photos/b.png"] {
        std::fs::copy(&photo, run.path(name)).expect("copied");
    }
    run.ok(&[&["annotate", "init", "--images", "photos"], &model[..], &["--out", "project"]].concat());
    let mut served = Served::start_with(&run.path("project"), 0, &[], Stdio::null());
    let (status, images) = served.get("/api/project");
    assert_eq!(status, 200, "{images}");
    served.kill();

    for (format, file) in [("pth", "a.pth"), ("safetensors", "a.safetensors")] {
        run.ok(&["export", "--checkpoint", "mobile.safetensors", "--format", format, "--out", file]);
        let written = Checkpoint::open(&run.path(file)).expect("ours");
        assert_eq!(written.config.image_encoder.image_size(), 1024, "what other programs take");
    }
    let hugging_face = ["export", "--checkpoint", "mobile.safetensors", "--format", "huggingface", "--out", "hf"];
    run.refused(&hugging_face, &["TinyViT", "safetensors or pth"]);
    let onnx =
        ["export", "--checkpoint", "mobile.safetensors", "--format", "onnx", "--out", "onnx", "--keep-image-size"];
    let text = run.ok(&onnx);
    assert!(text.contains("checked both graphs by running them at 64 px"), "{text}");
    let text =
        run.ok(&[&onnx[..], &["--force", "--preprocess", "--cvat", "--weights", "int8", "--opset", "13"]].concat());
    assert!(text.contains("int8 weights change the embedding by"), "{text}");
    run.refused(&[&onnx[..], &["--force", "--annotator", "cvat"]].concat(), &["CVAT's page", "this one has 64 px"]);
}

#[test]
fn frozen_statistics_stay_and_everything_else_learns() {
    let run = with_checkpoint();
    std::fs::write(run.path("train.toml"), config("drop_path = 0.1")).expect("written");
    let out = run.ok(&["--config", "train.toml"]);
    assert!(out.contains("TinyViT 8-16-24-32, 5 blocks, 64 px"), "{out}");
    let [before, after] = ["mobile.safetensors", "run/last.safetensors"].map(|name| weights(&run, name));
    for (key, before) in &before {
        let stays = key.contains(".running_") || key.ends_with("gaussian_matrix");
        // Prompts that no pass has have no gradient, and attention's keys and biases have hardly any.
        if stays || key.starts_with("image_encoder.") {
            assert_eq!(after[key] == *before, stays, "{key}");
        }
    }
    // Adapters on its linear layers, with words that do not need thirds of a layer.
    let adapters = ["--set", "lora.targets=[\"proj\", \"mlp\"]", "--set", "lora.rank=2", "--set", "run.dir=\"lora\""];
    let out = run.ok(&[&["--config", "train.toml"][..], &adapters].concat());
    assert!(out.contains("adapters"), "{out}");
    let of_adapters = read(&run, "lora/adapter/adapter_config.json");
    assert!(of_adapters.contains("image_encoder.layers.1.blocks.0.attn.proj") && of_adapters.contains("mobile_sam"));
    let merged = ["--checkpoint", "mobile.safetensors", "--adapter", "lora/adapter", "--out", "merged.safetensors"];
    run.ok(&[&["export", "--format", "safetensors", "--keep-image-size"][..], &merged].concat());
    let [merged, best] = ["merged.safetensors", "lora/best.safetensors"].map(|name| weights(&run, name));
    for (key, best) in best {
        crate::fixture::check(&key, &merged[&key], &best, 1e-6);
    }
}

/// A run that was resumed is the run: statistics, their moving average and all weights.
#[test]
fn running_statistics_are_saved_and_resumed() {
    let run = with_checkpoint();
    std::fs::write(run.path("train.toml"), config("batch_norm = \"running\"")).expect("written");
    run.ok(&["--config", "train.toml", "--set", "run.dir=\"whole\""]);
    run.ok(&["--config", "train.toml", "--set", "schedule.steps=2"]);
    run.ok(&["--resume", "run", "--set", "schedule.steps=4"]);
    let [before, whole, resumed] =
        ["mobile.safetensors", "whole/last.safetensors", "run/last.safetensors"].map(|name| weights(&run, name));
    assert_eq!(whole, resumed);
    let moved = before.iter().filter(|(key, _)| key.contains(".running_"));
    assert!(moved.clone().count() > 0 && moved.clone().all(|(key, before)| whole[key] != *before), "all follow");
    assert!(read(&run, "run/plan.toml").contains("batch_norm = \"running\""));

    let refused = |sets: &[&str], parts: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", *set]);
        let arguments: Vec<&str> = ["--config", "train.toml", "--force"].into_iter().chain(sets).collect();
        run.refused(&arguments, parts);
    };
    refused(&["run.parallel=2"], &["running statistics", "run.parallel = 1"]);
    refused(&["optimiser.freeze=[\"image_encoder\"]"], &["batch norms that learn", "model.batch_norm = \"frozen\""]);
}

/// A small TinyViT of one's own in `[model.sizes]`, at sizes of images far below the published one.
fn sized(image_size: usize, sizes: &str) -> String {
    let (before, rest) = SMALL.split_once("[model]").expect("a section");
    let (_, after) = rest.split_once("out_chans").expect("the keys of the decoder");
    let model =
        format!("[model]\ninit = \"scratch\"\nimage_size = {image_size}\n[model.sizes]\nencoder = \"tiny_vit\"\n");
    format!("{before}{model}{sizes}out_chans{after}")
}

#[test]
fn one_of_its_own_sizes_trains_resumes_and_predicts() {
    let run = Run::new();
    let sizes = "embed_dims = [8, 12, 16, 24]\ndepths = [1, 1, 2, 1]\nnum_heads = [1, 2, 3]\nwindow_sizes = [3, 4, 5]\nmlp_ratio = 2\n";
    std::fs::write(run.path("train.toml"), sized(48, sizes)).expect("written");
    let out = run.ok(&["--config", "train.toml", "--set", "run.dir=\"whole\""]);
    assert!(out.contains("from scratch, TinyViT 8-12-16-24, 5 blocks, 48 px"), "{out}");
    assert!(read(&run, "whole/plan.toml").contains("window_sizes = [3, 4, 5]"));
    run.ok(&["--config", "train.toml", "--set", "schedule.steps=2"]);
    run.ok(&["--resume", "run", "--set", "schedule.steps=4"]);
    let read_weights = |name: &str| std::fs::read(run.path(name)).expect("weights");
    assert_eq!(read_weights("whole/last.safetensors"), read_weights("run/last.safetensors"));
    let inspected = run.ok(&["inspect", "run/best.safetensors"]);
    for part in ["a custom SAM at 48 px", "a TinyViT of widths [8, 12, 16, 24]"] {
        assert!(inspected.contains(part), "{part}\n{inspected}");
    }
    let export =
        ["export", "--checkpoint", "run", "--format", "safetensors", "--keep-image-size", "--out", "mine.safetensors"];
    run.ok(&export);
    let photo = fixture("preprocess/photo.png");
    let masks = [("run", "of-run"), ("mine.safetensors", "of-export")].map(|(checkpoint, out)| {
        run.ok(&["predict", "--checkpoint", checkpoint, "--image", &photo, "--point", "20,15", "--out", out]);
        std::fs::read(run.path(&format!("{out}/mask_0.png"))).expect("a mask")
    });
    assert_eq!(masks[0], masks[1]);
    // As a checkpoint it learns on at another size; other numbers than its own are refused.
    let tune = sized(64, sizes).split_once("[model.sizes]").map(|(before, _)| before.to_owned()).expect("sizes");
    let (_, after) = SMALL.split_once("[data]").expect("a section");
    let tune = tune.replace("init = \"scratch\"", "checkpoint = \"mine.safetensors\"") + "[data]" + after;
    std::fs::write(run.path("tune.toml"), tune.replace("steps = 4", "steps = 2").replace("\"run\"", "\"tuned\""))
        .expect("written");
    let out = run.ok(&["--config", "tune.toml"]);
    assert!(out.contains("TinyViT 8-12-16-24, 5 blocks, 64 px"), "{out}");
    let wrong = sized(48, &sizes.replace("[1, 2, 3]", "[1, 3, 5]").replace("[3, 4, 5]", "[3, 0, 5]"));
    std::fs::write(run.path("wrong.toml"), wrong).expect("written");
    run.refused(&["--config", "wrong.toml"], &["model.sizes.window_sizes", "a list of 3 values", "got [3, 0, 5]"]);
}

/// The small classifier of timm in the network that it fits.
#[test]
fn a_classifier_starts_a_training_of_its_own_sizes() {
    let run = Run::new();
    let sizes =
        "embed_dims = [8, 16, 24, 32]\ndepths = [1, 1, 1, 1]\nnum_heads = [2, 3, 4]\nwindow_sizes = [5, 4, 7]\n";
    let init = format!("init = \"tiny_vit\"\ntiny_vit = \"{}\"", fixture("tiny_vit/timm.pth"));
    let text = sized(64, sizes).replace("init = \"scratch\"", &init).replace("encoder = \"tiny_vit\"\n", "");
    std::fs::write(run.path("train.toml"), &text).expect("written");
    let out = run.ok(&["--config", "train.toml", "--set", "schedule.steps=2"]);
    assert!(out.contains("timm.pth, TinyViT 8-16-24-32, 4 blocks, 64 px"), "{out}");
    std::fs::write(run.path("other.toml"), text.replace("[5, 4, 7]", "[5, 5, 7]")).expect("written");
    run.refused(&["--config", "other.toml", "--force"], &["model.tiny_vit", "attention_biases", "[3, 16]", "[3, 25]"]);
}

#[test]
fn options_of_a_plain_vit_are_refused() {
    let run = with_checkpoint();
    std::fs::write(run.path("train.toml"), config("")).expect("written");
    let refused = |sets: &[&str], parts: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", *set]);
        run.refused(&["--config", "train.toml"].into_iter().chain(sets).collect::<Vec<_>>(), parts);
    };
    refused(&["lora.targets=[\"q\", \"v\"]"], &["\"q\"", "of a plain ViT", "lora.targets"]);
    refused(&["model.image_size=72"], &["image_size 72 must be a multiple of 16"]);
    refused(
        &["optimiser.freeze=[\"image_encoder.blocks\"]"],
        &["image_encoder.blocks", "the nearest key is image_encoder."],
    );
    let text = config("batch_norm = \"running\"")
        .replace("checkpoint = \"mobile.safetensors\"", "init = \"scratch\"\nvariant = \"vit_b\"");
    std::fs::write(run.path("vit.toml"), &text).expect("written");
    run.refused(&["--config", "vit.toml", "--check"], &["model.batch_norm", "variant = \"mobile\""]);
    let windows = text.replace("variant = \"vit_b\"", "variant = \"mobile\"\n[model.sizes]\nwindow_size = 7");
    std::fs::write(run.path("windows.toml"), windows).expect("written");
    run.refused(&["--config", "windows.toml", "--check"], &["model.variant"]);
    let mae = text.replace("init = \"scratch\"", "init = \"mae\"\nmae = \"x.pth\"").replace("\"vit_b\"", "\"mobile\"");
    std::fs::write(run.path("mae.toml"), mae).expect("written");
    run.refused(&["--config", "mae.toml", "--check"], &["model.variant", "vit_b, vit_l or vit_h"]);
    // A plain ViT has no batch norms.
    let other = config("batch_norm = \"running\"").replace("mobile.safetensors", &fixture("tiny_sam.safetensors"));
    std::fs::write(run.path("other.toml"), other).expect("written");
    run.refused(&["--config", "other.toml"], &["model.batch_norm is for a TinyViT"]);
}

/// A classifier as the start, under the published sizes; a small one does not fit them, which is said.
#[test]
fn a_classifier_starts_a_training_of_the_published_size() {
    let run = with_checkpoint();
    let model = format!("init = \"tiny_vit\"\ntiny_vit = \"{}\"\nimage_size = 64", fixture("tiny_vit/timm.pth"));
    let text = config("").replace("checkpoint = \"mobile.safetensors\"", &model);
    std::fs::write(run.path("train.toml"), &text).expect("written");
    run.refused(&["--config", "train.toml"], &["model.tiny_vit", "patch_embed.conv1.conv.weight", "mobile at 64 px"]);
    let segmenter = text.replace(&fixture("tiny_vit/timm.pth"), "mobile.safetensors");
    std::fs::write(run.path("other.toml"), segmenter).expect("written");
    run.refused(&["--config", "other.toml"], &["a TinyViT that classifies", "got a segmenter", "model.checkpoint"]);
    let as_checkpoint = text.replace("init = \"tiny_vit\"\ntiny_vit", "checkpoint");
    std::fs::write(run.path("third.toml"), as_checkpoint).expect("written");
    run.refused(&["--config", "third.toml"], &["got a TinyViT that classifies", "model.init = \"tiny_vit\""]);
}
