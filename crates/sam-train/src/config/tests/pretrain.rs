//! The same of pre-trainings.

use super::*;

#[test]
fn the_configurations_of_this_repository_are_valid() {
    for (name, text, lr) in [
        ("pretrain-quick", include_str!("../../../../../configs/pretrain-quick.toml"), 2e-3),
        ("paper-mae-b", include_str!("../../../../../configs/paper-mae-b.toml"), 2.4e-3),
        ("paper-mae-l", include_str!("../../../../../configs/paper-mae-l.toml"), 2.4e-3),
        ("paper-mae-h", include_str!("../../../../../configs/paper-mae-h.toml"), 2.4e-3),
    ] {
        let document = Document::parse("c.toml", PathBuf::new(), text, &[]).expect("TOML");
        assert_eq!(Task::of(&document), Ok(Task::Pretrain), "{name}");
        let plan = PretrainPlan::read(&document, Paths::MayBeMissing).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!((plan.optimiser.lr - lr).abs() < 1e-12, "{name}: {}", plan.optimiser.lr);
        let saved: PretrainPlan = toml::from_str(&plan.to_toml().expect("fits")).expect("reads back");
        assert_eq!(saved, plan, "{name}");
        assert!(text.contains(&format!("--config configs/{name}.toml")), "{name} says how it is run");
    }
}

/// What the one makes, the other takes, as its header says.
#[test]
fn the_quick_pretraining_and_the_quickstart_have_one_encoder() {
    let text = include_str!("../../../../../configs/pretrain-quick.toml");
    let document = Document::parse("c.toml", PathBuf::new(), text, &[]).expect("TOML");
    let mae = PretrainPlan::read(&document, Paths::MayBeMissing).expect("valid").model.config;
    let training = include_str!("../../../../../configs/quickstart.toml");
    let ModelPlan::Scratch(sam) = read(training).expect("valid").model else { panic!("it starts from nothing") };
    let encoder = sam.image_encoder;
    assert_eq!(mae.image_size_hw, [encoder.image_size; 2]);
    assert_eq!(
        [mae.patch_size, mae.embed_dim, mae.depth, mae.num_heads, mae.mlp_dim],
        [encoder.patch_size, encoder.embed_dim, encoder.depth, encoder.num_heads, encoder.mlp_dim]
    );
}

/// The least that a pre-training needs.
const LEAST_PRETRAINING: &str = r#"task = "pretrain"
run.dir = "runs/p"
model.variant = "vit_b"
data.train = "photos"
data.images_per_step = 8
schedule.steps = 100
"#;

fn pretrain_plan(more: &str) -> PretrainPlan {
    let text = format!("{LEAST_PRETRAINING}{more}");
    let document = Document::parse("c.toml", PathBuf::new(), &text, &[]).expect("TOML");
    PretrainPlan::read(&document, Paths::MayBeMissing).expect("a valid configuration")
}

fn resumed_pretraining(plan: &PretrainPlan, overrides: &[&str]) -> Result<PretrainPlan, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), plan.to_toml().expect("fits into TOML")).expect("written");
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    PretrainPlan::resumed(file.path(), &plan.run.dir, &overrides)
}

#[test]
fn what_may_change_in_a_pretraining_can_be_set() {
    let plan = pretrain_plan("");
    let overrides = [
        "run.name=b",
        "run.device=vulkan",
        "run.threads=3",
        "data.workers=0",
        "data.prefetch=9",
        "schedule.steps=200",
        "validation.every_steps=150",
        "validation.patience=4",
        "log.every_steps=1",
        "log.previews=0",
        "log.tensorboard=false",
    ];
    for changeable in PretrainPlan::CHANGEABLE {
        assert!(overrides.iter().any(|set| set.starts_with(changeable)), "{changeable} is not tried here");
    }
    let again = resumed_pretraining(&plan, &overrides).expect("a plan");
    assert_eq!(check_resume(&plan, &again), Ok(vec![]));
    let [old, new] = [&plan, &again].map(|plan| plan.to_toml().unwrap_or_default());
    let n_changed = new.lines().filter(|line| !old.lines().any(|old| old == *line)).count();
    assert_eq!(n_changed, overrides.len(), "each override has an effect:\n{new}");
}

#[test]
fn what_may_not_change_in_a_pretraining_is_refused_with_the_reason() {
    let plan = pretrain_plan("data.hold_out = 0.1\n");
    let refused = |set: &str| {
        let error = resumed_pretraining(&plan, &[set]).expect_err("refused");
        let [line] = error.lines() else { panic!("one line for {set}: {error}") };
        line.clone()
    };
    // Every section and key that a pre-training is typed with, changeable ones left out.
    for (set, reason) in [
        ("task=train", "a run stays what it was begun as"),
        ("run.dir=x", "the folder is the one that is gone on with"),
        ("run.seed=5", "everything random"),
        ("model.patch_size=8", "these sizes"),
        ("model.mae=b.pth", "the weights of the run began there"),
        ("data.train=b", "the batches that come"),
        ("data.images_per_step=16", "the batches that come"),
        ("data.hold_out=0.2", "the batches that come"),
        ("data.validation=b", "figures before and after"),
        ("data.validation_synth.seed=4", "figures before and after"),
        ("mae.mask_ratio=0.5", "another objective"),
        ("optimiser.base_lr=1e-3", "moments"),
        ("schedule.warmup_steps=3", "the rates of the steps that are done"),
        ("validation.max_images=3", "nor the best be told"),
    ] {
        let line = refused(set);
        assert!(line.contains("cannot be another when a run goes on") && line.contains(reason), "{line}");
    }
    let line = refused("log.preview=1");
    assert!(line.ends_with("there is no key `preview` in [log]; did you mean `previews` (default 4)?"), "{line}");
    let line = refused("schedule.steps=50");
    assert!(line.ends_with("schedule.steps must be a whole number of at least 100, got 50"), "{line}");
    let line = refused("validation.every_steps=101");
    assert!(line.contains("must be at most schedule.steps (100)"), "{line}");
}

#[test]
fn pretrainings_that_differ_are_compared_key_by_key() {
    let old = pretrain_plan("");
    let mut new = pretrain_plan("run.device = \"vulkan\"\nmae.mask_ratio = 0.5\nmodel.image_size = 192\n");
    new.images_per_step = 16;
    let keys = |refusals: &[Refusal]| refusals.iter().map(|refusal| refusal.key.clone()).collect::<Vec<_>>();
    let refusals = check_resume(&old, &new).expect("fit into TOML");
    assert_eq!(keys(&refusals), ["images_per_step", "mae.mask_ratio", "model.config.image_size_hw"]);
    assert_eq!(
        refusals[1].to_string(),
        "mae.mask_ratio must stay 0.75 when a run goes on, got 0.5: the run would go on with another objective"
    );
    assert!(refusals.iter().all(|refusal| refusal.reason != "it decides what the run is"), "{refusals:?}");
    assert_eq!(check_resume(&old, &old.clone()), Ok(vec![]));
}
