//! Every number of every task has limits: whatever is typed, the planner answers at once.

use std::time::{Duration, Instant};

use super::*;
use crate::config::Task;

/// What is put into the place of every number.
const EXTREMES: [&str; 12] = [
    "0",
    "-1",
    "1",
    "2",
    "1e9",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "1e308",
    "nan",
    "inf",
    "-inf",
];

/// A valid configuration of each task with all its sections of numbers.
const TASKS: [(Task, &str); 7] = [
    (Task::Train, LEAST),
    (
        Task::Train,
        "run.dir = \"a\"\nmodel.init = \"scratch\"\nschedule = { steps = 9, decay = \"reciprocal_sqrt\", timescale = 1, \
         cooldown_steps = 1, warmup_steps = 1 }\nvalidation.every_steps = 1\n[model.sizes]\nembed_dim = 16\ndepth = 1\n\
         num_heads = 2\nglobal_attn_indexes = [0]\n[data.synth]\n[data.validation_synth]\nseed = 1\n",
    ),
    (
        Task::Distil,
        "task = \"distil\"\nrun.dir = \"a\"\nmodel.init = \"scratch\"\nmodel.variant = \"vit_b\"\nschedule.steps = 9\n\
         validation.every_steps = 1\n[distil]\nteacher = \"t\"\nembedding_steps = 1\n[data.synth]\n[data.validation_synth]\nseed = 1\n",
    ),
    (
        Task::Pretrain,
        "task = \"pretrain\"\nrun.dir = \"a\"\nschedule.steps = 9\nmodel.variant = \"vit_b\"\ndata.train = \"photos\"\n",
    ),
    (Task::Evaluate, "task = \"evaluate\"\nmodel.checkpoint = \"a\"\ndata.path = \"d\"\n"),
    (Task::Probe, "task = \"probe\"\nmodel.checkpoint = \"a\"\ndata.path = \"d\"\n"),
    (
        Task::Train,
        "run.dir = \"a\"\nmodel.init = \"scratch\"\nschedule.steps = 9\n[model.sizes]\nencoder = \"tiny_vit\"\n\
         embed_dims = [32, 48, 64, 96]\nnum_heads = [2, 4, 4]\n[data.synth]\n[data.validation_synth]\nseed = 1\n",
    ),
];

fn plan_of(text: &str, overrides: &[String]) -> Result<Plan, ConfigError> {
    Plan::read(&Document::parse("c.toml", PathBuf::new(), text, overrides)?, Paths::MayBeMissing)
}

