//! `[prompts]`, `[loss]`, `[optimiser]` and `[schedule]` of a training. The defaults are the SAM
//! paper's (Kirillov 2023, arXiv 2304.02643, appendix A), and every key is a field of [`sam_learn::options`].

use sam_learn::options::{
    BoxNoise, BoxOutput, IouLoss, IouSupervision, LossOptions, LossResolution, LrDecay, NoiseDistribution,
    OptimiserOptions, PartFactors, PromptOptions, PromptPreset, ScheduleOptions,
};

use super::ranges::{BETWEEN_0_AND_1, POSITIVE, SHARE_ABOVE_0};
use super::reader::{Reader, Section};
use super::suggestion::{nearest, one_of};
use super::text::read_text;

/// Larger numbers of passes are typing errors.
const PASSES: std::ops::RangeInclusive<usize> = 0..=100;

/// Warm-up steps in the paper.
const WARMUP_STEPS: u64 = 250;

/// The warm-up of a short run is at most this part of it.
const WARMUP_PART: u64 = 10;

/// The parts of a model, which are prefixes of checkpoint keys.
const PARTS: [&str; 3] = ["image_encoder", "prompt_encoder", "mask_decoder"];

pub(super) fn read_prompts(reader: &Reader<'_>) -> PromptOptions {
    let prompts = reader.top().section("prompts");
    let presets = [
        ("sam", PromptPreset::Sam),
        ("sam2", PromptPreset::Sam2),
        ("box", PromptPreset::Box),
        ("points", PromptPreset::Points),
    ];
    let preset = PromptOptions::preset(prompts.choice("preset", PromptPreset::Sam, &presets));
    let noise = prompts.section("box_noise");
    let distributions = [("gaussian", NoiseDistribution::Gaussian), ("uniform", NoiseDistribution::Uniform)];
    let outputs = [("three", BoxOutput::Three), ("one", BoxOutput::One)];
    PromptOptions {
        box_chance: prompts.float("box_chance", preset.box_chance, 0.0..=1.0),
        box_noise: BoxNoise {
            distribution: noise.choice("distribution", preset.box_noise.distribution, &distributions),
            side_share: noise.float("side_share", preset.box_noise.side_share, 0.0..=1.0),
            cap_px: noise.float("cap_px", preset.box_noise.cap_px, 0.0..),
        },
        correction_clicks: prompts.integer("correction_clicks", preset.correction_clicks, PASSES),
        click_from_object_chance: prompts.float("click_from_object_chance", preset.click_from_object_chance, 0.0..=1.0),
        mask_only_passes: prompts.integer("mask_only_passes", preset.mask_only_passes, PASSES),
        box_output: prompts.choice("box_output", preset.box_output, &outputs),
        text: read_text(reader, &prompts),
    }
}

pub(super) fn read_loss(reader: &Reader<'_>) -> LossOptions {
    let loss = reader.top().section("loss");
    let sam = LossOptions::default();
    // SAM 2 (Ravi 2024, arXiv 2408.00714, table 13a, and its published code).
    let sam2 = LossOptions {
        iou_loss: IouLoss::L1,
        iou_supervision: IouSupervision::All,
        resolution: LossResolution::Full,
        ..sam.clone()
    };
    let preset = loss.choice("preset", sam.clone(), &[("sam", sam), ("sam2", sam2)]);
    let iou_losses = [("mse", IouLoss::Mse), ("l1", IouLoss::L1)];
    let supervisions = [("chosen", IouSupervision::Chosen), ("all", IouSupervision::All)];
    let resolutions = [("low", LossResolution::Low), ("full", LossResolution::Full)];
    let options = LossOptions {
        focal_alpha: loss.float("focal_alpha", preset.focal_alpha, -1.0..=1.0),
        focal_gamma: loss.float("focal_gamma", preset.focal_gamma, 0.0..),
        focal_weight: loss.float("focal_weight", preset.focal_weight, 0.0..),
        dice_weight: loss.float("dice_weight", preset.dice_weight, 0.0..),
        iou_weight: loss.float("iou_weight", preset.iou_weight, 0.0..),
        iou_loss: loss.choice("iou_loss", preset.iou_loss, &iou_losses),
        iou_supervision: loss.choice("iou_supervision", preset.iou_supervision, &supervisions),
        resolution: loss.choice("resolution", preset.resolution, &resolutions),
    };
    let keys = ["loss.focal_weight", "loss.dice_weight"];
    let trains_masks = options.focal_weight > 0.0 || options.dice_weight > 0.0;
    reader.check(trains_masks, &keys, "above 0 when loss.dice_weight is 0: masks would not be trained", 0);
    options
}

pub(super) fn read_optimiser(reader: &Reader<'_>) -> OptimiserOptions {
    let optimiser = reader.top().section("optimiser");
    let default = OptimiserOptions::default();
    let part_lr = optimiser.section("part_lr");
    let options = OptimiserOptions {
        layer_decay: optimiser.float("layer_decay", default.layer_decay, SHARE_ABOVE_0),
        part_lr: PartFactors {
            image_encoder: part_lr.float("image_encoder", default.part_lr.image_encoder, 0.0..),
            prompt_encoder: part_lr.float("prompt_encoder", default.part_lr.prompt_encoder, 0.0..),
            mask_decoder: part_lr.float("mask_decoder", default.part_lr.mask_decoder, 0.0..),
        },
        learn: optimiser.texts_if_given("learn", cannot_freeze).unwrap_or_default(),
        freeze: optimiser.texts_if_given("freeze", cannot_freeze).unwrap_or_default(),
        ..read_adamw(&optimiser, &default)
    };
    // Adapters learn whatever is frozen.
    let trains_something =
        reader.top().is_given("lora") || !PARTS.iter().all(|part| options.freeze.iter().any(|frozen| frozen == part));
    let expected = "a list that leaves a part to train";
    reader.check(trains_something, &["optimiser.freeze"], expected, "all parts");
    options
}

