//! `sam-train eval --task proposals` and `--task edges`, and the table over several data sets, through the real program with a model
//! of random weights.

use std::path::Path;

use sam_eval::Results;

use crate::cli::{Run, fixture, texts};
use crate::data_cli::datasets;

fn results(run: &Run, name: &str) -> Results {
    let text = std::fs::read_to_string(run.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Results::from_json(name, &text).expect("a results.json")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn proposals_of_an_lvis_file_by_size_and_frequency() {
    let run = Run::new();
    let (checkpoint, lvis) = (fixture("tiny_sam.safetensors"), fixture("data/lvis/lvis_v1_val.json"));
    let images = fixture("data/lvis");
    let base = ["eval", "--task", "proposals", "--checkpoint", &checkpoint, "--points-per-side", "4"];
    let of_file = [&base[..], &["--data", &lvis, "--images", &images]].concat();
    let text = run.ok(&[&of_file[..], &["--out", "out"]].concat());
    for name in ["mask_ar_10 ", "mask_ar_100 ", "mask_ar_1000 ", "report: "] {
        assert!(text.contains(name), "{name}\n{text}");
    }
    let found = results(&run, "out/results.json");
    let value = |name: &str| found.metric(name).unwrap_or_else(|error| panic!("{error}")).value;
    assert!(value("mask_ar_10") <= value("mask_ar_100") && value("mask_ar_100") <= value("mask_ar_1000"));
    // The frequencies of the fixture's categories that have an object.
    let frequencies =
        ["rare", "common", "frequent"].iter().filter(|name| found.metric(&format!("mask_ar_{name}")).is_ok());
    assert!(frequencies.count() > 0, "{:?}", found.metrics);
    assert!(run.path("out/evaluate.toml").is_file() && run.path("out/report.html").is_file());
    // The file that was written runs again, to the same numbers.
    let again =
        std::fs::read_to_string(run.path("out/evaluate.toml")).expect("written").replace("\"out\"", "\"again\"");
    std::fs::write(run.path("again.toml"), again).expect("written");
    run.ok(&["--config", "again.toml"]);
    assert_eq!(results(&run, "again/results.json").metrics, found.metrics);

    // Any other data set has sizes and no frequencies; a gate on one is refused before anything runs.
    let photos = datasets("photos");
    let of_photos = [&base[..], &["--data", &photos, "--part", "val", "--max-images", "1"]].concat();
    assert!(run.ok(&of_photos).contains("mask_ar_medium"));
    std::fs::write(run.path("gate.toml"), "[gate]\nmask_ar_rare = 0.1\n").expect("written");
    run.refused(&[&of_photos[..], &["--gate", "gate.toml"]].concat(), &["mask_ar_rare", "nearest"]);
    std::fs::write(run.path("gate.toml"), "[gate]\nmask_ar_1000 = 1.0\n").expect("written");
    let output = run.sam_train(&[&of_photos[..], &["--gate", "gate.toml"]].concat());
    assert_eq!(output.status.code(), Some(1), "{:?}", texts(&output));
}

#[test]
fn settings_without_an_effect_are_refused() {
    let run = Run::new();
    let (checkpoint, photos) = (fixture("tiny_sam.safetensors"), datasets("photos"));
    let base = ["eval", "--checkpoint", &checkpoint, "--data", &photos];
    run.refused(&[&base[..], &["--task", "proposals", "--clicks", "3"]].concat(), &["protocol.clicks", "prompts"]);
    run.refused(&[&base[..], &["--task", "proposals", "--cache", "c"]].concat(), &["cache", "prompts"]);
    run.refused(&[&base[..], &["--task", "proposals", "--points-per-side", "0"]].concat(), &["points_per_side"]);
    run.refused(&[&base[..], &["--task", "points", "--points-per-side", "9"]].concat(), &["proposals"]);
    run.refused(&[&base[..], &["--task", "edges"]].concat(), &["groundTruth/test/NAME.mat"]);
    run.refused(&[&base[..], &["--task", "edges", "--edge-maps", "maps"]].concat(), &["edges.maps"]);
    run.refused(&[&base[..], &["--task", "objects"]].concat(), &["points", "proposals", "edges"]);
}

#[test]
fn edges_are_written_and_what_is_written_is_what_was_measured() {
    let run = Run::new();
    let (checkpoint, bsds) = (fixture("tiny_sam.safetensors"), fixture("edges/bsds"));
    let base = ["eval", "--task", "edges", "--data", &bsds, "--part", "test"];
    let made = ["--checkpoint", &checkpoint, "--points-per-side", "4", "--out", "out"];
    let text = run.ok(&[&base[..], &made].concat());
    for name in ["edge_ods ", "edge_ois ", "edge_ap ", "edge_r50 "] {
        assert!(text.contains(name), "{name}\n{text}");
    }
    let found = results(&run, "out/results.json");
    assert!(found.about["edges"].contains("outer boundary") && found.about["edges"].contains("suppression gradient"));
    assert!(found.about["data"].contains("3 images with boundaries"), "{:?}", found.about);
    let map = image::open(run.path("out/edge_maps/bsds/test/101.png")).expect("written").into_luma8();
    assert_eq!((map.width(), map.height()), (48, 64));
    let again =
        std::fs::read_to_string(run.path("out/evaluate.toml")).expect("written").replace("\"out\"", "\"again\"");
    std::fs::write(run.path("again.toml"), again).expect("written");
    run.ok(&["--config", "again.toml"]);
    assert_eq!(results(&run, "again/results.json").metrics, found.metrics);
    // The maps alone, without the model.
    run.ok(&[&base[..], &["--edge-maps", "out/edge_maps", "--out", "scored"]].concat());
    assert_eq!(results(&run, "scored/results.json").metrics, found.metrics);
    std::fs::write(run.path("gate.toml"), "[gate]\nedge_ods = 1.0\n").expect("written");
    let gated = [&base[..], &["--edge-maps", "out/edge_maps", "--gate", "gate.toml"]].concat();
    assert_eq!(run.sam_train(&gated).status.code(), Some(1));
    std::fs::write(run.path("gate.toml"), "[gate]\nmiou_1 = 1.0\n").expect("written");
    run.refused(&gated, &["miou_1", "nearest"]);
}

/// The numbers of scikit-image, scipy and numpy; see `fixtures/generate_edges.py`.
#[test]
fn given_edge_maps_have_the_scores_of_the_reference() {
    let run = Run::new();
    let (bsds, maps) = (fixture("edges/bsds"), fixture("edges/maps"));
    let config = format!(
        "task = \"evaluate\"\n[data]\npath = '{bsds}'\n[protocol]\nkind = \"edges\"\n[edges]\nmaps = '{maps}'\n\
         tolerance = 0.02\n[run]\nout = \"out\"\n"
    );
    std::fs::write(run.path("edges.toml"), &config).expect("written");
    run.ok(&["--config", "edges.toml"]);
    let reference = std::fs::read_to_string(fixture("edges/reference.json")).expect("the fixture");
    let reference: serde_json::Value = serde_json::from_str(&reference).expect("JSON");
    let found = results(&run, "out/results.json");
    for name in ["ods", "ois", "ap", "r50"] {
        let (got, expected) =
            (found.metric(&format!("edge_{name}")).expect("computed").value, &reference["bsds"][name]);
        assert!((got - expected.as_f64().expect("a number")).abs() < 5e-4, "{name}: {got} is not {expected}");
    }
    std::fs::write(run.path("both.toml"), config.replace("tolerance", "suppression = \"ridge\"\ntolerance"))
        .expect("written");
    run.refused(&["--config", "both.toml"], &["edges.suppression", "edges.maps"]);
}

#[test]
fn bad_boundaries_and_maps_are_named() {
    let run = Run::new();
    let checkpoint = fixture("tiny_sam.safetensors");
    copy_folder(Path::new(&fixture("edges/bsds")), &run.path("bsds"));
    copy_folder(Path::new(&fixture("edges/maps")), &run.path("maps"));
    let truth = |name: &str| run.path("bsds/groundTruth/test").join(name);
    let base = ["eval", "--data", "bsds", "--edge-maps", "maps"];
    // Another size.
    std::fs::copy(truth("101.mat"), truth("100.mat")).expect("copied");
    run.refused(&base, &["100.mat", "48 x 64 (height x width)", "64 x 48"]);
    // Damaged.
    std::fs::write(truth("100.mat"), &std::fs::read(truth("102.mat")).expect("read")[..300]).expect("written");
    run.refused(&base, &["100.mat", "download it again", "--drop-bad"]);
    // Missing.
    std::fs::remove_file(truth("100.mat")).expect("there");
    run.refused(&base, &["groundTruth/test/100.mat does not exist", "--drop-bad"]);
    let with_model = ["eval", "--task", "edges", "--checkpoint", &checkpoint, "--data", "bsds"];
    run.refused(&with_model, &["groundTruth/test/100.mat does not exist"]);
    let output = run.sam_train(&[&base[..], &["--drop-bad"]].concat());
    let (out, err) = texts(&output);
    assert!(output.status.success() && out.contains("edge_ods"), "{out}\n{err}");
    assert!(err.contains("dropped test/100.png"), "{err}");
    // Maps: missing, of another size, in colours.
    let map = run.path("maps/test/101.png");
    std::fs::copy(run.path("maps/test/102.png"), &map).expect("copied");
    run.refused(&[&base[..], &["--drop-bad"]].concat(), &["test/101.png", "56 x 56", "64 x 48"]);
    image::RgbImage::from_pixel(48, 64, image::Rgb([9, 9, 0])).save(&map).expect("written");
    run.refused(&[&base[..], &["--drop-bad"]].concat(), &["101.png", "must be grey"]);
    std::fs::remove_file(&map).expect("there");
    run.refused(&[&base[..], &["--drop-bad"]].concat(), &["edge map of every image", "test/101.png"]);
    run.refused(&[&base[..], &["--part", "val"]].concat(), &["in the part val"]);
}

#[test]
fn several_sets_are_sampled_and_have_a_table() {
    let run = Run::new();
    let checkpoint = fixture("tiny_sam.safetensors");
    let sets: Vec<String> = ["bbbc038", "object_masks", "cityscapes", "via", "youtube_vis", "ade20k"]
        .map(|name| fixture(&format!("data/{name}")))
        .to_vec();
    let mut arguments = vec!["eval", "--checkpoint", &checkpoint, "--protocol", "click", "--clicks", "1"];
    sets.iter().for_each(|set| arguments.extend(["--data", set]));
    let output = run.sam_train(&[&arguments[..], &["--sample-objects", "3", "--out", "out"]].concat());
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{out}\n{err}");
    assert!(err.contains("cityscapes: 1 of 2 images drawn at random, with 4 objects"), "{err}");
    let found = results(&run, "out/results.json");
    assert_eq!(found.data_sets.len(), 6);
    assert!(out.contains("Data sets: tiny_sam") && out.contains("mean over data sets"), "{out}");
    let row = out.lines().find(|line| line.starts_with("cityscapes ")).expect("a row");
    assert!(row.contains(" to ") && row.contains('4'), "an interval: {row}");
    let report = std::fs::read_to_string(run.path("out/report.md")).expect("written");
    assert!(report.contains("Data sets: tiny_sam"), "{report}");
    // The seed decides the images and nothing else does.
    let drawn = |seed: &str| {
        let out = format!("seed-{seed}");
        let more = ["--sample-objects", "1", "--sample-seed", seed, "--out", &out];
        run.ok(&[&["eval", "--checkpoint", &checkpoint, "--data", &sets[2], "--protocol", "box"][..], &more].concat());
        results(&run, &format!("{out}/results.json")).runs[0].records[0].image.clone()
    };
    let images: Vec<String> = ["0", "1", "2", "3", "4", "5"].map(drawn).to_vec();
    assert!(images.iter().any(|image| *image != images[0]), "{images:?}");
    assert_eq!(drawn("6"), {
        std::fs::remove_dir_all(run.path("seed-6")).expect("there");
        drawn("6")
    });
}
