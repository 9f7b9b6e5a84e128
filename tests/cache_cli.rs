//! Embeddings of a frozen encoder on disk, through the real program: a run with them is the run without them, whatever
//! happens to the cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sam_eval::Results;
use serde_json::Value;

use crate::cli::{Run, texts};
use crate::fixture::path;
use crate::train_cli::{SMALL, read};

const SYNTH: &str = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n";

/// A decoder that is fine-tuned on six images in files, flipped at random, for eight steps of two; `cache` is the section's
/// content.
fn config(cache: &str) -> String {
    SMALL
        .replace(SYNTH, "")
        .replace("[data]\n", "[data]\ntrain = \"scenes\"\n")
        .replace("steps = 4", "steps = 8")
        .replace("lr = 1e-3", "lr = 1e-3\nema_decay = 0.9\nfreeze = [\"image_encoder\"]")
        .replace(
            "[prompts]",
            &format!("[data.augmentation]\nhorizontal_flip = 0.5\nvertical_flip = 0.5\n[cache]\n{cache}\n[prompts]"),
        )
}

/// A folder with the images and a configuration.
pub(crate) fn prepared(cache: &str) -> Run {
    let run = Run::new();
    std::fs::write(run.path("train.toml"), config(cache)).expect("written");
    run.ok(&["data", "synth", "--out", "scenes", "--train", "6", "--val", "0", "--seed", "5"]);
    run
}

/// The numbers of a run.
pub(crate) fn losses(run: &Run, name: &str) -> Vec<f64> {
    let log = read(run, &format!("{name}/metrics.jsonl"));
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == "step").filter_map(|line| line["loss"].as_f64()).collect()
}

fn scores(run: &Run, name: &str) -> Vec<String> {
    let log = read(run, &format!("{name}/metrics.jsonl"));
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["metrics"].is_object()).map(|line| line["metrics"].to_string()).collect()
}

/// The files of all entries below a folder of embeddings.
pub(crate) fn entries(root: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = below(root).flat_map(|path| below(&path).collect::<Vec<_>>()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "emb"));
    files.sort();
    files
}

/// Runs the configuration in a folder of its own with more overrides; returns what was printed, standard error last.
pub(crate) fn train(run: &Run, name: &str, sets: &[&str]) -> String {
    let dir = format!("run.dir=\"{name}\"");
    let mut arguments = vec!["--config", "train.toml", "--plain", "--set", &dir];
    sets.iter().for_each(|set| arguments.extend(["--set", *set]));
    let output = run.sam_train(&arguments);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    out + &err
}

#[test]
fn a_cached_run_equals_the_uncached_one() {
    let run = prepared("embeddings = \"auto\"");
    let out = train(&run, "without", &["cache.embeddings=\"off\""]);
    assert!(!out.contains("embedding") && !run.path("embeddings").exists(), "{out}");
    let exact = train(&run, "exact", &["cache.dtype=\"f32\""]);
    assert!(exact.contains("0 of ") && exact.contains("the encoder does not run any more"), "{exact}");
    assert_eq!(losses(&run, "exact").len(), 8);
    assert_eq!(losses(&run, "exact"), losses(&run, "without"), "bit for bit");
    assert_eq!(scores(&run, "exact"), scores(&run, "without"), "the validations, too");
    for name in ["best.safetensors", "last.safetensors"] {
        let of = |folder: &str| std::fs::read(run.path(folder).join(name)).expect("written");
        assert!(of("exact") == of("without"), "{name}");
    }
    // Two images of the validation, six of the training in up to four mirrorings: nothing is computed twice.
    let n = entries(&run.path("embeddings")).len();
    assert!((8 + 2..=6 * 4 + 2).contains(&n), "{n}");

    // Half the size, and nearly the same numbers. The folder is that of all runs beside each other.
    let half = train(&run, "half", &[]);
    assert!(half.contains("as f16"), "{half}");
    assert_eq!(entries(&run.path("embeddings")).len(), 2 * n);
    for (half, exact) in losses(&run, "half").iter().zip(losses(&run, "exact")) {
        assert!((half - exact).abs() <= 1e-3 * exact.abs(), "{half} {exact}");
    }
    let before = modified(&run.path("embeddings"));
    let again = train(&run, "again", &[]);
    assert!(!again.contains("to compute"), "{again}");
    assert_eq!(modified(&run.path("embeddings")), before, "nothing is written again");
    assert_eq!(losses(&run, "again"), losses(&run, "half"));
    // In shards side by side, each takes its part of the embeddings.
    let shards = train(&run, "shards", &["run.parallel=2"]);
    assert!(!shards.contains("to compute"), "{shards}");
    for (shards, whole) in losses(&run, "shards").iter().zip(losses(&run, "half")) {
        assert!((shards - whole).abs() < 1e-4 * whole, "{shards} {whole}");
    }
}

