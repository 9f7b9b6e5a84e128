//! Several devices of one process through the real program, and several processes where the build has no MPI.

use crate::cache_cli::{losses, train};
use crate::cli::{Run, texts};
use crate::train_cli::{SMALL, with_config};

/// Four batches of an image in a step.
pub(crate) fn ranked() -> String {
    let text = SMALL.replace("images_per_step = 2", "images_per_step = 4");
    text.replace("[optimiser]", "[optimiser]\naccumulation = 4")
}

pub(crate) fn same_weights(run: &Run, one: &str, other: &str) -> bool {
    let bytes = |name: &str| std::fs::read(run.path(name).join("last.safetensors")).expect("a checkpoint");
    bytes(one) == bytes(other)
}

#[test]
fn devices_train_together() {
    let run = with_config(&ranked());
    train(&run, "one", &[]);
    let devices = "run.devices=[\"cpu\", \"cpu\", \"cpu\", \"cpu\"]";
    let out = train(&run, "four", &[devices]);
    assert!(out.contains("trains on 4 devices together"), "{out}");
    assert_eq!(losses(&run, "one"), losses(&run, "four"), "bit for bit");
    assert!(same_weights(&run, "one", "four"), "bit for bit");
    // On other devices after a resume.
    train(&run, "parts", &[devices, "schedule.steps=2"]);
    run.ok(&["--resume", "parts", "--plain", "--set", "schedule.steps=4", "--set", "run.device=cpu"]);
    assert_eq!(losses(&run, "one"), losses(&run, "parts"), "bit for bit");
    // A pre-training, too.
    let text = "task = \"pretrain\"\n[run]\ndir = \"mae\"\n[model]\nimage_size = 32\npatch_size = 8\n[model.sizes]\nembed_dim = 16\n\
                depth = 1\nnum_heads = 2\ndecoder_embed_dim = 16\ndecoder_depth = 1\ndecoder_heads = 2\n[data]\nimages_per_step = 4\n\
                [data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n[optimiser]\nlr = 1e-3\naccumulation = 2\n\
                [schedule]\nsteps = 3\nwarmup_steps = 1\n[validation]\nevery_steps = 3\n[log]\nevery_steps = 1\npreviews = 1\n";
    std::fs::write(run.path("mae.toml"), text).expect("written");
    let pretrain = |name: &str, sets: &[&str]| {
        let dir = format!("run.dir={name}");
        let sets: Vec<&str> =
            std::iter::once(dir.as_str()).chain(sets.iter().copied()).flat_map(|set| ["--set", set]).collect();
        run.ok(&[&["--config", "mae.toml", "--plain"], &sets[..]].concat())
    };
    pretrain("mae1", &[]);
    pretrain("mae2", &["run.devices=[\"cpu\", \"cpu\"]"]);
    assert!(same_weights(&run, "mae1", "mae2"), "bit for bit");
}

#[test]
fn devices_that_cannot_train_together_are_refused() {
    let run = with_config(&ranked());
    let refused = |sets: &[&str], parts: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        run.refused(&[&["--config", "train.toml"], &sets[..]].concat(), parts);
    };
    refused(&["run.devices=[\"cpu\", \"tpu\"]"], &["run.devices", "cpu, cuda, cuda:N, vulkan or wgpu"]);
    refused(&["run.devices=[\"cpu\", \"cpu\"]", "run.device=cpu"], &["run.devices", "several devices or one"]);
    refused(&["run.devices=[\"cpu\", \"cuda:1\"]"], &["device `cuda:1` is not in this build", "--features cuda"]);
    let failed = run.sam_train(&["--config", "train.toml", "--set", "run.devices=[\"cpu\", \"cpu\", \"cpu\"]"]);
    let (_, message) = texts(&failed);
    for part in ["4 batches of a step", "3 ranks", "a multiple of 3", "optimiser.accumulation"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[cfg(not(feature = "mpi"))]
#[test]
fn processes_that_would_train_the_same_are_refused() {
    let run = with_config(&ranked());
    for (arguments, folder) in [
        (&["--config", "train.toml"][..], "run"),
        (&["auto", ".", "--checkpoint", "any.safetensors", "--out", "masks"], "masks"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_sam-train"))
            .args(arguments)
            .current_dir(run.path("."))
            .envs([("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")])
            .output()
            .expect("the program starts");
        let (_, message) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for part in ["rank 1: error: 2 processes were started", "no MPI", "--features mpi"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!run.path(folder).exists());
    }
}
