//! What may change when a training goes on, and what may not.

use super::*;

/// Plans that have every kind of value in them.
fn plans() -> Vec<TrainPlan> {
    let scratch =
        LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\"\nmodel.variant = \"vit_b\"");
    let synth = LEAST.replace("data.train = \"photos\"\ndata.split.val = 0.2\n", "data.synth.seed = 1\n")
        + "data.validation_synth.n_scenes = 5\n";
    vec![
        plan(""),
        plan(
            "[optimiser]\nclip_norm = \"none\"\nema_decay = 0.999\nlr = 1.2345678901234567e-7\nfreeze = [\"*.bias\"]\n",
        ),
        plan("data.split.group = { prefix = \"_\" }\ndata.void = 7\ndata.augmentation.crop = [0.5, 1.0]\n"),
        plan("schedule.decay = \"multi_step\"\nschedule.milestones = [50, 60]\n"),
        plan(
            "schedule.decay = \"cosine\"\nresult.export = [\"pth\", \"huggingface\"]\nresult.export_image_size = 1024\n",
        ),
        read(&scratch).expect("valid"),
        read(&synth).expect("valid"),
    ]
}

fn saved(plan: &TrainPlan) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), plan.to_toml().expect("fits into TOML")).expect("written");
    file
}

#[test]
fn a_plan_is_read_again_as_it_was_saved() {
    for plan in plans() {
        let file = saved(&plan);
        let again = TrainPlan::resumed(file.path(), &plan.run.dir, &[]).expect("a plan");
        assert_eq!(again, plan, "{}", plan.to_toml().unwrap_or_default());
        assert_eq!(check_resume(&plan, &again), Ok(vec![]));
    }
}

#[test]
fn a_run_that_moved_goes_on_where_it_is() {
    let plan = plan("");
    let again = TrainPlan::resumed(saved(&plan).path(), "/new/place".as_ref(), &[]).expect("a plan");
    assert_eq!(again.run.dir, PathBuf::from("/new/place"));
    assert_eq!(check_resume(&plan, &again), Ok(vec![]));
}

#[test]
fn what_may_change_on_resume_can_be_set() {
    let plan = plan("");
    let file = saved(&plan);
    let overrides = [
        "run.name=b",
        "run.device=vulkan",
        "run.threads=3",
        "data.workers=0",
        "data.prefetch=9",
        "schedule.steps=200",
        "validation.every_steps=150",
        "validation.patience=4",
        "validation.baseline=false",
        "log.every_steps=1",
        "log.previews=0",
        "log.tensorboard=false",
        "result.export=[]",
        "result.export_image_size=1024",
    ]
    .map(str::to_owned);
    for changeable in TrainPlan::CHANGEABLE {
        assert!(overrides.iter().any(|set| set.starts_with(changeable)), "{changeable} is not tried here");
    }
    let again = TrainPlan::resumed(file.path(), &plan.run.dir, &overrides).expect("a plan");
    assert_eq!(check_resume(&plan, &again), Ok(vec![]));
    let [old, new] = [&plan, &again].map(|plan| plan.to_toml().unwrap_or_default());
    let n_changed = new.lines().filter(|line| !old.lines().any(|old| old == *line)).count();
    assert_eq!(n_changed, overrides.len(), "each override has an effect:\n{new}");
}

#[test]
fn what_may_not_change_on_resume_is_refused_with_the_reason() {
    let plan = plan("");
    let file = saved(&plan);
    let resumed = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        TrainPlan::resumed(file.path(), &plan.run.dir, &overrides).expect_err("refused").lines().to_vec()
    };
    assert_eq!(
        resumed(&["optimiser.lr=1", "run.dir=x", "log.previews=1", "model.checkpoint=b.pth"]),
        [
            "--set optimiser.lr=1: optimiser.lr cannot be another when a run goes on: the moments that the optimiser keeps \
             belong to it",
            "--set run.dir=x: run.dir cannot be another when a run goes on: the folder is the one that is gone on with",
            "--set model.checkpoint=b.pth: model.checkpoint cannot be another when a run goes on: the weights of the run \
             began there and have these sizes",
        ]
    );
    assert_eq!(
        resumed(&["schedule.steps=50"]),
        ["--set schedule.steps=50: schedule.steps must be a whole number of at least 100, got 50"]
    );
    assert_eq!(
        resumed(&["log.preview=1"]),
        ["--set log.preview=1: there is no key `preview` in [log]; did you mean `previews` (default 4)?"]
    );
    std::fs::write(file.path(), "[run]\ndir = 5\n").expect("written");
    assert!(
        resumed(&[])[0].contains(":2: must be the plan of a run, as this version writes it: "),
        "{:?}",
        resumed(&[])
    );
}

#[test]
fn plans_that_differ_are_compared_key_by_key() {
    let old = plan("optimiser.ema_decay = 0.9\n");
    let mut new = plan("run.device = \"vulkan\"\nlog.previews = 0\nschedule.warmup_steps = 20\n");
    new.schedule.steps = 50;
    let refusals = check_resume(&old, &new).expect("fit into TOML");
    let keys: Vec<&str> = refusals.iter().map(|refusal| refusal.key.as_str()).collect();
    assert_eq!(keys, ["optimiser.ema_decay", "schedule.warmup_steps", "schedule.steps"]);
    assert_eq!(
        refusals[0],
        Refusal {
            key: "optimiser.ema_decay".to_owned(),
            saved: "0.9".to_owned(),
            asked: "unset".to_owned(),
            reason: "the moments that the optimiser keeps belong to it",
        }
    );
    assert_eq!(
        refusals[1].to_string(),
        "schedule.warmup_steps must stay 10 when a run goes on, got 20: the rates of the steps that are done follow from it"
    );
}
