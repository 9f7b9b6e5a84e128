//! The options that say how a data set is read, the same for every command.

use std::path::PathBuf;

use clap::Args;
use sam_data::SourceOptions;

use crate::config::{ConfigError, Options, files};

/// How to read a data set; what is omitted is detected.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "How to read the data set")]
pub(crate) struct SourceArguments {
    /// coco, label_images, sa1b, yolo_seg, labelme, object_masks, cityscapes, via, youtube_vis, ade20k or cvat
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Folder of the images when it is not beside the annotations
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Only this part of a data set that has a split: train, val or test
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// COCO: meaning of crowd: auto, ignore, instances or drop [default: auto]
    #[arg(long, value_name = "POLICY")]
    crowd: Option<String>,
    /// Label images: auto, instance, semantic or binary [default: auto]
    #[arg(long, value_name = "KIND")]
    labels: Option<String>,
    /// Label images: the id to ignore: auto, none or an id [default: auto]
    #[arg(long, value_name = "ID")]
    void: Option<String>,
    /// Images of more than 8 bits: as_is, percentile, min_max or {"window":{"level":L,"width":W}} [default: as_is]
    #[arg(long, value_name = "RULE")]
    intensity: Option<String>,
    /// Reject images that declare more pixels, before they are decoded [default: 100000000]
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Skip and count bad objects and images instead of stopping
    #[arg(long)]
    drop_bad: bool,
}

/// Adds `--intensity`. With `=` for `:`, a window as JSON is TOML.
pub(super) fn add_intensity(options: &mut Options, rule: Option<&String>) {
    options.value("--intensity", "data.intensity", rule.map(|rule| rule.replace(':', "=")));
}

impl SourceArguments {
    /// Adds them as keys of `[data]`.
    pub(super) fn add_to(&self, options: &mut Options) {
        options.text("--format", "data.format", self.format.as_ref());
        options.text("--images", "data.images", self.images.as_ref().map(|path| path.display()));
        options.text("--part", "data.part", self.part.as_ref());
        options.text("--crowd", "data.crowd", self.crowd.as_ref());
        options.text("--labels", "data.labels", self.labels.as_ref());
        options.value("--void", "data.void", self.void.as_ref());
        add_intensity(options, self.intensity.as_ref());
        options.value("--max-pixels", "data.max_pixels", self.max_pixels);
        options.flag("--drop-bad", "data.bad", self.drop_bad, "drop");
    }

    /// The options that were given, as lines of `[data]`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = |text: &str| toml::Value::from(text).to_string();
        let images = self.images.as_ref().map(|path| path.display().to_string());
        let texts = [
            ("format", &self.format),
            ("images", &images),
            ("part", &self.part),
            ("crowd", &self.crowd),
            ("labels", &self.labels),
        ];
        let texts = texts.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", text(value.as_deref()?))));
        // Values that may be words or TOML.
        let values =
            [("void", self.void.clone()), ("intensity", self.intensity.as_ref().map(|rule| rule.replace(':', "=")))];
        let values = values.into_iter().filter_map(|(key, value)| {
            let value = value?;
            let is_word = value.chars().all(|letter| letter.is_ascii_alphabetic() || letter == '_');
            Some(format!("{key} = {}", if is_word { text(&value) } else { value }))
        });
        let others = [
            self.max_pixels.map(|max_pixels| format!("max_pixels = {max_pixels}")),
            self.drop_bad.then(|| "bad = \"drop\"                 # counted, and listed before the run".to_owned()),
        ];
        texts.chain(values).chain(others.into_iter().flatten()).collect()
    }

    /// As the data crate takes them.
    pub(crate) fn options(&self) -> Result<SourceOptions, ConfigError> {
        let mut options = Options::of("sam-train data");
        self.add_to(&mut options);
        files::load_options(&options.into_document())
    }
}
