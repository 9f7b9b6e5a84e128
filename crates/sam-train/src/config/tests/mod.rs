//! Whole configurations: the errors of wrong ones, with their lines, and the plans of valid ones.

use std::path::PathBuf;

use sam_data::{GroupKey, Intensity, SplitRule, Void};
use sam_learn::options::{
    BoxOutput, IouLoss, IouSupervision, LossResolution, LrDecay, NoiseDistribution, OptimiserOptions, PromptOptions,
    PromptPreset,
};
use sam_model::{BatchNormStatistics, SamConfig, TinyVitConfig, Variant};

use super::data_source::{DataSource, Validation};
use super::model::ModelPlan;
use super::resume::{CHANGEABLE, FixedKey};
use super::*;
use crate::cli::FormatArgument;

mod limits;
mod measure;
mod pretrain;
mod resume;
mod schema;

/// The required keys of a run; lines of tests count from its end.
const LEAST: &str = r#"run.dir = "runs/a"
model.checkpoint = "sam.pth"
data.train = "photos"
data.split.val = 0.2
schedule.steps = 100
"#;

fn read_with(text: &str, overrides: &[&str], paths: Paths) -> Result<TrainPlan, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    match Plan::read(&Document::parse("c.toml", PathBuf::new(), text, &overrides)?, paths)? {
        Plan::Train(plan) => Ok(*plan),
        other => panic!("a training: {other:?}"),
    }
}

fn read(text: &str) -> Result<TrainPlan, ConfigError> {
    read_with(text, &[], Paths::MayBeMissing)
}

fn plan(more: &str) -> TrainPlan {
    read(&format!("{LEAST}{more}")).expect("a valid configuration")
}

fn problems(text: &str) -> Vec<String> {
    read(text).expect_err("rejected").lines().to_vec()
}

/// The errors of lines after [`LEAST`], whose first is 6.
fn problems_after_least(more: &str) -> Vec<String> {
    problems(&format!("{LEAST}{more}"))
}

fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).expect("a path")
}

#[test]
fn the_least_configuration_gets_every_default() {
    let plan = plan("");
    assert_eq!((plan.run.dir.clone(), plan.run.name.as_str()), (absolute("runs/a"), "a"));
    assert_eq!((plan.run.device.as_str(), plan.run.seed, plan.run.threads), ("cpu", 0, 0));
    let ModelPlan::Checkpoint(checkpoint) = &plan.model else { panic!("a checkpoint") };
    assert_eq!((&checkpoint.path, checkpoint.image_size), (&absolute("sam.pth"), None));
    assert_eq!(plan.data.validation, Validation::Rule(SplitRule { val: 0.2, ..SplitRule::default() }));
    assert_eq!(plan.prompts, PromptOptions::preset(PromptPreset::Sam));
    assert_eq!(plan.optimiser, OptimiserOptions::default());
    assert_eq!((plan.schedule.warmup_steps, &plan.schedule.decay), (10, &LrDecay::Constant));
    assert_eq!((plan.validation.metric.as_str(), plan.validation.every_steps), ("miou_1_oracle", 10));
    assert_eq!(plan.result.export, [FormatArgument::Safetensors]);

    let loader = plan.data.loader_options(7, 1024, 256);
    let defaults = sam_data::loader::LoaderOptions { seed: 7, ..Default::default() };
    assert_eq!(loader, defaults, "the defaults are those of the loader");
}

