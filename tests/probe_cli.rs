//! `sam-train probe` through the real program: classes, parts, baselines and errors.

use std::path::Path;

use sam_data::random::{Purpose, RandomStream};
use sam_image::RgbImage;
use sam_model::MaeConfig;
use sam_model::init::initialise_mae;
use sam_model::weights::{Dtype, ExportFormat, MaeExportOptions, MaeParts, export_mae};
use serde_json::Value;

use crate::cli::{Run, fixture, texts};
use crate::data_cli::datasets;
use crate::fixture::cpu;

/// An encoder of random weights, with its decoder, as a pre-training saves it.
fn write_encoder(path: &Path, seed: u64) {
    let config = MaeConfig {
        image_size_hw: [24, 24],
        patch_size: 8,
        embed_dim: 16,
        depth: 1,
        num_heads: 2,
        mlp_dim: 32,
        decoder_embed_dim: 8,
        decoder_depth: 1,
        decoder_num_heads: 2,
        decoder_mlp_dim: 16,
    };
    let mae = initialise_mae(config.init(&cpu()).expect("sizes fit"), seed);
    let options = MaeExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, parts: MaeParts::Whole };
    export_mae(&mae, options, path).expect("written");
}

/// `n` noisy images of each of three colours, in folders by their names.
fn write_colours(folder: &Path, n: usize) {
    for (class, (name, colour)) in
        [("blue", [60, 60, 180]), ("green", [60, 180, 60]), ("red", [180, 60, 60])].iter().enumerate()
    {
        std::fs::create_dir_all(folder.join(name)).expect("made");
        for at in 0..n {
            let mut noise = RandomStream::new(9, Purpose::Texture, &[class as u64, at as u64]);
            // Not square, and lighter or darker as a whole.
            let light = noise.uniform(-50.0, 50.0);
            let picture = RgbImage::from_fn(30, 26, |_, _| {
                image::Rgb(colour.map(|value| (f64::from(value) + light + 20.0 * noise.normal()) as u8))
            });
            picture.save(folder.join(name).join(format!("{at:02}.png"))).expect("written");
        }
    }
}

fn ready() -> Run {
    let run = Run::new();
    write_encoder(&run.path("mae.safetensors"), 0);
    write_colours(&run.path("colours"), 12);
    run
}

fn results(run: &Run, folder: &str) -> Value {
    let path = run.path(folder).join("probe.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

fn row<'a>(results: &'a Value, kind: &str) -> &'a Value {
    let rows = results["rows"].as_array().expect("a list");
    rows.iter().find(|row| row["kind"] == kind).unwrap_or_else(|| panic!("{kind} in {results}"))
}

fn accuracy(row: &Value, classifier: &str) -> f64 {
    row[classifier]["accuracy"]["value"].as_f64().expect("a number")
}

