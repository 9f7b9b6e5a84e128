//! `sam-train init`: from a folder to a better checkpoint in three commands, with nothing edited.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use sam_model::SamConfig;
use sam_model::init::initialise;
use sam_model::weights::{ExportFormat, ImageSizePolicy, export};

use crate::cli::{Run, fixture};
use crate::data_cli::datasets;
use crate::fixture::{cpu, f32_of};

const RADIUS: i64 = 10;

fn centres(at: usize) -> [[i64; 2]; 2] {
    [[14 + 3 * at as i64 % 12, 16], [46, 44 - 2 * at as i64 % 10]]
}

/// Two bright discs on a dark ground, each image with its mask of ids.
fn discs(folder: &Path, n_images: usize, mask_extension: &str) {
    for part in ["images", "masks"] {
        std::fs::create_dir_all(folder.join(part)).expect("a folder");
    }
    for at in 0..n_images {
        let (mut image, mut mask) = (RgbImage::new(64, 64), GrayImage::new(64, 64));
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            let is_inside = |centre: &[i64; 2]| {
                (i64::from(x) - centre[0]).pow(2) + (i64::from(y) - centre[1]).pow(2) < RADIUS.pow(2)
            };
            let id = centres(at).iter().position(is_inside).map_or(0, |index| index + 1);
            let noise = ((x * 7 + y * 13 + at as u32 * 5) % 23) as u8;
            *pixel = if id > 0 { Rgb([200 - noise, 180, 60 * id as u8]) } else { Rgb([20 + noise, 30, 40]) };
            mask.put_pixel(x, y, Luma([id as u8]));
        }
        image.save(folder.join(format!("images/{at}.png"))).expect("written");
        mask.save(folder.join(format!("masks/{at}.{mask_extension}"))).expect("written");
    }
}

/// A small network with random weights, as a stand-in for a published checkpoint.
fn checkpoint(run: &Run) -> String {
    let mut config = SamConfig::published(sam_model::Variant::VitB);
    let encoder = crate::fixture::vit_config(&mut config);
    (encoder.image_size, encoder.patch_size, encoder.embed_dim, encoder.depth) = (64, 8, 32, 2);
    (encoder.num_heads, encoder.mlp_dim, encoder.out_chans, encoder.window_size) = (2, 64, 32, 0);
    encoder.global_attn_indexes = vec![0, 1];
    (config.prompt_encoder.embed_dim, config.prompt_encoder.mask_in_chans) = (32, 4);
    let decoder = &mut config.mask_decoder;
    (decoder.transformer_dim, decoder.num_heads, decoder.mlp_dim, decoder.cross_dim) = (32, 4, 64, 16);
    decoder.iou_head_hidden_dim = 32;
    let sam = initialise(config.init(&cpu()).expect("sizes that fit"), 3);
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep);
    let path = run.path("small.safetensors");
    export(&sam, options, &path).expect("written");
    path.display().to_string()
}

/// Three commands: a configuration, a run, an evaluation; the best checkpoint is better than the one before training.
fn learns(run: &Run, data: &str, preset: &str) {
    let checkpoint = checkpoint(run);
    run.ok(&["init", "--data", data, "--preset", preset, "--checkpoint", &checkpoint, "--out", "finetune.toml"]);
    let text = run.ok(&["--config", "finetune.toml", "--plain"]);
    let scores = |row: &str| -> Vec<f64> {
        let metrics = std::fs::read_to_string(run.path("runs/finetune/metrics.jsonl")).expect("written");
        let metric = match preset {
            "box" => "miou_box",
            "points" => "miou_1",
            _ => "miou_1_oracle",
        };
        metrics
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
            .filter(|line| line["is_baseline"].as_bool() == Some(row == "before"))
            .filter_map(|line| line["metrics"][metric].as_f64())
            .collect()
    };
    let (before, after) = (scores("before")[0], scores("after").into_iter().fold(0.0, f64::max));
    assert!(after > before + 0.05, "{before} before, {after} at best\n{text}");
    let eval = ["eval", "--checkpoint", "runs/finetune", "--data", data, "--clicks", "1", "--out", "eval"];
    run.ok(&eval);
}

