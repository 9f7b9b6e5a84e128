//! Ranks that are processes of MPI, through `mpirun` and the real program: `cargo test --release --features mpi ranks_mpi`. Skipped
//! where there is no `mpirun`, which `SAM_TRAIN_MPI_TESTS=1` makes a failure.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::auto_cli::{arguments, number, summary, weights, with_pictures};
use crate::cache_cli::{entries, losses, prepared, train};
use crate::cli::{Run, fixture, texts};
use crate::ranks_cli::{ranked, same_weights};
use crate::train_cli::with_config;

fn has_mpirun() -> bool {
    let is_there = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(is_there || std::env::var_os("SAM_TRAIN_MPI_TESTS").is_none(), "mpirun must be there");
    if !is_there {
        eprintln!("skipped: there is no mpirun");
    }
    is_there
}

/// `mpirun` in the folder of a run, with one compute thread for each process.
fn mpirun(run: &Run, words: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe"]).args(words).current_dir(run.path(".")).envs([
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("RAYON_NUM_THREADS", "1"),
    ]);
    command
}

fn in_ranks(run: &Run, n: &str, arguments: &[&str]) -> Output {
    mpirun(run, &[&["-n", n, env!("CARGO_BIN_EXE_sam-train")], arguments].concat()).output().expect("mpirun starts")
}

#[test]
fn ranks_mpi_make_the_steps_of_one_process() {
    if !has_mpirun() {
        return;
    }
    let run = with_config(&ranked());
    let sets = ["schedule.steps=50", "validation.every_steps=25"];
    train(&run, "one", &sets);
    for n in ["2", "4"] {
        let dir = format!("run.dir=ranks{n}");
        let words: Vec<&str> = sets.into_iter().chain([dir.as_str()]).flat_map(|set| ["--set", set]).collect();
        let output = in_ranks(&run, n, &[&["--config", "train.toml", "--plain"], &words[..]].concat());
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{out}\n{err}");
        assert!(out.contains(&format!("trains in {n} processes together")), "{out}");
        // The first alone speaks.
        assert_eq!(out.matches("best checkpoint:").count(), 1, "{out}");
    }
    for ranks in ["ranks2", "ranks4"] {
        assert!(same_weights(&run, "one", ranks), "{ranks}: bit for bit");
        assert_eq!(losses(&run, "one"), losses(&run, ranks), "{ranks}");
    }
}

/// The images of a frozen encoder are divided, and every rank then finds all of them.
#[test]
fn ranks_mpi_embed_images_together() {
    if !has_mpirun() {
        return;
    }
    let run = prepared("dir = \"cache\"\nembeddings = \"on\"\ndtype = \"f32\"");
    let sets = ["optimiser.accumulation=2", "data.images_per_step=2"];
    train(&run, "one", &sets);
    let n = entries(&run.path("cache")).len();
    assert!(n >= 6, "{n} embeddings");
    let words: Vec<&str> =
        sets.into_iter().chain(["run.dir=two", "cache.dir=other"]).flat_map(|set| ["--set", set]).collect();
    let output = in_ranks(&run, "2", &[&["--config", "train.toml", "--plain"], &words[..]].concat());
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{out}\n{err}");
    let line = out.lines().find(|line| line.ends_with("of them here")).unwrap_or_else(|| panic!("{out}"));
    let here: usize = line.rsplit(", ").next().and_then(|part| part.split(' ').next()?.parse().ok()).expect("a number");
    assert!(here > 0 && here < n, "{line}");
    assert!(out.contains(&format!("embeddings: {n} in")), "{out}");
    assert_eq!(entries(&run.path("other")).len(), n);
    assert_eq!(losses(&run, "one"), losses(&run, "two"), "bit for bit");
}

/// The process of rank 1 in the folder of a run.
fn second(run: &Run) -> u32 {
    let folder = run.path(".").canonicalize().expect("a folder");
    let is_second = |process: &Path| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let is_rank = environment.split(|&byte| byte == 0).any(|variable| variable == b"OMPI_COMM_WORLD_RANK=1");
        is_rank && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let processes = Path::new("/proc").read_dir().expect("processes");
    let second = processes.flatten().map(|entry| entry.path()).find(|path| is_second(path)).expect("rank 1 runs");
    second.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).expect("its number")
}

