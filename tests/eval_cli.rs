//! `sam-train eval` through the real program, with a model of random weights: files, output and errors.

use std::path::Path;

use sam_eval::Results;
use serde_json::{Value, json};

use crate::cli::{Run, fixture, texts};
use crate::data_cli::datasets;

/// A quick evaluation: eight objects in two photographs, one call.
fn base<'a>(checkpoint: &'a str, data: &'a str) -> Vec<&'a str> {
    vec!["eval", "--checkpoint", checkpoint, "--data", data, "--part", "val", "--clicks", "2"]
}

fn read(run: &Run, name: &str) -> String {
    std::fs::read_to_string(run.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn results(run: &Run, name: &str) -> Results {
    Results::from_json(name, &read(run, name)).expect("a results.json")
}

/// Every metric of both within 1e-6, and the same metrics.
fn assert_same_numbers(a: &Results, b: &Results) {
    let (a, b) = (a.flat(), b.flat());
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, metric) in &a {
        assert!((metric.value - b[name].value).abs() <= 1e-6, "{name}: {} {}", metric.value, b[name].value);
    }
}

#[test]
fn eval_writes_results_for_programs_and_reports_for_people() {
    let run = Run::new();
    let (checkpoint, photos) = (fixture("tiny_sam.safetensors"), datasets("photos"));
    let arguments = [&base(&checkpoint, &photos)[..], &["--out", "out", "--gallery", "3", "--boundary"]].concat();
    let text = run.ok(&arguments);
    for part in ["metric", "tiny_sam", "miou_1 ", "miou_1_oracle", "miou_2", "miou_box ", "boundary_2", "8 objects in"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let results = results(&run, "out/results.json");
    assert_eq!(results.runs.len(), 2);
    assert!(results.runs.iter().all(|run| run.records.len() == 8));
    assert_eq!(results.metric("photos/class:pupil/miou_1").expect("a class").n_objects, 1);
    assert_eq!(results.about["precision"], "f32");
    assert!(results.about["model"].contains("64 px") && results.about["data"].contains("2 images, 8 objects"));
    let metrics = results.metric("miou_1").expect("computed").value;
    assert!((0.0..=1.0).contains(&metrics) && text.contains(&format!("{metrics:.4} (")), "{metrics} {text}");
    assert!(read(&run, "out/metrics.csv").contains(&format!("\nmiou_1,{metrics},higher,share,8\n")));
    assert_eq!(read(&run, "out/rounds.csv").lines().count(), 1 + 8 * 2 + 8);
    assert!(read(&run, "out/report.md").contains("| miou_1 |"));

    let html = read(&run, "out/report.html");
    for part in ["Worst after 2 clicks", "Best with a box", "IoU per click", "<svg", "data:image/jpeg;base64,"] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<img ").count(), 4 * 3, "three of each kind for each protocol");
    for outside in ["http:", "https:", "<script", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(!run.path("out/junit.xml").exists(), "there was no gate");

    // The folder contains its configuration, and is replaced only on request.
    let plan = read(&run, "out/evaluate.toml");
    assert!(plan.starts_with("task = \"evaluate\"\n") && plan.contains("clicks = 2"), "{plan}");
    run.refused(&arguments, &["out/results.json", "earlier run", "--force"]);
    let before = read(&run, "out/results.json");
    run.ok(&[&arguments[..], &["--force"]].concat());
    assert_eq!(read(&run, "out/results.json"), before, "equal runs write equal files");
}

#[test]
fn an_exported_checkpoint_has_the_same_metrics_however_it_is_run() {
    let run = Run::new();
    let (checkpoint, synth) = (fixture("tiny_sam.pth"), datasets("synth"));
    let export = ["export", "--checkpoint", &checkpoint, "--format", "safetensors", "--out", "b.safetensors"];
    run.ok(&[&export[..], &["--keep-image-size"]].concat());
    let few = ["--max-images", "4"];
    run.ok(&[&base(&checkpoint, &synth)[..], &few, &["--out", "a"]].concat());
    let first = results(&run, "a/results.json");
    for (out, how) in
        [("b", ["--batch-objects", "1", "--workers", "0"]), ("c", ["--batch-objects", "100", "--workers", "3"])]
    {
        run.ok(&[&base("b.safetensors", &synth)[..], &few, &how, &["--out", out]].concat());
        assert_same_numbers(&results(&run, &format!("{out}/results.json")), &first);
    }
    // The order of the data sets changes the file, but no metric.
    let photos = datasets("photos");
    for (out, data) in [("d", [&synth, &photos]), ("e", [&photos, &synth])] {
        let sets = ["--data", data[0].as_str(), "--data", data[1].as_str(), "--part", "val", "--max-images", "2"];
        run.ok(&[&["eval", "--checkpoint", &checkpoint, "--protocol", "box", "--out", out][..], &sets].concat());
    }
    assert_same_numbers(&results(&run, "d/results.json"), &results(&run, "e/results.json"));
}

#[test]
fn clicks_to_a_quality_and_random_first_clicks() {
    let run = Run::new();
    let (checkpoint, synth) = (fixture("tiny_sam.safetensors"), datasets("synth"));
    let few = ["eval", "--checkpoint", &checkpoint, "--data", &synth, "--max-images", "1", "--protocol", "click"];
    let text = run.ok(&[&few[..], &["--noc", "--out", "noc"]].concat());
    assert!(text.contains("noc_90") && text.contains("fail_85") && text.contains("miou_20"), "{text}");
    let text = run.ok(&[&few[..], &["--noc", "--stop-at", "0.9"]].concat());
    assert!(text.contains("noc_90") && !text.contains("miou_1"), "{text}");
    let random = |seed: &str, out: &str| {
        run.ok(&[&few[..], &["--clicks", "1", "--first-click", seed, "--out", out]].concat());
        results(&run, &format!("{out}/results.json")).metric("miou_1_random").expect("computed").value
    };
    let values = [random("random:1", "r1"), random("random:1", "r2"), random("random:2", "r3")];
    assert_eq!(values[0], values[1]);
    assert_ne!(values[0], values[2]);
    run.refused(&[&few[..], &["--noc", "--clicks", "5"]].concat(), &["[protocol]", "1 to 5"]);
    run.refused(&[&few[..], &["--first-click", "middle"]].concat(), &["random:SEED"]);
}

#[test]
fn the_gate_passes_fails_and_is_checked_first() {
    let run = Run::new();
    let (checkpoint, photos) = (fixture("tiny_sam.safetensors"), datasets("photos"));
    let base = base(&checkpoint, &photos);
    let gate = |text: &str| std::fs::write(run.path("gate.toml"), text).expect("written");
    gate("[gate]\nmiou_1 = 0.0\npredicted_iou_error = 100\n\"photos/small/miou_box\" = 0\n");
    let text = run.ok(&[&base[..], &["--gate", "gate.toml", "--out", "met"]].concat());
    assert!(text.contains("gate: 3 of 3 bounds met"), "{text}");
    assert!(read(&run, "met/junit.xml").contains("failures=\"0\""));

    gate("task = \"evaluate\"\n[gate]\nmiou_1_oracle = 0.99\nmiou_2 = 0.0\n");
    let output = run.sam_train(&[&base[..], &["--gate", "gate.toml", "--out", "missed"]].concat());
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    assert!(err.contains("1 of 2 bounds") && err.contains("miou_1_oracle must be at least 0.9900, got 0."), "{err}");
    assert!(out.contains("miou_1_oracle"), "the table is printed all the same: {out}");
    assert!(read(&run, "missed/junit.xml").contains("failures=\"1\""));
    assert!(read(&run, "missed/report.html").contains("MISSED"));

    // No worse than an earlier run: equal is fine, a better baseline is not reached.
    let against = |baseline: &str, drop: &str| {
        run.sam_train(&[&base[..], &["--baseline", baseline, "--max-drop", drop]].concat())
    };
    assert_eq!(against("met/results.json", "0").status.code(), Some(0));
    let mut better: Value = serde_json::from_str(&read(&run, "met/results.json")).expect("JSON");
    let value = better["metrics"]["miou_box"]["value"].as_f64().expect("a number");
    better["metrics"]["miou_box"]["value"] = json!(value + 0.05);
    std::fs::write(run.path("better.json"), better.to_string()).expect("written");
    assert_eq!(against("better.json", "0.06").status.code(), Some(0));
    let output = against("better.json", "0.01");
    assert_eq!(output.status.code(), Some(1));
    let err = texts(&output).1;
    assert!(err.contains("miou_box must be at least") && err.contains("(baseline"), "{err}");

    // Unknown metrics and invalid gates are reported before anything is computed or written.
    let refused = |text: &str, parts: &[&str]| {
        gate(text);
        run.refused(&[&base[..], &["--gate", "gate.toml", "--out", "none"]].concat(), parts);
        assert!(!run.path("none").exists());
    };
    refused("[gate]\nmiou_3 = 0.5", &["miou_3", "must be one that was computed", "miou_2"]);
    refused("[gate]\n\"photos/noc_90\" = 5", &["photos/noc_90", "the nearest of"]);
    refused("[gate]\n", &["gate must be at least one bound"]);
    refused("[gates]\nmiou_1 = 0.5", &["gate.toml", "[gate]"]);
    refused("[gate]\nmiou_1 = \"high\"", &["gate.toml", "miou_1"]);
    refused("[gate]\nbaseline = \"gone.json\"\nmax_drop = 0.1", &["gone.json"]);
    refused("[gate]\nbaseline = \"better.json\"", &["max_drop"]);
    run.refused(&[&base[..], &["--baseline", "better.json"]].concat(), &["--max-drop"]);
    run.refused(&[&base[..], &["--baseline", "gate.toml", "--max-drop", "0"]].concat(), &["must be a results.json"]);
    // A data set, size or class without objects, too: the file of a checkpoint need not even be one.
    std::fs::write(run.path("none.pth"), "not opened").expect("written");
    for (name, near) in [
        ("photos/class:unicorn/miou_1", "photos/"),
        ("foto/miou_1", "photos/miou_1"),
        ("photos/smal/miou_box", "photos/small/miou_box"),
        ("smal/miou_box", "small/miou_box"),
    ] {
        gate(&format!("[gate]\n\"{name}\" = 0.5"));
        let arguments = ["eval", "--checkpoint", "none.pth", "--data", &photos, "--clicks", "2", "--gate", "gate.toml"];
        run.refused(&arguments, &[name, "must be one that was computed", near]);
    }
    // All misspelt metrics together, before the data is opened.
    gate("[gate]\nmiou_bx = 0.5\n\"photos/mio_1\" = 0.5\n");
    let arguments = ["eval", "--checkpoint", &checkpoint, "--data", &photos, "--clicks", "2", "--gate", "gate.toml"];
    run.refused(&arguments, &["2 errors", "miou_bx", "miou_box", "photos/mio_1", "miou_1"]);
}

#[test]
fn checkpoints_are_compared_on_the_same_images() {
    let run = Run::new();
    let (first, second, photos) =
        (fixture("tiny_sam.safetensors"), fixture("tiny_sam_wrapped_f16.pth"), datasets("photos"));
    let arguments = [&base(&first, &photos)[..], &["--checkpoint", &second, "--out", "out"]].concat();
    let text = run.ok(&arguments);
    assert!(text.contains("tiny_sam_wrapped_f16 minus tiny_sam"), "{text}");
    let html = read(&run, "out/report.html");
    assert!(html.contains("Confidence") && html.contains("tiny_sam_wrapped_f16: Worst after 2 clicks"));
    for (name, path) in [("tiny_sam", &first), ("tiny_sam_wrapped_f16", &second)] {
        assert_eq!(results(&run, &format!("out/{name}/results.json")).about["checkpoint"], *path);
    }
    assert!(!run.path("out/results.json").exists());
    // Checkpoints with the same name are distinguished by their paths, and all results stay in the folder.
    let arguments = [&base(&first, &photos)[..], &["--checkpoint", &first, "--out", "twice"]].concat();
    run.ok(&arguments);
    let folders = std::fs::read_dir(run.path("twice"))
        .expect("listed")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().join("results.json").is_file()));
    assert_eq!(folders.count(), 2);
}

/// The boxes of the annotations as detections, with falling scores.
fn detections(truth: &Path) -> Vec<Value> {
    let truth: Value = serde_json::from_str(&std::fs::read_to_string(truth).expect("there")).expect("JSON");
    let annotations = truth["annotations"].as_array().expect("a list").iter().enumerate();
    annotations
        .map(|(at, object)| {
            json!({"image_id": object["image_id"], "category_id": object["category_id"], "bbox": object["bbox"],
                   "score": 1.0 / (at + 2) as f64})
        })
        .collect()
}

#[test]
fn boxes_of_a_detector_become_masks_and_ap() {
    let run = Run::new();
    let truth = format!("{}/annotations/instances_val.json", datasets("photos"));
    let checkpoint = fixture("tiny_sam.safetensors");
    let found = detections(Path::new(&truth));
    let write = |found: &[Value]| std::fs::write(run.path("found.json"), json!(found).to_string()).expect("written");
    write(&found);
    let base = ["eval", "--checkpoint", &checkpoint, "--data", &truth, "--detections", "found.json"];
    let text = run.ok(&[&base[..], &["--out", "out"]].concat());
    assert!(text.contains("mask_ap ") && text.contains("mask_ar_100") && !text.contains("miou"), "{text}");
    let segmented: Vec<Value> = serde_json::from_str(&read(&run, "out/segmentations.json")).expect("COCO results");
    assert_eq!(segmented.len(), found.len());
    for (segmented, found) in segmented.iter().zip(&found) {
        assert_eq!((&segmented["score"], &segmented["image_id"]), (&found["score"], &found["image_id"]));
        assert!(segmented["segmentation"]["counts"].is_string() && segmented.get("bbox").is_none());
    }
    // The written masks are those that were scored, and the ground truth itself is perfect.
    let score = |file: &str, out: &str, more: &[&str]| {
        let arguments = ["eval", "--data", &truth, "--segmentations", file, "--out", out];
        run.ok(&[&arguments[..], more].concat());
        results(&run, &format!("{out}/results.json"))
    };
    assert_same_numbers(&results(&run, "out/results.json"), &score("out/segmentations.json", "again", &[]));
    let annotations: Value = serde_json::from_str(&std::fs::read_to_string(&truth).expect("there")).expect("JSON");
    let perfect: Vec<Value> = annotations["annotations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|object| {
            json!({"image_id": object["image_id"], "category_id": object["category_id"], "score": 0.5,
                   "segmentation": object["segmentation"]})
        })
        .collect();
    std::fs::write(run.path("perfect.json"), json!(perfect).to_string()).expect("written");
    let all = score("perfect.json", "perfect", &["--proposals"]);
    assert_eq!(all.metric("mask_ar_1000").expect("computed").value, 1.0);
    assert_eq!(score("perfect.json", "classes", &[]).metric("mask_ap").expect("computed").value, 1.0);

    // Batching changes nothing, and protocols can run together with detections.
    let text = run.ok(&[&base[..], &["--batch-objects", "1", "--protocol", "box", "--out", "both"]].concat());
    assert!(text.contains("miou_box") && text.contains("mask_ap_50"), "{text}");
    assert_eq!(read(&run, "both/segmentations.json"), read(&run, "out/segmentations.json"));
    std::fs::write(run.path("gate.toml"), "[gate]\nmask_ap = 0\n").expect("written");
    run.ok(&[&base[..], &["--gate", "gate.toml"]].concat());

    let refused = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let mut found = found.clone();
        change(&mut found[3]);
        write(&found);
        run.refused(&base, parts);
    };
    refused(&|one| one["image_id"] = json!(99), &["found.json: detection 3", "image_id 99"]);
    refused(&|one| one["category_id"] = json!(999), &["detection 3", "category_id 999"]);
    refused(&|one| one["bbox"] = json!([900, 10, 20, 20]), &["detection 3", "overlap the image", "px wide"]);
    refused(&|one| one["bbox"] = json!([10, 10, 0, 20]), &["detection 3", "must have an area"]);
    refused(&|one| one["bbox"] = json!([]), &["detection 3", "bbox of 4 numbers"]);
    refused(&|one| one["score"] = Value::Null, &["found.json"]);
    write(&found);
    let photos = datasets("photos");
    run.refused(
        &["eval", "--checkpoint", &checkpoint, "--data", &photos, "--detections", "found.json"],
        &["COCO or LVIS .json"],
    );
    run.refused(&[&base[..], &["--segmentations", "found.json"]].concat(), &["--segmentations"]);
    run.refused(&["eval", "--data", &truth, "--segmentations", "perfect.json", "--checkpoint", &checkpoint], &["none"]);
}