#[test]
fn five_images_with_masks_become_a_better_checkpoint() {
    let run = Run::new();
    discs(&run.path("mine"), 5, "png");
    learns(&run, "mine", "laptop");
}

#[test]
fn twelve_images_of_coco_become_a_better_checkpoint() {
    let run = Run::new();
    discs(&run.path("pairs"), 12, "png");
    run.ok(&["data", "convert", "pairs", "--to", "coco", "--out", "coco"]);
    learns(&run, "coco", "box");
}

#[test]
fn tiff_masks_become_a_better_checkpoint() {
    let run = Run::new();
    discs(&run.path("mine"), 8, "tif");
    learns(&run, "mine", "box");
}

#[test]
fn the_parts_of_a_yolo_export_are_used() {
    let run = Run::new();
    discs(&run.path("all"), 9, "png");
    let folder = run.path("yolo");
    for (part, images) in [("train", 0..5), ("valid", 5..7), ("test", 7..9)] {
        for kind in ["images", "labels"] {
            std::fs::create_dir_all(folder.join(part).join(kind)).expect("a folder");
        }
        for at in images {
            let image = folder.join(part).join(format!("images/{at}.png"));
            std::fs::copy(run.path(&format!("all/images/{at}.png")), image).expect("copied");
            let lines = centres(at).map(|[x, y]| {
                let corner = |step: u32| {
                    let angle = f64::from(step) * std::f64::consts::TAU / 16.0;
                    let radius = RADIUS as f64;
                    let place = [x as f64 + 0.5 + radius * angle.cos(), y as f64 + 0.5 + radius * angle.sin()];
                    place.map(|value| format!("{:.5}", value / 64.0)).join(" ")
                };
                format!("0 {}", (0..16).map(corner).collect::<Vec<_>>().join(" "))
            });
            std::fs::write(folder.join(part).join(format!("labels/{at}.txt")), lines.join("\n")).expect("written");
        }
    }
    let yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['disc']\n";
    std::fs::write(folder.join("data.yaml"), yaml).expect("written");
    let text = run.ok(&["init", "--data", "yolo", "--checkpoint", &checkpoint(&run)]);
    assert!(text.contains("split = \"given\"") && text.contains("(test 2, train 5, val 2)"), "{text}");
    learns(&run, "yolo", "box");
}

