//! One configuration for every task, through the real program: `--check`, `--force` and errors behave alike.

use std::collections::BTreeSet;

use crate::cli::{Run, fixture, texts};
use crate::data_cli::datasets;
use crate::pretrain_cli::SMALL_PRETRAINING;
use crate::train_cli::SMALL;

/// A small configuration of each task, in a fresh folder as `TASK.toml`.
fn with_all_tasks() -> Run {
    let run = Run::new();
    let (checkpoint, synth) = (fixture("tiny_sam.safetensors"), datasets("synth"));
    let evaluate = format!(
        "task=\"evaluate\"\n[model]\ncheckpoint = \"{checkpoint}\"\n[data]\npath = \"{synth}\"\npart = \"val\"\n\
         max_images = 1\n[protocol]\nkind = \"box\"\n[run]\nout = \"evaluated\"\n"
    );
    let probe = format!(
        "task   =   'probe'\n[model]\ncheckpoint = \"{checkpoint}\"\n[data]\npath = \"{synth}\"\n[probe]\n\
         random = false\n[run]\nout = \"probed\"\n"
    );
    for (task, text) in [("train", SMALL), ("pretrain", SMALL_PRETRAINING), ("evaluate", &evaluate), ("probe", &probe)]
    {
        std::fs::write(run.path(&format!("{task}.toml")), text).expect("written");
    }
    run
}

fn files(run: &Run) -> BTreeSet<String> {
    let entries = std::fs::read_dir(run.path("")).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn check_prints_a_configuration_of_every_task_that_has_the_same_plan() {
    let run = with_all_tasks();
    let before = files(&run);
    for (task, default) in [
        ("train", "weight_decay = 0.1"),
        ("pretrain", "mask_ratio = 0.75"),
        ("evaluate", "batch_objects = 16"),
        ("probe", "token = \"mean\""),
    ] {
        let checked = run.ok(&["--config", &format!("{task}.toml"), "--check"]);
        assert!(checked.contains(default), "{task}: must contain `{default}`:\n{checked}");
        assert_eq!(files(&run), before, "{task} writes nothing");
        let has_estimate = checked.contains("# plan: time about") && checked.contains("# plan: memory about");
        assert_eq!(has_estimate, task.ends_with("train"), "{checked}");
        // What it prints is a configuration again; the comments have measured times.
        std::fs::write(run.path("train.toml"), &checked).expect("written");
        let keys = |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        assert_eq!(keys(&run.ok(&["--config", "train.toml", "--check"])), keys(&checked));
        std::fs::write(run.path("train.toml"), SMALL).expect("written");
    }
}

#[test]
fn a_dry_run_does_everything_and_leaves_nothing() {
    let run = with_all_tasks();
    let before = files(&run);
    for task in ["train", "pretrain"] {
        let text = run.ok(&["--config", &format!("{task}.toml"), "--dry-run"]);
        assert!(text.contains("saves, resume and exports work") && text.contains("bit for bit"), "{text}");
        assert!(text.contains("plan: learns"), "{text}");
        assert_eq!(files(&run), before, "{task} leaves nothing");
    }
    run.refused(&["--config", "evaluate.toml", "--dry-run"], &["for training and pre-training"]);
}

#[test]
fn all_errors_of_a_configuration_are_reported_together_for_every_task() {
    let run = with_all_tasks();
    for (task, mistakes) in [
        ("train", [("lr = 1e-3", "lrr = 1e-3"), ("steps = 4", "steps = \"four\""), ("\"box\"", "\"bx\"")]),
        (
            "pretrain",
            [("image_size = 32", "image_siz = 32"), ("steps = 4", "steps = \"four\""), ("lr = 1e-3", "lr = -1")],
        ),
        (
            "evaluate",
            [("max_images = 1", "max_image = 1"), ("kind = \"box\"", "kind = \"bx\""), ("val\"", "validation\"")],
        ),
        (
            "probe",
            [
                ("random = false", "random = \"no\""),
                ("[probe]", "hold_out = 1.5\n[probe]"),
                ("out = \"probed", "outt = \"probed"),
            ],
        ),
    ] {
        let mut text = std::fs::read_to_string(run.path(&format!("{task}.toml"))).expect("there");
        for (right, wrong) in mistakes {
            assert!(text.contains(right), "{task}: {right}");
            text = text.replacen(right, wrong, 1);
        }
        std::fs::write(run.path("wrong.toml"), &text).expect("written");
        let output = run.sam_train(&["--config", "wrong.toml"]);
        let err = texts(&output).1;
        assert_eq!(output.status.code(), Some(2), "{task}: {err}");
        assert!(err.contains("3 errors in the configuration"), "{task}: {err}");
        for (_, wrong) in mistakes {
            let wrong = wrong.lines().next().unwrap_or_default();
            let line = text.lines().position(|line| line.contains(wrong)).expect("there") + 1;
            assert!(err.contains(&format!("wrong.toml:{line}: ")), "{task}: {wrong} in line {line}:\n{err}");
        }
    }
}

#[test]
fn results_are_replaced_only_with_force() {
    let run = with_all_tasks();
    for (config, result) in [("evaluate.toml", "evaluated/results.json"), ("probe.toml", "probed/probe.json")] {
        run.ok(&["--config", config]);
        let before = std::fs::read(run.path(result)).expect("written");
        run.refused(&["--config", config], &[result, "--force"]);
        run.ok(&["--config", config, "--force"]);
        assert_eq!(std::fs::read(run.path(result)).expect("written"), before, "equal runs write equal files");
    }
    run.refused(&["--config", "evaluate.toml", "--set", "run.force=true"], &["run.force", "--force"]);
}

#[test]
fn an_option_replaces_what_excludes_it_and_says_so() {
    let run = with_all_tasks();
    let photos = datasets("photos");
    let train = format!("data.train={photos}");
    let check = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let output = run.sam_train(&["--config", "train.toml", "--check"].into_iter().chain(sets).collect::<Vec<_>>());
        let (plan, notes) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{notes}");
        (plan, notes)
    };
    let (plan, notes) = check(&[&train, "data.split=given"]);
    for part in [
        "note: data.synth (train.toml:",
        "note: data.validation_synth (train.toml:",
        "is replaced by --set data.split=given",
    ] {
        assert!(notes.contains(part), "must contain {part:?}: {notes}");
    }
    assert!(plan.contains("split = \"given\"") && !plan.contains("n_scenes"), "{plan}");
    for (off, shown) in [("data.split=none", "split = \"none\""), ("data.validation=none", "validation = \"none\"")] {
        assert!(check(&[off]).0.contains(shown), "{off}");
    }
    assert!(!check(&["schedule.steps=5"]).1.contains("is replaced"), "nothing is");
    run.refused(&["--config", "train.toml", "--set", r#"run.name="C:\new""#], &[r"run.name: in double quotes `\n`"]);
}
