//! `sam-train --config` and `--resume` through the real program: a small run, resuming it, and errors, which lose nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sam_model::MaeConfig;
use sam_model::init::initialise_mae;
use sam_model::weights::{Checkpoint, Dtype, ExportFormat, MaeExportOptions, MaeParts, export_mae};
use serde_json::Value;

use crate::cli::{Run, texts};
use crate::fixture::{path, vit};

/// A run of seconds on synthetic scenes.
pub(crate) const SMALL: &str = r#"
[run]
dir = "run"
[model]
init = "scratch"
image_size = 32
[model.sizes]
patch_size = 8
embed_dim = 16
depth = 1
num_heads = 2
window_size = 0
global_attn_indexes = [0]
out_chans = 16
mask_in_chans = 4
decoder_depth = 1
decoder_heads = 2
decoder_mlp_dim = 32
[data]
images_per_step = 2
objects_per_step = 4
[data.synth]
seed = 1
n_scenes = 8
side_px_min = 32
side_px_max = 32
[data.validation_synth]
first_index = 100
n_scenes = 2
[prompts]
preset = "box"
[optimiser]
lr = 1e-3
[schedule]
steps = 4
warmup_steps = 1
decay = "constant"
[validation]
every_steps = 2
clicks = [1]
metric = "miou_box"
[log]
every_steps = 1
previews = 1
"#;

pub(crate) fn with_config(text: &str) -> Run {
    let run = Run::new();
    std::fs::write(run.path("train.toml"), text).expect("written");
    run
}

