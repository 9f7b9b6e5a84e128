//! Distillation through the real program: a student learns a teacher's embeddings and masks, resumed and from a cache alike; images
//! without labels; bad input.

use sam_model::weights::{Checkpoint, named_tensors};
use serde_json::Value;

use crate::cache_cli::{losses, train};
use crate::cli::{Run, texts};
use crate::fixture::cpu;
use crate::train_cli::SMALL;

/// A run with a teacher, and a student of half its width.
fn prepared(distil: &str) -> Run {
    let run = Run::new();
    std::fs::write(run.path("train.toml"), SMALL).expect("written");
    train(&run, "teacher", &["run.seed=5"]);
    let student = SMALL.replace("embed_dim = 16", "embed_dim = 8").replace("warmup_steps = 1", "warmup_steps = 0");
    let text = format!("task = \"distil\"\n{student}\n[distil]\nteacher = \"teacher\"\n{distil}\n");
    std::fs::write(run.path("train.toml"), text).expect("written");
    run
}

/// A run `other` that could be the teacher, too.
fn other_teacher(run: &Run) {
    let plain = SMALL.replace("[data.synth]", "[data.synth]\nfirst_index = 50");
    std::fs::write(run.path("other.toml"), plain).expect("written");
    run.ok(&["--config", "other.toml", "--plain", "--set", "run.dir=other", "--set", "run.seed=6"]);
}

fn records(run: &Run, name: &str, event: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(run.path(name).join("metrics.jsonl")).expect("a log");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == event).collect()
}

fn metric(run: &Run, name: &str, metric: &str) -> Vec<f64> {
    let of = |line: &Value| line["metrics"][metric].as_f64().unwrap_or_else(|| panic!("{metric} of {line}"));
    let log = std::fs::read_to_string(run.path(name).join("metrics.jsonl")).expect("a log");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["metrics"].is_object()).map(|line| of(&line)).collect()
}

#[test]
fn embeddings_come_first_then_masks_and_a_stopped_run_goes_on_equal() {
    let run = prepared("embedding_steps = 2");
    let out = train(&run, "whole", &[]);
    for part in
        ["teacher/best.safetensors, ViT 16 x 1", "% of its operations", "teacher's prompt encoder and mask decoder"]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    let steps = records(&run, "whole", "step");
    assert_eq!(steps.len(), 4);
    for (at, step) in steps.iter().enumerate() {
        assert!(step["embedding_mse"].as_f64().is_some_and(|mse| mse > 0.0), "{step}");
        assert_eq!(step["dice"].is_number(), at >= 2, "{step}");
        assert_eq!(step["teacher_share"].is_number(), at >= 2, "{step}");
    }
    // Against the truth and against the teacher.
    for name in ["miou_1", "also:teacher/miou_1", "embedding_mse", "embedding_cosine"] {
        assert_eq!(metric(&run, "whole", name).len(), 3, "{name}");
    }

    // In two sessions, within the steps of embeddings and at their end, with the same numbers.
    for first in ["1", "2"] {
        let name = format!("halves{first}");
        train(
            &run,
            &name,
            &[
                &format!("schedule.steps={first}"),
                &format!("validation.every_steps={first}"),
                "distil.embedding_steps=1",
            ],
        );
        let refused = run.sam_train(&["--resume", &name, "--plain", "--set", "distil.embedding_steps=2"]);
        assert_eq!(refused.status.code(), Some(2), "{:?}", texts(&refused));
        assert!(texts(&refused).1.contains("distil.embedding_steps cannot change on resume"), "{:?}", texts(&refused));
    }
    train(&run, "whole1", &["distil.embedding_steps=1"]);
    for first in ["1", "2"] {
        let name = format!("halves{first}");
        run.ok(&["--resume", &name, "--plain", "--set", "schedule.steps=4"]);
        assert_eq!(losses(&run, &name), losses(&run, "whole1"), "bit for bit");
    }
    // In shards side by side, and with activations that are computed again.
    for set in ["run.parallel=2", "run.activations=recompute"] {
        train(&run, "other", &[set, "run.name=x"]);
        for (other, whole) in losses(&run, "other").iter().zip(losses(&run, "whole")) {
            assert!((other - whole).abs() < 1e-4 * whole, "{set}: {other} {whole}");
        }
        std::fs::remove_dir_all(run.path("other")).expect("removed");
    }
}

