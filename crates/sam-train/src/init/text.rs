//! The text of a configuration, section by section.

use std::path::Path;

use sam_data::{Intensity, OnBad, ProblemKind};
use sam_learn::options::{IouSupervision, LossOptions};

use super::Seen;
use crate::cli::Preset;
use crate::published::FIRST;

/// Images whose longer side is below need no more than half of the published input size.
const SMALL_IMAGE_PX: usize = 512;

/// The learning rate is this part of that of the run which a checkpoint is from.
const LR_PART: f64 = 0.1;

/// For a small network that has learned, by an unknown loss. Measured with a checkpoint of `configs/quickstart.toml` on
/// `datasets/photos`: with the encoder frozen, 1e-4 makes it worse.
const LEARNED_LR: f64 = 3e-5;

/// The recipe of a preset.
struct Recipe {
    what: &'static str,
    /// For a published checkpoint.
    lr: f64,
    lr_source: &'static str,
    /// For a network with a few million parameters.
    small_lr: f64,
    prompts: &'static str,
    metric: &'static str,
}

impl Preset {
    fn recipe(self) -> Recipe {
        let of_decoder = Recipe {
            what: "the mask decoder learns, the image encoder is frozen",
            lr: 1e-4,
            lr_source: "as MedSAM; micro-sam, which also trains the encoder, has 1e-5",
            small_lr: 1e-3,
            prompts: "sam",
            metric: "miou_1_oracle",
        };
        match self {
            Self::Laptop => of_decoder,
            Self::Box => Recipe {
                what: "for box prompts alone; the image encoder is frozen",
                prompts: "box",
                metric: "miou_box",
                ..of_decoder
            },
            Self::Points => Recipe {
                what: "for clicks alone; the image encoder is frozen",
                prompts: "points",
                metric: "miou_1",
                ..of_decoder
            },
            Self::Lora => Recipe {
                what: "low-rank adapters of the image encoder learn, and the mask decoder",
                lr: 5e-4,
                lr_source: "SAMed has 5e-3 with a long warm-up",
                ..of_decoder
            },
            Self::Full => {
                Recipe { what: "all weights learn", lr: 1e-5, lr_source: "as micro-sam", small_lr: 3e-4, ..of_decoder }
            }
            Self::Scratch => Recipe { what: "a small network from random weights", ..of_decoder },
        }
    }

    fn freezes_encoder(self) -> bool {
        matches!(self, Self::Laptop | Self::Box | Self::Points)
    }
}