#[test]
fn all_errors_are_reported_together_with_their_lines() {
    let text = r#"
[run]
dir = 5
device = "gpu"
threds = 2
[model]
checkpoint = "sam.pth"
drop_path = 1.0
[data]
train = "photos"
split = { val = 0.1, group = "patient" }
workers = -1
learning_rate = 1e-4
[data.augmentation]
crop = [0.9, 0.5]
scale_jitter = 2
[prompts]
preset = "sam3"
box_chance = 1.5
[loss]
warmup = 3
[optimiser]
betas = [0.9]
freeze = ["image_encodr", "*.bias", 3]
ema_decay = 1.0
[schedule]
steps = "many"
warmup_steps = 500
decay = "cosin"
[validation]
clicks = [1,
  0]
box = "yes"
[result]
export = ["safetensors",
  "onnx"]
[extra]
a = 1
"#;
    let expected = [
        "c.toml:3: run.dir must be a text that is not empty, got 5",
        "c.toml:4: run.device must be cpu, cuda, cuda:N, vulkan or wgpu, got \"gpu\"",
        "c.toml:5: there is no key `threds` in [run]; did you mean `threads` (default 0)?",
        "c.toml:8: model.drop_path must be a number from 0 to below 1, got 1.0",
        "c.toml:11: data.split.group must be \"image\", \"folder\", { prefix = \"..\" } or { regex = \"..\" }, \
         got \"patient\"",
        "c.toml:12: data.workers must be a whole number from 0 to 1024, got -1",
        "c.toml:13: there is no key `learning_rate` in [data]; did you mean `lr` (default 0.0008) in [optimiser]?",
        "c.toml:15: data.augmentation.crop must be two numbers, the smaller one first, got [0.9, 0.5]; \
         did you mean [0.5, 0.9]?",
        "c.toml:16: data.augmentation.scale_jitter must be two numbers, each above 0, got 2",
        "c.toml:18: prompts.preset must be \"sam\", \"sam2\", \"box\" or \"points\", got \"sam3\"; did you mean \"sam\"?",
        "c.toml:19: prompts.box_chance must be a number from 0 to 1, got 1.5",
        "c.toml:21: there is no key `warmup` in [loss]; did you mean `warmup_steps` (default 0) in [schedule]?",
        "c.toml:23: optimiser.betas must be two numbers, each from 0 to below 1, got [0.9]",
        "c.toml:24: optimiser.freeze must be a list of parts, \"image_encoder\", \"prompt_encoder\" or \"mask_decoder\", or of \
         patterns with `*` over keys of a checkpoint (did you mean \"image_encoder\"?), got \"image_encodr\"",
        "c.toml:24: optimiser.freeze must be a list of texts, got 3",
        "c.toml:25: optimiser.ema_decay must be a number above 0 and below 1, or \"none\", got 1.0",
        "c.toml:27: schedule.steps must be a whole number of at least 1, got \"many\"",
        "c.toml:29: schedule.decay must be \"constant\", \"multi_step\", \"cosine\" or \"reciprocal_sqrt\", got \"cosin\"; \
         did you mean \"cosine\"?",
        "c.toml:32: validation.clicks must be a list, each a whole number from 1 to 100, got 0",
        "c.toml:33: validation.box must be true or false, got \"yes\"",
        "c.toml:36: result.export must be \"safetensors\", \"pth\" or \"huggingface\", got \"onnx\"",
        "c.toml:37: there is no section `extra` at the top; it takes `cache`, `data`, `log`, `lora`, `loss`, `model`, `optimiser`, \
         `prompts`, `result`, `run`, `schedule`, `task`, `validation`",
    ];
    let found = problems(text);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn missing_keys_are_reported_at_their_section() {
    assert_eq!(
        problems("task = \"train\"\n[run]\nname = \"a\"\n[data]\n[schedule]\ndecay = \"multi_step\"\n"),
        [
            "c.toml: model.checkpoint must be given: the initial weights, or init = \"scratch\"; sam_vit_b_01ec64.pth \
             (SAM vit_b, 375 MB) is at https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            "c.toml:2: run.dir must be given: the folder of the run",
            "c.toml:4: data.train must be given: a data set to train on, or [data.synth] for synthetic scenes",
            "c.toml:5: schedule.steps must be given: the number of steps of the run",
            "c.toml:5: schedule.milestones must be given: the steps at which the learning rate is reduced, such as [60000, 86666]",
        ]
    );
    let found = problems(&LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\""));
    assert_eq!(
        found,
        ["c.toml:2: model.variant must be given: vit_b, vit_l, vit_h or mobile, or all numbers in [model.sizes]"]
    );
}

#[test]
fn a_key_in_the_wrong_section_is_reported_with_the_right_one() {
    let found = problems_after_least("lr = 1e-4\n[log]\nsteps = 3\n[optimizer]\nlr = 1\n[validation_options]\n");
    assert_eq!(
        found,
        [
            "c.toml:6: there is no key `lr` at the top; `lr` belongs in [optimiser]",
            "c.toml:8: there is no key `steps` in [log]; `steps` belongs in [schedule]",
            "c.toml:9: there is no section `optimizer` at the top; did you mean the section [optimiser]?",
            "c.toml:11: there is no section `validation_options` at the top; `validation_options` belongs in [data]",
        ]
    );
}