#[test]
fn invalid_data_is_rejected_before_anything_is_computed() {
    let run = Run::new();
    let (checkpoint, photos) = (fixture("tiny_sam.safetensors"), datasets("photos"));
    run.refused(&["eval", "--data", &photos], &["model.checkpoint must be given", "--checkpoint"]);
    run.refused(&["eval", "--checkpoint", &checkpoint], &["data.path must be given", "--data"]);
    run.refused(&base("gone.pth", &photos), &["gone.pth"]);
    run.refused(&base(&fixture("tiny_mae.pth"), &photos), &["tiny_mae.pth", "masked autoencoder"]);
    run.refused(&base(&checkpoint, "nowhere"), &["nowhere"]);
    let with = |more: &[&'static str]| [&base(&checkpoint, &photos)[..], more].concat();
    run.refused(
        &with(&["--max-images", "0"]),
        &["--max-images 0: data.max_images must be a whole number of at least 1"],
    );
    run.refused(
        &with(&["--batch-objects", "0"]),
        &["--batch-objects 0: run.batch_objects must be a whole number of at least 1"],
    );
    run.refused(&with(&["--protocol", "none"]), &["nothing to do"]);
    run.refused(&with(&["--proposals"]), &["--detections"]);
    run.refused(&with(&["--device", "cuda:x"]), &["cuda:x"]);

    // Masks that are empty, outside, wholly ignored, of the wrong size, or without an image.
    let from = std::path::PathBuf::from(&photos);
    std::fs::create_dir(run.path("val")).expect("made");
    for name in ["camera.jpg", "chelsea.jpg"] {
        std::fs::copy(from.join("val").join(name), run.path("val").join(name)).expect("copied");
    }
    let json = std::fs::read_to_string(from.join("annotations/instances_val.json")).expect("there");
    let original: Value = serde_json::from_str(&json).expect("JSON");
    let changed = |change: &dyn Fn(&mut Vec<Value>), more: &[&str], parts: Option<&[&str]>| {
        let mut coco = original.clone();
        change(coco["annotations"].as_array_mut().expect("a list"));
        std::fs::write(run.path("val/_annotations.coco.json"), coco.to_string()).expect("written");
        let arguments = ["eval", "--checkpoint", &checkpoint, "--data", "val/_annotations.coco.json", "--clicks", "1"];
        let arguments = [&arguments[..], more].concat();
        match parts {
            Some(parts) => run.refused(&arguments, parts),
            None => {
                run.ok(&arguments);
            }
        }
    };
    changed(&|_| {}, &[], None);
    let empty = json!({"size": [255, 384], "counts": [255 * 384]});
    changed(
        &|all| {
            all.truncate(1);
            all[0]["segmentation"] = empty.clone();
        },
        &[],
        Some(&["none of the 2 images to evaluate on has an object", "mask_empty x1"]),
    );
    let outside = json!([[900, 900, 950, 900, 950, 950]]);
    changed(
        &|all| {
            all.truncate(1);
            all[0]["segmentation"] = outside.clone();
        },
        &[],
        Some(&["object"]),
    );
    changed(&|all| all[0]["segmentation"]["size"] = json!([3, 3]), &[], Some(&["annotation 1"]));
    changed(&|all| all[0]["image_id"] = json!(77), &[], Some(&["annotation 1", "image_id"]));
    let crowd = |all: &mut Vec<Value>| {
        let mut twin = all[0].clone();
        twin["iscrowd"] = json!(1);
        twin["id"] = json!(1000);
        all.push(twin);
    };
    changed(&crowd, &["--crowd", "ignore"], Some(&["object 1", "wholly ignored", "--drop-bad"]));
    changed(&crowd, &["--crowd", "ignore", "--drop-bad"], None);
}

#[test]
fn a_part_of_a_saved_split_is_evaluated() {
    let run = Run::new();
    let (checkpoint, synth) = (fixture("tiny_sam.safetensors"), datasets("synth"));
    run.ok(&["data", "split", &synth, "--given", "--out", "split.json"]);
    let base = ["eval", "--checkpoint", &checkpoint, "--data", &synth, "--protocol", "box", "--split", "split.json"];
    run.ok(&[&base[..], &["--out", "val"]].concat());
    let validated = results(&run, "val/results.json");
    assert_eq!((validated.data_sets[0].n_images, validated.runs[0].records.len()), (12, 69));
    assert!(validated.runs[0].records.iter().all(|record| record.image.starts_with("val/")));
    run.refused(&[&base[..], &["--part", "test"]].concat(), &["test", "no image"]);
    run.refused(
        &[&base[..], &["--part", "best"]].concat(),
        &["--part best: data.part must be", "\"train\", \"val\" or \"test\""],
    );
}

/// The configurations of the repository, from another folder.
#[test]
fn a_configuration_evaluates_and_is_a_gate() {
    let run = Run::new();
    let config = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name);
        let text = std::fs::read_to_string(path).expect("a configuration");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").display().to_string();
        let text = text.replace("\"datasets/", &format!("\"{root}/datasets/"));
        let text = text.replace("\"tests/", &format!("\"{root}/tests/"));
        std::fs::write(run.path(name), text).expect("written");
    };
    config("evaluate.toml");
    config("ci-gate.toml");
    run.ok(&["--config", "evaluate.toml", "--set", "protocol.clicks=2", "--set", "run.out=out"]);
    assert!(results(&run, "out/results.json").flat().contains_key("miou_1_oracle"));
    let few = ["--config", "ci-gate.toml", "--set", "data.max_images=2", "--set", "protocol.clicks=3"];
    let output = run.sam_train(&few);
    assert_eq!(output.status.code(), Some(0), "{}", texts(&output).1);
    let output = run.sam_train(&[&few[..], &["--set", "gate.miou_1=0.99", "--set", "run.out=other"]].concat());
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("miou_1 must be at least 0.99"), "{err}");

    let text = read(&run, "ci-gate.toml").replace("kind = \"both\"", "kind = \"both\"\nclik = 3");
    let line = text.lines().position(|line| line == "clik = 3").expect("there") + 1;
    std::fs::write(run.path("typo.toml"), text).expect("written");
    run.refused(&["--config", "typo.toml"], &[&format!("typo.toml:{line}"), "clik", "clicks"]);
}
