//! `sam-train eval --text`: the texts of the data as prompts.

use std::path::Path;

use sam_eval::{Results, TextKind};
use sam_infer::clip::Clip;
use sam_model::TextPromptConfig;
use sam_model::weights::{Checkpoint, ExportFormat, ImageSizePolicy, LoadOptions, export};

use crate::cli::{Run, fixture, texts};
use crate::data_cli::datasets;
use crate::fixture::{cpu, f32_of, path};
use crate::train_cli::{SMALL, read};

/// The tiny model of the fixtures with a random text prompt for a CLIP.
fn write_checkpoint(out: &Path, config: TextPromptConfig) {
    let checkpoint = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let mut options = LoadOptions { seed: 4, ..checkpoint.default_options() };
    options.config.text = Some(config);
    let (sam, _) = checkpoint.load_with(&options, &cpu()).expect("it fits");
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep);
    export(&sam, options, out).expect("written");
}

/// A checkpoint of the committed CLIP, and one of another.
fn checkpoints(run: &Run) {
    let clip = Clip::open(&path("clip/hf"), &cpu()).expect("a committed fixture");
    let fingerprint = format!("{:016x}", clip.fingerprint());
    write_checkpoint(&run.path("a.safetensors"), TextPromptConfig { width: clip.width(), clip: fingerprint });
    let other = TextPromptConfig { width: clip.width(), clip: "00000000deadbeef".to_owned() };
    write_checkpoint(&run.path("other.safetensors"), other);
}

fn results(run: &Run, name: &str) -> Results {
    let text = std::fs::read_to_string(run.path(name)).expect("written");
    Results::from_json(name, &text).expect("its own format")
}

#[test]
fn texts_of_the_data_are_evaluated_and_reported() {
    let run = Run::new();
    checkpoints(&run);
    let (clip, synth) = (fixture("clip/hf"), datasets("synth"));
    let few = ["--data", &synth, "--part", "val", "--max-images", "3"];
    let base = [&["eval", "--checkpoint", "a.safetensors", "--text", "--clip", &clip][..], &few].concat();
    let short = ["--templates", "{}", "a {}"];
    std::fs::write(run.path("gate.toml"), "[gate]\nmiou_text = 0.0\n\"synth/class:ring/recall_50_text\" = 0.0\n")
        .expect("written");
    let out = run.sam_train(&[&base[..], &short, &["--gate", "gate.toml", "--out", "out"]].concat());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{text}{err}");
    for expected in ["miou_text", "miou_text_click", "miou_wrong_text", "recall_75_text", "gate: 2 of 2 bounds met"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("miou_1"), "texts alone, unless --protocol asks for more: {text}");
    assert!(err.contains("texts: 29 different ones, 38 prompts of images"), "{err}");

    let results = results(&run, "out/results.json");
    let texts = results.texts.as_ref().expect("texts");
    let ring = texts.records.iter().find(|record| record.text == "ring").expect("a class name");
    assert_eq!((ring.kind, ring.class.as_deref()), (TextKind::Class, Some("ring")));
    assert!(texts.records.iter().any(|record| record.kind == TextKind::Caption && record.text.ends_with(" ring")));
    assert_eq!(texts.left_out["synth"].texts_without_vector, 0);
    assert_eq!(texts.settings.templates, ["{}", "a {}"]);
    let csv = std::fs::read_to_string(run.path("out/texts.csv")).expect("written");
    assert_eq!(csv.lines().count(), texts.records.len() + 1);
    let html = std::fs::read_to_string(run.path("out/report.html")).expect("written");
    for expected in ["Texts by class", "Which object the masks fit best", "Worst with a text alone", "a red"] {
        assert!(html.contains(expected), "{expected}");
    }
    // The folder's configuration is the same evaluation; a second checkpoint is compared text by text.
    let again = ["--config", "out/evaluate.toml", "--set", "run.out=again"];
    run.ok(&again);
    assert_eq!(self::results(&run, "again/results.json"), results);
    let both = run.ok(&[&base[..], &short, &["--texts", "classes", "--checkpoint", "a.safetensors"]].concat());
    assert!(both.contains("+0.0000 (+0.0000 to +0.0000)"), "{both}");
    // The committed CLIP reads 16 tokens: "polygon" is too long in this sentence, and the others are asked for.
    let output = run.sam_train(&[&base[..], &["--texts", "classes", "--templates", "a photograph of a {}"]].concat());
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && err.contains("warning: 1 of "), "{err}");
    assert!(err.contains("texts are longer than this CLIP reads, and are left out"), "{err}");
    let clicks = ["--protocol", "click", "--clicks", "1", "--texts", "classes"];
    let more = run.ok(&[&base[..], &short, &clicks].concat());
    assert!(more.contains("miou_1") && more.contains("miou_text"), "{more}");
}

