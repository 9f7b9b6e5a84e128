//! Configurations of pre-trainings.

use super::*;

#[test]
fn the_configurations_of_this_repository_are_valid() {
    for (name, text, lr) in [
        ("pretrain-quick", include_str!("../../../../../configs/pretrain-quick.toml"), 2e-3),
        ("paper-mae-b", include_str!("../../../../../configs/paper-mae-b.toml"), 2.4e-3),
        ("paper-mae-l", include_str!("../../../../../configs/paper-mae-l.toml"), 2.4e-3),
        ("paper-mae-h", include_str!("../../../../../configs/paper-mae-h.toml"), 2.4e-3),
    ] {
        let plan = read_pretraining(text);
        assert!((plan.optimiser.lr - lr).abs() < 1e-12, "{name}: {}", plan.optimiser.lr);
        assert!(text.contains(&format!("--config configs/{name}.toml")), "{name} says how it is run");
    }
}

/// A training can start from the pre-training, as its header says.
#[test]
fn the_quick_pretraining_and_the_quickstart_have_one_encoder() {
    let text = include_str!("../../../../../configs/pretrain-quick.toml");
    let mae = read_pretraining(text).model.config;
    let training = include_str!("../../../../../configs/quickstart.toml");
    let ModelPlan::Scratch(sam) = read(training).expect("valid").model else { panic!("it starts from nothing") };
    let encoder = sam.image_encoder.vit().expect("a plain ViT");
    assert_eq!(mae.image_size_hw, [encoder.image_size; 2]);
    assert_eq!(
        [mae.patch_size, mae.embed_dim, mae.depth, mae.num_heads, mae.mlp_dim],
        [encoder.patch_size, encoder.embed_dim, encoder.depth, encoder.num_heads, encoder.mlp_dim]
    );
}

/// The required keys of a pre-training.
const LEAST_PRETRAINING: &str = r#"task = "pretrain"
run.dir = "runs/p"
model.variant = "vit_b"
data.train = "photos"
data.images_per_step = 8
schedule.steps = 100
"#;

/// The plan of [`LEAST_PRETRAINING`] and more.
pub(super) fn pretrain_plan(more: &str) -> PretrainPlan {
    read_pretraining(&format!("{LEAST_PRETRAINING}{more}"))
}

fn read_pretraining(text: &str) -> PretrainPlan {
    let document = Document::parse("c.toml", PathBuf::new(), text, &[]).expect("TOML");
    match Plan::read(&document, Paths::MayBeMissing) {
        Ok(Plan::Pretrain(plan)) => *plan,
        other => panic!("a pre-training: {other:?}"),
    }
}