/// The keys of `[optimiser]` that training and pre-training share.
pub(super) fn read_adamw(optimiser: &Section<'_>, default: &OptimiserOptions) -> OptimiserOptions {
    optimiser.defaults_to("betas", &format!("{:?}", default.betas));
    OptimiserOptions {
        lr: optimiser.float("lr", default.lr, POSITIVE),
        weight_decay: optimiser.float("weight_decay", default.weight_decay, 0.0..),
        betas: optimiser.float_pair_if_given("betas", 0.0..1.0).unwrap_or(default.betas),
        eps: optimiser.float("eps", default.eps, POSITIVE),
        clip_norm: optimiser.float_or_none("clip_norm", default.clip_norm, POSITIVE),
        accumulation: optimiser.integer("accumulation", default.accumulation, 1..),
        ema_decay: optimiser.float_or_none("ema_decay", default.ema_decay, BETWEEN_0_AND_1),
        ..default.clone()
    }
}

/// Keys start with a part; whether a pattern matches any key is checked with the model.
fn cannot_freeze(pattern: &str) -> Option<String> {
    let first = pattern.split('.').next().unwrap_or_default();
    if first.contains('*') || PARTS.contains(&first) {
        return None;
    }
    let parts = one_of(PARTS.iter().map(|part| format!("\"{part}\"")));
    let meant = nearest(first, PARTS.into_iter()).map_or(String::new(), |part| format!(" (did you mean \"{part}\"?)"));
    Some(format!("a list of parts, {parts}, or of patterns with `*` over keys of a checkpoint{meant}"))
}

#[derive(Clone, Copy, PartialEq)]
enum DecayKind {
    Constant,
    MultiStep,
    Cosine,
    ReciprocalSqrt,
}

pub(super) fn read_schedule(reader: &Reader<'_>) -> ScheduleOptions {
    let schedule = reader.top().section("schedule");
    let [steps, warmup_steps] = read_steps(reader, &schedule, |steps| WARMUP_STEPS.min(steps / WARMUP_PART));
    let kinds = [
        ("constant", DecayKind::Constant),
        ("multi_step", DecayKind::MultiStep),
        ("cosine", DecayKind::Cosine),
        ("reciprocal_sqrt", DecayKind::ReciprocalSqrt),
    ];
    let kind = schedule.choice("decay", DecayKind::Constant, &kinds);
    let milestones = schedule.integers_if_given::<u64>("milestones", 1..);
    // The paper's factor; SAM 2's timescale and cooldown.
    let factor = schedule.float("factor", 0.1, SHARE_ABOVE_0);
    let final_share = schedule.float("final_share", 0.0, 0.0..=1.0);
    let timescale = schedule.integer("timescale", 1000, 1..);
    let cooldown_steps = schedule.integer("cooldown_steps", 5000, 0..);

    schedule.only_if(kind == DecayKind::MultiStep, "decay", &["milestones", "factor"], "decay = \"multi_step\"");
    schedule.only_if(kind == DecayKind::Cosine, "decay", &["final_share"], "decay = \"cosine\"");
    let of_square_root = ["timescale", "cooldown_steps"];
    schedule.only_if(kind == DecayKind::ReciprocalSqrt, "decay", &of_square_root, "decay = \"reciprocal_sqrt\"");
    let decay = match kind {
        DecayKind::Constant => LrDecay::Constant,
        DecayKind::MultiStep => {
            let what = "the steps at which the learning rate is reduced, such as [60000, 86666]";
            let milestones = schedule.required("milestones", what, milestones, Vec::new());
            check_milestones(reader, &milestones, steps);
            LrDecay::MultiStep { milestones, factor }
        }
        DecayKind::Cosine => LrDecay::Cosine { final_share },
        DecayKind::ReciprocalSqrt => {
            let keys = ["schedule.cooldown_steps", "schedule.steps", "schedule.warmup_steps"];
            let left = steps.saturating_sub(warmup_steps);
            let expected = format!("at most the {left} steps after the warm-up");
            reader.check(cooldown_steps <= left, &keys, &expected, cooldown_steps);
            LrDecay::ReciprocalSqrt { timescale, cooldown_steps }
        }
    };
    ScheduleOptions { steps, warmup_steps, decay }
}

/// `steps` and `warmup_steps`, which by default depends on the steps.
pub(super) fn read_steps(reader: &Reader<'_>, schedule: &Section<'_>, warmup: impl FnOnce(u64) -> u64) -> [u64; 2] {
    let steps = schedule.integer_if_given::<u64>("steps", 1..);
    let steps = schedule.required("steps", "the number of steps of the run", steps, 1);
    let warmup_steps = schedule.integer("warmup_steps", warmup(steps), 0..);
    let keys = ["schedule.warmup_steps", "schedule.steps"];
    reader.check(warmup_steps < steps, &keys, &format!("below schedule.steps ({steps})"), warmup_steps);
    [steps, warmup_steps]
}

fn check_milestones(reader: &Reader<'_>, milestones: &[u64], steps: u64) {
    let keys = ["schedule.milestones", "schedule.steps"];
    let got = || format!("{milestones:?}");
    reader.check(milestones.is_sorted_by(|a, b| a < b), &keys[..1], "rising", got());
    let inside = milestones.iter().all(|&milestone| milestone < steps);
    reader.check(inside, &keys, &format!("below schedule.steps ({steps})"), got());
    reader.check(!milestones.is_empty(), &keys[..1], "a list of at least one step", "none");
}