impl Seen<'_> {
    pub(super) fn text(&self) -> String {
        let sections = [
            self.head(),
            self.run(),
            self.model(),
            self.data(),
            self.augmentation(),
            self.prompts_and_loss(),
            self.optimiser(),
            self.schedule(),
            self.validation(),
        ];
        sections.join("\n")
    }

    fn preset(&self) -> Preset {
        self.arguments.preset
    }

    fn recipe(&self) -> Recipe {
        self.preset().recipe()
    }

    /// The learning rate and its reason.
    fn lr(&self) -> (f64, String) {
        let Recipe { lr, lr_source, small_lr, .. } = self.recipe();
        match &self.objective {
            Some(objective) => {
                (objective.lr * LR_PART, "a tenth of that of the run that the checkpoint is from".to_owned())
            }
            None if self.preset() == Preset::Scratch => (small_lr, "as configs/quickstart.toml".to_owned()),
            None if self.preset() != Preset::Full
                && self.model.is_some_and(|model| model.is_small && model.has_learned) =>
            {
                (
                    LEARNED_LR,
                    "for a small network that has learned; the folder of its run as --checkpoint is better".to_owned(),
                )
            }
            None if self.is_small() => (small_lr, format!("for a small network; {lr:e} for a published one")),
            None => (lr, lr_source.to_owned()),
        }
    }

    /// The loss, and the reason for what differs from the preset `sam`.
    fn loss(&self) -> (LossOptions, &'static str) {
        let sam = LossOptions::default();
        match &self.objective {
            Some(objective) => (objective.loss.clone(), "as in the run that the checkpoint is from"),
            None if self.preset() == Preset::Scratch => (
                LossOptions { focal_weight: 1.0, focal_alpha: 0.5, iou_supervision: IouSupervision::All, ..sam },
                "as configs/quickstart.toml: with 20 and 0.25, random weights stay at \"all background\"",
            ),
            None => (sam, ""),
        }
    }

    fn head(&self) -> String {
        let (recipe, data) = (self.recipe(), &self.data);
        let path = self.arguments.data.display().to_string();
        let mut text = format!("# Preset \"{}\": {}.\n", self.preset().name(), recipe.what);
        text += &format!("# Written by: sam-train init{}\n", self.arguments.shown());
        let sizes = data.image_sizes_hw.map_or(String::new(), |[[height, width], [max_height, max_width]]| {
            match (height, width) == (max_height, max_width) {
                true => format!(" of {width} x {height} px"),
                false => format!(" of {width} x {height} to {max_width} x {max_height} px"),
            }
        });
        text +=
            &format!("# Data: {path}, {}: {} images{sizes}, {} objects", data.format.name(), data.images, data.objects);
        let parts: Vec<String> = data.parts.iter().map(|(part, n)| format!("{part} {n}")).collect();
        if !parts.is_empty() {
            text += &format!(" ({})", parts.join(", "));
        }
        if !data.classes.is_empty() {
            text += &format!(", {} classes", data.classes.len());
        }
        let out = self.arguments.out.as_deref().unwrap_or(Path::new("finetune.toml")).display();
        text += &format!(".\n#\n#   sam-train --config {out} --check    # what it will do and take\n");
        text += &format!("#   sam-train --config {out}            # train; Ctrl-C saves\n\n");
        text + "task = \"train\"\n"
    }

    fn run(&self) -> String {
        let dir =
            self.arguments.run.as_deref().map_or_else(|| "runs/finetune".to_owned(), |dir| dir.display().to_string());
        let device = if cfg!(feature = "cuda") { "cuda:0" } else { "cpu" };
        let mut text = format!("[run]\ndir = {}\nseed = 0\n", quoted(&dir));
        text += &with_comment(&format!("device = \"{device}\""), "cpu, cuda:0, vulkan or wgpu, depending on the build");
        if self.is_small() {
            text += &with_comment("parallel = 2", "parts of a step computed side by side, for small networks");
        }
        if matches!(self.preset(), Preset::Full | Preset::Lora) && !self.is_small() {
            text += &with_comment("# activations = \"recompute\"", "less memory, a fifth more time");
        }
        text
    }

    fn model(&self) -> String {
        if self.preset() == Preset::Scratch {
            return scratch_model(self.scratch_size());
        }
        let path = self.checkpoint.display().to_string();
        let mut text = "[model]\ninit = \"checkpoint\"\n".to_owned();
        let what = match self.arguments.checkpoint {
            Some(_) => "official, Hugging Face, or of an earlier run".to_owned(),
            None => format!("from {}", FIRST.url()),
        };
        text += &with_comment(&format!("checkpoint = {}", quoted(&path)), &what);
        match self.smaller_input() {
            Some(size) => {
                text += &with_comment(&format!("image_size = {size}"), "the images are small; more takes longer")
            }
            None if self.model.is_some_and(|model| model.image_size <= SMALL_IMAGE_PX) => {}
            None => text += &with_comment("# image_size = 512", "smaller takes less memory and time, and loses detail"),
        }
        if self.preset() == Preset::Lora {
            text += "\n[lora]\nrank = 8\n";
            text +=
                &with_comment("targets = [\"q\", \"v\"]", "of the encoder's attention; also \"k\", \"proj\", \"mlp\"");
        }
        text
    }

    fn data(&self) -> String {
        let (arguments, data) = (self.arguments, &self.data);
        let mut text = format!("[data]\ntrain = {}\n", quoted(&arguments.data.display().to_string()));
        for line in arguments.source.lines() {
            text += &format!("{line}\n");
        }
        match (&arguments.validation, self.held_out) {
            (Some(path), _) => text += &format!("validation = {}\n", quoted(&path.display().to_string())),
            (None, None) => text += &with_comment("split = \"given\"", "its own train and val"),
            (None, Some(share)) => {
                let line = match data.parts.contains_key("train") {
                    true => format!("part = \"train\"\nsplit = {{ val = {share}, seed = 0, group = \"image\" }}"),
                    false => format!("split = {{ val = {share}, seed = 0, group = \"image\" }}"),
                };
                text +=
                    "# Held out by a hash of the names. Keep slices of one patient or frames of one video together:\n";
                text += "# group = \"folder\", { prefix = \"_\" } or { regex = 'patient-(\\d+)' }\n";
                text += &format!("{line}\n");
            }
        }
        if self.intensity == Intensity::Percentile
            && arguments.source.lines().iter().all(|line| !line.starts_with("intensity"))
        {
            text += &with_comment(
                "intensity = \"percentile\"",
                "more than 8 bits: the 2nd to 98th percentile of each image",
            );
        }
        if data.problem(ProblemKind::MaskHuge).is_some() {
            text += &with_comment(
                "max_image_share = 1.0",
                "some objects fill their image; the paper excludes those above 0.9",
            );
        }
        let per_image = self.objects_per_image();
        let images = self.images_per_step();
        text += &with_comment(&format!("images_per_step = {images}"), &format!("{} images to train on", self.n_train));
        text += &with_comment(
            &format!("objects_per_step = {}", per_image * images),
            &format!("an image has {:.1} on average; fewer take less memory", self.mean_objects()),
        );
        text += &format!("objects_per_image = {per_image}\n");
        if data.has_errors() {
            debug_assert!(arguments.source.options().is_ok_and(|options| options.bad == OnBad::Drop));
        }
        text
    }

    fn augmentation(&self) -> String {
        let mut text = "[data.augmentation]\n".to_owned();
        text += &with_comment("horizontal_flip = 0.5", "0 where left and right differ in meaning");
        text += &with_comment("vertical_flip = 0.0", "0.5 where no direction is up: microscopy, aerial images");
        match self.preset().freezes_encoder() {
            // Only flips keep the number of embeddings of an image finite.
            true => {
                text +=
                    "# Others change the image at every step, so that its embedding cannot be kept: crop, colours.\n"
            }
            false => text += "crop = [0.5, 1.0]\nbrightness = 0.1\ncontrast = 0.1\nsaturation = 0.1\n",
        }
        text
    }

    fn prompts_and_loss(&self) -> String {
        let recipe = self.recipe();
        let mut text = "[prompts]\n".to_owned();
        text += &with_comment(
            &format!("preset = \"{}\"", recipe.prompts),
            "sam: points and boxes, then clicks; box; points",
        );
        if recipe.prompts != "box" {
            text += &with_comment("correction_clicks = 3", "the paper has 8; fewer are faster");
            text += &with_comment("mask_only_passes = 1", "the paper has 2");
        }
        text += "\n[loss]\n";
        text += &with_comment("preset = \"sam\"", "focal 20, dice 1, error of the predicted IoU 1");
        let (loss, why) = self.loss();
        for (at, line) in changed_keys(&loss, &LossOptions::default()).into_iter().enumerate() {
            text += &if at == 0 { with_comment(&line, why) } else { format!("{line}\n") };
        }
        text
    }

    fn optimiser(&self) -> String {
        let mut text = "[optimiser]\n".to_owned();
        let (lr, why) = self.lr();
        text += &with_comment(&format!("lr = {}", shown_lr(lr)), &why);
        text += "weight_decay = 0.1\nclip_norm = 1.0\n";
        text += &with_comment("ema_decay = 0.99", "the moving average of the weights is validated and saved");
        match self.preset() {
            preset if preset.freezes_encoder() => {
                text += &with_comment("freeze = [\"image_encoder\"]", "its embeddings are computed once and kept");
            }
            Preset::Full => text += &with_comment("layer_decay = 0.8", "lower blocks of the encoder learn more slowly"),
            _ => {}
        }
        text
    }

    fn schedule(&self) -> String {
        let steps = self.steps();
        format!("[schedule]\nsteps = {steps}\nwarmup_steps = {}\ndecay = \"cosine\"\n", steps / 20)
    }

    fn validation(&self) -> String {
        let recipe = self.recipe();
        let mut text = "[validation]\n".to_owned();
        text += &with_comment(&format!("every_steps = {}", self.steps() / 10), "also how often the run is saved");
        text += &with_comment(&format!("metric = \"{}\"", recipe.metric), "chooses the best checkpoint");
        match recipe.prompts {
            "box" => text += "clicks = []\nbox = true\n",
            "points" => text += "clicks = [1, 3, 5]\nbox = false\n",
            _ => text += "clicks = [1, 3]\nbox = true\n",
        }
        text += &with_comment("max_images = 100", "0: all");
        text + &with_comment("patience = 4", "stop after so many validations without improvement; 0: never")
    }

    fn is_small(&self) -> bool {
        self.preset() == Preset::Scratch || self.model.is_some_and(|model| model.is_small)
    }

    fn images_per_step(&self) -> u64 {
        if self.is_small() { self.n_train.clamp(1, 4) } else { 1 }
    }

    fn mean_objects(&self) -> f64 {
        let n_images = self.data.images.saturating_sub(self.data.images_without_objects).max(1);
        self.data.objects as f64 / n_images as f64
    }

    /// Twice the mean, so that most images give all of theirs.
    fn objects_per_image(&self) -> u64 {
        /// As in micro-sam.
        const MAX: u64 = 25;
        ((2.0 * self.mean_objects()).ceil() as u64).clamp(1, MAX)
    }

    /// Every image some dozens of times, within limits that hold for any set.
    fn steps(&self) -> u64 {
        let times = |times: u64, min: u64, max: u64| {
            let steps = self.n_train * times / self.images_per_step();
            steps.clamp(min, max).next_multiple_of(100)
        };
        if self.preset() == Preset::Scratch { times(400, 2000, 20_000) } else { times(50, 200, 3000) }
    }

    /// A smaller input where images are small and the encoder runs at every step.
    fn smaller_input(&self) -> Option<usize> {
        let [_, largest_hw] = self.data.image_sizes_hw?;
        let is_costly =
            !self.preset().freezes_encoder() && self.model.is_none_or(|model| model.image_size > SMALL_IMAGE_PX);
        (is_costly && largest_hw[0].max(largest_hw[1]) <= SMALL_IMAGE_PX).then_some(SMALL_IMAGE_PX)
    }

    /// As large as the images, in whole patches, up to what a laptop trains from random weights.
    fn scratch_size(&self) -> usize {
        let largest = self.data.image_sizes_hw.map_or(256, |[_, [height, width]]| height.max(width));
        largest.next_multiple_of(32).clamp(64, 256)
    }
}

