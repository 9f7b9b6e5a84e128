//! The data of a run: a data set on disk or synthetic scenes, and the data that is held out for validation.

use std::path::{Path, PathBuf};

use sam_data::synth::{SynthOptions, SynthScenes};
use sam_data::{GroupKey, SourceOptions, SplitRule};
use serde::{Deserialize, Serialize};

use super::document::Node;
use super::files::{FilesPlan, OPTION_KEYS, read_options};
use super::ranges::{BETWEEN_0_AND_1, POSITIVE};
use super::reader::{Expected, Reader, Section};
use super::shape::Shape;

/// Turns validation off.
const NOTHING: &str = "none";

/// The source of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum DataSource {
    /// A data set on disk.
    Files(FilesPlan),
    /// Synthetic scenes, generated on the fly.
    Synth(SynthScenes),
    /// Several data sets on disk.
    Several(Vec<WeightedSource>),
}

/// One of several data sets that are trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightedSource {
    /// Its draws relative to those of the others.
    pub(crate) weight: f64,
    /// The data set.
    pub(crate) files: FilesPlan,
    /// What of it is held out: [`Validation::Auto`], [`Validation::Given`], [`Validation::Rule`] or
    /// [`Validation::SplitFile`]. Without a split in any source and other validation data, all have [`Validation::Auto`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) split: Option<Validation>,
}

/// The validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Validation {
    /// None: the last checkpoint is the best.
    Nothing,
    /// A data set of its own.
    Files(FilesPlan),
    /// Synthetic scenes, generated on the fly.
    Synth(SynthScenes),
    /// The part `val` of the training data's own split, or else a tenth of its images.
    Auto,
    /// The part `val` of the training data's own split.
    Given,
    /// A fraction of the training data.
    Rule(SplitRule),
    /// The part `val` of a file that `sam-train data split` wrote for the training data.
    SplitFile(PathBuf),
    /// What several sources hold out, each as its own set.
    OfSources,
}

impl DataSource {
    /// Where the data sets are.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Files(files) => vec![&files.path],
            Self::Several(sources) => sources.iter().map(|source| source.files.path.as_path()).collect(),
            Self::Synth(_) => Vec::new(),
        }
    }

    pub(super) fn options_mut(&mut self) -> Vec<&mut SourceOptions> {
        match self {
            Self::Files(files) => vec![&mut files.options],
            Self::Several(sources) => sources.iter_mut().map(|source| &mut source.files.options).collect(),
            Self::Synth(_) => Vec::new(),
        }
    }

    /// `data.train`, `[[data.sources]]` or `[data.synth]`.
    pub(super) fn read(reader: &Reader<'_>, data: &Section<'_>) -> Self {
        let sources = read_sources(reader, data);
        if !data.is_given("sources") {
            data.unused(&["sources"]);
            return Self::read_train(reader, data);
        }
        data.unused(&["train", "synth", "split"]);
        let given: Vec<&str> = ["train", "synth", "split"].into_iter().filter(|key| data.is_given(key)).collect();
        let expected = "given without data.train, [data.synth] and data.split; each source has a split of its own";
        reader.check(given.is_empty(), &["data.sources"], expected, format!("data.{} as well", given.join(", data.")));
        // Known, whatever else there is.
        data.input_path_if_given("train");
        read_scenes(reader, &data.section("synth"), &default_scenes());
        Self::Several(sources)
    }

    /// `data.train` or `[data.synth]`.
    pub(super) fn read_train(reader: &Reader<'_>, data: &Section<'_>) -> Self {
        let path = data.input_path_if_given("train");
        let options = read_options(data, &SourceOptions::default());
        let is_synth = data.is_given("synth");
        let synth = read_scenes(reader, &data.section("synth"), &default_scenes());
        reader.check(
            !(is_synth && data.is_given("train")),
            &["data.train"],
            "given without [data.synth]: a run has one source of training data",
            "both",
        );
        data.unused(if is_synth { &["train"] } else { &["synth"] });
        if is_synth {
            data.only_if(data.is_given("train"), "synth", &OPTION_KEYS, "data.train");
            return Self::Synth(synth);
        }
        let path = data.required(
            "train",
            "a data set to train on, or [data.synth] for synthetic scenes",
            path,
            PathBuf::new(),
        );
        Self::Files(FilesPlan { path, options })
    }
}

