//! Runs that are resumed after something around them changed, and runs at a terminal, through the real program.

use std::path::Path;

use crate::cli::{Run, fixture, texts};
use crate::train_cli::{SMALL, read, with_config};

/// A small run on images on disk, in a folder with `photos`.
fn on_disk() -> Run {
    let data = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n";
    let run =
        with_config(&SMALL.replace(data, "").replace("[data]\n", "[data]\ntrain = \"photos\"\npart = \"train\"\n"));
    run.ok(&["data", "synth", "--out", "photos", "--train", "6", "--val", "0", "--seed", "5"]);
    run
}

/// Some file of a kind in the data set.
fn any_file(folder: &Path, ending: &str) -> std::path::PathBuf {
    let mut found: Vec<_> = (folder.read_dir().expect("a folder").flatten()).map(|entry| entry.path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    found.into_iter().next().expect("one")
}

#[test]
fn data_that_changed_since_the_run_began_is_reported_on_resume() {
    let run = on_disk();
    run.ok(&["--config", "train.toml", "--plain"]);
    let more = ["--resume", "run", "--plain", "--set", "schedule.steps=6"];
    let output = run.sam_train(&more);
    let (out, err) = texts(&output);
    assert_eq!((output.status.code(), err.contains("changed")), (Some(0), false), "{out}\n{err}");

    // Moved: the old place is an error, the new one is taken.
    std::fs::rename(run.path("photos"), run.path("moved")).expect("renamed");
    run.refused(&["--resume", "run", "--plain", "--set", "schedule.steps=8"], &["photos"]);
    let moved = ["--resume", "run", "--plain", "--set", "schedule.steps=8", "--set", "data.train=moved"];
    let output = run.sam_train(&moved);
    let (out, err) = texts(&output);
    assert_eq!((output.status.code(), err.contains("changed")), (Some(0), false), "{out}\n{err}");
    assert!(read(&run, "run/plan.toml").contains("moved"), "the plan names the new place");
    assert_eq!(read(&run, "run/metrics.jsonl").lines().filter(|line| line.contains("\"step\",")).count(), 8);

    // Changed at its place: reported, and the run continues.
    let image = any_file(&run.path("moved/train"), ".png");
    // Decoders ignore what follows the image.
    let longer = [std::fs::read(&image).expect("read"), b"more".to_vec()].concat();
    std::fs::write(&image, longer).expect("written");
    let output = run.sam_train(&["--resume", "run", "--plain", "--set", "schedule.steps=10"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    for part in ["data.train", "moved has changed since the run began", "other contents"] {
        assert!(err.contains(part), "must say `{part}`:\n{err}");
    }

    // Other data at another place is not the data of the run.
    run.ok(&["data", "synth", "--out", "other", "--train", "9", "--val", "0", "--seed", "6"]);
    let other = ["--resume", "run", "--set", "schedule.steps=12", "--set", "data.train=other"];
    run.refused(&other, &["data.train", "other is not the data of this run", "9 images, and had 6"]);
}

/// The end of a run is too late for this error.
#[test]
fn an_export_that_cannot_be_written_is_rejected_before_training() {
    let run = with_config(&format!("{SMALL}[result]\nexport = [\"safetensors\", \"pth\"]\n"));
    run.refused(&["--config", "train.toml"], &["result.export", "a decoder of 2 heads", "safetensors"]);
    assert!(!run.path("run").exists(), "nothing was written");
}

/// Files of a finished run that only the report reads.
#[test]
fn a_damaged_preview_or_log_does_not_fail_a_run() {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml", "--plain"]);
    std::fs::write(any_file(&run.path("run/previews"), ".png"), "not an image").expect("written");
    let output = run.sam_train(&["--resume", "run", "--plain"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let report = read(&run, "run/report.md");
    assert!(report.contains("| unreadable |") && report.contains("previews"), "{report}");
}

#[test]
fn the_folder_of_a_run_stands_for_its_best_checkpoint() {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml", "--plain"]);
    let out = run.ok(&["inspect", "run"]);
    assert!(out.contains("best.safetensors") && out.contains("complete"), "{out}");
    run.ok(&[
        "export",
        "--checkpoint",
        "run",
        "--format",
        "safetensors",
        "--keep-image-size",
        "--out",
        "out.safetensors",
    ]);
    let image = fixture("preprocess/photo.png");
    run.ok(&["predict", "--checkpoint", "run", "--image", &image, "--point", "5,5", "--out", "masks"]);
    let photos = crate::data_cli::datasets("photos/annotations/instances_val.json");
    let out = run.ok(&["eval", "--checkpoint", "run", "--data", &photos, "--clicks", "1", "--max-images", "1"]);
    assert!(out.contains("miou_1"), "{out}");
    let tuned = SMALL.replace("dir = \"run\"", "dir = \"tuned\"");
    let (before, after) = (tuned.find("[model]").expect("there"), tuned.find("[data]").expect("there"));
    let tuned = format!("{}[model]\ncheckpoint = \"run\"\n{}", &tuned[..before], &tuned[after..]);
    std::fs::write(run.path("tuned.toml"), tuned).expect("written");
    let out = run.ok(&["--config", "tuned.toml", "--plain"]);
    assert!(out.contains("run/best.safetensors"), "{out}");
}

/// A run at a terminal of its own, where `keys` are typed once it makes steps: what was on the screen, and the folder. The run
/// must end by itself.
#[cfg(target_os = "linux")]
fn at_a_terminal(keys: &[&[u8]]) -> (String, Run) {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let run =
        with_config(&SMALL.replace("steps = 4", "steps = 100000").replace("every_steps = 2", "every_steps = 50000"));
    let program = env!("CARGO_BIN_EXE_sam-train");
    // The shell, which gets the signal too, must not end by it.
    let commands = format!(
        "trap : INT; stty rows 24 cols 80; stty -a > before; {program} --config train.toml; echo exit $? > code; stty -a > after"
    );
    // `script` (of util-linux) runs a command in a terminal of its own.
    let mut child = Command::new("script")
        .args(["-qefc", &commands, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm-256color")
        .current_dir(run.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("`script` of util-linux starts");
    let mut keyboard = child.stdin.take().expect("piped");
    let mut screen = child.stdout.take().expect("piped");
    let shown = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = screen.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let log = run.path("run/metrics.jsonl");
    let began = Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 5 {
        assert!(began.elapsed() < Duration::from_secs(60), "it makes steps");
        std::thread::sleep(Duration::from_millis(20));
    }
    for key in keys {
        keyboard.write_all(key).expect("typed");
        keyboard.flush().expect("typed");
        // As a person would.
        std::thread::sleep(Duration::from_millis(300));
    }
    let ended = loop {
        if let Some(status) = child.try_wait().expect("a process of ours") {
            break status;
        }
        if began.elapsed() > Duration::from_secs(120) {
            child.kill().expect("a process of ours");
            panic!("the keys do not stop the run");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    drop(keyboard);
    let shown = shown.join().expect("read");
    assert!(ended.success(), "{shown}");
    (shown, run)
}

/// The run is saved, the command that resumes it is printed, and the terminal is as it was.
#[cfg(target_os = "linux")]
fn is_saved_and_restored(shown: &str, run: &Run) {
    assert_eq!(read(run, "code").trim(), "exit 0", "{shown}");
    assert!(shown.contains("resume with: sam-train --resume"), "{shown}");
    let [opened, closed] = ["\x1b[?1049h", "\x1b[?1049l"].map(|code| shown.find(code).expect("a screen of its own"));
    assert!(
        opened < closed && closed < shown.find("resume with").expect("printed"),
        "printed after the screen is closed"
    );
    assert_eq!(read(run, "before"), read(run, "after"), "the terminal's modes");
    assert!(run.path("run/last.safetensors").is_file());
    assert!(read(run, "run/log.txt").contains("step 1/100000"), "the lines are in the log");
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_typed_at_the_dashboard_saves_and_restores_the_terminal() {
    let (shown, run) = at_a_terminal(&[b"\x03"]);
    is_saved_and_restored(&shown, &run);
}

#[cfg(target_os = "linux")]
#[test]
fn the_dashboard_asks_before_it_stops_a_run() {
    // The first question is answered with no, and the run goes on. (Esc and a letter together would be Alt.)
    let (shown, run) = at_a_terminal(&[b"q", b"n", b"q", b"\r"]);
    assert!(shown.contains("keep running"), "{shown}");
    is_saved_and_restored(&shown, &run);
}