#[test]
fn a_resumed_run_has_the_same_teacher() {
    let run = prepared("");
    train(&run, "run", &["schedule.steps=2", "validation.every_steps=2"]);
    other_teacher(&run);
    std::fs::rename(run.path("teacher"), run.path("moved")).expect("moved");
    let resume = ["--resume", "run", "--plain", "--set", "schedule.steps=4", "--set"];
    let with = |teacher: &'static str| [&resume[..], &[teacher]].concat();
    run.refused(&resume[..5], &["distil.teacher", "does not exist", "--set distil.teacher=PATH"]);
    run.refused(
        &with("distil.teacher=\"other\""),
        &["distil.teacher", "is not the network of this run", "other weights"],
    );
    run.ok(&with("distil.teacher=\"moved\""));
    // Another one in its place is noticed.
    std::fs::remove_dir_all(run.path("moved")).expect("removed");
    std::fs::rename(run.path("other"), run.path("moved")).expect("moved");
    let (out, warnings) = texts(&run.sam_train(&["--resume", "run", "--plain", "--set", "schedule.steps=5"]));
    assert!(
        format!("{out}{warnings}").contains("other weights; the run continues with the network as it is now"),
        "{out}"
    );
}

/// Its decoder does not learn, and its embeddings come nearer to the teacher's.
#[test]
fn a_student_of_embeddings_alone_keeps_the_decoder_of_its_teacher() {
    let run = prepared("embedding_steps = 40");
    train(
        &run,
        "run",
        &["schedule.steps=40", "validation.every_steps=40", "optimiser.lr=3e-3", "validation.metric=\"embedding_mse\""],
    );
    let mse = metric(&run, "run", "embedding_mse");
    assert!(mse[1] < 0.7 * mse[0], "{mse:?}");
    let cosine = metric(&run, "run", "embedding_cosine");
    assert!(cosine[1] > cosine[0] && cosine[1] < 1.0, "{cosine:?}");
    let decoder = |name: &str| -> Vec<(String, Vec<f32>)> {
        let checkpoint = Checkpoint::open(&run.path(name).join("best.safetensors")).expect("a checkpoint");
        let (sam, _) = checkpoint.load(&cpu()).expect("loaded");
        let tensors = named_tensors(&sam).into_iter().filter(|tensor| !tensor.key.starts_with("image_encoder"));
        tensors.map(|tensor| (tensor.key.clone(), tensor.values())).collect()
    };
    assert!(decoder("run").len() > 50 && decoder("run") == decoder("teacher"));
    // A student that is its own teacher has nothing to learn.
    let text = std::fs::read_to_string(run.path("train.toml")).expect("read");
    let (head, rest) = text.split_once("[model]").expect("a section");
    let rest = rest.split_once("[data]").expect("a section").1;
    let text = format!("{head}[model]\ncheckpoint = \"teacher\"\n[data]{rest}");
    std::fs::write(run.path("train.toml"), text).expect("written");
    let out = train(&run, "same", &["distil.embedding_steps=4", "optimiser.lr=1e-9"]);
    assert!(out.contains("100.0 % of the teacher's parameters"), "{out}");
    assert!(metric(&run, "same", "embedding_mse").iter().all(|&mse| mse < 1e-9));
    assert!(metric(&run, "same", "embedding_cosine").iter().all(|&cosine| cosine > 0.999_999));
}

