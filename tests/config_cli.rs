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
fn check_prints_the_plan_of_every_task_and_computes_nothing() {
    let run = with_all_tasks();
    let before = files(&run);
    for (task, default) in [
        ("train", "weight_decay = 0.1"),
        ("pretrain", "mask_ratio = 0.75"),
        ("evaluate", "batch_objects = 16"),
        ("probe", "token = \"mean\""),
    ] {
        let plan = run.ok(&["--config", &format!("{task}.toml"), "--check"]);
        assert!(plan.contains(default), "{task}: must contain `{default}`:\n{plan}");
        assert_eq!(files(&run), before, "{task} writes nothing");
        // What a command measures is a configuration again, with the same plan.
        if task == "evaluate" || task == "probe" {
            std::fs::write(run.path("train.toml"), &plan).expect("written");
            assert_eq!(run.ok(&["--config", "train.toml", "--check"]), plan);
            std::fs::write(run.path("train.toml"), SMALL).expect("written");
        }
    }
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