/// A network of three million parameters.
fn scratch_model(size: usize) -> String {
    let mut text = format!("[model]\ninit = \"scratch\"\nimage_size = {size}\n\n[model.sizes]\n");
    text += &with_comment("patch_size = 8", &format!("{0} x {0} tokens, masks of {1} x {1}", size / 8, size / 2));
    text += "embed_dim = 192\ndepth = 4\nnum_heads = 6\n";
    text += &with_comment("window_size = 8", "blocks attend within windows of 8 x 8 tokens, except for");
    text += "global_attn_indexes = [1, 3]\nout_chans = 128\nmask_in_chans = 16\ndecoder_depth = 2\ndecoder_heads = 4\n";
    text + "decoder_mlp_dim = 512\n"
}

/// A rate with at most two digits.
fn shown_lr(lr: f64) -> String {
    format!("{lr:.1e}").replace(".0e", "e")
}

/// The keys of a section whose values differ from those of `default`.
fn changed_keys(section: &LossOptions, default: &LossOptions) -> Vec<String> {
    let [section, default] = [section, default].map(|options| toml::Table::try_from(options).unwrap_or_default());
    let changed = section.into_iter().filter(|(key, value)| default.get(key) != Some(value));
    changed.map(|(key, value)| format!("{key} = {value}")).collect()
}

/// A line with a comment in the column of the others.
fn with_comment(line: &str, comment: &str) -> String {
    const COLUMN: usize = 29;
    format!("{line:<COLUMN$} # {comment}\n")
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