/// Two runs that begin at once fill one cache together, and both have the numbers of a run alone.
#[test]
fn two_runs_share_a_cache_at_the_same_time() {
    let run = prepared("embeddings = \"on\"");
    train(&run, "alone", &["cache.dir=\"apart\""]);
    let start = |name: &str| {
        let dir = format!("run.dir=\"{name}\"");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sam-train"));
        command.args(["--config", "train.toml", "--quiet", "--set", &dir]).current_dir(run.path(""));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    let both = ["one", "two"].map(|name| (name, start(name)));
    for (name, child) in both {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{:?}", texts(&output));
        assert_eq!(losses(&run, name), losses(&run, "alone"), "{name}");
        assert_eq!(scores(&run, name), scores(&run, "alone"), "{name}");
    }
    assert_eq!(entries(&run.path("embeddings")).len(), entries(&run.path("apart")).len());
}

fn modified(root: &Path) -> Vec<std::time::SystemTime> {
    let time = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).expect("there");
    entries(root).iter().map(time).collect()
}

#[test]
fn what_is_stale_or_damaged_is_computed_again() {
    let run = prepared("dtype = \"f32\"");
    train(&run, "first", &[]);
    let expected = (losses(&run, "first"), scores(&run, "first"));
    let all = entries(&run.path("embeddings"));
    // One byte of one entry, the half of another, another's content in a third, and one is gone.
    let bytes = std::fs::read(&all[0]).expect("there");
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    std::fs::write(&all[0], damaged).expect("written");
    std::fs::write(&all[1], &bytes[..bytes.len() / 2]).expect("written");
    std::fs::write(&all[2], &bytes).expect("written");
    std::fs::remove_file(&all[3]).expect("removed");
    train(&run, "damaged", &[]);
    assert_eq!((losses(&run, "damaged"), scores(&run, "damaged")), expected);
    assert_eq!(entries(&run.path("embeddings")), all);
    assert!(std::fs::read(&all[0]).expect("there") == bytes, "it is mended");

    // Another image under the name of one: its embeddings are new ones, and the old ones are not used.
    let image = std::fs::read_dir(run.path("scenes/train"))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "png" || extension == "jpg"))
        .expect("an image");
    let mut photo = image::open(&image).expect("an image").to_rgb8();
    photo.pixels_mut().for_each(|pixel| pixel.0 = pixel.0.map(|value| 255 - value));
    photo.save(&image).expect("saved");
    let out = train(&run, "changed", &[]);
    assert!(out.contains("to compute"), "{out}");
    assert!(entries(&run.path("embeddings")).len() > all.len());
    std::fs::write(run.path("train.toml"), config("embeddings = \"off\"")).expect("written");
    train(&run, "changed-without", &[]);
    std::fs::write(run.path("train.toml"), config("dtype = \"f32\"")).expect("written");
    assert_eq!(losses(&run, "changed"), losses(&run, "changed-without"));
    assert_ne!(losses(&run, "changed"), expected.0);

    // Another encoder.
    let n = entries(&run.path("embeddings")).len();
    let out = train(&run, "seed", &["run.seed=3"]);
    assert!(out.contains("embeddings: 0 of "), "{out}");
    assert!(entries(&run.path("embeddings")).len() > n);
    let folders = entries(&run.path("embeddings"));
    let folders: std::collections::BTreeSet<_> = folders.iter().filter_map(|path| path.parent()).collect();
    assert_eq!(folders.len(), 2, "one for each encoder");
}

