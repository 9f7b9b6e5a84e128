//! Text prompts through the real program: a training with CLIP's vectors of crops and captions, what it leaves, `predict`
//! with texts, bad input. The CLIP has random weights: what is learned is measured elsewhere.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::cache_cli::{losses, train};
use crate::cli::{Run, fixture, texts};
use crate::train_cli::SMALL;

/// A small training in which the first prompts are texts.
fn config(text: &str) -> String {
    let clip = fixture("clip/hf");
    let section = format!("[prompts.text]\nclip = \"{clip}\"\nmin_object_px = 20\ncrops_per_object = 2\n{text}\n");
    SMALL
        .replace("preset = \"box\"", "preset = \"sam\"\ncorrection_clicks = 1\nmask_only_passes = 0")
        .replace("[optimiser]", &format!("{section}[optimiser]"))
        .replace("metric = \"miou_box\"", "metric = \"miou_1_oracle\"")
}

fn prepared(text: &str) -> Run {
    let run = Run::new();
    std::fs::write(run.path("train.toml"), config(text)).expect("written");
    run
}

/// The files of vectors with the times at which they were written.
fn vectors(root: &Path) -> Vec<(PathBuf, SystemTime)> {
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = below(root)
        .filter(|path| path.to_string_lossy().contains("clip-"))
        .flat_map(|path| below(&path).collect::<Vec<_>>());
    let mut files: Vec<_> =
        files.map(|path| (path.clone(), path.metadata().and_then(|file| file.modified()).expect("a file"))).collect();
    files.sort();
    files
}