#[test]
fn images_in_folders_by_class_are_classified_beside_baselines() {
    let run = ready();
    let base = ["probe", "--checkpoint", "mae.safetensors", "--data", "colours", "--out", "out/deep"];
    let text = run.ok(&base);
    for part in ["3 classes; trained on", "nearest neighbours, k = ", "linear layer", "random weights", "pixels"] {
        assert!(text.contains(part), "must say `{part}`:\n{text}");
    }
    let found = results(&run, "out/deep");
    let counts: u64 = found["classes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|class| class["n_train"].as_u64().expect("a count") + class["n_val"].as_u64().expect("a count"))
        .sum();
    assert_eq!(counts, 36);
    let [mae, random, pixels] = ["checkpoint", "random_weights", "pixels"].map(|kind| row(&found, kind));
    assert_eq!([&mae["width"], &pixels["width"]], [16, 16 * 16 * 3]);
    for (name, row) in [("mae", mae), ("pixels", pixels)] {
        for classifier in ["linear", "neighbours"] {
            let accuracy = accuracy(row, classifier);
            assert!(accuracy > 0.9, "colours are easy: {name}, {classifier}: {accuracy}");
        }
    }
    let frequent = found["most_frequent_class"]["accuracy"]["value"].as_f64().expect("a number");
    assert!(frequent < 0.6, "{frequent}");

    // The checkpoint has the random weights of seed 0: both encoders are the same.
    assert_eq!(mae["linear"]["by_class"], random["linear"]["by_class"]);
    for classifier in ["linear", "neighbours"] {
        assert_eq!(mae[classifier]["accuracy"], random[classifier]["accuracy"], "{classifier}");
        let less = &mae[classifier]["less_random"];
        assert!(["value", "low", "high"].iter().all(|key| less[key] == 0.0), "{less:?}");
    }

    run.refused(&base, &["out/deep/probe.json", "earlier run", "--force"]);
    let again = [&base[..], &["--force", "--batch-images", "1", "--workers", "0"]].concat();
    run.ok(&again);
    assert_eq!(results(&run, "out/deep"), found, "results do not depend on how images are read");
    let other = [&base[..], &["--force", "--seed", "1", "--no-random", "--token", "class"]].concat();
    let text = run.ok(&other);
    assert!(!text.contains("random weights") && !text.contains("bootstrap"), "{text}");
    assert_eq!(results(&run, "out/deep")["rows"].as_array().expect("a list").len(), 2);
}

#[test]
fn the_split_of_the_folders_is_used_unless_another_is_given() {
    let run = ready();
    write_colours(&run.path("parted/train"), 6);
    write_colours(&run.path("parted/valid"), 2);
    let probe = |arguments: &[&str]| {
        let base = ["probe", "--checkpoint", "mae.safetensors", "--no-random", "--out", "out", "--force"];
        let text = run.ok(&[&base[..], arguments].concat());
        text.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(probe(&["--data", "parted"]), "3 classes; trained on 18 images, validated on 6 images");
    // The images are the same, so the validation samples were trained on.
    assert_eq!(accuracy(row(&results(&run, "out"), "pixels"), "linear"), 1.0);
    let text = probe(&["--data", "parted", "--hold-out", "0.5"]);
    assert!(text.starts_with("3 classes;") && !text.contains("18 images"), "{text}");
    assert_eq!(
        probe(&["--data", "colours", "--val", "parted/valid", "--max-images", "9"]),
        "3 classes; trained on 9 images, validated on 6 images"
    );
}

#[test]
fn objects_of_any_data_set_are_classified_with_any_encoder() {
    let run = Run::new();
    write_encoder(&run.path("mae.safetensors"), 5);
    let (sam, synth) = (fixture("tiny_sam.safetensors"), datasets("synth"));
    let base = ["probe", "--checkpoint", "mae.safetensors", "--checkpoint", &sam, "--data", &synth, "--out", "out"];
    let output = run.sam_train(&base);
    let (text, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{text}\n{err}");
    let first = "6 classes; trained on 159 objects of 24 images, validated on 69 objects of 12 images";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("excluded: ") && text.contains("with no pixel left at the input size"), "{text}");
    for part in ["mae ", "tiny_sam ", "random weights, sizes of mae", "random weights, sizes of tiny_sam"] {
        assert!(text.contains(part), "must say `{part}`:\n{text}");
    }
    assert!(err.contains("tiny_sam: 202 tensors are loaded"), "{err}");
    let found = results(&run, "out");
    let names: Vec<&str> = found["classes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|class| class["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["blob", "ellipse", "polygon", "ring", "star", "stroke"]);
    assert_eq!(found["rows"].as_array().expect("a list").len(), 5);
    // A larger input loses no object.
    let large = ["--image-size", "64", "--no-random", "--force", "--split", "split.json"];
    run.ok(&["data", "split", &synth, "--out", "split.json", "--given"]);
    let text = run.ok(&[&base[..3], &["--data", &synth, "--out", "out"], &large].concat());
    assert!(text.starts_with("6 classes;") && !text.contains("excluded"), "{text}");
}

#[test]
fn unreadable_images_stop_it_or_are_counted_and_listed() {
    let run = ready();
    let base = ["probe", "--checkpoint", "mae.safetensors", "--data", "colours", "--no-random", "--out", "out"];
    std::fs::write(run.path("colours/blue/zz.png"), "not an image").expect("written");
    run.refused(&base, &["1 image that cannot be read", "blue/zz.png", "--drop-bad"]);
    // The header stays, so that the error is found only when the image is decoded.
    for name in ["colours/green/00.png", "colours/red/03.png"] {
        let bytes = std::fs::read(run.path(name)).expect("read");
        std::fs::write(run.path(name), &bytes[..bytes.len() / 2]).expect("written");
    }
    std::fs::remove_file(run.path("colours/blue/zz.png")).expect("removed");
    run.refused(&base, &["error: ", "colours/green/00.png", "--drop-bad"]);
    std::fs::write(run.path("colours/blue/zz.png"), "not an image").expect("written");
    std::fs::copy(run.path("colours/blue/01.png"), run.path("colours/stray.png")).expect("copied");
    run.refused(&base, &["1 image beside the folders of classes: stray.png", "--drop-bad"]);

    let text = run.ok(&[&base[..], &["--drop-bad", "--batch-images", "1"]].concat());
    let found = results(&run, "out");
    let left_out = found["left_out"].to_string();
    for part in ["1 image beside", "1 image that cannot be read", "2 images that cannot be decoded", "red/03.png"] {
        assert!(left_out.contains(part) && text.contains(part), "must say `{part}`:\n{left_out}\n{text}");
    }
    assert!(!run.path("out").join("probe.json.tmp").exists());
}

#[test]
fn invalid_probes_are_rejected_with_a_remedy() {
    let run = ready();
    let sam = fixture("tiny_sam.safetensors");
    let refused = |checkpoint: &str, data: &str, more: &[&str], parts: &[&str]| {
        let base = ["probe", "--checkpoint", checkpoint, "--data", data, "--out", "none"];
        run.refused(&[&base[..], more].concat(), parts);
        assert!(!run.path("none").exists());
    };
    let mae = "mae.safetensors";
    // Data without classes, with one class, with a class only in the validation data.
    refused(mae, &fixture("data/sa1b"), &[], &["a probe needs classes", "without a class"]);
    std::fs::create_dir(run.path("one")).expect("made");
    std::fs::rename(run.path("colours/red"), run.path("one/red")).expect("moved");
    refused(mae, "one", &["--hold-out", "0.5"], &["at least two classes", "red alone"]);
    refused(
        mae,
        "colours",
        &["--val", "one"],
        &["1 class without a training sample: red (12 images)", "--min-samples"],
    );
    refused(mae, "colours", &["--val", "one", "--min-samples", "1"], &["at least two classes", "got none"]);
    refused(mae, &datasets("photos"), &[], &["without a training sample", "--min-samples 1"]);
    // Paths without data.
    refused(mae, "nowhere", &[], &["nowhere"]);
    refused(mae, "one/red", &[], &["CLASS/IMAGE", "train/CLASS/IMAGE", "COCO"]);
    refused(mae, "colours", &["--of", "objects"], &["known format"]);
    refused(mae, "colours", &["--part", "train"], &["none of them in the part train"]);
    // Invalid options.
    refused(
        mae,
        "colours",
        &["--hold-out", "1"],
        &["--hold-out 1: data.hold_out must be a number above 0 and below 1, got 1"],
    );
    refused(mae, "colours", &["--neighbours", "999"], &["probe.neighbours must be at most", "got 999"]);
    refused(mae, "colours", &["--split", "x.json"], &["--split x.json: data.split_file", "exists"]);
    refused(
        mae,
        &datasets("synth"),
        &["--of", "objects", "--token", "class"],
        &["--token class: probe.token", "objects"],
    );
    refused(
        mae,
        "colours",
        &["--image-size", "30"],
        &["model.image_size", "image height 30", "multiple of patch_size 8"],
    );
    refused(&sam, "colours", &["--image-size", "60"], &["model.image_size", "image_size 60", "patch_size 8"]);
    refused(&sam, "colours", &["--token", "class"], &["a segmenter has no class token"]);
    // Files without an encoder.
    refused("nowhere.pth", "colours", &[], &["nowhere.pth"]);
    refused(&fixture("tiny_golden.safetensors"), "colours", &[], &["no known layout", "masked autoencoder"]);
    std::fs::create_dir(run.path("begun")).expect("made");
    std::fs::write(run.path("begun/plan.toml"), "task = \"pretrain\"\n").expect("written");
    refused("begun", "colours", &[], &["begun", "no best checkpoint yet"]);
}