#[test]
fn rules_between_keys_are_reported_where_they_are_broken() {
    for (more, expected) in [
        (
            "[schedule]\nwarmup_steps = 100",
            "c.toml:7: schedule.warmup_steps must be below schedule.steps (100), got 100",
        ),
        (
            "[schedule]\ndecay = \"multi_step\"\nmilestones = [50, 50]",
            "c.toml:8: schedule.milestones must be rising, got [50, 50]",
        ),
        (
            "[schedule]\ndecay = \"multi_step\"\nmilestones = [50, 100]",
            "c.toml:8: schedule.milestones must be below schedule.steps (100), got [50, 100]",
        ),
        (
            "[schedule]\nmilestones = [50]",
            "c.toml:7: schedule.milestones is only used with decay = \"multi_step\"; remove it",
        ),
        (
            "[schedule]\ndecay = \"cosine\"\nfactor = 0.5",
            "c.toml:8: schedule.factor is only used with decay = \"multi_step\"; remove it",
        ),
        (
            "[schedule]\ndecay = \"reciprocal_sqrt\"\ncooldown_steps = 95",
            "c.toml:8: schedule.cooldown_steps must be at most the 90 steps after the warm-up, got 95",
        ),
        (
            "[data]\nimages_per_step = 6\n[optimiser]\naccumulation = 4",
            "c.toml:7: data.images_per_step must be a multiple of optimiser.accumulation (4), which splits a step into \
             batches, got 6",
        ),
        (
            "[data]\nimages_per_step = 8\nobjects_per_step = 4",
            "c.toml:8: data.objects_per_step must be at least data.images_per_step (8): every image has an object, \
             got 4",
        ),
        ("[data]\nimages_per_step = 0", "c.toml:7: data.images_per_step must be a whole number of at least 1, got 0"),
        (
            "[model]\nvariant = \"vit_b\"",
            "c.toml:7: model.variant is only used with init = \"scratch\" or \"mae\" (the tensors of other files \
             determine their sizes); remove it",
        ),
        (
            "[model]\ninit = \"scratch\"\nvariant = \"vit_b\"",
            "c.toml:2: model.checkpoint is only used with init = \"checkpoint\"; remove it",
        ),
        (
            "[data]\nvalidation = \"other\"",
            "c.toml:7: data.validation must be given alone: use one of data.validation, data.split and \
             [data.validation_synth], got validation and split",
        ),
        (
            "[data.validation_options]\ncrowd = \"drop\"",
            "c.toml:7: data.validation_options is only used with data.validation; remove it",
        ),
        (
            "[data.synth]\nn_scenes = 5",
            "c.toml:3: data.train must be given without [data.synth]: a run has one source of training data, got both",
        ),
        (
            "[validation]\nmetric = \"miou_1_orcale\"",
            "c.toml:7: validation.metric must be one of the metrics of this validation: miou_1, miou_1_oracle, miou_3, \
             predicted_iou_error, prompt_selectivity, miou_box, miou_box_oracle, predicted_iou_error_box, \
             prompt_selectivity_box, got \"miou_1_orcale\"; \
             did you mean \"miou_1_oracle\"?",
        ),
        (
            "[validation]\nclicks = []\nbox = false",
            "c.toml:7: validation.clicks must be a list of at least one click when validation.box is false, got none",
        ),
        (
            "[validation]\nevery_steps = 200",
            "c.toml:7: validation.every_steps must be at most schedule.steps (100): the run would end before, got 200",
        ),
        (
            "[optimiser]\nfreeze = [\"image_encoder\", \"prompt_encoder\", \"mask_decoder\"]",
            "c.toml:7: optimiser.freeze must be a list that leaves a part to train, got all parts",
        ),
        (
            "[result]\nexport_image_size = 512",
            "c.toml:7: result.export_image_size must be 1024, which other programs load, or omitted for the size of \
             training, got 512",
        ),
        (
            "[loss]\nfocal_weight = 0\ndice_weight = 0",
            "c.toml:7: loss.focal_weight must be above 0 when loss.dice_weight is 0: masks would not be trained, got 0",
        ),
    ] {
        // TOML does not allow a section twice, so keys that it already has are dotted.
        let section = more.lines().next().unwrap_or_default().trim_matches(['[', ']']);
        let found = problems(&dotted(section, more));
        assert_eq!(found, [expected], "{more}");
    }
}

/// [`LEAST`] and more, all as dotted keys, so that sections may come in parts. Lines stay where they are.
fn dotted(first_section: &str, more: &str) -> String {
    let mut section = first_section.to_owned();
    let lines = more.lines().map(|line| match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
        Some(name) => {
            section = name.to_owned();
            String::new()
        }
        None => format!("{section}.{line}"),
    });
    let more: Vec<String> = lines.collect();
    format!("{LEAST}{}\n", more.join("\n"))
}

#[test]
fn a_tiny_vit_has_sizes_of_its_own() {
    let scratch = LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\"");
    let sizes =
        "[model.sizes]\nencoder = \"tiny_vit\"\nembed_dims = [32, 48, 64, 96]\nnum_heads = [2, 4, 4]\nmlp_ratio = 2\n";
    let scratch_of = |text: &str| match read(text).unwrap_or_else(|error| panic!("{error}")).model {
        ModelPlan::Scratch(config) => config,
        other => panic!("{other:?}"),
    };
    for image_size in [16, 48, 64, 96] {
        let model = format!("model.image_size = {image_size}\nmodel.drop_path = 0.1\nmodel.batch_norm = \"running\"\n");
        let config = scratch_of(&format!("{scratch}{model}{sizes}out_chans = 64\ndecoder_mlp_dim = 128\n"));
        let expected = TinyVitConfig {
            image_size,
            embed_dims: [32, 48, 64, 96],
            num_heads: [2, 4, 4],
            mlp_ratio: 2,
            out_chans: 64,
            drop_path_rate: 0.1,
            batch_norm: BatchNormStatistics::Running,
            ..TinyVitConfig::published()
        };
        assert_eq!(config.image_encoder.tiny_vit(), Some(&expected));
        assert_eq!((config.prompt_encoder.embed_dim, config.mask_decoder.mlp_dim), (64, 128));
    }
    // The defaults are MobileSAM's.
    let published = scratch_of(&format!("{scratch}[model.sizes]\nencoder = \"tiny_vit\"\n"));
    assert_eq!(published, SamConfig::published(Variant::Mobile));
    let classifier =
        LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"tiny_vit\"\nmodel.tiny_vit = \"a.pth\"");
    let encoder = "encoder = \"tiny_vit\"\n";
    for (text, expected) in [
        (classifier.clone(), SamConfig::published(Variant::Mobile)),
        // Then the encoder is a TinyViT without a word.
        (format!("{classifier}{}", sizes.replace(encoder, "")), scratch_of(&format!("{scratch}{sizes}"))),
    ] {
        let ModelPlan::TinyVit(plan) = read(&text).expect("valid").model else { panic!("a classifier") };
        assert_eq!(plan.config, expected);
    }
}