#[test]
fn vectors_are_kept_and_a_killed_run_goes_on_equal() {
    let run = prepared("chance = 0.7\nwords_chance = 0.3\ncentre = true\nnoise = 0.2");
    let out = train(&run, "whole", &[]);
    assert!(out.contains("2 vectors of each of") && out.contains("different words about them to compute"), "{out}");
    let files = vectors(&run.path("embeddings"));
    assert!(files.len() > 8, "images and words: {files:?}");
    assert_eq!(losses(&run, "whole").len(), 4);

    // The same run in two sessions has the same numbers, and computes nothing again.
    train(&run, "halves", &["schedule.steps=2"]);
    let output = run.sam_train(&["--resume", "halves", "--plain", "--set", "schedule.steps=4"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(!(out + &err).contains("to compute"), "all vectors are there");
    assert_eq!(losses(&run, "halves"), losses(&run, "whole"), "bit for bit");
    assert_eq!(vectors(&run.path("embeddings")), files, "nothing is written again");
    for name in ["last.safetensors", "last.text.safetensors"] {
        let of = |folder: &str| std::fs::read(run.path(folder).join(name)).expect("written");
        assert!(of("halves") == of("whole"), "{name}");
    }
    // Damaged vectors are computed again, and give the same run.
    for (path, _) in files.iter().step_by(2) {
        let mut bytes = std::fs::read(path).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).expect("written");
    }
    assert!(train(&run, "mended", &[]).contains("to compute"));
    assert_eq!(losses(&run, "mended"), losses(&run, "whole"));
    // In shards side by side, and without texts at all, the numbers are others.
    let shards = train(&run, "shards", &["run.parallel=2"]);
    assert!(!shards.contains("to compute"), "{shards}");
    for (shards, whole) in losses(&run, "shards").iter().zip(losses(&run, "whole")) {
        assert!((shards - whole).abs() < 1e-4 * whole, "{shards} {whole}");
    }
    train(&run, "points", &["prompts.text.chance=0"]);
    assert_ne!(losses(&run, "points"), losses(&run, "whole"));
    // Noise is drawn in each step: the vectors on disk have none.
    assert!(!train(&run, "exact", &["prompts.text.noise=0"]).contains("to compute"));
    assert_ne!(losses(&run, "exact"), losses(&run, "whole"));
}

/// The draws of points and boxes are those of a run without texts.
#[test]
fn a_chance_of_zero_is_the_run_without_texts() {
    let run = prepared("chance = 0.0");
    train(&run, "with", &[]);
    let without = config("");
    let (head, rest) = without.split_once("[prompts.text]").expect("a section");
    let rest = rest.split_once("[optimiser]").expect("a section").1;
    std::fs::write(run.path("train.toml"), format!("{head}[optimiser]{rest}")).expect("written");
    train(&run, "without", &[]);
    assert_eq!(losses(&run, "with"), losses(&run, "without"));
    assert!(run.path("with/best.text.safetensors").is_file() && !run.path("without/best.text.safetensors").exists());
}

#[test]
fn texts_prompt_alone_and_with_a_click_for_one_image_and_many() {
    let run = prepared("chance = 1.0");
    train(&run, "run", &[]);
    run.ok(&["data", "synth", "--out", "scenes", "--train", "2", "--val", "0", "--seed", "5"]);
    let images: Vec<PathBuf> = {
        let found = std::fs::read_dir(run.path("scenes/train")).expect("images");
        let mut found: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let images: Vec<String> = images.iter().map(|path| path.display().to_string()).collect();
    let clip = fixture("clip/hf");
    let predict = |more: &[&str]| {
        run.ok(&[&["predict", "--checkpoint", "run", "--clip", &clip, "--image", &images[0]], more].concat())
    };
    let alone = predict(&["--text", "a red ring", "--out", "alone"]);
    assert!(alone.contains("mask_0.png") && !alone.contains("mask_1.png"), "the most confident of three: {alone}");
    assert!(predict(&["--text", "a red ring", "--multimask", "--out", "three"]).contains("mask_2.png"));
    predict(&["--text", "a red ring", "--point", "20,20", "--out", "clicked"]);
    let logits = |folder: &str| std::fs::read(run.path(folder).join("mask_0.png")).expect("a mask");
    predict(&["--point", "20,20", "--out", "click"]);
    assert_ne!(logits("clicked"), logits("click"), "the text is part of the prompt");

    // Several texts are several objects, labelled by what was asked for.
    let both = ["--text", "a red ring", "--text", "two stars", "--out", "both", "--format", "json"];
    let out =
        run.ok(&[&["predict", "--checkpoint", "run", "--clip", &clip, "--image", &images[0], &images[1]], &both[..]]
            .concat());
    assert!(out.contains("4 objects in 2 of 2 images"), "{out}");
    let objects: Value =
        serde_json::from_slice(&std::fs::read(run.path("both/predictions.json")).expect("there")).expect("JSON");
    let said = |key: &str| objects.as_array().expect("a list").iter().map(|o| o[key].clone()).collect::<Vec<_>>();
    assert_eq!(said("text"), ["a red ring", "two stars", "a red ring", "two stars"]);
    assert_eq!(said("label"), said("text"));
    assert_eq!(said("object"), [0, 1, 0, 1]);

    // From files, mixed with points and boxes; the order stays that of the file.
    let names: Vec<&str> = images.iter().map(|image| image.rsplit('/').next().expect("a name")).collect();
    let json = format!(
        r#"[{{"image": "{0}", "text": "a disc"}}, {{"image": "{0}", "points": [[9, 9]]}}, {{"image": "{0}", "text": "a disc", "box": [2, 2, 30, 30]}},
           {{"image": "{1}", "text": "a blue star", "label": "star"}}]"#,
        names[0], names[1]
    );
    std::fs::write(run.path("prompts.json"), json).expect("written");
    let csv = format!("image,x,y,text\n{0},,,a disc\n{0},9,9,\n{1},,,\"a, b\"\n", names[0], names[1]);
    std::fs::write(run.path("prompts.csv"), csv).expect("written");
    let from = |file: &str, out: &str| {
        let more = ["--prompts", file, "--images", "scenes/train", "--format", "json", "--out", out];
        run.ok(&[&["predict", "--checkpoint", "run", "--clip", &clip][..], &more].concat())
    };
    assert!(from("prompts.json", "json").contains("4 objects in 2 of 2 images"));
    assert!(from("prompts.csv", "csv").contains("3 objects in 2 of 2 images"));
    let objects: Value =
        serde_json::from_slice(&std::fs::read(run.path("json/predictions.json")).expect("there")).expect("JSON");
    let numbers: Vec<_> = objects.as_array().expect("a list").iter().map(|o| o["object"].as_u64()).collect();
    assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(0)]);

    // Moved together with its checkpoint, or merged with it, the text prompt goes along.
    let export = ["export", "--checkpoint", "run", "--keep-image-size", "--format", "safetensors"];
    let out = run.ok(&[&export[..], &["--out", "merged.safetensors", "--merge-text"]].concat());
    assert!(out.contains("text prompt of CLIP") && !run.path("merged.text.safetensors").exists(), "{out}");
    let out = run.ok(&[&export[..], &["--out", "apart.safetensors"]].concat());
    assert!(out.contains("apart.text.safetensors"), "{out}");
    for checkpoint in ["merged.safetensors", "apart.safetensors"] {
        let folder = format!("of-{checkpoint}");
        let from =
            ["predict", "--checkpoint", checkpoint, "--clip", &clip, "--image", &images[0], "--text", "a red ring"];
        run.ok(&[&from[..], &["--out", &folder]].concat());
        assert_eq!(logits(&folder), logits("alone"), "{checkpoint}");
    }
    assert!(run.ok(&["inspect", "apart.safetensors"]).contains("apart.text.safetensors (vectors of"));
    refuses_wrong_texts(&run, &images[0], &clip);
}

