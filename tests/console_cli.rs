//! What a run prints, and its `log.txt`, through the real program.

use crate::cli::{Run, fixture, texts};
use crate::train_cli::{SMALL, read, with_config};

fn printed(run: &Run, arguments: &[&str]) -> (String, String) {
    let output = run.sam_train(arguments);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

#[test]
fn the_lines_of_all_sessions_are_in_the_log() {
    let run = with_config(SMALL);
    let out = run.ok(&["--config", "train.toml"]);
    let log = read(&run, "run/log.txt");
    assert!(log.starts_with("== 20") && log.contains("--config train.toml"), "{log}");
    let missing: Vec<&str> = out.lines().filter(|line| !log.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:?}\n{log}");
    run.ok(&["--resume", "run", "--set", "schedule.steps=6", "--quiet"]);
    let longer = read(&run, "run/log.txt");
    let added = longer.strip_prefix(&log).expect("the first session stays");
    assert_eq!(longer.matches("== 20").count(), 2, "{longer}");
    for part in ["--resume run", "resumes in", "step 6/6", "best checkpoint"] {
        assert!(added.contains(part), "{added}");
    }
    assert!(out.lines().all(|line| !line.contains(" 0.0 images/s")), "{out}");
}

#[test]
fn quiet_prints_the_result_and_verbose_every_step() {
    let run = with_config(&SMALL.replace("[log]\nevery_steps = 1", "[log]\nevery_steps = 4"));
    let (out, err) = printed(&run, &["--config", "train.toml", "--quiet"]);
    assert!(out.contains("best checkpoint:") && out.contains("miou_box *"), "{out}");
    for part in ["step 4/4", "writes to", "trains on", "from scratch", "validation after"] {
        assert!(!out.contains(part), "{out}");
    }
    assert!(err.is_empty() || err.starts_with("warning: "), "{err}");
    let (out, _) = printed(&run, &["--config", "train.toml", "--force", "--verbose"]);
    for part in ["step 2/4", "gradient norm", "program: sam-train", "compute threads", "saved ", "preview "] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    let (out, _) = printed(&run, &["--config", "train.toml", "--force"]);
    assert!(!out.contains("step 2/4") && out.contains("step 4/4"), "{out}");
    run.refused(&["--config", "train.toml", "--quiet", "--verbose"], &["--quiet", "--verbose"]);

    let photos = crate::data_cli::datasets("photos/annotations/instances_val.json");
    let tiny = fixture("tiny_sam.safetensors");
    let base = ["eval", "--checkpoint", &tiny, "--data", &photos, "--clicks", "1", "--max-images", "1"];
    let (out, err) = printed(&run, &[&base[..], &["--quiet"]].concat());
    assert!(out.contains("miou_1") && err.is_empty(), "{out}\n{err}");
    let (_, err) = printed(&run, &[&base[..], &["--verbose"]].concat());
    assert!(err.contains("program: sam-train") && err.contains("data: "), "{err}");
}

/// With a learning rate of almost nothing the best checkpoint equals the model before training.
#[test]
fn a_run_that_does_not_help_says_so_in_a_table_of_80_columns() {
    let run = with_config(SMALL);
    let (out, err) = printed(&run, &["--config", "train.toml", "--set", "optimiser.lr=1e-30"]);
    assert!(out.contains("since the start, equal to the"), "{out}");
    for part in ["warning: the best checkpoint (step 2) is no better than the model before training", "optimiser.lr"] {
        assert!(err.contains(part), "must say `{part}`:\n{err}");
    }
    let table: Vec<&str> = out.lines().skip_while(|line| !line.contains("best-before")).collect();
    let rows = table.iter().take_while(|line| !line.starts_with('*'));
    assert!(rows.clone().count() >= 4 && rows.clone().all(|line| line.chars().count() <= 80), "{out}");
}