impl Validation {
    pub(super) fn options_mut(&mut self) -> Option<&mut SourceOptions> {
        match self {
            Self::Files(files) => Some(&mut files.options),
            _ => None,
        }
    }

    /// `data.validation`, `data.split` or `[data.validation_synth]`.
    pub(super) fn read(reader: &Reader<'_>, data: &Section<'_>, train: &DataSource) -> Self {
        let typed = data.text_if_given("validation");
        let is_off = typed.as_deref() == Some(NOTHING);
        let path = typed.filter(|_| !is_off).and_then(|_| data.input_path_if_given("validation"));
        let split = read_split(reader, data);
        let synth = read_scenes(reader, &data.section("validation_synth"), &scenes_after(train));
        // Read like the training data, except for the part, which names the one to train on.
        let inherited = match train {
            DataSource::Files(files) => SourceOptions { split: None, ..files.options.clone() },
            DataSource::Several(_) => SourceOptions { split: None, ..read_options(data, &SourceOptions::default()) },
            DataSource::Synth(_) => SourceOptions::default(),
        };
        let own_splits = match train {
            DataSource::Several(sources) => sources.iter().any(|source| source.split.is_some()),
            _ => false,
        };
        let options = read_options(&data.section("validation_options"), &inherited);
        data.only_if(data.is_given("validation"), "validation", &["validation_options"], "data.validation");

        const WAYS: [&str; 3] = ["validation", "split", "validation_synth"];
        let given: Vec<&str> = WAYS.into_iter().filter(|key| data.is_given(key)).collect();
        let first = given.first().map_or(String::new(), |key| data.path_of(key));
        let one = "given alone: use one of data.validation, data.split and [data.validation_synth]";
        reader.check(given.len() < 2, &[&first], one, given.join(" and "));
        let alone = "omitted where a source has a split, whose held-out images are the validation data";
        reader.check(!own_splits || given.is_empty(), &[&first, "data.sources"], alone, "both");
        if own_splits {
            data.unused(&WAYS);
            return Self::OfSources;
        }
        let used = given.first().copied().unwrap_or("split");
        data.unused(&Vec::from_iter(WAYS.into_iter().filter(|&way| way != used)));
        match given.first() {
            Some(&"split") if split == Some(Self::Nothing) => Self::Nothing,
            Some(&"split") => {
                let is_files = matches!(train, DataSource::Files(_));
                let instead = "given only with data.train; scenes are held out by [data.validation_synth]";
                reader.check(is_files, &["data.split", "data.train"], instead, "synthetic scenes");
                // Of one part, a fraction can be held out.
                let needs_parts = matches!(split, Some(Self::Given));
                let expected = "omitted when data.split is \"given\", which needs all parts";
                reader.check(!(needs_parts && data.is_given("part")), &["data.part", "data.split"], expected, "both");
                split.unwrap_or(Self::Auto)
            }
            Some(&"validation_synth") => {
                check_scenes_apart(reader, train, &synth);
                Self::Synth(synth)
            }
            Some(_) if is_off => Self::Nothing,
            Some(_) => {
                let files = FilesPlan { path: path.unwrap_or_default(), options };
                let apart = "a data set that is not trained on; hold some out with split = { val = 0.1 }";
                let keys = ["data.validation", "data.train"];
                reader.check(are_apart(train, &files), &keys, apart, files.path.display());
                Self::Files(files)
            }
            None if matches!(train, DataSource::Files(_)) => Self::Auto,
            None if matches!(train, DataSource::Several(_)) => Self::OfSources,
            None => {
                let what = "a data set to validate on, [data.validation_synth] or \"none\"";
                data.required("validation", what, None, ());
                Self::Nothing
            }
        }
    }
}