fn refuses_wrong_texts(run: &Run, image: &str, clip: &str) {
    let predict = |more: &[&str], parts: &[&str]| {
        run.refused(&[&["predict", "--image", image, "--out", "never"], more].concat(), parts);
    };
    let with_clip = ["--checkpoint", "run", "--clip", clip];
    predict(&["--checkpoint", "run", "--text", "a ring"], &["texts need the CLIP", "--clip"]);
    predict(&[&with_clip[..], &["--text", " "]].concat(), &["empty"]);
    let long = "star ".repeat(200);
    predict(&[&with_clip[..], &["--text", &long]].concat(), &["token"]);
    predict(
        &[&with_clip[..], &["--text", "a ring", "--text", "a disc", "--point", "3,3"]].concat(),
        &["several texts"],
    );
    predict(&["--checkpoint", "run", "--clip", "nowhere", "--text", "a ring"], &["nowhere"]);
    let sam = fixture("tiny_sam.safetensors");
    predict(&["--checkpoint", &sam, "--clip", clip, "--text", "a ring"], &["takes no texts", "[prompts.text]"]);
    predict(&["--checkpoint", "run", "--clip", &sam, "--text", "a ring"], &["--clip"]);
    // The same weights in another layout are the same CLIP; one other number is another.
    let same = fixture("clip/open_clip");
    run.ok(&["predict", "--image", image, "--out", "same", "--checkpoint", "run", "--clip", &same, "--text", "a ring"]);
    std::fs::create_dir_all(run.path("other")).expect("made");
    for file in std::fs::read_dir(clip).expect("a folder").flatten() {
        let mut bytes = std::fs::read(file.path()).expect("read");
        if file.file_name() == "model.safetensors" {
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
        }
        std::fs::write(run.path("other").join(file.file_name()), bytes).expect("written");
    }
    predict(&["--checkpoint", "run", "--clip", "other", "--text", "a ring"], &["this is CLIP", "--clip other"]);
    std::fs::create_dir_all(run.path("moved")).expect("made");
    std::fs::copy(run.path("run/best.safetensors"), run.path("moved/best.safetensors")).expect("copied");
    std::fs::copy(run.path("run/last.text.safetensors"), run.path("moved/best.text.safetensors")).expect("copied");
    let best = std::fs::read(run.path("run/best.text.safetensors")).expect("read");
    if best != std::fs::read(run.path("run/last.text.safetensors")).expect("read") {
        predict(
            &["--checkpoint", "moved/best.safetensors", "--clip", clip, "--text", "a ring"],
            &["another checkpoint"],
        );
    }
}

#[test]
fn a_training_with_wrong_texts_is_refused() {
    let run = prepared("chance = 0.5");
    let check = |sets: &[&str], parts: &[&str]| {
        let mut arguments = vec!["--config", "train.toml", "--check"];
        sets.iter().for_each(|set| arguments.extend(["--set", *set]));
        run.refused(&arguments, parts);
    };
    check(&["prompts.text.clip=\"nowhere\""], &["prompts.text.clip", "nowhere"]);
    check(&[&format!("prompts.text.clip=\"{}\"", fixture("tiny_sam.safetensors"))], &["prompts.text.clip"]);
    check(&["prompts.text.templates=[\"a photo\"]"], &["prompts.text.templates", "{}"]);
    check(&["prompts.text.crop_scale=[2.0, 1.0]"], &["prompts.text.crop_scale"]);
    check(&["prompts.text.words=\"classes\""], &["prompts.text.words", "words_chance"]);
    check(&["prompts.text.chance=1.5"], &["prompts.text.chance"]);
    let failed = |sets: &[&str], parts: &[&str]| {
        let mut arguments = vec!["--config", "train.toml", "--force"];
        sets.iter().for_each(|set| arguments.extend(["--set", *set]));
        let output = run.sam_train(&arguments);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
        parts.iter().for_each(|part| assert!(err.contains(part), "{part}: {err}"));
    };
    failed(&["prompts.text.min_object_px=2000"], &["min_object_px is 2000, and none of the"]);
    std::fs::write(run.path("empty.txt"), "\n \n").expect("written");
    failed(&["prompts.text.centre=true", "prompts.text.centre_texts=\"empty.txt\""], &["centre_texts"]);
}