#[test]
fn wrong_sizes_of_a_tiny_vit_are_reported_together() {
    let scratch = LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\"");
    let text = "model.image_size = 72\n[model.sizes]\nencoder = \"tiny_vit\"\nembed_dims = [33, 48, 64, 96]\nnum_heads = [2, 5, 7]\n";
    assert_eq!(
        problems(&format!("{scratch}{text}")),
        [
            "c.toml:6: model.image_size 72 must be a multiple of 16",
            "c.toml:7: model.sizes do not fit together: the first of embed_dims must be even, got 33; num_heads 5 must divide \
             embed_dims 64; num_heads 7 must divide embed_dims 96",
        ]
    );
    let text = "[model.sizes]\nencoder = \"tiny_vit\"\nembed_dim = 96\ndepths = [1, 2, 1]\nnum_heads = 4\nwindow_sizes = [7, 0, 7]\n\
                window_size = 7\nmlp_ratio = 2.5\nglobal_attn_indexes = [1]\n";
    assert_eq!(
        problems(&format!("{scratch}{text}")),
        [
            "c.toml:8: model.sizes.embed_dim is only used with encoder = \"vit\"; remove it",
            "c.toml:9: model.sizes.depths must be a list of 4 values, each a whole number of at least 1, got [1, 2, 1]",
            "c.toml:10: model.sizes.num_heads must be a list of 3 values, each a whole number of at least 1, got 4",
            "c.toml:11: model.sizes.window_sizes must be a list of 3 values, each a whole number of at least 1, got [7, 0, 7]",
            "c.toml:12: model.sizes.window_size is only used with encoder = \"vit\"; remove it",
            "c.toml:13: model.sizes.mlp_ratio must be a whole number of at least 1, got 2.5",
            "c.toml:14: model.sizes.global_attn_indexes is only used with encoder = \"vit\"; remove it",
        ]
    );
    // A plain ViT takes none of them, and of a misspelt word nothing follows.
    let vit = "[model.sizes]\nembed_dim = 96\ndepth = 4\nnum_heads = 4\nglobal_attn_indexes = [1, 3]\nout_chans = 64\n";
    assert_eq!(
        problems(&format!("{scratch}{vit}depths = [1, 1, 1, 1]\n")),
        ["c.toml:12: model.sizes.depths is only used with encoder = \"tiny_vit\"; remove it"]
    );
    let word =
        "c.toml:7: model.sizes.encoder must be \"vit\" or \"tiny_vit\", got \"tiny\"; did you mean \"tiny_vit\"?";
    for sizes in
        ["embed_dims = [32, 48, 64, 96]\nnum_heads = [2, 4, 4]", "embed_dim = 96\nnum_heads = 4", "out_chans = 64"]
    {
        assert_eq!(problems(&format!("{scratch}[model.sizes]\nencoder = \"tiny\"\n{sizes}\n")), [word], "{sizes}");
    }
    for (init, encoder, expected) in [
        (
            "mae",
            "encoder = \"tiny_vit\"\n",
            "model.sizes.encoder must be \"vit\" with init = \"mae\", got \"tiny_vit\"",
        ),
        (
            "tiny_vit",
            "encoder = \"vit\"\n",
            "model.sizes.encoder must be \"tiny_vit\" with init = \"tiny_vit\", got \"vit\"",
        ),
    ] {
        let model = format!("model.init = \"{init}\"\nmodel.{init} = \"a.pth\"");
        let text = LEAST.replace("model.checkpoint = \"sam.pth\"", &model);
        let sizes = if init == "mae" { "[model.sizes]\n".to_owned() } else { vit.to_owned() };
        assert_eq!(
            problems(&format!("{text}{sizes}{encoder}")).join("\n").split_once(": ").expect("a place").1,
            expected
        );
    }
    // Beside a checkpoint, whose tensors say it, and beside a variant.
    let beside = problems(&format!("{LEAST}[model.sizes]\nencoder = \"tiny_vit\"\n"));
    assert!(
        beside[0].contains("model.sizes is only used with init = \"scratch\", \"mae\" or \"tiny_vit\""),
        "{beside:?}"
    );
    let both = problems(&format!("{scratch}model.variant = \"mobile\"\n[model.sizes]\nencoder = \"tiny_vit\"\n"));
    assert_eq!(both, ["c.toml:6: model.variant must be given without model.sizes: both set the sizes, got both"]);
}