/// What it sees in the data stands in the configuration.
#[test]
fn the_configuration_fits_the_data() {
    let run = Run::new();
    discs(&run.path("mine"), 12, "png");
    let checkpoint = checkpoint(&run);
    let init = |more: &[&str]| run.ok(&[&["init", "--data", "mine", "--checkpoint", &checkpoint], more].concat());
    let text = init(&[]);
    for line in [
        "# Data: mine, label_images: 12 images of 64 x 64 px, 24 objects",
        "split = { val = 0.2, seed = 0, group = \"image\" }",
        "objects_per_image = 4",
        "freeze = [\"image_encoder\"]",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let text = init(&["--preset", "full", "--run", "runs/other", "--labels", "instance"]);
    for line in ["dir = \"runs/other\"", "labels = \"instance\"", "layer_decay = 0.8", "crop = [0.5, 1.0]"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let deep = image::ImageBuffer::<Luma<u16>, _>::from_fn(64, 64, |x, y| Luma([(x * 9 + y * 7) as u16]));
    deep.save(run.path("mine/images/0.png")).expect("written");
    assert!(init(&[]).contains("intensity = \"percentile\""));
    std::fs::write(run.path("mine/masks/1.png"), "not an image").expect("written");
    run.refused(&["init", "--data", "mine", "--checkpoint", &checkpoint], &["1.png", "--drop-bad"]);
    assert!(init(&["--drop-bad"]).contains("bad = \"drop\""));
    run.refused(&["init", "--data", "gone"], &["gone"]);
    run.refused(
        &["init", "--data", "mine", "--drop-bad", "--checkpoint", &fixture("tiny_mae.pth")],
        &["masked autoencoder"],
    );
    run.ok(&["init", "--data", &datasets("photos"), "--checkpoint", &checkpoint, "--out", "c.toml"]);
    run.refused(&["init", "--data", &datasets("photos"), "--checkpoint", &checkpoint, "--out", "c.toml"], &["--force"]);
}

/// The folder of a run says by which loss its checkpoint learned; another would first be unlearned.
#[test]
fn the_loss_of_a_run_is_kept() {
    let run = Run::new();
    discs(&run.path("mine"), 5, "png");
    std::fs::write(run.path("train.toml"), crate::train_cli::SMALL).expect("written");
    let sets = ["--set", "loss.focal_weight=2.5", "--set", "loss.iou_loss=l1", "--set", "optimiser.lr=0.02"];
    run.ok(&[&["--config", "train.toml"], &sets[..]].concat());
    let init = ["init", "--data", "mine", "--checkpoint"];
    let text = run.ok(&[&init[..], &["run"]].concat());
    for line in ["focal_weight = 2.5", "iou_loss = \"l1\"", "lr = 2e-3", "as in the run that the checkpoint is from"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("dice_weight"), "only what differs: {text}");
    assert_eq!(run.ok(&[&init[..], &["run/best.safetensors"]].concat()).matches("focal_weight = 2.5").count(), 1);
    // A file alone says nothing of it but that it has learned.
    std::fs::copy(run.path("run/best.safetensors"), run.path("alone.safetensors")).expect("copied");
    let text = run.ok(&[&init[..], &["alone.safetensors"]].concat());
    assert!(!text.contains("focal_weight") && text.contains("lr = 3e-5") && text.contains("has learned"), "{text}");
    let random = checkpoint(&run);
    let text = run.ok(&[&init[..], &[random.as_str()]].concat());
    assert!(text.contains("lr = 1e-3"), "{text}");
}

/// A published checkpoint that is not there yet is no reason not to write the configuration.
#[test]
fn the_published_checkpoint_is_the_default() {
    let run = Run::new();
    discs(&run.path("mine"), 5, "png");
    let output = run.sam_train(&["init", "--data", "mine"]);
    let (out, err) = crate::cli::texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("checkpoint = \"sam_vit_b_01ec64.pth\"") && err.contains("download it"), "{out}\n{err}");
}

/// Every preset writes a configuration that runs, from published sizes to random weights.
#[test]
fn every_preset_runs_as_written() {
    let run = Run::new();
    discs(&run.path("mine"), 5, "png");
    let checkpoint = checkpoint(&run);
    for preset in ["laptop", "lora", "full", "box", "points", "scratch"] {
        let text = run.ok(&["init", "--data", "mine", "--preset", preset, "--checkpoint", &checkpoint]);
        std::fs::write(run.path("c.toml"), text).expect("written");
        let text = run.ok(&["--config", "c.toml", "--dry-run"]);
        assert!(text.contains("bit for bit"), "{preset}: {text}");
    }
}

/// The files in `configs/` are those that `init` writes for the data of this repository and the quickstart's checkpoint.
#[cfg(unix)]
#[test]
fn the_shipped_configurations_are_what_init_writes() {
    let run = Run::new();
    std::os::unix::fs::symlink(datasets(""), run.path("datasets")).expect("a link");
    std::fs::create_dir_all(run.path("configs")).expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let quickstart = root.join("configs/quickstart.toml").display().to_string();
    let short = ["schedule.steps=2", "schedule.warmup_steps=1", "validation.every_steps=2", "validation.max_images=1"];
    let short = short.into_iter().flat_map(|set| ["--set", set]);
    run.ok(&["--config", &quickstart].into_iter().chain(short).collect::<Vec<_>>());
    for (name, preset) in [
        ("finetune", "laptop"),
        ("finetune-lora", "lora"),
        ("finetune-full", "full"),
        ("finetune-box", "box"),
        ("finetune-points", "points"),
        ("scratch", "scratch"),
    ] {
        let (file, folder) = (format!("configs/{name}.toml"), format!("runs/{name}"));
        let mut init = vec!["init", "--data", "datasets/photos", "--preset", preset, "--run", &folder, "--out", &file];
        match preset {
            "scratch" => init[2] = "datasets/synth",
            _ => init.extend(["--checkpoint", "runs/quickstart"]),
        }
        run.ok(&init);
        let shipped = root.join(&file);
        let [written, shipped] = [run.path(&file), shipped].map(|path| std::fs::read_to_string(path).expect("there"));
        assert_eq!(written, shipped, "{file}: write it again with: sam-train {}", init.join(" "));
    }
}
