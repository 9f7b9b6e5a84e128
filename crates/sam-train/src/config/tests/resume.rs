//! Keys that can and cannot change on resume, of trainings and pre-trainings.

use super::pretrain::pretrain_plan;
use super::*;

fn training(more: &str) -> Plan {
    Plan::Train(Box::new(plan(more)))
}

fn pretraining(more: &str) -> Plan {
    Plan::Pretrain(Box::new(pretrain_plan(more)))
}

/// Plans with every kind of value.
fn plans() -> Vec<Plan> {
    let scratch =
        LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\"\nmodel.variant = \"vit_b\"");
    let synth = LEAST.replace("data.train = \"photos\"\ndata.split.val = 0.2\n", "data.synth.seed = 1\n")
        + "data.validation_synth.n_scenes = 5\n";
    vec![
        training(""),
        training(
            "[optimiser]\nclip_norm = \"none\"\nema_decay = 0.999\nlr = 1.2345678901234567e-7\nfreeze = [\"*.bias\"]\n",
        ),
        training("data.split.group = { prefix = \"_\" }\ndata.void = 7\ndata.augmentation.crop = [0.5, 1.0]\n"),
        training("schedule.decay = \"multi_step\"\nschedule.milestones = [50, 60]\n"),
        training(
            "schedule.decay = \"cosine\"\nresult.export = [\"pth\", \"huggingface\"]\nresult.export_image_size = 1024\n",
        ),
        Plan::Train(Box::new(read(&scratch).expect("valid"))),
        Plan::Train(Box::new(read(&synth).expect("valid"))),
        pretraining(""),
        pretraining("data.hold_out = 0.1\ndata.source = \"labelled\"\nvalidation.baseline = false\n"),
    ]
}

/// The plan of a run in `folder` after it was saved.
fn resumed_in(plan: &Plan, folder: &str, overrides: &[&str]) -> Result<Plan, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), plan.to_toml().expect("fits into TOML")).expect("written");
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Plan::resumed(file.path(), folder.as_ref(), &overrides)
}

fn resumed(plan: &Plan, overrides: &[&str]) -> Result<Plan, ConfigError> {
    let mut plan = plan.clone();
    let folder = plan.run_sections().expect("a run").run.dir.display().to_string();
    resumed_in(&plan, &folder, overrides)
}

#[test]
fn a_saved_plan_is_read_back_and_may_have_moved() {
    for plan in plans() {
        let mut again = resumed(&plan, &[]).expect("a plan");
        assert_eq!(again, plan, "{}", plan.to_toml().unwrap_or_default());
        assert_eq!(check_resume(&plan, &again), Ok(vec![]));
        again = resumed_in(&plan, "/new/place", &[]).expect("a plan");
        assert_eq!(again.run_sections().expect("a run").run.dir, PathBuf::from("/new/place"));
        assert_eq!(check_resume(&plan, &again), Ok(vec![]));
    }
}

/// As earlier versions saved them: trainings without the key `task`, and the part of a data set as `split`.
#[test]
fn plans_of_earlier_versions_are_read() {
    let plan = training("").to_toml().expect("fits into TOML");
    let old =
        plan.replacen("task = \"train\"\n\n", "", 1).replace("[data.train.files.options]\n", "$&split = \"val\"\n");
    let old = old.replace("$&", "[data.train.files.options]\n");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), old).expect("written");
    let Plan::Train(plan) = Plan::resumed(file.path(), "runs/a".as_ref(), &[]).expect("a plan") else {
        panic!("a training")
    };
    let DataSource::Files(files) = plan.data.train else { panic!("files") };
    assert_eq!(files.options.split.as_deref(), Some("val"));
}

#[test]
fn changeable_keys_can_be_set() {
    let overrides = [
        "run.name=b",
        "run.devices=[\"cpu\", \"vulkan\"]",
        "run.threads=3",
        "data.workers=0",
        "data.prefetch=9",
        "data.max_pixels=5",
        "data.cloud_cache_dir=shards",
        "schedule.steps=200",
        "validation.every_steps=150",
        "validation.patience=4",
        "validation.baseline=false",
        "log.every_steps=1",
        "log.previews=0",
        "log.tensorboard=false",
        "result.export=[]",
        "result.export_image_size=1024",
        // Of a training alone.
        "cache.dir=elsewhere",
        "cache.max_gib=5",
    ];
    // The keys of a plan that stand for one of a configuration are not typed.
    for changeable in CHANGEABLE.iter().filter(|key| !key.contains(".files.")) {
        assert!(overrides.iter().any(|set| set.starts_with(changeable)), "{changeable} is not tried here");
    }
    for (plan, overrides) in [(training(""), &overrides[..]), (pretraining(""), &overrides[..14])] {
        let again = resumed(&plan, overrides).expect("a plan");
        assert_eq!(check_resume(&plan, &again), Ok(vec![]));
        let [old, new] = [&plan, &again].map(|plan| plan.to_toml().unwrap_or_default());
        let n_changed = new.lines().filter(|line| !old.lines().any(|old| old == *line)).count();
        assert_eq!(n_changed, overrides.len(), "each override has an effect:\n{new}");
    }
}