#[test]
fn consequences_of_an_error_are_not_reported() {
    let text = LEAST.replace("100", "-5") + "schedule.warmup_steps = 50\nvalidation.every_steps = 40\n";
    assert_eq!(problems(&text), ["c.toml:5: schedule.steps must be a whole number of at least 1, got -5"]);
    let text = format!("{LEAST}schedule.decay = \"multistep\"\nschedule.milestones = [5]\n");
    assert!(problems(&text)[0].contains("did you mean \"multi_step\"?"));
    assert_eq!(problems(&text).len(), 1);
}

#[test]
fn sizes_fit_together_or_all_misfits_are_reported() {
    let scratch = LEAST.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\"");
    let sizes =
        "[model.sizes]\nembed_dim = 96\ndepth = 4\nnum_heads = 4\nglobal_attn_indexes = [1, 3]\nout_chans = 64\n";
    let ModelPlan::Scratch(config) = read(&format!("{scratch}{sizes}")).expect("valid").model else {
        panic!("scratch")
    };
    let encoder = config.image_encoder.vit().expect("a plain ViT");
    assert_eq!([encoder.image_size, encoder.patch_size, encoder.mlp_dim, encoder.window_size], [1024, 16, 384, 14]);
    assert_eq!([config.mask_decoder.cross_dim, config.mask_decoder.iou_head_hidden_dim], [32, 64]);

    let wrong = sizes.replace("num_heads = 4", "num_heads = 5").replace("3]", "9]");
    assert_eq!(
        problems(&format!("{scratch}model.image_size = 1000\n{wrong}")),
        [
            "c.toml:6: model.image_size 1000 must be a multiple of patch_size 16",
            "c.toml:7: model.sizes do not fit together: num_heads 5 must divide embed_dim 96; global_attn_indexes names \
             block 9, but there are only 4 blocks",
        ]
    );

    let text = format!("{scratch}model.variant = \"vit_l\"\nmodel.image_size = 512\nmodel.drop_path = 0.1\n");
    let ModelPlan::Scratch(config) = read(&text).expect("valid").model else { panic!("scratch") };
    let mut expected = SamConfig::published(Variant::VitL);
    expected.image_encoder.set_image_size(512);
    expected.image_encoder.set_drop_path_rate(0.1);
    assert_eq!(config, expected);
}

#[test]
fn presets_are_changed_number_by_number() {
    let plan = plan(
        "[prompts]\npreset = \"sam2\"\ncorrection_clicks = 3\nbox_noise.cap_px = 5\n[loss]\npreset = \"sam2\"\n\
         focal_weight = 10\n[optimiser]\nclip_norm = \"none\"\npart_lr = { image_encoder = 0.1 }\n",
    );
    let sam2 = PromptOptions::preset(PromptPreset::Sam2);
    assert_eq!((plan.prompts.correction_clicks, plan.prompts.box_output), (3, BoxOutput::One));
    assert_eq!(plan.prompts.box_noise.cap_px, 5.0);
    assert_eq!(plan.prompts.box_noise.distribution, NoiseDistribution::Uniform);
    assert_eq!(plan.prompts.click_from_object_chance, sam2.click_from_object_chance);
    assert_eq!((plan.loss.iou_loss, plan.loss.iou_supervision), (IouLoss::L1, IouSupervision::All));
    assert_eq!((plan.loss.resolution, plan.loss.focal_weight), (LossResolution::Full, 10.0));
    assert_eq!(plan.optimiser.clip_norm, None);
    assert_eq!((plan.optimiser.part_lr.image_encoder, plan.optimiser.part_lr.mask_decoder), (0.1, 1.0));
}