/// Killed while the cache is built, then by Ctrl-C, then finished: the numbers of a run that was never stopped.
#[cfg(unix)]
#[test]
fn an_interrupted_build_goes_on_where_it_stopped() {
    let expected = prepared("");
    train(&expected, "run", &[]);
    // Larger images take longer to embed.
    let run = prepared("");
    let root = run.path("embeddings");
    let total = entries(&expected.path("embeddings")).len();
    for signal in ["-KILL", "-INT"] {
        let before = entries(&root).len();
        let log = File::create(run.path("log.txt")).expect("a log");
        let force = ["--config", "train.toml", "--plain", "--force"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_sam-train"))
            .args(force)
            .current_dir(run.path(""))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let begun = Instant::now();
        while entries(&root).len() <= before && child.try_wait().expect("ours").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it computes embeddings");
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill starts");
        child.wait().expect("ours");
        let text = read(&run, "log.txt");
        assert!(!text.contains("panicked"), "{text}");
    }
    let kept = modified(&root);
    let output = run.sam_train(&["--resume", "run", "--plain"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert_eq!(entries(&root).len(), total);
    assert!(kept.iter().all(|time| modified(&root).contains(time)), "what was there is not computed again");
    assert_eq!(losses(&run, "run"), losses(&expected, "run"));
    assert!(!std::fs::read_dir(&root).expect("there").flatten().any(|signature| {
        let inside = std::fs::read_dir(signature.path()).into_iter().flatten().flatten();
        inside.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".writing-"))
    }));
}

/// A disk that is full before the first entry is whole.
#[cfg(unix)]
#[test]
fn a_full_disk_is_said_before_the_first_step() {
    let run = prepared("dtype = \"f32\"");
    let text = read(&run, "train.toml").replace("out_chans = 16", "out_chans = 256");
    std::fs::write(run.path("train.toml"), text).expect("written");
    // An entry has 16 KiB.
    let script =
        format!("trap '' XFSZ; ulimit -f 12; exec '{}' --config train.toml --plain", env!("CARGO_BIN_EXE_sam-train"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(run.path("")).output().expect("bash starts");
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    for part in
        ["the embedding cache", "cannot be written", "Free some space", "cache.dir", "cache.embeddings = \"off\""]
    {
        assert!(err.contains(part) && !err.contains("panicked"), "must say `{part}`:\n{err}");
    }
    assert!(!out.contains("step 1/"), "{out}");
    assert!(entries(&run.path("embeddings")).is_empty(), "no half entry");
    let out = run.ok(&["--resume", "run", "--plain"]);
    assert!(out.contains("step 8/8"), "{out}");
}

#[test]
fn the_limit_is_kept_by_removing_what_was_used_longest_ago() {
    let run = prepared("dtype = \"f32\"");
    train(&run, "first", &[]);
    let all = entries(&run.path("embeddings"));
    let bytes = std::fs::metadata(&all[0]).expect("there").len();
    let limit = |n: usize| format!("cache.max_gib={}", (bytes * n as u64) as f64 / f64::from(1u32 << 30) * 1.0001);
    // Those of another encoder make room for it.
    let out = train(&run, "second", &["run.seed=3", &limit(all.len() + 4)]);
    assert!(out.contains("used longest ago") && out.contains("cache.max_gib"), "{out}");
    assert!(entries(&run.path("embeddings")).len() <= all.len() + 4);
    // Too little for the run itself: it says so and does without, or is refused where it must not.
    let out = train(&run, "third", &[&limit(4)]);
    assert!(out.contains("embeddings are not kept: the run needs") && out.contains("cache.max_gib is"), "{out}");
    assert_eq!(losses(&run, "third"), losses(&run, "first"), "it computes the same");
    let (small, dir) = (limit(4), "run.dir=\"fourth\"");
    let arguments = ["--config", "train.toml", "--set", "cache.embeddings=\"on\"", "--set", &small, "--set", dir];
    run.refused(&arguments, &["embeddings cannot be kept", "cache.max_gib is"]);
    assert!(!run.path("fourth").exists());
}

#[test]
fn what_forbids_a_cache_is_named() {
    let run = prepared("");
    let out = train(&run, "jitter", &["data.augmentation.brightness=0.1", "data.augmentation.crop=[0.5, 1.0]"]);
    for part in ["embeddings are not kept", "data.augmentation.crop", "data.augmentation.brightness", "flips only"] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    assert!(!run.path("embeddings").exists());
    let refuse = |set: &str, parts: &[&str]| {
        run.refused(&["--config", "train.toml", "--set", "cache.embeddings=\"on\"", "--set", set], parts);
    };
    refuse("data.augmentation.contrast=0.1", &["cache.embeddings", "data.augmentation.contrast", "only flips"]);
    refuse("optimiser.freeze=[]", &["cache.embeddings", "optimiser.freeze = [\"image_encoder\"]"]);
    refuse("cache.max_gib=0", &["cache.max_gib", "above 0"]);
    run.refused(
        &["--config", "train.toml", "--set", "cache.embeddings=\"off\"", "--set", "cache.dtype=\"f32\""],
        &["cache.dtype is only used with"],
    );
    // A resumed run keeps the choice of its first session.
    run.ok(&["--config", "train.toml", "--plain"]);
    run.refused(
        &["--resume", "run", "--set", "cache.embeddings=\"off\""],
        &["cache.embeddings cannot change", "rounded"],
    );
    let out = run.ok(&["--resume", "run", "--plain", "--set", "schedule.steps=9", "--set", "cache.dir=\"elsewhere\""]);
    assert!(out.contains("step 9/9") && !entries(&run.path("elsewhere")).is_empty(), "{out}");
}

/// Two checkpoints with one encoder, evaluated with a cache and without.
#[test]
fn an_evaluation_with_a_cache_has_the_same_numbers() {
    let run = prepared("dtype = \"f32\"");
    train(&run, "one", &[]);
    train(&run, "two", &["optimiser.lr=1e-2"]);
    let base = ["eval", "--checkpoint", "one", "--checkpoint", "two", "--data", "scenes", "--clicks", "2"];
    run.ok(&[&base[..], &["--out", "plain"]].concat());
    run.ok(&[&base[..], &["--out", "cached", "--cache", "mine", "--cache-dtype", "f32"]].concat());
    for model in ["one", "two"] {
        let of = |folder: &str| {
            let name = format!("{folder}/{model}/results.json");
            Results::from_json(&name, &read(&run, &name)).expect("results").flat()
        };
        assert_eq!(of("cached"), of("plain"), "{model}: digit for digit");
    }
    assert_eq!(entries(&run.path("mine")).len(), 6, "both checkpoints share the embeddings of six images");
    // The embeddings of the trainings serve an evaluation: those that were drawn without a flip.
    let output = run.sam_train(&[&base[..], &["--cache", "embeddings", "--cache-dtype", "f32"]].concat());
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(!err.contains("embeddings: 0 of 6"), "{err}");
    // The configuration that is kept with the results.
    assert!(read(&run, "cached/evaluate.toml").contains("[cache]\ndir = \"mine\"\ndtype = \"f32\""));
    run.refused(&[&base[..], &["--cache-dtype", "f32"]].concat(), &["--cache"]);
}

/// A checkpoint from a file: the same path as the published ones take.
#[test]
fn a_published_layout_is_fine_tuned_with_a_cache() {
    let run = prepared("embeddings = \"on\"");
    let text = read(&run, "train.toml");
    let sizes = &text[text.find("[model]").expect("there")..text.find("[data]").expect("there")];
    let text = text.replace(sizes, "[model]\ncheckpoint = \"model.safetensors\"\n");
    std::fs::write(run.path("train.toml"), text).expect("written");
    std::fs::copy(path("tiny_sam.safetensors"), run.path("model.safetensors")).expect("copied");
    let out = train(&run, "run", &[]);
    assert!(out.contains("step 8/8") && out.contains("the encoder does not run any more"), "{out}");
}
