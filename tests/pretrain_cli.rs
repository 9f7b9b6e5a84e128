//! `task = "pretrain"` through the real program: its folder, resuming it, a training that starts from it, and errors.

use std::collections::BTreeMap;

use sam_model::weights::StateDict;

use crate::cli::{Run, texts};
use crate::fixture::max_abs_diff;
use crate::train_cli::{SMALL, read, with_config};

/// A pre-training of seconds on synthetic scenes.
pub(crate) const SMALL_PRETRAINING: &str = r#"
task = "pretrain"
[run]
dir = "pretrained"
[model]
image_size = 32
patch_size = 8
[model.sizes]
embed_dim = 16
depth = 1
num_heads = 2
decoder_embed_dim = 8
decoder_depth = 1
decoder_heads = 2
[data]
images_per_step = 4
[data.synth]
n_scenes = 8
side_px_min = 32
side_px_max = 40
[data.validation_synth]
n_scenes = 2
[optimiser]
lr = 1e-3
[schedule]
steps = 4
[validation]
every_steps = 2
[log]
every_steps = 1
"#;

/// Pre-training, its folder, resuming, and a training that starts from it.
#[test]
fn a_training_starts_from_the_folder_of_a_pretraining() {
    let run = with_config(SMALL);
    std::fs::write(run.path("pretrain.toml"), SMALL_PRETRAINING).expect("written");
    let plan = run.ok(&["--config", "pretrain.toml", "--check"]);
    assert!(plan.contains("task = \"pretrain\"") && plan.contains("mask_ratio = 0.75"), "{plan}");
    let out = run.ok(&["--config", "pretrain.toml"]);
    for part in ["sees 4 of 16 patches", "before training", "step 4/4", "best by reconstruction_loss", "encoder only"] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    for name in ["plan.toml", "metrics.jsonl", "best.safetensors", "encoder.pth", "previews/step-00000004.png"] {
        assert!(run.path(&format!("pretrained/{name}")).is_file(), "{name}");
    }
    let html = read(&run, "pretrained/report.html");
    for part in ["<svg", ">held out<", "Learning rate", "visible patches", "data:image/jpeg;base64,", "mask_ratio"] {
        assert!(html.contains(part), "{part}");
    }
    let out = run.ok(&["--resume", "pretrained", "--set", "schedule.steps=6"]);
    assert!(out.contains("after step 4") && out.contains("step 6/6"), "{out}");
    run.refused(
        &["--resume", "pretrained", "--set", "mae.mask_ratio=0.5"],
        &["mae.mask_ratio cannot change on resume", "objective"],
    );
    // A configuration may be given if it is that of the run, except for keys that may change.
    let configured = ["--resume", "pretrained", "--config", "pretrain.toml", "--set", "schedule.steps=8"];
    let out = run.ok(&configured);
    assert!(out.contains("after step 6") && out.contains("step 8/8"), "{out}");
    run.refused(
        &[&configured[..], &["--set", "data.images_per_step=2"]].concat(),
        &[
            "pretrain.toml: not the configuration of this run",
            "images_per_step cannot change on resume: saved 4, got 2",
        ],
    );
    run.refused(
        &["--resume", "pretrained", "--config", "train.toml"],
        &["train.toml: not the configuration", "task cannot change on resume: saved \"pretrain\", got \"train\""],
    );
    // With a learning rate near zero, the weights after two steps are the initial ones.
    let start = ["--set", "model.init=mae", "--set", "model.mae=pretrained", "--set", "schedule.steps=2"];
    let out = run.ok(&[&["--config", "train.toml", "--set", "optimiser.lr=1e-30"][..], &start].concat());
    assert!(out.contains("15 tensors are loaded"), "{out}");
    let [pretrained, segmenter] =
        ["pretrained/best.safetensors", "run/last.safetensors"].map(|name| tensors(&run, name));
    let mut n_equal = 0;
    for (key, values) in &segmenter {
        let Some(encoder_key) = key.strip_prefix("image_encoder.") else { continue };
        let of_mae = encoder_key.replace(".mlp.lin", ".mlp.fc");
        let Some(expected) = pretrained.get(&of_mae) else {
            assert!(
                encoder_key.contains(".rel_pos_") || encoder_key.starts_with("neck."),
                "{key} is in no pre-training"
            );
            continue;
        };
        // The position of the class token is dropped.
        let expected = if encoder_key == "pos_embed" { &expected[16..] } else { expected };
        // Zero weights have moved by the learning rate itself.
        assert!(max_abs_diff(values, expected) < 1e-20, "{key} must be that of the pre-training");
        n_equal += 1;
    }
    assert_eq!(n_equal, 15);
    // The pre-training changed the weights.
    run.ok(&["--config", "pretrain.toml", "--force", "--set", "optimiser.lr=1e-30"]);
    let begun = tensors(&run, "pretrained/best.safetensors");
    let n_moved = begun.iter().filter(|(key, values)| pretrained[*key] != **values).count();
    assert_eq!(n_moved, begun.len() - 2, "all but the two tables of positions");

    let refuse = |sets: &[&str], parts: &[&str]| {
        let mut arguments = vec!["--config", "pretrain.toml", "--force"];
        sets.iter().for_each(|set| arguments.extend(["--set", *set]));
        run.refused(&arguments, parts);
    };
    for outside in ["1.0", "1.5", "0", "-0.5"] {
        let expected = "mae.mask_ratio must be a number above 0 and below 1";
        refuse(&[&format!("mae.mask_ratio={outside}")], &[expected, &format!("got {outside}")]);
    }
    refuse(&["mae.mask_ratio=0.99"], &["mae.mask_ratio", "16 patches"]);
    refuse(&["model.image_size=30"], &["image height 30", "multiple of patch_size 8"]);
    refuse(&["model.image_size=16", "model.patch_size=32"], &["image height 16", "multiple of patch_size 32"]);
    // The initial weights must match the network.
    let from = "model.mae=pretrained/best.safetensors";
    run.ok(&["--config", "pretrain.toml", "--set", "run.dir=second", "--set", from, "--set", "schedule.steps=2"]);
    refuse(&[from, "model.patch_size=16"], &["patch_embed.proj.weight", "[16, 3, 16, 16]", "[16, 3, 8, 8]"]);
    refuse(&[from, "model.sizes.embed_dim=32"], &["best.safetensors", "blocks.0.attn.qkv.weight", "[48, 16]"]);
    refuse(&[from, "model.sizes.decoder_embed_dim=16"], &["decoder_embed.weight", "[16, 16]", "[8, 16]"]);
    refuse(&["model.mae=run/best.safetensors"], &["run/best.safetensors", "not of a masked autoencoder"]);
    refuse(&["model.variant=vit_b", "model.sizes.depth=1"], &["model.variant", "model.sizes"]);
    refuse(&["optimiser.base_lr=1e-3", "optimiser.lr=1e-3"], &["optimiser.base_lr", "images_per_step / 256"]);
    refuse(&["optimiser.accumulation=3"], &["data.images_per_step", "multiple of optimiser.accumulation"]);
    refuse(&["model.mask_ratio=0.5"], &["model.mask_ratio"]);
}