#[test]
fn data_is_read_as_its_options_say() {
    let text = r#"
run.dir = "a"
model.checkpoint = "sam.pth"
schedule.steps = 9e1
[data]
train = "scans"
validation = "scans"
part = "train"
format = "label_images"
void = 255
channels = [2, 1, 0]
intensity = { window = { level = 40, width = 400 } }
filter.min_area_model_px = 100
images_per_step = 4
objects_per_step = 32
augmentation = { vertical_flip = 0.5, crop = [0.5, 1], contrast = 0.2 }
[data.validation_options]
part = "val"
void = "none"
[optimiser]
accumulation = 2
"#;
    let plan = read(text).expect("valid");
    assert_eq!(plan.schedule.steps, 90);
    let (DataSource::Files(train), Validation::Files(validation)) = (&plan.data.train, &plan.data.validation) else {
        panic!("files");
    };
    assert_eq!(train.options.void, Void::Id(255));
    assert_eq!(train.options.intensity, Intensity::Window { level: 40.0, width: 400.0 });
    assert_eq!(validation.options.intensity, train.options.intensity, "inherited from the training data");
    assert_eq!((validation.options.void, validation.options.split.as_deref()), (Void::None, Some("val")));
    let loader = plan.data.loader_options(0, 1024, 256);
    assert_eq!((loader.n_images.get(), loader.objects.per_batch_max), (2, 16), "half a step in each of two batches");
    assert_eq!(loader.augmentation.vertical_flip_chance, 0.5);
    assert_eq!(loader.augmentation.crop.map(|crop| crop.side_share_max), Some(1.0));
    assert_eq!(loader.augmentation.colour.map(|colour| (colour.brightness, colour.contrast)), Some((0.0, 0.2)));

    let same = text.replace("part = \"val\"\n", "");
    assert!(problems(&same)[0].starts_with("c.toml:7: data.validation must be a data set that is not trained on"));
}

/// What `--check` prints.
#[test]
fn a_resolved_configuration_has_the_same_plan_and_every_default() {
    let examples = [
        include_str!("../../../../../configs/quickstart.toml"),
        include_str!("../../../../../configs/finetune.toml"),
        include_str!("../../../../../configs/finetune-lora.toml"),
        include_str!("../../../../../configs/finetune-photos.toml"),
        include_str!("../../../../../configs/paper-vit-b.toml"),
        include_str!("../../../../../configs/paper-vit-h.toml"),
        include_str!("../../../../../configs/paper-text.toml"),
        include_str!("../../../../../configs/text-quick.toml"),
        include_str!("../../../../../configs/pretrain-quick.toml"),
        include_str!("../../../../../configs/paper-mae-l.toml"),
        include_str!("../../../../../configs/evaluate.toml"),
        include_str!("../../../../../configs/probe.toml"),
    ];
    let of_validation = "data.validation = \"other\"\ndata.validation_options.crowd = \"drop\"\n";
    let of_paths = "run.name = 'a \"quoted\" one'\ndata.classes = ['a\\b', \"c\"]\nrun.device = \"cuda:1\"\n";
    let least = LEAST.replace("data.split.val = 0.2\n", "");
    let pretraining = include_str!("../../../../../configs/pretrain-quick.toml");
    let by_rate = pretraining.replace("base_lr", "lr").replace("image_size =", "image_size_hw = [64, 96] #");
    let scratch = least.replace("model.checkpoint = \"sam.pth\"", "model.init = \"scratch\"");
    let tiny_vit = format!("{scratch}[model.sizes]\nencoder = \"tiny_vit\"\nembed_dims = [32, 48, 60, 80]\n");
    let more = ["".to_owned(), of_validation.to_owned(), of_paths.to_owned()];
    let texts = more
        .map(|more| format!("{least}{more}"))
        .into_iter()
        .chain(examples.map(str::to_owned))
        .chain([by_rate, tiny_vit.clone()]);
    for text in texts {
        let resolve = |text: &str| {
            let document = Document::parse("c.toml", PathBuf::new(), text, &[]).expect("TOML");
            Plan::read_resolved(&document, Paths::MayBeMissing).unwrap_or_else(|error| panic!("{error}\n{text}"))
        };
        let (plan, resolved) = resolve(&text);
        assert_eq!(resolve(&resolved), (plan, resolved.clone()), "{resolved}");
    }
    let resolved = |text: &str| {
        let document = Document::parse("c.toml", PathBuf::new(), text, &[]).expect("TOML");
        Plan::read_resolved(&document, Paths::MayBeMissing).expect("valid").1
    };
    let text = resolved(&least);
    for line in ["split = \"auto\"", "betas = [0.9, 0.999]", "metric = \"miou_1_oracle\"", "clicks = [1, 3]"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains("[data.synth]") && !text.contains("[model.sizes]"), "{text}");
    let text = resolved(&tiny_vit);
    for line in
        ["embed_dims = [32, 48, 60, 80]", "num_heads = [4, 5, 10]", "window_sizes = [7, 14, 7]", "mlp_ratio = 4"]
    {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains("patch_size") && !text.contains("window_size ="), "{text}");
}