#[test]
fn what_texts_lack_is_said_before_anything_is_computed() {
    let run = Run::new();
    checkpoints(&run);
    let (clip, synth, photos) = (fixture("clip/hf"), datasets("synth"), datasets("photos"));
    let tiny = fixture("tiny_sam.safetensors");
    let with = |checkpoint: &'static str| ["eval", "--checkpoint", checkpoint, "--text", "--clip", &clip];
    let base = with("a.safetensors");
    run.refused(&["eval", "--checkpoint", "a.safetensors", "--text", "--data", &synth], &["--clip"]);
    run.refused(
        &[&["eval", "--checkpoint", &tiny, "--text", "--clip", &clip][..], &["--data", &synth]].concat(),
        &["tiny_sam.safetensors: train one with [prompts.text]", "takes no texts"],
    );
    run.refused(&[&with("other.safetensors")[..], &["--data", &synth]].concat(), &["00000000deadbeef", "--clip"]);
    run.refused(
        &[&base[..], &["--data", &photos, "--texts", "captions"]].concat(),
        &["data set photos: must have captions, got none"],
    );
    run.refused(&[&base[..], &["--data", &synth, "--templates", "a ring"]].concat(), &["{}", "--templates"]);
    run.refused(&[&base[..], &["--data", &synth, "--texts", "words"]].concat(), &["captions"]);
    run.refused(&[&base[..], &["--data", &synth, "--task", "proposals"]].concat(), &["--task"]);
    let long = "an extraordinarily long sentence about one single {}";
    run.refused(
        &[&base[..], &["--data", &photos, "--texts", "classes", "--templates", long]].concat(),
        &["reads none of the", "too long"],
    );
    std::fs::write(run.path("gate.toml"), "[gate]\nmiou_txt = 0.0\n").expect("written");
    run.refused(&[&base[..], &["--data", &synth, "--gate", "gate.toml"]].concat(), &["miou_txt", "miou_text"]);
    let absent = ["eval", "--checkpoint", "a.safetensors", "--text", "--clip", "nowhere", "--data", &synth];
    run.refused(&absent, &["nowhere"]);
}

#[test]
fn a_training_validates_texts_and_may_choose_by_them() {
    let run = Run::new();
    let clip = fixture("clip/hf");
    let prompts = format!("[prompts.text]\nclip = \"{clip}\"\nmin_object_px = 20\n[optimiser]");
    let config = SMALL
        .replace("preset = \"box\"", "preset = \"sam\"\ncorrection_clicks = 1\nmask_only_passes = 0")
        .replace("[optimiser]", &prompts)
        .replace("metric = \"miou_box\"", "metric = \"miou_text\"\ntext = true\ntexts = \"classes\"");
    std::fs::write(run.path("train.toml"), &config).expect("written");
    let output = run.sam_train(&["--config", "train.toml", "--plain", "--set", "run.dir=\"run\""]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let both = out + &err;
    assert!(both.contains("different texts, too") && both.contains("prompts of images"), "{both}");
    let log = read(&run, "run/metrics.jsonl");
    for metric in ["miou_text", "miou_text_click", "miou_wrong_text", "recall_50_text"] {
        assert!(log.contains(&format!("\"{metric}\":")), "{metric}: {log}");
    }
    assert!(read(&run, "run/report.html").contains("Texts by class"));
    run.refused(
        &["--config", "train.toml", "--check", "--set", "validation.text=false"],
        &["validation.metric", "one of the metrics of this validation"],
    );
    let without = config.replace(&prompts, "[optimiser]");
    std::fs::write(run.path("without.toml"), without).expect("written");
    run.refused(&["--config", "without.toml", "--check"], &["validation.text", "[prompts.text]"]);
}

#[test]
fn neighbours_of_masks_are_shown_and_scored() {
    let run = Run::new();
    let (checkpoint, clip, synth) = (fixture("tiny_sam.safetensors"), fixture("clip/hf"), datasets("synth"));
    let base = ["neighbours", "--checkpoint", &checkpoint, "--data", &synth, "--part", "val", "--max-objects", "12"];
    let few = ["--queries", "3", "--neighbours", "2"];
    let text = run.ok(&[&base[..], &few, &["--clip", &clip, "--out", "out"]].concat());
    for part in ["12 objects", "nearest of the same class", "segmenter", "CLIP", "chance", "neighbours.html"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let html = read(&run, "out/neighbours.html");
    assert_eq!(html.matches("<img ").count(), 3 * 2 * 3, "a query and two neighbours, in both spaces");
    let json: serde_json::Value = serde_json::from_str(&read(&run, "out/neighbours.json")).expect("JSON");
    let objects = json["objects"].as_array().expect("objects");
    assert_eq!(objects.len(), 12);
    let nearest = objects[0]["neighbours"][0]["nearest"].as_array().expect("neighbours");
    let cosines: Vec<f64> = nearest.iter().filter_map(|one| one["cosine"].as_f64()).collect();
    assert!(cosines.len() == 2 && cosines[0] >= cosines[1] && cosines[0] <= 1.0 + 1e-6, "{cosines:?}");
    run.refused(&[&base[..], &few, &["--out", "out"]].concat(), &["out/neighbours.html", "--force"]);
    run.ok(&[&base[..], &few, &["--within", "image", "--out", "out", "--force"]].concat());
    let json: serde_json::Value = serde_json::from_str(&read(&run, "out/neighbours.json")).expect("JSON");
    for object in json["objects"].as_array().expect("objects") {
        let nearest = object["neighbours"][0]["nearest"].as_array().expect("neighbours");
        assert!(nearest.iter().all(|one| one["image"] == object["image"]), "{object}");
    }
    let lone = [&base[..5], &["--part", "val", "--max-objects", "1", "--out", "x"]].concat();
    run.refused(&lone, &["--max-objects"]);
}