pub(crate) fn read(run: &Run, name: &str) -> String {
    std::fs::read_to_string(run.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A table of a `report.md`, without the last column, which is a time.
fn validations(markdown: &str) -> Vec<String> {
    let table = markdown.split("## Validations\n\n").nth(1).expect("a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| Some(row.trim_end_matches(" |").rsplit_once(" | ")?.0.to_owned())).collect()
}

/// A command under a shell that limits the size of files, which then fail to grow as on a full disk.
#[cfg(unix)]
pub(crate) fn on_a_full_disk(run: &Run, arguments: &[&str]) -> (Option<i32>, String) {
    let script =
        format!("trap '' XFSZ; ulimit -f 8; exec '{}' {}", env!("CARGO_BIN_EXE_sam-train"), arguments.join(" "));
    let output = Command::new("bash").args(["-c", &script]).current_dir(run.path("")).output().expect("bash starts");
    (output.status.code(), texts(&output).1)
}

#[test]
fn a_run_writes_a_folder_that_documents_itself() {
    let run = with_config(SMALL);
    let out = run.ok(&["--config", "train.toml"]);
    for part in ["from scratch", "before training", "step 4/4", "best by miou_box", "best checkpoint", "previews"] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    for name in
        ["config.toml", "plan.toml", "environment.json", "metrics.jsonl", "best.safetensors", "last.safetensors"]
    {
        assert!(run.path(&format!("run/{name}")).is_file(), "{name}");
    }
    assert!(run.path("run/previews/step-00000004.png").is_file());
    let html = read(&run, "run/report.html");
    for part in ["<svg", "Learning rate", "Loss terms, not weighted", "data:image/jpeg;base64,", "focal_weight = 20.0"]
    {
        assert!(html.contains(part), "{part}");
    }
    // Previews before, and of the best, which is the last or not; worst and best for clicks and for boxes.
    let n_images = html.matches("<img ").count();
    assert!((2 + 8..=3 + 24).contains(&n_images), "{n_images}");
    for part in [
        "Worst after 1 click",
        "Best with a box",
        "prediction with prompts (left), ground truth (right)",
        "Classes of scenes",
        "By miou_box, worst first.",
        "By size",
        "Predicted IoU",
        "too few images (2) to tell a difference from chance",
        "How to load the result",
        "sam_model_registry",
        "SamModel.from_pretrained",
    ] {
        assert!(html.contains(part), "the report must have `{part}`");
    }
    assert!(!html.contains(") *<"), "two images show nothing");
    for outside in ["http:", "https:", "<script", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let markdown = read(&run, "run/report.md");
    assert!(markdown.starts_with("# run\n") && markdown.contains("| steps | 4 of 4 |"), "{markdown}");
    let (sam, _) = Checkpoint::open(&run.path("run/best.safetensors"))
        .and_then(|checkpoint| checkpoint.load(&crate::fixture::cpu()))
        .expect("other programs load it");
    assert_eq!(sam.image_size(), 32);

    // The folder is replaced only on request.
    run.refused(&["--config", "train.toml"], &["contains a run", "--resume", "--force"]);
    run.ok(&["--config", "train.toml", "--force", "--set", "schedule.steps=2"]);
    std::fs::create_dir(run.path("mine")).expect("made");
    std::fs::write(run.path("mine/thesis.txt"), "years").expect("written");
    run.refused(
        &["--config", "train.toml", "--force", "--set", "run.dir=mine"],
        &["mine", "exists but is not a run folder"],
    );
    assert!(run.path("mine/thesis.txt").is_file());
}

/// The scenes of a configuration as files, and the checkpoint in an evaluation: the same metrics.
#[test]
fn a_run_has_the_same_metrics_from_files() {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml"]);
    let out = run.ok(&["data", "synth", "--config", "train.toml", "--out", "scenes", "--train", "3"]);
    assert!(out.contains("train: 3 scenes") && out.contains("val: 2 scenes"), "{out}");
    run.ok(&["eval", "--checkpoint", "run/best.safetensors", "--data", "scenes", "--part", "val", "--out", "eval"]);
    let read = |name: &str| std::fs::read_to_string(run.path(name)).expect("written");
    let results = sam_eval::Results::from_json("results.json", &read("eval/results.json")).expect("results");
    let log = read("run/metrics.jsonl");
    let best = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .rfind(|line| line["is_best"] == true)
        .expect("one is the best");
    for metric in ["miou_1", "miou_1_oracle", "miou_box", "miou_box_oracle"] {
        let stated = best["metrics"][metric].as_f64().unwrap_or_else(|| panic!("no {metric} in {best}"));
        let again = results.metric(metric).expect("computed").value;
        assert!((stated - again).abs() < 1e-6, "{metric}: {stated} in the run, {again} from its files");
    }
    run.refused(&["data", "synth", "--config", "nowhere.toml", "--out", "more"], &["nowhere.toml"]);
    run.refused(&["data", "synth", "--config", "train.toml", "--seed", "3", "--out", "more"], &["--config", "--seed"]);
}

/// From a pre-training to a segmenter: the encoder's weights are loaded, and all others reported.
#[test]
fn a_run_starts_from_a_masked_autoencoder() {
    let config = MaeConfig {
        image_size_hw: [32, 32],
        patch_size: 8,
        embed_dim: 16,
        depth: 1,
        num_heads: 2,
        mlp_dim: 64,
        decoder_embed_dim: 8,
        decoder_depth: 1,
        decoder_num_heads: 2,
        decoder_mlp_dim: 16,
    };
    let mae = initialise_mae(config.init(&crate::fixture::cpu()).expect("sizes fit"), 5);
    let text = SMALL.replace("init = \"scratch\"", "init = \"mae\"\nmae = \"mae.safetensors\"");
    let run = with_config(&text);
    let options = MaeExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, parts: MaeParts::Whole };
    export_mae(&mae, options, &run.path("mae.safetensors")).expect("written");
    // With a learning rate near zero, the weights do not change.
    let out = run.ok(&["--config", "train.toml", "--set", "optimiser.lr=1e-30"]);
    for part in [
        "15 tensors are loaded",
        "fresh: image_encoder.blocks.*.attn.rel_pos_h (1)",
        "fresh: mask_decoder (",
        "not used: cls_token (1)",
    ] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    let (sam, _) = Checkpoint::open(&run.path("run/last.safetensors"))
        .and_then(|checkpoint| checkpoint.load(&crate::fixture::cpu()))
        .expect("a segmenter");
    let weights = |linear: &burn::nn::Linear| linear.weight.val().into_data();
    assert_eq!(weights(&vit(&sam).blocks[0].attn.qkv), weights(&mae.blocks[0].attn.qkv));

    // The folder of a pre-training run works, too.
    std::fs::create_dir(run.path("pretrained")).expect("made");
    std::fs::copy(run.path("mae.safetensors"), run.path("pretrained/best.safetensors")).expect("copied");
    run.ok(&["--config", "train.toml", "--force", "--set", "model.mae=pretrained", "--set", "schedule.steps=2"]);

    let refuse = |sets: &[&str], parts: &[&str]| {
        let mut arguments = vec!["--config", "train.toml", "--force"];
        sets.iter().for_each(|set| arguments.extend(["--set", *set]));
        run.refused(&arguments, parts);
    };
    refuse(&["model.sizes.num_heads=4"], &["2 attention heads", "has 4"]);
    refuse(&["model.sizes.patch_size=16"], &["patch_embed.proj.weight", "[16, 3, 16, 16]", "[16, 3, 8, 8]"]);
    refuse(&["model.sizes.embed_dim=32"], &["mae.safetensors", "blocks.0.attn.qkv.weight"]);
    refuse(&["model.mae=run/best.safetensors"], &["masked autoencoder", "got a segmenter", "model.checkpoint"]);
    refuse(&["model.mae=nowhere"], &["model.mae", "nowhere"]);
    refuse(&["model.init=scratch"], &["model.mae", "init = \"mae\""]);
}

#[test]
fn a_run_resumes_with_more_steps_and_rejects_another_recipe() {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml"]);
    // The plan of the run, with nothing done.
    assert!(run.ok(&["--resume", "run", "--check", "--set", "schedule.steps=6"]).contains("steps = 6"));
    let out = run.ok(&["--resume", "run", "--set", "schedule.steps=6"]);
    assert!(out.contains("after step 4") && out.contains("step 6/6"), "{out}");
    // The report equals that of an uninterrupted run.
    let again = with_config(SMALL);
    again.ok(&["--config", "train.toml", "--set", "schedule.steps=6"]);
    let [resumed, whole] = [&run, &again].map(|run| validations(&read(run, "run/report.md")));
    assert_eq!(whole.len(), 4, "before, and after 2, 4 and 6 steps: {whole:?}");
    assert_eq!(resumed, whole);
    run.refused(&["--resume", "run", "--set", "optimiser.lr=1e-5"], &["optimiser.lr", "moments"]);
    run.refused(&["--resume", "nowhere"], &["nowhere", "plan.toml"]);
    // A configuration may be given if it is that of the run, except for keys that may change.
    let out = run.ok(&["--resume", "run", "--config", "train.toml", "--set", "schedule.steps=7"]);
    assert!(out.contains("step 7/7"), "{out}");
    let another =
        ["--resume", "run", "--config", "train.toml", "--set", "schedule.steps=9", "--set", "loss.dice_weight=2.0"];
    run.refused(&another, &["loss.dice_weight cannot change on resume: saved 1.0, got 2.0", "objective"]);
}

#[test]
fn errors_of_a_configuration_are_found_before_the_run_starts() {
    let text =
        SMALL.replace("lr = 1e-3", "lrr = 1e-3").replace("steps = 4", "steps = \"four\"").replace("\"box\"", "\"bx\"");
    let run = with_config(&text);
    let line_of = |part: &str| text.lines().position(|line| line.contains(part)).expect("there") + 1;
    run.refused(
        &["--config", "train.toml"],
        &[
            &format!("train.toml:{}", line_of("lrr")),
            "[optimiser]; did you mean `lr`",
            &format!("train.toml:{}", line_of("\"four\"")),
            &format!("train.toml:{}", line_of("\"bx\"")),
            "\"box\"",
        ],
    );
    run.refused(&["--config", "missing.toml"], &["missing.toml"]);
    run.refused(&["--config", "train.toml", "--set", "shedule.steps=3"], &["--set", "schedule"]);
    assert!(!run.path("run").exists(), "nothing is created before everything is checked");
    let shown = with_config(SMALL).ok(&["--config", "train.toml", "--check"]);
    assert!(shown.contains("weight_decay = 0.1") && shown.contains("focal_weight = 20\n"), "{shown}");
}

#[test]
fn missing_and_mismatched_inputs_are_reported_before_the_run_starts() {
    let data = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n";
    let from_files =
        |files: &str| SMALL.replace(data, "").replace("[data]\n", &format!("[data]\ntrain = \"{files}\"\n"));
    let run = with_config(&from_files("nowhere"));
    run.refused(&["--config", "train.toml"], &["train.toml:", "nowhere"]);
    let run = with_config(&from_files("empty"));
    std::fs::create_dir(run.path("empty")).expect("made");
    run.refused(&["--config", "train.toml"], &["empty"]);
    assert!(!run.path("run").exists());

    let sizes = &SMALL[SMALL.find("[model]").expect("there")..SMALL.find("[data]").expect("there")];
    let from_checkpoint =
        |more: &str| SMALL.replace(sizes, &format!("[model]\ncheckpoint = \"model.safetensors\"\n{more}"));
    let run = with_config(&from_checkpoint(""));
    run.refused(&["--config", "train.toml"], &["model.safetensors"]);
    std::fs::write(run.path("model.safetensors"), "not a checkpoint").expect("written");
    run.refused(&["--config", "train.toml"], &["model.safetensors"]);
    let run = with_config(&from_checkpoint("image_size = 60\n"));
    std::fs::copy(path("tiny_sam.safetensors"), run.path("model.safetensors")).expect("copied");
    run.refused(&["--config", "train.toml"], &["image_size 60", "patch_size 8"]);
    assert!(!run.path("run").exists());

    let run = with_config(SMALL);
    run.refused(&["--config", "train.toml", "--set", "run.device=tpu"], &["tpu", "cuda:N"]);
    if cfg!(not(feature = "cuda")) {
        run.refused(&["--config", "train.toml", "--set", "run.device=cuda:0"], &["cuda", "--features cuda"]);
    }
}

#[test]
fn fine_tuning_starts_from_a_checkpoint() {
    let sizes = &SMALL[SMALL.find("[model]").expect("there")..SMALL.find("[data]").expect("there")];
    let text = SMALL.replace(sizes, "[model]\ncheckpoint = \"model.safetensors\"\nimage_size = 32\n");
    let run = with_config(&text);
    std::fs::copy(path("tiny_sam.safetensors"), run.path("model.safetensors")).expect("copied");
    let out = run.ok(&["--config", "train.toml", "--set", "optimiser.freeze=[\"image_encoder\"]"]);
    assert!(out.contains("pos_embed is resized"), "{out}");
}

#[cfg(unix)]
#[test]
pub(crate) fn on_a_full_disk_the_old_checkpoint_survives() {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml"]);
    let before = std::fs::read(run.path("run/last.safetensors")).expect("written");
    let (code, err) = on_a_full_disk(&run, &["--resume", "run", "--set", "schedule.steps=8"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(!err.contains("panicked"), "{err}");
    assert!(err.contains("step 4 is saved") && err.contains("--resume"), "{err}");
    assert!(before == std::fs::read(run.path("run/last.safetensors")).expect("still there"));
    let out = run.ok(&["--resume", "run", "--set", "schedule.steps=8"]);
    assert!(out.contains("step 8/8"), "{out}");
}

/// An image that cannot be decoded: the run is refused before its first step, or skips and counts it, as configured.
#[test]
fn an_unreadable_image_is_reported_and_stops_the_run_or_is_skipped() {
    let data = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n";
    let text = SMALL.replace(data, "").replace("[data]\n", "[data]\ntrain = \"photos\"\n");
    let run = with_config(&text);
    run.ok(&["data", "synth", "--out", "photos", "--train", "4", "--val", "0", "--seed", "5"]);
    let image = std::fs::read_dir(run.path("photos/train"))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| is_image(path))
        .expect("images");
    // The header stays, so that the error is found only when the image is decoded.
    let bytes = std::fs::read(&image).expect("read");
    std::fs::write(&image, &bytes[..bytes.len() / 2]).expect("written");
    let name = image.file_name().expect("named").to_string_lossy().into_owned();

    let output = run.sam_train(&["--config", "train.toml"]);
    let err = texts(&output).1;
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains(&name) && err.contains("data.bad") && !err.contains("panicked"), "{err}");
    assert!(!run.path("run").exists());

    let output = run.sam_train(&["--config", "train.toml", "--force", "--set", "data.on_unreadable=\"skip\""]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(err.contains("skipped: ") && err.contains(&name), "{err}");
}

/// Non-finite pixels are reported before the first step.
#[test]
fn non_finite_pixels_are_reported() {
    let data = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n";
    let text = SMALL.replace(data, "").replace("[data]\n", "[data]\ntrain = \"cells\"\nintensity = \"min_max\"\n");
    let run = with_config(&text);
    for folder in ["cells/images", "cells/masks"] {
        std::fs::create_dir_all(run.path(folder)).expect("made");
    }
    for cell in 0..3u32 {
        let pixels = image::Rgb32FImage::from_fn(40, 40, |x, y| {
            let is_hole = cell == 1 && x == 7 && y == 9;
            image::Rgb([if is_hole { f32::NAN } else { (x * 3 + y + cell) as f32 }; 3])
        });
        pixels.save(run.path(&format!("cells/images/cell_{cell}.tif"))).expect("saved");
        let mask = image::GrayImage::from_fn(40, 40, |x, _| image::Luma([u8::from(x > 20)]));
        mask.save(run.path(&format!("cells/masks/cell_{cell}.png"))).expect("saved");
    }
    let output = run.sam_train(&["--config", "train.toml"]);
    let err = texts(&output).1;
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(!run.path("run").exists(), "refused before the run folder is made");
    for part in ["cell_1.tif", "3 of 4800 NaN or infinite", "exclude the image", "data.bad = \"drop\" drops and"] {
        assert!(err.contains(part) && !err.contains("panicked"), "must say `{part}`:\n{err}");
    }
}

/// A diverging learning rate: the step and its samples are reported, and the weights are not saved.
#[test]
fn a_non_finite_loss_stops_the_run() {
    let run = with_config(&SMALL.replace("lr = 1e-3", "lr = 1e38"));
    let output = run.sam_train(&["--config", "train.toml"]);
    let err = texts(&output).1;
    assert_eq!(output.status.code(), Some(1), "{err}");
    for part in ["step ", "scene_", "the run stops"] {
        assert!(err.contains(part) && !err.contains("panicked"), "must say `{part}`:\n{err}");
    }
    for name in ["last.safetensors", "best.safetensors", "checkpoints"] {
        assert!(!run.path(&format!("run/{name}")).exists(), "{name}");
    }
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "png" || extension == "jpg")
}

/// Ctrl-C finishes the step, saves, and prints the command that resumes.
#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_prints_how_to_resume() {
    let run =
        with_config(&SMALL.replace("steps = 4", "steps = 100000").replace("every_steps = 2", "every_steps = 50000"));
    let child = Command::new(env!("CARGO_BIN_EXE_sam-train"))
        .args(["--config", "train.toml"])
        .current_dir(run.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let log = run.path("run/metrics.jsonl");
    let began = Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 5 {
        assert!(began.elapsed() < Duration::from_secs(60), "it makes steps");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
    assert!(status.success());
    let output = child.wait_with_output().expect("it ends");
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(out.contains("resume with: sam-train --resume"), "{out}\n{err}");
    assert!(run.path("run/last.safetensors").is_file());
    let markdown = read(&run, "run/report.md");
    assert!(markdown.contains(" of 100000 |") && markdown.contains("## Run"), "{markdown}");
}

/// Parts of a data set are never mixed, and a small one is never validated on nothing.
#[test]
fn the_parts_of_a_data_set_are_used_as_they_are() {
    let run = Run::new();
    let synth = crate::data_cli::datasets("synth");
    let scenes = SMALL.split("[data.synth]").next().expect("text").to_owned();
    let rest = SMALL.split("[prompts]").nth(1).expect("text");
    let configure = |path: &str, more: &str| {
        let text = format!("{scenes}train = \"{path}\"\n{more}\n[prompts]{rest}");
        std::fs::write(run.path("train.toml"), text).expect("written");
    };
    let check = ["--config", "train.toml", "--check"];
    configure(&synth, "");
    assert!(run.ok(&check).contains("trains on 24 images"), "its own parts by default");
    configure(&synth, "split = { val = 0.1 }");
    run.refused(&check, &["train (24 images), val (12 images)", "data.split = \"given\"", "data.part = \"train\""]);
    run.refused(&["data", "split", &synth, "--out", "s.json"], &["train (24 images)", "--given", "--part train"]);
    configure(&synth, "part = \"train\"\nsplit = { val = 0.25 }");
    let text = run.ok(&check);
    let [learned, held_out] = ["trains on ", "validates on "].map(|words| {
        let rest = text.split(words).nth(1).expect("said");
        rest.split([' ', '\n', ',']).next().and_then(|number| number.parse::<usize>().ok()).expect("a number")
    });
    assert_eq!(learned + held_out, 24, "{text}");
    let few = ["data", "synth", "--out", "few", "--train", "5", "--val", "0", "--max-side", "64", "--min-side", "64"];
    run.ok(&few);
    configure("few", "split = { val = 0.001 }");
    assert!(run.ok(&check).contains("trains on 4 images"), "one of five is held out");
}

#[test]
fn a_masked_autoencoder_is_no_checkpoint_of_a_segmenter() {
    let run = with_config(SMALL);
    let mae = path("tiny_mae.pth").display().to_string();
    let text = SMALL.split("[model]").next().expect("text").to_owned()
        + &format!("[model]\ncheckpoint = \"{mae}\"\n[data]\n")
        + SMALL.split("[data]\n").nth(1).expect("text");
    std::fs::write(run.path("train.toml"), text).expect("written");
    run.refused(&["--config", "train.toml"], &["must be a segmenter", "model.init = \"mae\""]);
    assert!(!run.path("run").exists());
}