/// Two ranks that have done something, and the process of rank 1.
fn started(run: &Run, arguments: &[&str], has_begun: impl Fn() -> bool) -> (Child, u32) {
    let words = [&["-n", "2", env!("CARGO_BIN_EXE_sam-train")], arguments].concat();
    let child = mpirun(run, &words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !has_begun() {
        assert!(Instant::now() < deadline, "nothing is done");
        std::thread::sleep(Duration::from_millis(1));
    }
    (child, second(run))
}

/// Sends a signal, and returns what the ranks say at their end, which comes soon.
fn end(child: Child, signal: &str, process: u32) -> Output {
    let began = Instant::now();
    Command::new("kill").args([signal, &process.to_string()]).status().expect("kill runs");
    let output = child.wait_with_output().expect("it ended");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    output
}

#[test]
fn ranks_mpi_end_together_and_one_goes_on() {
    if !has_mpirun() {
        return;
    }
    let run = with_config(&ranked());
    for signal in ["-KILL", "-TERM"] {
        let arguments =
            ["--config", "train.toml", "--plain", "--set", "schedule.steps=600", "--set", "validation.every_steps=20"];
        let has_saved = || run.path("run/checkpoints").read_dir().map_or(0, Iterator::count) > 0;
        let (child, second) = started(&run, &arguments, has_saved);
        let output = end(child, signal, second);
        // A rank that is asked to stop stops all in order, with a save; a lost one is an error of the whole.
        assert_eq!(output.status.success(), signal == "-TERM", "{signal}: {:?}", texts(&output));
        let saves = run.path("run/checkpoints").read_dir().expect("saves").count();
        assert!(saves > 0);
        if signal == "-KILL" {
            std::fs::remove_dir_all(run.path("run")).expect("removed");
        }
    }
    let out = run.ok(&["--resume", "run", "--plain"]);
    assert!(out.contains("best checkpoint:"), "{out}");
}

/// A check is of the plan, which all have: one process makes it, and all end as it does.
#[test]
fn ranks_mpi_check_once() {
    if !has_mpirun() {
        return;
    }
    let run = with_config(&ranked());
    for (set, code) in [("schedule.steps=4", 0), ("data.train=gone", 2)] {
        let output = in_ranks(&run, "2", &["--config", "train.toml", "--check", "--set", set]);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
        assert_eq!(out.matches("# plan: time about").count(), usize::from(code == 0), "{out}");
        assert_eq!(err.matches("error:").count(), usize::from(code != 0), "{err}");
    }
}

/// Every file below a folder by its name, but for the lock, which names a process.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in at.read_dir().expect("a folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(folder).expect("inside").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name != "auto.lock" {
                files.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    files
}

#[test]
fn ranks_mpi_segment_a_folder_as_one_process_does() {
    if !has_mpirun() {
        return;
    }
    let (one, two) = (with_pictures(), with_pictures());
    for run in [&one, &two] {
        std::fs::write(run.path("in/broken.png"), "no image").expect("written");
    }
    let (weights, clip) = (weights(), fixture("clip/hf"));
    let without_time = |output: &Output| {
        let (out, err) = texts(output);
        assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
        assert!(err.contains("1 of 4 images could not be read, the first is broken.png"), "{err}");
        let mut summary: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
        assert!(summary["seconds"].take().is_number());
        summary
    };
    // New; then other thresholds and formats of what is there; then texts.
    let texts = ["--clip", &clip, "--text", "a red ring", "--text", "stars", "--text-min-score", "-1"];
    for more in [
        &["in", "--candidates", "--format", "coco"][..],
        &["in", "--stability", "0.8", "--format", "labels"],
        &["in", "--format", "png", "--no-overlap"],
        &[&["in", "--format", "coco"], &texts[..]].concat(),
    ] {
        let words = [arguments(&weights, more), vec!["--json"]].concat();
        let (of_one, of_two) = (one.sam_train(&words), in_ranks(&two, "2", &words));
        assert_eq!(without_time(&of_one), without_time(&of_two), "{more:?}");
        let (of_one, of_two) = (files(&one.path("out")), files(&two.path("out")));
        assert!(of_one.keys().eq(of_two.keys()), "{:?}\n{:?}", of_one.keys(), of_two.keys());
        for (name, expected) in &of_one {
            // Lines in the order of the images or, after a resumption, of their names.
            let lines = |bytes: &[u8]| {
                let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
                if name == "finished.jsonl" {
                    lines.sort();
                }
                lines
            };
            assert!(lines(expected) == lines(&of_two[name]), "{name} after {more:?}");
        }
    }
}