#[test]
fn splits_come_in_three_kinds() {
    let text = LEAST.replace("data.split.val = 0.2\n", "");
    for (split, expected) in [
        ("split = \"given\"", Validation::Given),
        ("split = \"auto\"", Validation::Auto),
        ("split = { file = \"split.json\" }", Validation::SplitFile(absolute("split.json"))),
        ("validation = \"none\"", Validation::Nothing),
        ("split = \"none\"", Validation::Nothing),
        (
            "split = { val = 0.2, test = 0.1, seed = 3, group = { regex = 'p(\\d+)' } }",
            Validation::Rule(SplitRule { val: 0.2, test: 0.1, seed: 3, group: GroupKey::Regex("p(\\d+)".to_owned()) }),
        ),
    ] {
        assert_eq!(read(&format!("{text}data.{split}\n")).expect("valid").data.validation, expected);
    }
    assert_eq!(read(&text).expect("valid").data.validation, Validation::Auto);
    let of_one_part = read(&format!("{text}data.part = \"train\"\ndata.split = {{ val = 0.2 }}\n"));
    assert!(matches!(of_one_part.expect("valid").data.validation, Validation::Rule(_)));
    for (split, expected) in [
        (
            "split = \"folder\"",
            "c.toml:5: data.split must be \"auto\", \"given\", \"none\", { val = 0.1 } with test, seed and group, or",
        ),
        ("split = { file = \"s.json\", val = 0.1 }", "c.toml:5: data.split.val is only used with a split by fractions"),
        (
            "split = \"given\"\ndata.part = \"train\"",
            "c.toml:6: data.part must be omitted when data.split is \"given\"",
        ),
        ("split = { val = 0.6, test = 0.5 }", "c.toml:5: data.split.val must be a fraction that leaves something"),
    ] {
        let found = problems(&format!("{text}data.{split}\n"));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}

#[test]
fn synthetic_scenes_are_held_out_by_their_index() {
    let text = LEAST.replace("data.train = \"photos\"\ndata.split.val = 0.2\n", "");
    let scenes = "[data.synth]\nseed = 4\nn_scenes = 500\nside_px_max = 64\nside_px_min = 64\n[data.validation_synth]\n\
                  n_scenes = 50\n";
    let plan = read(&format!("{text}{scenes}")).expect("valid");
    let (DataSource::Synth(train), Validation::Synth(validation)) = (&plan.data.train, &plan.data.validation) else {
        panic!("scenes");
    };
    assert_eq!((train.n_scenes, train.options.side_px_max), (500, 64));
    assert_eq!((validation.seed, validation.first_index, validation.options.side_px_min), (4, 500, 64));
    assert_eq!(
        problems(&format!("{text}{scenes}first_index = 499\n")),
        ["c.toml:11: data.validation_synth.first_index must be 500 or more: earlier scenes are trained on, got 499"]
    );
    assert_eq!(
        problems(&format!(
            "{text}{}",
            scenes.replace("seed = 4", "side_px_min = 65").replace("\nside_px_min = 64", "")
        ))[0],
        "c.toml:5: data.synth.side_px_min must be at most data.synth.side_px_max (64), got 65"
    );
    assert_eq!(
        problems(&format!("{text}data.format = \"coco\"\n{scenes}")),
        ["c.toml:4: data.format is only used with data.train; remove it"]
    );
}

#[test]
fn overrides_pass_the_same_checks_and_name_their_option() {
    let overrides = ["schedule.steps=50", "run.device=cuda:1", "run.dir=/tmp/x", "optimiser.lr=1"];
    let plan = read_with(LEAST, &overrides, Paths::MayBeMissing).expect("valid");
    assert_eq!((plan.schedule.steps, plan.run.device.as_str(), plan.optimiser.lr), (50, "cuda:1", 1.0));
    assert_eq!(plan.run.dir, PathBuf::from("/tmp/x"));

    let text = format!("{LEAST}schedule.warmup_steps = 20\n");
    let overrides = ["schedule.steps=20", "shedule.steps=20", "optimiser.lr=fast", "data.worker=3"];
    let error = read_with(&text, &overrides, Paths::MayBeMissing).expect_err("rejected");
    assert_eq!(
        error.lines(),
        [
            "--set schedule.steps=20: schedule.warmup_steps must be below schedule.steps (20), got 20",
            "--set shedule.steps=20: there is no section `shedule` at the top; did you mean the section [schedule]?",
            "--set optimiser.lr=fast: optimiser.lr must be a number above 0, got \"fast\"",
            "--set data.worker=3: there is no key `worker` in [data]; did you mean `workers` (default 2)?",
        ]
    );
}

#[test]
fn paths_are_those_of_the_working_folder_or_else_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("c.toml");
    std::fs::write(&config, LEAST).expect("written");
    std::fs::write(folder.path().join("sam.pth"), "").expect("written");
    let read = |overrides: &[String]| {
        Document::load(&config, overrides).and_then(|document| Plan::read(&document, Paths::MustExist))
    };
    let error = read(&[]).expect_err("no photos").to_string();
    assert_eq!(
        error,
        format!(
            "{}:3: data.train must be a file or folder that exists, got \"photos\"; there is no {} nor {}",
            config.display(),
            absolute("photos").display(),
            folder.path().join("photos").display()
        )
    );
    // The manifest's folder, in which tests run, has `src`.
    let Plan::Train(plan) = read(&["data.train=src".to_owned()]).expect("valid") else { panic!("a training") };
    let (ModelPlan::Checkpoint(checkpoint), DataSource::Files(train)) = (&plan.model, &plan.data.train) else {
        panic!("files");
    };
    assert_eq!((&checkpoint.path, &train.path), (&folder.path().join("sam.pth"), &absolute("src")));
    assert_eq!(plan.run.dir, absolute("runs/a"), "output is relative to the working folder");
}

