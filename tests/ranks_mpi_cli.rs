//! Ranks that are processes of MPI, through `mpirun` and the real program: `cargo test --release --features mpi ranks_mpi`. Skipped
//! where there is no `mpirun`, which `SAM_TRAIN_MPI_TESTS=1` makes a failure.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::cache_cli::{entries, losses, prepared, train};
use crate::cli::{Run, texts};
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

/// A training of two ranks that has saved, and the process of rank 1.
fn started(run: &Run) -> (Child, u32) {
    let arguments =
        ["--config", "train.toml", "--plain", "--set", "schedule.steps=600", "--set", "validation.every_steps=20"];
    let words = [&["-n", "2", env!("CARGO_BIN_EXE_sam-train")], &arguments[..]].concat();
    let child = mpirun(run, &words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while run.path("run/checkpoints").read_dir().map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline, "no save");
        std::thread::sleep(Duration::from_millis(20));
    }
    let folder = run.path(".").canonicalize().expect("a folder");
    let is_second = |process: &std::path::Path| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let is_rank = environment.split(|&byte| byte == 0).any(|variable| variable == b"OMPI_COMM_WORLD_RANK=1");
        is_rank && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let processes = std::path::Path::new("/proc").read_dir().expect("processes");
    let second = processes.flatten().map(|entry| entry.path()).find(|path| is_second(path)).expect("rank 1 runs");
    let id = second.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).expect("its number");
    (child, id)
}

#[test]
fn ranks_mpi_end_together_and_one_goes_on() {
    if !has_mpirun() {
        return;
    }
    let run = with_config(&ranked());
    for signal in ["-KILL", "-TERM"] {
        let (child, second) = started(&run);
        let began = Instant::now();
        Command::new("kill").args([signal, &second.to_string()]).status().expect("kill runs");
        let output = child.wait_with_output().expect("it ended");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
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