/// A checkpoint's tensors by key.
fn tensors(run: &Run, name: &str) -> BTreeMap<String, Vec<f32>> {
    let dict = StateDict::open(&run.path(name)).expect("a checkpoint");
    dict.tensors.keys().map(|key| (key.clone(), dict.read_f32(key).expect("readable"))).collect()
}

/// Unreadable images stop a pre-training, or are skipped, counted and reported, among training and held-out images. Images
/// smaller than a patch are enlarged like any other.
#[test]
fn a_pretraining_reports_and_counts_unreadable_images() {
    let synth =
        "[data.synth]\nn_scenes = 8\nside_px_min = 32\nside_px_max = 40\n[data.validation_synth]\nn_scenes = 2\n";
    let text = SMALL_PRETRAINING.replace(synth, "train = \"photos\"\nvalidation = \"held_out\"\n");
    assert!(text.contains("photos"), "{text}");
    let run = with_config(&text);
    for (name, width, height) in
        [("photos/a.png", 1, 1), ("photos/b.png", 5, 3), ("photos/deep/c.png", 40, 30), ("held_out/d.png", 33, 7)]
    {
        let path = run.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        sam_image::RgbImage::from_pixel(width, height, image::Rgb([40, 90, 160])).save(path).expect("written");
    }
    let out = run.ok(&["--config", "train.toml"]);
    assert!(out.contains("trains on 3 images") && !out.contains("unreadable"), "{out}");

    std::fs::write(run.path("photos/deep/broken.png"), "not an image").expect("written");
    std::fs::write(run.path("held_out/torn.jpg"), [0xFF, 0xD8, 0xFF, 0xE0]).expect("written");
    let output = run.sam_train(&["--config", "train.toml", "--force"]);
    let err = texts(&output).1;
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("torn.jpg") && !err.contains("panicked"), "the first validation reads it: {err}");

    let output = run.sam_train(&["--config", "train.toml", "--force", "--set", "data.on_unreadable=skip"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    for name in ["broken.png", "torn.jpg"] {
        assert!(err.contains("skipped: ") && err.contains(name), "{err}");
    }
    // Three validations, and four steps of four images, each of which is read once in four.
    assert!(out.contains("skipped unreadable images: 2 ("), "{out}");
    let of = |name: &str| out.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {out}"));
    assert!(of("torn.jpg").starts_with("  3 x "), "{out}");
    assert!(of("broken.png").starts_with("  4 x "), "{out}");
}