#[test]
fn data_may_be_in_the_cloud_in_a_program_that_can_read_it() {
    let text = LEAST.replace("\"photos\"", "\"s3://bucket/photos\"");
    let plan = read_with(&text, &[], Paths::MayBeMissing).expect("valid");
    let DataSource::Files(train) = &plan.data.train else { panic!("files") };
    assert_eq!(train.path, PathBuf::from("s3://bucket/photos"), "no path of the working folder");
    assert_eq!(plan.data.on_unreadable, sam_data::loader::ErrorPolicy::Skip, "a shard may vanish");
    assert_eq!(train.options.cloud_cache_gib, sam_data::CLOUD_CACHE_GIB);
    let limited = read_with(&text, &["data.cloud_cache_gib=0"], Paths::MayBeMissing).expect_err("no cache").to_string();
    assert!(limited.contains("data.cloud_cache_gib must be a number above 0"), "{limited}");
    if !sam_data::has_cloud() {
        let error = read_with(&text, &[], Paths::MustExist).expect_err("on disk only").to_string();
        assert!(error.contains("data.train") && error.contains("build with --features cloud"), "{error}");
    }
}

#[test]
fn the_task_is_read_in_any_spacing_and_the_nearest_one_is_suggested() {
    let task = |line: &str| {
        let document = Document::parse("c.toml", PathBuf::new(), &format!("{line}\n[gate]\n"), &[]).expect("TOML");
        Plan::read(&document, Paths::MayBeMissing).expect_err("rejected").to_string()
    };
    for line in ["task=\"evaluate\"", "task = 'evaluate'", "task   =   \"evaluate\""] {
        assert!(task(line).contains("model.checkpoint must be given"), "{}", task(line));
    }
    // Without a task, no other key can be checked.
    assert_eq!(
        task("task = \"pretraining\""),
        "c.toml:1: task must be \"train\", \"distil\", \"pretrain\", \"evaluate\" or \"probe\", got \"pretraining\"; \
         did you mean \"pretrain\"?"
    );
}

#[test]
fn the_configurations_of_this_repository_are_valid() {
    for (name, text) in [
        ("quickstart", include_str!("../../../../../configs/quickstart.toml")),
        ("finetune", include_str!("../../../../../configs/finetune.toml")),
        ("finetune-lora", include_str!("../../../../../configs/finetune-lora.toml")),
        ("finetune-full", include_str!("../../../../../configs/finetune-full.toml")),
        ("finetune-box", include_str!("../../../../../configs/finetune-box.toml")),
        ("finetune-points", include_str!("../../../../../configs/finetune-points.toml")),
        ("scratch", include_str!("../../../../../configs/scratch.toml")),
        ("finetune-photos", include_str!("../../../../../configs/finetune-photos.toml")),
        ("paper-vit-b", include_str!("../../../../../configs/paper-vit-b.toml")),
        ("paper-vit-l", include_str!("../../../../../configs/paper-vit-l.toml")),
        ("paper-vit-h", include_str!("../../../../../configs/paper-vit-h.toml")),
        ("paper-text", include_str!("../../../../../configs/paper-text.toml")),
        ("text-quick", include_str!("../../../../../configs/text-quick.toml")),
        ("distil-quick", include_str!("../../../../../configs/distil-quick.toml")),
        ("distil-mobile", include_str!("../../../../../configs/distil-mobile.toml")),
    ] {
        let plan = read(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(plan.task().to_toml(&plan).is_ok(), "{name}");
        assert!(text.contains(&format!("--config configs/{name}.toml")), "{name} says how it is run");
        check_commented_keys(name, text, &|text| read(text).err());
    }
}

/// Every key that is commented out in a configuration exists.
fn check_commented_keys(name: &str, text: &str, errors: &dyn Fn(&str) -> Option<ConfigError>) {
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = ")) {
        let is_key = |c: char| c.is_ascii_lowercase() || c == '_';
        let key: String = line.chars().take_while(|&c| is_key(c)).collect();
        if !line[key.len()..].starts_with(" = ") {
            continue;
        }
        let uncommented = text.replace(&format!("# {line}"), line);
        let problems = errors(&uncommented).map_or(Vec::new(), |error| error.lines().to_vec());
        let unknown: Vec<&String> = problems.iter().filter(|problem| problem.contains("there is no")).collect();
        assert!(unknown.is_empty(), "{name}: {line}: {unknown:?}");
    }
}