#[test]
fn ranks_mpi_leave_what_is_finished_to_one_process() {
    if !has_mpirun() {
        return;
    }
    let weights = weights();
    let whole = arguments(&weights, &["in", "--points-per-side", "20"]);
    let pictures = || {
        let run = with_pictures();
        for at in 0..12 {
            std::fs::copy(run.path("in/a.png"), run.path(&format!("in/copy{at:02}.png"))).expect("copied");
        }
        run
    };
    let expected = pictures();
    expected.ok(&whole);
    for signal in ["-KILL", "-TERM"] {
        let run = pictures();
        let n_lines = |name: &str| {
            std::fs::read_to_string(run.path(&format!("out/{name}"))).map_or(0, |text| text.lines().count())
        };
        let (child, second) =
            started(&run, &whole, || n_lines("finished-1.jsonl") > 0 && n_lines("finished.jsonl") > 0);
        let (_, err) = texts(&end(child, signal, second));
        assert!(!err.contains("panicked"), "{err}");
        let n_finished = n_lines("finished.jsonl") + n_lines("finished-1.jsonl");
        assert!(n_finished < 15, "it was stopped before its end: {err}");
        if signal == "-TERM" {
            assert!(err.contains(&format!("stopped; {n_finished} of 15 images are finished")), "{n_finished}: {err}");
        }
        let resumed = summary(&run, &["in", "--points-per-side", "20"]);
        assert_eq!((number(&resumed, "finished_before"), number(&resumed, "finished")), (n_finished as u64, 15));
        let (mut expected, mut resumed) = (files(&expected.path("out")), files(&run.path("out")));
        // In another order.
        assert!(expected.remove("finished.jsonl").is_some() && resumed.remove("finished.jsonl").is_some());
        assert!(expected == resumed, "{:?}", resumed.keys());
    }
}

#[test]
fn ranks_mpi_of_auto_that_differ_are_refused_with_both_values() {
    if !has_mpirun() {
        return;
    }
    let (run, weights, program) = (with_pictures(), weights(), env!("CARGO_BIN_EXE_sam-train"));
    for (one, other, part) in [
        (["in", "--points-per-side", "5"], ["in", "--points-per-side", "6"], "options.points_per_side"),
        (
            ["in", "--format", "coco"],
            ["in", "--format", "png"],
            "--format: all ranks must have the same; rank 0 has coco",
        ),
        (["in", "--quiet", "--no-overlap"], ["in/more", "--quiet", "--no-overlap"], "the images"),
    ] {
        let (one, other) = (arguments(&weights, &one), arguments(&weights, &other));
        let words = [&["-n", "1", program], &one[..], &[":", "-n", "1", program], &other[..]].concat();
        let (_, err) = texts(&mpirun(&run, &words).output().expect("mpirun starts"));
        assert!(err.contains(part) && err.contains("rank 1 has") && !err.contains("panicked"), "{part}: {err}");
        assert!(!run.path("out").exists());
    }
}

#[test]
fn ranks_mpi_that_differ_are_refused_with_both_values() {
    if !has_mpirun() {
        return;
    }
    let run = with_config(&ranked());
    let program = env!("CARGO_BIN_EXE_sam-train");
    let refused = |sets: [&str; 2], parts: &[&str]| {
        let [one, other] = sets;
        let words = [
            "-n",
            "1",
            program,
            "--config",
            "train.toml",
            "--set",
            one,
            ":",
            "-n",
            "1",
            program,
            "--config",
            "train.toml",
            "--set",
            other,
        ];
        let output = mpirun(&run, &words).output().expect("mpirun starts");
        let (_, err) = texts(&output);
        assert!(!output.status.success() && !err.contains("panicked"), "{err}");
        for part in parts {
            assert!(err.contains(part), "{part}: {err}");
        }
        assert!(!run.path("run").exists());
    };
    refused(
        ["loss.dice_weight=1.0", "loss.dice_weight=2.0"],
        &["loss.dice_weight", "rank 0 has 1.0", "rank 1 has 2.0"],
    );
    let output = in_ranks(&run, "3", &["--config", "train.toml"]);
    let (_, err) = texts(&output);
    assert!(
        !output.status.success() && err.contains("a multiple of 3") && err.contains("optimiser.accumulation"),
        "{err}"
    );
}