#[test]
fn any_number_of_any_key_is_answered_at_once() {
    let begun = Instant::now();
    let mut n_keys = 0;
    for (task, text) in TASKS {
        let plan = plan_of(text, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plan.task(), task);
        let known = known_keys(task, text);
        for (section, keys) in &known {
            for key in keys.keys() {
                let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
                n_keys += 1;
                for extreme in EXTREMES {
                    let list = |length: usize| format!("[{}]", vec![extreme; length].join(", "));
                    for value in [extreme.to_owned(), list(1), list(2), list(3), list(4)] {
                        if let Ok(plan) = plan_of(text, &[format!("{path}={value}")]) {
                            assert_eq!(plan.task(), task, "{path} = {value}");
                            plan.to_toml().unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
                        }
                    }
                }
            }
        }
    }
    assert!(n_keys > 200, "only {n_keys} keys");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

fn known_keys(task: Task, text: &str) -> crate::config::shape::KnownKeys {
    Plan::record(task, &Document::parse("c.toml", PathBuf::new(), text, &[]).expect("TOML")).keys
}

#[test]
fn numbers_that_no_machine_holds_are_errors_that_say_so() {
    let scratch = TASKS[1].1;
    for (text, set, words) in [
        (LEAST, "model.image_size=32768", "model.image_size must be a whole number from 16 to 4096"),
        (LEAST, "schedule.steps=9007199254740992", "schedule.steps must be a whole number of at most 1000000000"),
        (LEAST, "data.images_per_step=1000000", "data.images_per_step must be a whole number of at most 65536"),
        (LEAST, "data.images_per_step=4096", "batches of at most 16.0 GiB"),
        (LEAST, "data.prefetch=1025", "data.prefetch must be a whole number from 1 to 1024"),
        (LEAST, "data.augmentation.scale_jitter=[1, 1e9]", "scale_jitter must be a number of at most 100"),
        (LEAST, "data.max_pixels=500000001", "data.max_pixels must be a whole number from 1 to 500000000"),
        (scratch, "data.synth.n_scenes=1000000000", "data.synth.n_scenes must be a whole number of at most 10000000"),
        (scratch, "data.synth.side_px_max=8192", "side_px_max must be a whole number from 16 to 4096"),
        (scratch, "data.synth.visible_px_min=5000", "visible_px_min must be at most 4096, a quarter"),
        (scratch, "model.sizes.depth=2000", "model.sizes.depth must be a whole number of at most 1024"),
        (scratch, "model.sizes.embed_dim=16000", "iou"),
        (TASKS[6].1, "model.sizes.depths=[1, 1, 1, 2000]", "model.sizes.depths must be a whole number of at most 1024"),
        (
            TASKS[6].1,
            "model.sizes.window_sizes=[7, 65, 7]",
            "model.sizes.window_sizes must be a whole number of at most 64",
        ),
        (TASKS[6].1, "model.sizes.embed_dims=[16000, 16000, 16000, 16000]", "a network of at most 4e9 parameters"),
        (TASKS[4].1, "protocol.clicks=9007199254740992", "protocol.clicks must be a whole number of at most 1000"),
        (TASKS[4].1, "run.batch_objects=1000000000", "run.batch_objects must be a whole number of at most 65536"),
    ] {
        let result = plan_of(text, &[set.to_owned()]);
        if words == "iou" {
            // 3 x 10^9 parameters: what fits is accepted.
            assert!(result.is_ok(), "{set}: {result:?}");
            let deep = plan_of(text, &[set.to_owned(), "model.sizes.depth=1000".to_owned()]).expect_err("too large");
            assert!(deep.to_string().contains("a network of at most 4e9 parameters"), "{deep}");
            continue;
        }
        let error = result.expect_err(set).to_string();
        assert!(error.contains(words), "{words:?} is missing in: {error}");
    }
}

fn is_fraction(key: &str) -> bool {
    crate::config::limits::largest_float(key) <= 1.0
}

#[test]
fn a_saved_plan_with_impossible_numbers_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plan.toml");
    let saved = Plan::read(&Document::parse("c.toml", PathBuf::new(), LEAST, &[]).expect("TOML"), Paths::MayBeMissing)
        .map(|plan| plan.to_toml().expect("fits"));
    let saved = saved.expect("valid");
    let resumed = |text: &str| {
        std::fs::write(&file, text).expect("written");
        Plan::resumed(&file, folder.path(), &[])
    };
    resumed(&saved).expect("sound");
    let mut n_numbers = 0;
    for (at, line) in saved.lines().enumerate() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if value.parse::<f64>().is_err() {
            continue;
        }
        n_numbers += 1;
        for extreme in
            ["-1", "9223372036854775807", "18446744073709551615", "-9223372036854775808", "1e308", "nan", "inf"]
        {
            // Rates and weights may be as large as a float of 32 bits.
            if value.contains('.') && extreme.parse::<u64>().is_ok() && !is_fraction(key) {
                continue;
            }
            if key == "seed" && !extreme.starts_with("-") && extreme.parse::<i64>().is_ok() {
                continue;
            }
            let changed: Vec<String> = saved
                .lines()
                .enumerate()
                .map(|(other, line)| if other == at { format!("{key} = {extreme}") } else { line.to_owned() })
                .collect();
            let Err(error) = resumed(&changed.join("\n")) else {
                assert_eq!(extreme, "-1", "{key} = {extreme} is accepted");
                continue;
            };
            assert!(error.to_string().contains("plan.toml"), "{error}");
        }
    }
    assert!(n_numbers > 30, "only {n_numbers} numbers");
}