/// `[[data.sources]]`, each with the options of `[data]` unless it has its own.
fn read_sources(reader: &Reader<'_>, data: &Section<'_>) -> Vec<WeightedSource> {
    let inherited = read_options(data, &SourceOptions::default());
    let is_given = data.is_given("sources");
    let sections = data.sections("sources");
    let source = |section: &Section<'_>| {
        let path = section.input_path_if_given("path");
        let files = FilesPlan {
            path: match is_given {
                true => section.required("path", "a data set to train on", path, PathBuf::new()),
                false => PathBuf::new(),
            },
            options: read_options(section, &inherited),
        };
        let weight = section.float("weight", 1.0, POSITIVE);
        let split = read_split(reader, section);
        let keys = [section.path_of("part"), section.path_of("split")];
        let is_one = !(split == Some(Validation::Given) && section.is_given("part"));
        let expected = format!("omitted when {} is \"given\", which needs all parts", keys[1]);
        reader.check(is_one, &[&keys[0], &keys[1]], &expected, "both");
        WeightedSource { weight, files, split }
    };
    let sources: Vec<WeightedSource> = sections.iter().map(source).collect();
    let at_most = sources.len() <= MAX_SOURCES;
    reader.check(at_most, &["data.sources"], &format!("at most {MAX_SOURCES} data sets"), sources.len());
    sources
}

/// A thousandth of the draws for each.
const MAX_SOURCES: usize = 1000;

/// One data set can serve for both only when each uses another part of its own split.
fn are_apart(train: &DataSource, validation: &FilesPlan) -> bool {
    let train = match train {
        DataSource::Synth(_) => return true,
        DataSource::Several(sources) => {
            return sources.iter().all(|source| are_apart(&DataSource::Files(source.files.clone()), validation));
        }
        DataSource::Files(train) => train,
    };
    let [of_train, of_validation] = [&train.options.split, &validation.options.split];
    train.path != validation.path || (of_train.is_some() && of_validation.is_some() && of_train != of_validation)
}

/// Scenes of one seed differ by their index.
fn check_scenes_apart(reader: &Reader<'_>, train: &DataSource, validation: &SynthScenes) {
    let DataSource::Synth(train) = train else { return };
    let is_apart = train.seed != validation.seed
        || end_index(train) <= validation.first_index
        || end_index(validation) <= train.first_index;
    let expected = format!("{} or more: earlier scenes are trained on", end_index(train));
    let keys = ["data.validation_synth.first_index", "data.synth.n_scenes"];
    reader.check(is_apart, &keys, &expected, validation.first_index);
}

/// `split = "auto"`, `"given"`, `"none"`, `{ file = ".." }`, or fractions.
fn read_split(reader: &Reader<'_>, data: &Section<'_>) -> Option<Validation> {
    let words = [("auto", Validation::Auto), ("given", Validation::Given), (NOTHING, Validation::Nothing)];
    let expected =
        "\"auto\", \"given\", \"none\", { val = 0.1 } with test, seed and group, or { file = \"split.json\" }";
    let word =
        data.word_or_section("split", Expected { default: "\"auto\"", words: expected, shapes: Vec::new() }, &words);
    if data.is_given("split") && !data.is_section("split") {
        return word;
    }
    let split = data.section("split");
    let file = split.input_path_if_given("file");
    let default = SplitRule::default();
    let rule = SplitRule {
        val: split.float("val", default.val, BETWEEN_0_AND_1),
        test: split.float("test", default.test, 0.0..1.0),
        seed: split.integer("seed", default.seed, 0..),
        group: read_group(&split),
    };
    let shares = ["val", "test", "seed", "group"];
    split.only_if(!split.is_given("file"), "file", &shares, "a split by fractions, not with split.file");
    let left = 1.0 - rule.val - rule.test;
    let expected = "a fraction that leaves something to train on, together with data.split.test";
    reader.check(left > 0.0, &["data.split.val", "data.split.test"], expected, rule.val);
    data.is_given("split").then(|| file.map_or(Validation::Rule(rule), Validation::SplitFile))
}