#[test]
fn data_may_have_moved() {
    let folder = tempfile::tempdir().expect("a folder");
    let moved = folder.path().join("moved");
    std::fs::create_dir(&moved).expect("made");
    for (mut plan, more) in [(training(""), "model.checkpoint=b"), (pretraining(""), "data.images_per_step=16")] {
        let keys: Vec<String> = plan.input_paths().into_iter().map(|(key, _)| key).collect();
        assert!(keys.iter().any(|key| key == "data.train"), "{keys:?}");
        for key in keys {
            let mut again = resumed(&plan, &[&format!("{key}={}", moved.display())]).expect("a plan");
            assert_eq!(check_resume(&plan, &again), Ok(vec![]), "{key}");
            let paths = again.input_paths();
            let (_, path) = paths.iter().find(|(other, _)| *other == key).expect("it is kept");
            assert_eq!(**path, moved);
            let missing = resumed(&plan, &[&format!("{key}=missing")]).expect_err("not there").to_string();
            assert!(missing.contains("missing") && !missing.contains("cannot change"), "{missing}");
        }
        resumed(&plan, &[more]).expect_err("something else");
    }
}

#[test]
fn fixed_keys_are_rejected_with_the_reason() {
    let trained = [
        ("task=pretrain", "a run keeps its task"),
        ("run.dir=x", "the folder is that of the resumed run"),
        ("run.seed=5", "all random draws"),
        ("run.parallel=2", "rounded differently"),
        ("model.checkpoint=b.pth", "have these sizes"),
        ("data.images_per_step=7", "the next batches"),
        ("prompts.preset=box", "another objective"),
        ("loss.dice_weight=2", "another objective"),
        ("optimiser.lr=1", "moments"),
        ("schedule.warmup_steps=3", "the finished steps"),
        ("validation.clicks=[1]", "and the best checkpoint could not be chosen"),
    ];
    let pretrained = [
        ("model.patch_size=8", "have these sizes"),
        ("data.images_per_step=16", "the next batches"),
        ("data.hold_out=0.2", "the next batches"),
        ("data.validation=b", "scores before and after"),
        ("data.validation_synth.seed=4", "scores before and after"),
        ("mae.mask_ratio=0.5", "another objective"),
        ("optimiser.base_lr=1e-3", "moments"),
        ("validation.max_images=3", "and the best checkpoint could not be chosen"),
    ];
    for (plan, fixed) in [(training(""), &trained[..]), (pretraining("data.hold_out = 0.1\n"), &pretrained[..])] {
        let rejected = |set: &str| {
            let error = resumed(&plan, &[set]).expect_err("rejected");
            let [line] = error.lines() else { panic!("one line for {set}: {error}") };
            line.clone()
        };
        for (set, reason) in fixed {
            let line = rejected(set);
            assert!(line.contains(" cannot change on resume: ") && line.contains(reason), "{line}");
        }
        let line = rejected("log.preview=1");
        assert!(line.ends_with("there is no key `preview` in [log]; did you mean `previews` (default 4)?"), "{line}");
        let line = rejected("schedule.steps=50");
        assert!(line.ends_with("schedule.steps must be a whole number of at least 100, got 50"), "{line}");
        let line = rejected("validation.every_steps=101");
        assert!(line.contains("must be at most schedule.steps (100)"), "{line}");
    }
    let both = resumed(&training(""), &["optimiser.lr=1", "log.previews=1", "run.dir=x"]).expect_err("rejected");
    assert_eq!(
        both.lines(),
        [
            "--set optimiser.lr=1: optimiser.lr cannot change on resume: the optimiser's moments belong to it",
            "--set run.dir=x: run.dir cannot change on resume: the folder is that of the resumed run",
        ]
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "task = \"train\"\n[run]\ndir = 5\n").expect("written");
    let error = Plan::resumed(file.path(), "runs/a".as_ref(), &[]).expect_err("rejected").to_string();
    assert!(error.contains(":3: must be the plan of a run, as this version writes it: "), "{error}");
}

#[test]
fn plans_are_compared_key_by_key() {
    let old = training("optimiser.ema_decay = 0.9\n");
    let mut new = plan("run.device = \"vulkan\"\nlog.previews = 0\nschedule.warmup_steps = 20\n");
    new.schedule.steps = 50;
    let fixed = check_resume(&old, &Plan::Train(Box::new(new))).expect("fits into TOML");
    let keys = |fixed: &[FixedKey]| fixed.iter().map(|fixed| fixed.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&fixed), ["optimiser.ema_decay", "schedule.warmup_steps", "schedule.steps"]);
    let [ema, warmup, steps] = &fixed[..] else { panic!("three keys") };
    assert_eq!([&ema.saved, &ema.asked], ["0.9", "unset"]);
    assert_eq!(
        warmup.to_string(),
        "schedule.warmup_steps cannot change on resume: saved 10, got 20: the learning rates of the finished steps follow \
         from it"
    );
    assert!(steps.to_string().contains("saved 100, got 50: a run can only be extended"), "{steps}");

    let old = pretraining("");
    let mut new = pretrain_plan("run.device = \"vulkan\"\nmae.mask_ratio = 0.5\nmodel.image_size = 192\n");
    new.images_per_step = 16;
    let fixed = check_resume(&old, &Plan::Pretrain(Box::new(new))).expect("fits into TOML");
    assert_eq!(keys(&fixed), ["images_per_step", "mae.mask_ratio", "model.config.image_size_hw"]);
    assert!(fixed.iter().all(|fixed| fixed.reason != "the run depends on it"), "{fixed:?}");

    let fixed = check_resume(&old, &training("")).expect("fits into TOML");
    let [task] = &fixed[..] else { panic!("only the task: {fixed:?}") };
    assert_eq!(
        task.to_string(),
        "task cannot change on resume: saved \"pretrain\", got \"train\": a run keeps its task"
    );
}