/// The teacher's embeddings are computed once, and those of another teacher are never taken.
#[test]
fn kept_embeddings_give_the_same_run() {
    let run = prepared("embedding_steps = 2");
    train(&run, "each", &["cache.embeddings=\"off\"", "data.augmentation.horizontal_flip=0.5"]);
    let kept = ["cache.embeddings=\"on\"", "cache.dtype=\"f32\"", "data.augmentation.horizontal_flip=0.5"];
    let out = train(&run, "kept", &kept);
    assert!(out.contains("the teacher's encoder does not run any more") && out.contains("to compute"), "{out}");
    assert_eq!(losses(&run, "kept"), losses(&run, "each"), "bit for bit");
    assert!(!train(&run, "again", &kept).contains("to compute"));
    train(&run, "half", &["cache.embeddings=\"on\"", "cache.dtype=\"f16\"", "data.augmentation.horizontal_flip=0.5"]);
    for (half, whole) in losses(&run, "half").iter().zip(losses(&run, "each")) {
        assert!((half - whole).abs() < 1e-2 * whole && half != &whole, "{half} {whole}");
    }
    // Another teacher in the same folder.
    other_teacher(&run);
    let other = [&kept[..], &["distil.teacher=\"other\""]].concat();
    assert!(train(&run, "others", &other).contains("to compute"), "the embeddings of another teacher");
    assert_ne!(losses(&run, "others"), losses(&run, "kept"));
    // What changes images is not kept, and the teacher runs in each step.
    let colour = ["data.augmentation.brightness=0.2", "data.augmentation.crop=[0.5, 1.0]"];
    let out = train(&run, "colour", &colour);
    assert!(out.contains("the teacher's encoder runs in each step"), "{out}");
}

#[test]
fn images_without_labels_teach_embeddings() {
    let run = prepared("");
    run.ok(&["data", "synth", "--out", "scenes", "--train", "6", "--val", "0", "--seed", "5"]);
    let images = ["data.train=\"scenes/train\"", "data.source=\"images\"", "data.validation_synth.n_scenes=2"];
    let text = std::fs::read_to_string(run.path("train.toml")).expect("read");
    let (head, rest) = text.split_once("[data.synth]").expect("a section");
    let rest = rest.split_once("[data.validation_synth]").expect("a section").1;
    std::fs::write(run.path("train.toml"), format!("{head}[data.validation_synth]{rest}")).expect("written");
    let out = train(&run, "run", &images);
    assert!(out.contains("trains on 6 images of"), "{out}");
    assert!(records(&run, "run", "step").iter().all(|step| !step["dice"].is_number()), "no step has masks");
    assert_eq!(metric(&run, "run", "also:teacher/miou_1").len(), 3);
    // Masks need objects.
    let refused = |sets: &[&str], parts: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        run.refused(&[&["--config", "train.toml"], &sets[..]].concat(), parts);
    };
    refused(&[&images[..], &["distil.embedding_steps=2"]].concat(), &["distil.embedding_steps", "without labels"]);
    refused(&[&images[..2], &["data.split=\"given\""]].concat(), &["data.split", "without labels"]);
}

#[test]
fn bad_input_is_refused() {
    let run = prepared("");
    let refused = |sets: &[&str], parts: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        run.refused(&[&["--config", "train.toml"], &sets[..]].concat(), parts);
    };
    refused(&["distil.teacher=\"nowhere\""], &["nowhere"]);
    refused(&["model.sizes.patch_size=4"], &["the side of the embedding grid must be 4", "got 8"]);
    refused(&["model.sizes.out_chans=32"], &["out_chans must be 16", "got 32"]);
    refused(&["model.sizes.decoder_mlp_dim=64"], &["decoder_mlp_dim must be 32", "got 64"]);
    refused(&["distil.embedding_steps=5"], &["distil.embedding_steps", "at most schedule.steps (4)"]);
    refused(&["distil.teacher_share=1.5"], &["distil.teacher_share"]);
    refused(&["optimiser.freeze=[\"image_encoder\"]"], &["cannot learn the teacher's embeddings", "optimiser.freeze"]);
    refused(&["task=\"train\""], &["distil"]);
    refused(&["validation.metric=\"embedding_mae\""], &["embedding_mse"]);
    // Masks alone, with an encoder that does not learn.
    let frozen = ["optimiser.freeze=[\"image_encoder\"]", "distil.embedding_steps=0", "distil.embedding_weight=0"];
    train(&run, "frozen", &frozen);
    for step in records(&run, "frozen", "step") {
        assert!(step["teacher_share"].is_number() && step["embedding_mse"].is_null(), "{step}");
    }
    // A student that is larger than its teacher is said to be.
    let out = train(&run, "large", &["model.sizes.embed_dim=64", "schedule.steps=2"]);
    assert!(out.contains("warning: the student's encoder is slower"), "{out}");
    // At another size than the teacher's own.
    let out = train(&run, "wide", &["model.image_size=64", "schedule.steps=2"]);
    assert!(out.contains("made for 32 px, runs at the 64 px of the student"), "{out}");
}