fn read_group(split: &Section<'_>) -> GroupKey {
    let words = "\"image\", \"folder\", { prefix = \"..\" } or { regex = \"..\" }";
    let table = |key| Shape::Table(vec![(key, Shape::Text)]);
    let shapes = vec![Shape::of_words(&["image", "folder"]), table("prefix"), table("regex")];
    let group = split.read("group", Expected { default: "\"image\"", words, shapes }, |node| {
        match (node.text(), node.table()) {
            (Some("image"), _) => Some(GroupKey::Image),
            (Some("folder"), _) => Some(GroupKey::Folder),
            (_, Some(table)) if table.len() == 1 => {
                let text = |key: &str| table.get(key).and_then(Node::text).map(str::to_owned);
                text("prefix").map(GroupKey::Prefix).or_else(|| text("regex").map(GroupKey::Regex))
            }
            _ => None,
        }
    });
    group.unwrap_or_default()
}

/// The scenes that a configuration without other keys has.
pub(super) fn default_scenes() -> SynthScenes {
    /// Enough that none is repeated in a run of an afternoon.
    const N_SCENES: usize = 10_000;
    SynthScenes { seed: 0, first_index: 0, n_scenes: N_SCENES, options: SynthOptions::default() }
}

/// Scenes of the same kind that follow those of the training, if it has any.
pub(super) fn scenes_after(train: &DataSource) -> SynthScenes {
    match train {
        DataSource::Synth(scenes) => SynthScenes { first_index: end_index(scenes), ..*scenes },
        DataSource::Files(_) | DataSource::Several(_) => default_scenes(),
    }
}

/// A section of scenes, whose keys are the fields of [`SynthScenes`] and [`SynthOptions`].
pub(super) fn read_scenes(reader: &Reader<'_>, section: &Section<'_>, default: &SynthScenes) -> SynthScenes {
    /// Larger images are photographs.
    const SIDES: std::ops::RangeInclusive<usize> = 16..=4096;
    let options = &default.options;
    let options = SynthOptions {
        side_px_min: section.integer("side_px_min", options.side_px_min, SIDES),
        side_px_max: section.integer("side_px_max", options.side_px_max, SIDES),
        n_shapes_min: section.integer("n_shapes_min", options.n_shapes_min, 1..=100),
        n_shapes_max: section.integer("n_shapes_max", options.n_shapes_max, 1..=100),
        nested_chance: section.float("nested_chance", options.nested_chance, 0.0..=1.0),
        thin_chance: section.float("thin_chance", options.thin_chance, 0.0..=1.0),
        tiny_chance: section.float("tiny_chance", options.tiny_chance, 0.0..=1.0),
        noise_levels: section.float("noise_levels", options.noise_levels, 0.0..=255.0),
        visible_px_min: section.integer("visible_px_min", options.visible_px_min, 1..),
        visible_share_min: section.float("visible_share_min", options.visible_share_min, 0.0..=1.0),
    };
    for (low, high, min, max) in [
        ("side_px_min", "side_px_max", options.side_px_min, options.side_px_max),
        ("n_shapes_min", "n_shapes_max", options.n_shapes_min, options.n_shapes_max),
    ] {
        let keys = [section.path_of(low), section.path_of(high)];
        reader.check(min <= max, &[&keys[0], &keys[1]], &format!("at most {} ({max})", keys[1]), min);
    }
    let key = section.path_of("visible_px_min");
    // Shapes have a third of the shorter side in radius at most.
    let largest_px = options.side_px_min * options.side_px_min / 4;
    let expected = format!("at most {largest_px}, a quarter of the smallest scene");
    reader.check(options.visible_px_min <= largest_px, &[&key], &expected, options.visible_px_min);
    SynthScenes {
        seed: section.integer("seed", default.seed, 0..),
        first_index: section.integer("first_index", default.first_index, 0..),
        n_scenes: section.integer("n_scenes", default.n_scenes, 1..),
        options,
    }
}

fn end_index(scenes: &SynthScenes) -> u64 {
    scenes.first_index.saturating_add(scenes.n_scenes as u64)
}
